"""What is special to activations on few levels: the levels, the range, and a student that has them."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import serialization
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from lmajax import Stats, compress
from lmajax.activations import fake_quantize
from lmajax.activations.linen import LMA, Identity, Quantized
from lmajax.models import MLP, cifar10_student
from tests import oracles

X = np.random.default_rng(0).normal(0.4, 1.5, (16, 30)).astype(np.float32)
LOW, HIGH = -1.3, 2.1


def quantized(x, low, high, bits):
  return fake_quantize(jnp.asarray(x), jnp.float32(low), jnp.float32(high), bits)


def grads(x, low, high, bits):
  return jax.grad(lambda *args: fake_quantize(*args, bits).sum(), (0, 1, 2))(*map(jnp.float32, (x, low, high)))


class TestFakeQuantize:
  @pytest.mark.parametrize('bits', range(1, 9))
  def test_equals_the_oracle(self, bits):
    y = jax.jit(quantized, static_argnums=3)(X, LOW, HIGH, bits)
    np.testing.assert_allclose(y, oracles.fake_quantize(X, LOW, HIGH, bits), atol=1e-6)
    assert len(np.unique(y)) <= 2**bits
    np.testing.assert_allclose((y.min(), y.max()), (LOW, HIGH), rtol=1e-6)

  @pytest.mark.parametrize('bits', [1, 4, 8])
  def test_errs_by_half_a_step_at_most(self, bits):
    y = quantized(X, X.min(), X.max(), bits)
    half = np.ptp(X) / (2**bits - 1) / 2
    assert 0.8 * half < np.abs(y - X).max() < 1.0001 * half

  def test_levels_stay_where_they_are(self):
    levels = quantized(X, LOW, HIGH, 4)
    np.testing.assert_array_equal(quantized(levels, LOW, HIGH, 4), levels)

  @pytest.mark.parametrize('dtype', ['bfloat16', 'float16'])
  def test_half_precision_is_computed_in_float32(self, dtype):
    x = jnp.asarray(X, dtype)
    y = quantized(x, LOW, HIGH, 8)
    assert y.dtype == dtype
    np.testing.assert_array_equal(y, quantized(x.astype(jnp.float32), LOW, HIGH, 8).astype(dtype))
    assert len(np.unique(np.asarray(y, np.float32))) <= 256

  def test_gradient_is_one_within_the_ends_and_zero_outside(self):
    x = np.array([-1.4, -1.3, 0.3, 2.1, 2.2], np.float32)
    dx, _, _ = grads(x, LOW, HIGH, 3)
    np.testing.assert_array_equal(dx, [0, 1, 1, 1, 0])

  def test_ends_get_what_is_clipped_there_and_the_share_of_the_rounding(self):
    for x, low, high in [(-9, 1, 0), (9, 0, 1), (0.0, 0, 0), (1.2, 0.2 / 3, -0.2 / 3), (1.9, -0.1 / 3, 0.1 / 3)]:
      np.testing.assert_allclose(grads(x, 0, 3, 2)[1:], (low, high), atol=1e-6)

  @pytest.mark.parametrize('low, high', [(np.inf, -np.inf), (0, np.inf), (np.nan, 1), (-3e38, 3e38)])
  def test_range_that_is_not_finite_quantizes_nothing(self, low, high):
    np.testing.assert_array_equal(quantized(X, low, high, 4), X)
    np.testing.assert_array_equal(grads(X, low, high, 4)[0], 1)
    np.testing.assert_array_equal(grads(X, low, high, 4)[1:], 0)

  @pytest.mark.parametrize('low, high', [(1, 1), (2, 1), (1, 1 + 1e-7), (0, 1e-44)])
  def test_range_without_a_width_is_its_low_end(self, low, high):
    np.testing.assert_allclose(quantized(X, low, high, 4), low, atol=1e-6)
    assert all(np.isfinite(gradient).all() for gradient in grads(X, low, high, 4))

  @pytest.mark.parametrize('bits', [0, 9, -1])
  def test_other_bits_raise(self, bits):
    with pytest.raises(ValueError, match='give 1 to 8'):
      quantized(X, LOW, HIGH, bits)


def trained_range(act, batches):
  variables = act.init(jax.random.key(0), jnp.asarray(X), train=True)
  for x in batches:
    _, updated = act.apply(variables, jnp.asarray(x), train=True, mutable=['batch_stats'])
    variables = {**variables, **updated}
  return variables


class TestQuantized:
  def test_range_is_the_average_of_the_extremes(self):
    batches = [X, 2 * X, X - 1]
    variables = trained_range(Quantized(Identity, bits=4, decay=0.9), batches)
    low, high = (oracles.average([end(x) for x in batches], 0.9) for end in (np.min, np.max))
    y = Quantized(Identity, bits=4).apply(variables, jnp.asarray(X), train=False)
    np.testing.assert_allclose(y, oracles.fake_quantize(X, low, high, 4), atol=1e-5)

  def test_what_is_masked_or_not_finite_is_not_measured(self):
    where = jnp.arange(16)[:, None] < 9
    spoiled = jnp.where(where, X, 1e6).at[0, 0].set(jnp.inf).at[1, 1].set(jnp.nan)
    kept = X[:9].copy()
    kept[0, 0] = kept[1, 1] = X[2, 2]
    act = Quantized(Identity)
    fresh = act.init(jax.random.key(0), jnp.asarray(X), train=True)
    _, updated = act.apply(fresh, spoiled, where=where, train=True, mutable=['batch_stats'])
    np.testing.assert_allclose(updated['batch_stats']['low'], 0.01 * kept.min(), rtol=1e-5)
    np.testing.assert_allclose(updated['batch_stats']['high'], 0.01 * kept.max(), rtol=1e-5)

  @pytest.mark.parametrize('learned', [False, True])
  def test_batch_with_nothing_to_measure_changes_nothing(self, learned):
    act = Quantized(Identity, learned=learned)
    variables = trained_range(act, [X])

    def loss(params):
      where = jnp.zeros((1, 1), bool)
      y, updated = act.apply(
        {**variables, 'params': params}, jnp.asarray(X), where=where, train=True, mutable=['batch_stats']
      )
      return y.sum(), (y, updated)

    gradient, (y, updated) = jax.grad(loss, has_aux=True)(variables.get('params', {}))
    np.testing.assert_array_equal(y, X)
    assert jax.tree.all(jax.tree.map(np.array_equal, updated['batch_stats'], variables['batch_stats']))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))

  def test_fresh_evaluation_quantizes_nothing(self):
    y, variables = Quantized(LMA).init_with_output(jax.random.key(0), jnp.asarray(X), train=False)
    np.testing.assert_array_equal(y, jax.nn.relu(X))
    assert float(variables['batch_stats']['weight']) == 0
    assert set(variables['params']) == {'act'}

  def test_arguments_reach_the_inner_activation(self):
    alone = {'where': jnp.arange(16)[:, None] < 9, 'train': True}
    act, inner = Quantized(LMA), LMA()
    variables = act.init(jax.random.key(0), jnp.asarray(X), train=True)
    site = {name: tree['act'] for name, tree in variables.items()}
    for options in (alone, {**alone, 'stats': Stats(jnp.float32(1), jnp.float32(2))}):
      _, ours = act.apply(variables, jnp.asarray(X), mutable=['batch_stats'], **options)
      _, theirs = inner.apply(site, jnp.asarray(X), mutable=['batch_stats'], **options)
      assert jax.tree.all(jax.tree.map(np.array_equal, ours['batch_stats']['act'], theirs['batch_stats']))

  def test_learned_range_starts_as_measured_and_is_trained(self):
    heavy = X.copy()
    heavy[0, 0] = 40  # which leaves the 4 levels of 2 bits far apart
    act = Quantized(Identity, bits=2, learned=True)
    variables = act.init(jax.random.key(0), jnp.asarray(heavy), train=True)

    @jax.jit
    def error(params):
      y, _ = act.apply({**variables, 'params': params}, jnp.asarray(heavy), train=True, mutable=['batch_stats'])
      return jnp.abs(y - heavy).mean()

    params, tx = variables['params'], optax.adam(0.02)
    measured, _ = Quantized(Identity, bits=2).apply({}, jnp.asarray(heavy), train=True, mutable=['batch_stats'])
    start = float(error(params))
    np.testing.assert_allclose(start, np.abs(measured - heavy).mean(), rtol=1e-6)
    state = tx.init(params)
    for _ in range(80):
      updates, state = tx.update(jax.grad(error)(params), state)
      params = optax.apply_updates(params, updates)
    assert float(error(params)) < 0.5 * start
    assert float(params['range_deltas'][1]) < -0.5

  def test_survives_serialization(self):
    act = Quantized(LMA, bits=4, learned=True)
    fresh = act.init(jax.random.key(0), jnp.asarray(X), train=True)
    variables = trained_range(act, [X])
    restored = jax.tree.map(jnp.asarray, serialization.from_bytes(fresh, serialization.to_bytes(variables)))
    y = act.apply(variables, jnp.asarray(X), train=False)
    np.testing.assert_array_equal(act.apply(restored, jnp.asarray(X), train=False), y)
    assert not np.array_equal(act.apply(fresh, jnp.asarray(X), train=False), y)


def step(act, params, stats, x):
  def loss(params):
    y, updated = act.apply({'params': params, 'batch_stats': stats}, x, train=True, mutable=['batch_stats'])
    return jnp.square(y).mean(), updated['batch_stats']

  return jax.value_and_grad(loss, has_aux=True)(params)


class TestSharded:
  """On data spread over eight devices the range is that of the whole batch."""

  @pytest.fixture
  def alone(self):
    variables = Quantized(LMA, learned=True).init(jax.random.key(0), jnp.asarray(X), train=True)
    args = jax.tree.map(np.asarray, (variables['params'], variables['batch_stats'], X))
    return args, jax.jit(partial(step, Quantized(LMA, learned=True)))(*args)

  @pytest.mark.parametrize('kind', [AxisType.Auto, AxisType.Explicit])
  def test_under_jit(self, alone, kind):
    (params, stats, x), expected = alone
    mesh = jax.make_mesh((8,), ('data',), axis_types=(kind,))
    whole, split = (NamedSharding(mesh, spec) for spec in (P(), P('data')))
    placed = *jax.device_put((params, stats), whole), jax.device_put(x, split)
    self.close(jax.jit(partial(step, Quantized(LMA, learned=True)))(*placed), expected)

  def test_under_shard_map(self, alone):
    args, expected = alone
    mesh = jax.make_mesh((8,), ('data',), axis_types=(AxisType.Auto,))
    act = Quantized(partial(LMA, axis_name='data'), learned=True, axis_name='data')

    def local(params, stats, x):
      (loss, stats), gradient = step(act, params, stats, x)
      return (jax.lax.pmean(loss, 'data'), stats), jax.tree.map(lambda leaf: leaf / 8, gradient)

    spread = jax.shard_map(local, mesh=mesh, in_specs=(P(), P(), P('data')), out_specs=P())
    self.close(jax.jit(spread)(*args), expected)

  def close(self, tree, other):
    for ours, theirs in zip(jax.tree.leaves(tree), jax.tree.leaves(other), strict=True):
      np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


MODELS = [
  pytest.param(partial(MLP, (12, 8), 10), (8, 8, 1), id='mlp'),
  pytest.param(partial(cifar10_student, 3), (8, 8, 3), id='cifar10_student'),
]


@pytest.mark.parametrize('make, shape', MODELS)
def test_student_of_4_bit_weights_and_8_bit_activations_trains(make, shape):
  model = make(act=partial(Quantized, act=partial(LMA, num_segments=8), learned=True))
  x = jnp.asarray(np.random.default_rng(0).normal(size=(8, *shape)), jnp.float32)
  labels, tx, reparam = jnp.arange(8), optax.adam(3e-3), compress.masked(compress.uniform(4))
  variables = jax.jit(partial(model.init, train=False))(jax.random.key(0), x)
  theta, code = reparam.init(variables['params'], jax.random.key(1))

  @jax.jit
  def train_step(theta, stats, state, key):
    def loss(theta):
      params = reparam.apply(theta, code, key)
      (logits, _), updated = model.apply(
        {'params': params, 'batch_stats': stats}, x, train=True, mutable=['batch_stats'], rngs={'dropout': key}
      )
      return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean(), updated['batch_stats']

    (value, stats), gradient = jax.value_and_grad(loss, has_aux=True)(theta)
    updates, state = tx.update(gradient, state)
    return optax.apply_updates(theta, updates), stats, state, value

  stats, state, losses = variables['batch_stats'], tx.init(theta), []
  for i in range(12):
    theta, stats, state, value = train_step(theta, stats, state, jax.random.fold_in(jax.random.key(2), i))
    losses.append(float(value))
  assert np.mean(losses[-3:]) < np.mean(losses[:3])
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((theta, stats)))

  @jax.jit
  def evaluate(theta, stats):
    return model.apply({'params': reparam.apply(theta, code, None), 'batch_stats': stats}, x, train=False)

  _, taps = evaluate(theta, stats)
  assert all(len(np.unique(tap)) <= 256 for tap in taps[1:])
