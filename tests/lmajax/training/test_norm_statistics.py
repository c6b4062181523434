"""What batch norms and LMA have stored, beside what they are given: against what their outputs say, in any wrapping."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from lmajax import LMA, models, training, tree
from lmajax.activations import linen
from lmajax.activations.nnx import LMA as NnxLMA
from lmajax.activations.nnx import Quantized as NnxQuantized

DRAW = np.random.default_rng(0)
X = jnp.asarray(DRAW.normal(1, 2, size=(16, 6, 4)), jnp.float32)


class Block(nn.Module):
  """A dense layer, a batch norm and ReLU."""

  @nn.compact
  def __call__(self, x, train):
    return nn.relu(nn.BatchNorm(use_running_average=not train, name='norm')(nn.Dense(4)(x)))


def _shared(x, train):
  block = Block(name='block')
  return block(block(x, train), train)


def _scanned(x, train):
  axes = {'variable_axes': {'params': 0, 'batch_stats': 0}, 'split_rngs': {'params': True}}
  several = nn.scan(lambda block, carry, _: (block(carry, train), None), length=3, **axes)
  return several(Block(name='block'), x, None)[0]


def _mapped(x, train):
  axes = {'variable_axes': {'params': 0, 'batch_stats': 0}, 'split_rngs': {'params': True}}
  return nn.vmap(Block, in_axes=(0, None), axis_size=16, **axes)(name='block')(x, train)


WRAPPED = {
  'plain': lambda x, train: Block(name='block')(x, train),
  'remat': lambda x, train: nn.remat(Block, static_argnums=2)(name='block')(x, train),
  'jit': lambda x, train: nn.jit(Block, static_argnums=2)(name='block')(x, train),
  'shared': _shared,
  'other axes': lambda x, train: nn.BatchNorm(use_running_average=not train, axis=(1, -1), epsilon=0.1)(x),
  'masked': lambda x, train: nn.BatchNorm(use_running_average=not train)(x, mask=jnp.arange(6)[:, None] < 3),
  'scan': _scanned,
  'vmap': _mapped,
  'no norm': lambda x, train: nn.LayerNorm()(x),
}


class Foreign(nn.Module):
  """A network of one's own, in one of the wrappings."""

  wrapping: str

  @nn.compact
  def __call__(self, x, train):
    return nn.Dense(3)(WRAPPED[self.wrapping](x, train).reshape(len(x), -1))


class Counting(nn.Module):
  """A collection that is of no norm, beside a batch norm."""

  @nn.compact
  def __call__(self, x, train):
    self.variable('counters', 'calls', lambda: jnp.zeros((), jnp.int32))
    return nn.BatchNorm(use_running_average=not train)(x)


class Scaled(nn.BatchNorm):
  """A batch norm that is given something else than its caller gives."""

  @nn.compact
  def __call__(self, x, use_running_average=None, *, mask=None):
    return super().__call__(x * 10, use_running_average, mask=mask)


class OwnCall(nn.Module):
  @nn.compact
  def __call__(self, x, train):
    return Scaled()(x, not train)


class Always(nn.Module):
  @nn.compact
  def __call__(self, x, train):
    return nn.BatchNorm(use_running_average=False)(x)


class OwnNorm(nn.Module):
  """Statistics that are of no module known here, beside a batch norm."""

  @nn.compact
  def __call__(self, x, train):
    shift = self.variable('batch_stats', 'shift', lambda: jnp.zeros((1, 1, 4)))
    return nn.BatchNorm(use_running_average=not train)(x) - shift.value


def varied(variables):
  """Gives every leaf values of its own, so that no two are confused; variances and weights are above 0."""

  def one(path, leaf):
    draw = np.random.default_rng(list(path.encode()))
    return jnp.asarray(draw.uniform(0.5, 1.5, size=leaf.shape), leaf.dtype)

  return tree.map_with_path(one, variables)


def begun(model, x):
  params, stats = training.linen(model).init(jax.random.key(0), x)
  return params, varied(stats)


def inputs_of(model, params, stats, x):
  """What each norm of a Linen module was given, worked back from what it put out, in NumPy."""
  variables = {'params': params, **stats}
  _, seen = model.apply(
    variables, x, train=False, mutable=['intermediates'], capture_intermediates=lambda m, _: isinstance(m, nn.BatchNorm)
  )
  at, found = tree.by_path(variables), {}
  for path, outputs in tree.by_path(seen['intermediates']).items():
    site, _, _ = path.partition('/__call__/')
    mean, var, scale, bias = (
      np.asarray(at[f'{name}/{site}/{leaf}'], np.float64)
      for name, leaf in (('batch_stats', 'mean'), ('batch_stats', 'var'), ('params', 'scale'), ('params', 'bias'))
    )
    found.setdefault(site, []).append((np.asarray(outputs, np.float64) - bias) / scale * np.sqrt(var + 1e-5) + mean)
  return found


MODELS = {
  'MLP': (models.MLP((5, 4), 3, linen.ReLU), (32, 6)),
  'CNN': (models.CNN((3, 4), (5,), 3, linen.ReLU), (8, 4, 4, 2)),
  'ResNet': (models.ResNet(8, 3, linen.ReLU, channels=(2, 3, 4)), (4, 8, 8, 2)),
  **{name: (Foreign(name), X.shape) for name in ('plain', 'remat', 'jit', 'shared')},
}


@pytest.mark.parametrize('name', MODELS)
def test_what_is_measured_is_what_each_norm_was_given(name):
  model, shape = MODELS[name]
  x = jnp.asarray(DRAW.normal(size=shape), jnp.float32)
  params, stats = begun(model, x)
  model.apply({'params': params, **stats}, x, train=False)  # what a wrapping has traced before hides no site
  found = jax.jit(partial(training.norm_statistics, model))(params, stats, x)
  inputs = inputs_of(model, params, stats, x)
  assert found.keys() == inputs.keys()
  stored = tree.by_path(stats['batch_stats'])
  for path, site in found.items():
    axes = tuple(range(inputs[path][0].ndim - 1))
    mean = np.mean([each.mean(axes) for each in inputs[path]], axis=0)
    std = np.sqrt(np.mean([each.var(axes) for each in inputs[path]], axis=0) + 1e-5)
    np.testing.assert_allclose(site.measured.mean, mean, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(site.measured.std, std, rtol=1e-4)
    np.testing.assert_array_equal(site.stored.mean, stored[f'{path}/mean'])
    np.testing.assert_allclose(site.stored.std, np.sqrt(np.asarray(stored[f'{path}/var']) + 1e-5), rtol=1e-6)


def test_a_norm_of_other_axes_and_epsilon_and_one_with_a_mask():
  model = Foreign('other axes')
  site = training.norm_statistics(model, *begun(model, X), X)['BatchNorm_0']
  np.testing.assert_allclose(site.measured.mean, np.asarray(X).mean(0), rtol=1e-5)
  np.testing.assert_allclose(site.measured.std, np.sqrt(np.asarray(X).var(0) + 0.1), rtol=1e-5)
  model = Foreign('masked')
  site = training.norm_statistics(model, *begun(model, X), X)['BatchNorm_0']
  seen = np.asarray(X)[:, :3].reshape(-1, 4)
  np.testing.assert_allclose(site.measured.mean, seen.mean(0), rtol=1e-5)
  np.testing.assert_allclose(site.measured.std, np.sqrt(seen.var(0) + 1e-5), rtol=1e-5)


@pytest.mark.parametrize(
  ('model', 'words'),
  [
    (Foreign('scan'), 'batch norm block/norm cannot be looked into'),
    (Foreign('vmap'), 'batch norm block/norm cannot be looked into'),
    (Foreign('no norm'), 'calls no batch norm'),
    (models.MLP((5,), 3, LMA, name=None), None),
    (OwnNorm(), 'the statistics shift are of no batch norm'),
    (OwnCall(), 'Scaled calls a batch norm in a way of its own'),
    (Always(), 'Always does not run in evaluation'),
    (nn.Dense(3), 'Dense is not called with train='),
  ],
)
def test_what_cannot_be_looked_into_is_refused_by_name(model, words):
  x = X[:, 0] if words is None else X
  params, stats = begun(model, x) if 'train=' not in str(words) else ({}, {})
  if words is None:  # LMA's statistics beside a norm's are known, and are not the norm's
    assert [*training.norm_statistics(model, params, stats, x)] == ['stages_0/norm']
    return
  with pytest.raises(ValueError, match=words) as error:
    training.norm_statistics(model, params, stats, x)
  assert '\n' not in str(error.value)


def test_other_collections_may_hold_anything():
  assert [*training.norm_statistics(Counting(), *begun(Counting(), X), X)] == ['BatchNorm_0']
  with pytest.raises(ValueError, match='inputs hold no example'):
    training.norm_statistics(Counting(), *begun(Counting(), X), X[:0])


def test_a_network_of_functions_is_refused():
  network = training.linen(models.MLP((5,), 3, linen.ReLU))
  with pytest.raises(ValueError, match='model is a Network, whose inside cannot be seen'):
    training.norm_statistics(network, *network.init(jax.random.key(0), X[:, 0]), X[:, 0])
  with pytest.raises(ValueError, match='MLP calls no LMA'):
    model = models.MLP((5,), 3, linen.ReLU)
    training.lma_statistics(model, *begun(model, X[:, 0]), X[:, 0])


def test_the_inputs_of_lma_are_whole_layers_also_within_quantized_ones():
  for act in (LMA, partial(linen.Quantized, LMA, bits=4)):
    model, x = models.MLP((5,), 3, act), X[:, 0]
    params, stats = begun(model, x)
    ((path, site),) = training.lma_statistics(model, params, stats, x).items()
    _, seen = model.apply(
      {'params': params, **stats}, x, train=False, mutable=['intermediates'],
      capture_intermediates=lambda m, _: isinstance(m, nn.BatchNorm),
    )  # fmt: skip
    given = np.asarray(jax.tree.leaves(seen)[0], np.float64)
    np.testing.assert_allclose(site.measured.mean, given.mean(), rtol=1e-5)
    np.testing.assert_allclose(site.measured.std, np.sqrt(given.var(ddof=1) + 1e-5), rtol=1e-5)
    known = tree.by_path(stats['batch_stats'])
    mean, std = (float(known[f'{path}/{name}'] / known[f'{path}/weight']) for name in ('mean', 'std'))
    np.testing.assert_allclose([site.stored.mean, site.stored.std], [mean, np.sqrt(std**2 + 1e-5)], rtol=1e-6)


class NnxScaled(nnx.BatchNorm):
  """As ``Scaled``."""

  def __call__(self, x, **how):
    return super().__call__(x * 10, **how)


class NnxBlock(nnx.Module):
  """A dense layer, a batch norm and an activation."""

  def __init__(self, rngs, act=nnx.relu):
    self.dense, self.norm, self.act = nnx.Linear(4, 4, rngs=rngs), nnx.BatchNorm(4, rngs=rngs), act

  def __call__(self, x):
    return self.act(self.norm(self.dense(x)))


def _of_nnx(call, several=False):
  class Net(nnx.Module):
    def __init__(self):
      rngs = nnx.Rngs(0)
      make = nnx.split_rngs(splits=3)(nnx.vmap(NnxBlock, in_axes=0)) if several else NnxBlock
      self.block = make(rngs)
      self.out = nnx.Linear(4, 3, rngs=rngs)

    def __call__(self, x):
      return self.out(call(self.block, x))

  return Net


NNX = {
  'plain': (_of_nnx(lambda block, x: block(x)), 1),
  'remat': (_of_nnx(lambda block, x: nnx.remat(lambda block, x: block(x))(block, x)), 1),
  'jit': (_of_nnx(lambda block, x: nnx.jit(lambda block, x: block(x))(block, x)), 1),
  'shared': (_of_nnx(lambda block, x: block(block(x))), 2),
  'scan': (
    _of_nnx(
      lambda block, x: nnx.scan(lambda x, b: b(x), in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)(x, block), several=True
    ),
    3,
  ),
}


@pytest.mark.parametrize('name', NNX)
def test_an_nnx_module_as_the_same_layers_in_numpy(name):
  make, calls = NNX[name]
  module, x = make(), X[:, 0]
  params, stats = training.nnx(module).init(None, None)
  params, stats = varied(params), varied(stats)
  found = jax.jit(partial(training.norm_statistics, module))(params, stats, x)
  ((path, site),) = found.items()
  assert path == 'block/norm'
  dense, norm, state = (
    jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), part)
    for part in (params['block']['dense'], params['block']['norm'], stats['state']['block']['norm'])
  )
  given, now = [], np.asarray(x, np.float64)
  for call in range(calls):
    at = call if name == 'scan' else ...
    given.append(now @ dense['kernel'][at] + dense['bias'][at])
    normal = (given[-1] - state['mean'][at]) / np.sqrt(state['var'][at] + 1e-5)
    now = np.maximum(normal * norm['scale'][at] + norm['bias'][at], 0)
  means, stds = [each.mean(0) for each in given], [each.var(0) for each in given]
  if name != 'scan':
    means, stds = np.mean(means, axis=0), np.mean(stds, axis=0)
  np.testing.assert_allclose(site.measured.mean, means, rtol=1e-4)
  np.testing.assert_allclose(site.measured.std, np.sqrt(np.asarray(stds) + 1e-5), rtol=1e-4)


def test_lma_and_what_is_quantized_in_an_nnx_module():
  class Net(nnx.Module):
    def __init__(self):
      self.block = NnxBlock(nnx.Rngs(0), NnxQuantized(NnxLMA(4), bits=4))

    def __call__(self, x):
      return self.block(x)

  module = Net()
  params, stats = training.nnx(module).init(None, None)
  stats = varied(stats)
  assert [*training.lma_statistics(module, params, stats, X[:, 0])] == ['block/act/act']
  assert [*training.norm_statistics(module, params, stats, X[:, 0])] == ['block/norm']
  with pytest.raises(ValueError, match='params has none at'):
    training.norm_statistics(module, {}, stats, X[:, 0])
  with pytest.raises(ValueError, match='NnxScaled calls a batch norm in a way of its own'):
    own = NnxScaled(4, rngs=nnx.Rngs(0))
    training.norm_statistics(own, *training.nnx(own).init(None, None), X[:, 0])
