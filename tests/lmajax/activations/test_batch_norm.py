"""After batch norm the statistics follow without a pass of their own, and at inference it folds into LMA's segments."""

from functools import partial, reduce

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmajax import LMA, Stats, batch_norm_stats, fold_batch_norm, measure, models, tree
from lmajax.models import _blocks
from tests import oracles
from tests.support import model_files as trained

RNG = np.random.default_rng(0)
MODELS = {
  'cnn': (models.CNN(channels=(4, 6), units=(5,), num_classes=3, act=LMA, pool_after=(1,)), (6, 8, 8, 3)),
  'mlp': (models.MLP(units=(7, 5), num_classes=3, act=LMA), (9, 12)),
  'wide': (models.WideResNet(depth=10, widen=1, num_classes=3, act=LMA), (4, 8, 8, 3)),
  'resnet': (models.ResNet(depth=8, num_classes=3, act=LMA, channels=(2, 4, 6)), (4, 8, 8, 3)),
  'resnext': (models.ResNeXt(depth=11, num_classes=3, act=LMA, cardinality=2, channels=(1, 2, 3)), (4, 8, 8, 3)),
}


def drawn(channels, zero=()):
  scale, bias = RNG.normal(size=(2, channels)).astype(np.float32)
  scale[list(zero)] = 0
  return scale, bias


@pytest.mark.parametrize('spread', [1e-4, 1e-2, 1.0, 30.0])
@pytest.mark.parametrize('shape', [(64, 5), (4, 6, 6, 3), (2, 1)])
def test_statistics_equal_those_measured(shape, spread):
  x = (3 + spread * RNG.normal(size=shape)).astype(np.float32)
  scale, bias = drawn(shape[-1])
  axes = tuple(range(len(shape) - 1))
  variance = x.astype(np.float64).var(axes)
  y = (x - x.astype(np.float64).mean(axes)) / np.sqrt(variance + 1e-5) * scale + bias
  ours = batch_norm_stats(jnp.float32(variance), jnp.asarray(scale), jnp.asarray(bias), count=x.size)
  np.testing.assert_allclose(ours, oracles.measure(y), rtol=1e-5, atol=1e-6)
  np.testing.assert_allclose(ours, oracles.batch_norm_stats(variance, scale, bias, count=x.size), rtol=1e-5, atol=1e-6)


def test_a_broken_batch_is_unknown():
  stats = batch_norm_stats(jnp.array([jnp.nan, 1.0]), jnp.ones(2), jnp.zeros(2), count=8)
  assert np.isinf(stats.std)


@pytest.mark.parametrize('name', MODELS)
def test_every_site_of_a_model_remembers_what_it_would_have_measured(name):
  model, shape = MODELS[name]
  x = jnp.asarray(RNG.normal(size=shape), jnp.float32)
  variables = jax.eval_shape(partial(model.init, train=False), jax.random.key(0), x)  # compiling it takes seconds
  params = tree.map_with_path(
    lambda path, leaf: trained.drawn(RNG, path.rpartition('/')[2], leaf.shape), variables.pop('params')
  )
  unknown = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), variables)

  @jax.jit
  def step(variables):
    seen = {}

    def note(call, args, options, context):
      if isinstance(context.module, LMA):
        seen[context.module.path] = args[0]
      return call(*args, **options)

    rngs = {'dropout': jax.random.key(1)}
    with nn.intercept_methods(note):
      _, updated = model.apply(variables, x, train=True, rngs=rngs, mutable=['batch_stats'])
    return seen, updated['batch_stats']

  seen, stats = step({**unknown, 'params': params})
  assert len(seen) == {'cnn': 3, 'mlp': 2, 'wide': 7, 'resnet': 7, 'resnext': 10}[name]
  for path, y in seen.items():
    running = reduce(dict.get, path, stats)
    mean, std = oracles.measure(np.asarray(y))
    np.testing.assert_allclose(running['mean'], 0.01 * mean, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(running['std'], 0.01 * std, rtol=1e-4)


def test_the_compiler_takes_the_variance_once():
  """Batch norm takes two sums of its input; the statistics need the same two."""

  class Block(nn.Module):
    handed: bool

    @nn.compact
    def __call__(self, x):
      y, stats = _blocks.batch_norm(x, train=True, dtype=None)
      return LMA()(y, train=True, stats=stats if self.handed else None)

  x = jnp.zeros((64, 16, 16, 8))

  def flops(handed):
    block = Block(handed)
    variables = block.init(jax.random.key(0), x)
    step = jax.jit(partial(block.apply, mutable=['batch_stats']))
    return step.lower(variables, x).compile().cost_analysis()['flops'] / x.size

  class Bare(nn.Module):
    @nn.compact
    def __call__(self, x):
      y = nn.BatchNorm(use_running_average=False)(x)
      return LMA()(y, train=False)

  bare = Bare()
  variables = bare.init(jax.random.key(0), x)
  alone = jax.jit(partial(bare.apply, mutable=['batch_stats'])).lower(variables, x).compile().cost_analysis()['flops']
  assert flops(handed=True) < alone / x.size + 1 < flops(handed=False)


@pytest.mark.parametrize('k', [2, 5, 8])
def test_folding_gives_the_two_layers(k):
  x = RNG.normal(1, 3, size=(50, 6)).astype(np.float32)
  scale, bias = drawn(6, zero=(2,))
  mean, variance = RNG.normal(size=6).astype(np.float32), RNG.uniform(0.1, 4, 6).astype(np.float32)
  slopes, intercepts = RNG.normal(size=(2, k)).astype(np.float32)
  stats = Stats(jnp.float32(0.2), jnp.float32(1.1))
  norm = {'scale': scale, 'bias': bias, 'mean': mean, 'variance': variance}
  normalized = (x - mean) / np.sqrt(variance + 1e-5) * scale + bias
  folded = fold_batch_norm(jnp.asarray(slopes), jnp.asarray(intercepts), stats, jax.tree.map(jnp.asarray, norm))
  y = jax.jit(folded)(jnp.asarray(x))
  expected = oracles.fold_batch_norm(slopes, intercepts, (0.2, 1.1), norm)(x)
  away = np.abs(normalized[..., None] - oracles.cuts((0.2, 1.1), k)).min(-1) > 1e-4
  assert away.mean() > 0.9
  np.testing.assert_allclose(np.asarray(y)[away], expected[away], rtol=1e-4, atol=1e-5)


class TestMeasure:
  def test_outside_of_jit_a_second_call_compiles_nothing(self, caplog):
    first, second = jnp.arange(24.0).reshape(2, 3, 4), jnp.ones((2, 3, 4))
    measure(first)
    with jax.log_compiles():
      measure(second)
    assert not [record for record in caplog.records if 'compil' in record.getMessage().lower()]

  @pytest.mark.parametrize('shape', [(3000,), (40, 30), (4, 8, 8, 3)])
  @pytest.mark.parametrize('masked', [False, True])
  def test_a_mean_of_ten_thousand_deviations(self, shape, masked):
    x = (1e4 + RNG.normal(size=shape)).astype(np.float32)
    where = RNG.random(shape) < 0.5 if masked else None
    ours = measure(jnp.asarray(x), where=None if where is None else jnp.asarray(where))
    np.testing.assert_allclose(ours, oracles.measure(x, where=where), rtol=1e-5)

  def test_one_feature_far_from_the_others(self):
    """The sample about whose mean the squares are taken then lies far from the rest."""
    x = (1e4 + RNG.normal(size=(200, 30))).astype(np.float32)
    x[:, 0] = RNG.normal(size=200)
    np.testing.assert_allclose(measure(jnp.asarray(x)), oracles.measure(x), rtol=1e-4)

  def test_keeps_nothing_of_the_size_of_its_input(self):
    x = jax.ShapeDtypeStruct((64, 64, 64, 8), jnp.float32)
    memory = jax.jit(measure).lower(x).compile().memory_analysis()
    assert memory.temp_size_in_bytes < 0.1 * memory.argument_size_in_bytes
