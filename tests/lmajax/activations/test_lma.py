"""What is special to LMA: its segments, its statistics, its start at ReLU, and its two shells."""

import math
from functools import partial

import flax.linen as nn
import hypothesis.extra.numpy as hnp
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import serialization
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import experimental

from lmajax import (
  LMA,
  RunningStats,
  Stats,
  debias,
  init_stats,
  joined_intercepts,
  lma,
  measure,
  relu_init,
  segment_index,
  update_stats,
)
from tests import oracles

WIDE = jax.enable_x64 if hasattr(jax, 'enable_x64') else experimental.enable_x64  # before JAX 0.8

EVERY_K = pytest.mark.parametrize('k', range(2, 17))
X = np.random.default_rng(0).normal(0.4, 1.5, (6, 5)).astype(np.float32)
STATS = Stats(jnp.float32(0.1), jnp.float32(1.7))


def numbers(stats):
  return tuple(float(leaf) for leaf in stats)


def drawn(k, seed=3):
  slopes, intercepts = np.random.default_rng(seed).normal(size=(2, k)).astype(np.float32)
  return jnp.asarray(slopes), jnp.asarray(intercepts)


def about_the_cuts(k):
  """The cuts as float32 numbers, with the number below and the number above each."""
  cuts = np.array(oracles.cuts(numbers(STATS), k), np.float32)
  return np.concatenate([np.nextafter(cuts, -np.inf), cuts, np.nextafter(cuts, np.inf)])


_parameter_gradients = jax.jit(jax.grad(lambda a, b: lma(jnp.asarray(X), a, b, STATS).sum(), (0, 1)))


class TestSegments:
  @EVERY_K
  def test_index_equals_the_oracle(self, k):
    x = np.random.default_rng(k).uniform(-8, 8, 300).astype(np.float32)
    x = np.concatenate([x, [-1e30, 1e30, -np.inf, np.inf, np.nan]]).astype(np.float32)
    index = segment_index(jnp.asarray(x), STATS, k)
    np.testing.assert_array_equal(index, oracles.segment_index(x, numbers(STATS), k))
    assert set(np.asarray(index)) == set(range(k))

  @pytest.mark.parametrize('k', [2, 4, 8, 16])
  def test_a_cut_belongs_to_the_segment_above(self, k):
    mean, std = jnp.float32(0.5), jnp.float32(2)  # with which these cuts are exact in float32
    cuts = np.array(oracles.cuts((0.5, 2), k), np.float32)
    np.testing.assert_array_equal(segment_index(jnp.asarray(cuts), Stats(mean, std), k), np.arange(1, k))
    below = jnp.asarray(np.nextafter(cuts, -np.inf))
    np.testing.assert_array_equal(segment_index(below, Stats(mean, std), k), np.arange(k - 1))

  @EVERY_K
  def test_lma_and_index_agree_on_and_about_every_cut(self, k):
    x = jnp.asarray(about_the_cuts(k))
    numbered = jax.jit(lma)(x, jnp.zeros(k), jnp.arange(k, dtype=jnp.float32), STATS)
    np.testing.assert_array_equal(numbered, segment_index(x, STATS, k))

  @EVERY_K
  def test_value_equals_the_oracle(self, k):
    slopes, intercepts = drawn(k)
    y = lma(jnp.asarray(X), slopes, intercepts, STATS)
    np.testing.assert_allclose(y, oracles.lma(X, slopes, intercepts, numbers(STATS)), rtol=1e-5, atol=1e-5)

  @EVERY_K
  def test_gradient_in_x_is_the_slope_of_the_segment(self, k):
    slopes, intercepts = drawn(k)

    def total(x, joined):
      stats = measure(x)
      return lma(x, slopes, joined_intercepts(slopes, stats) if joined else intercepts, stats).sum()

    expected = np.asarray(slopes)[oracles.segment_index(X, oracles.measure(X), k)]
    gradients = jax.jit(lambda x: [jax.grad(total)(x, joined) for joined in (False, True)])
    for gradient in gradients(jnp.asarray(X)):
      np.testing.assert_array_equal(gradient, expected)

  @EVERY_K
  def test_gradients_in_the_parameters_are_sums_over_segments(self, k):
    slopes, intercepts = drawn(k)
    dslopes, dintercepts = _parameter_gradients(slopes, intercepts)
    index = oracles.segment_index(X, numbers(STATS), k)
    np.testing.assert_allclose(dslopes, [X[index == j].sum() for j in range(k)], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(dintercepts, [(index == j).sum() for j in range(k)], rtol=1e-6)

  def test_statistics_get_no_gradient(self):
    slopes, intercepts = drawn(8)
    gradient = jax.grad(lambda s: lma(jnp.asarray(X), slopes, intercepts, s).sum())(STATS)
    joined = jax.grad(lambda s: lma(jnp.asarray(X), slopes, joined_intercepts(slopes, s), s).sum())(STATS)
    measured = jax.grad(lambda x: sum(measure(x)))(jnp.asarray(X))
    assert all(not np.any(leaf) for leaf in (*gradient, *joined, measured))

  @pytest.mark.parametrize('tables', ['float32', 'bfloat16', 'float16'])
  def test_half_precision_computes_in_float32(self, tables, strict_dtypes):
    x, drawn_tables = jnp.asarray(X, jnp.bfloat16), [table.astype(tables) for table in drawn(8)]
    wide = lma(x.astype(jnp.float32), *(table.astype(jnp.float32) for table in drawn_tables), STATS)
    np.testing.assert_array_equal(lma(x, *drawn_tables, STATS), wide.astype(jnp.bfloat16))

  @pytest.mark.parametrize('shapes', [((8,), (7,)), ((1,), (1,)), ((2, 4), (2, 4)), ((), ())])
  def test_ill_shaped_tables_raise(self, shapes):
    with pytest.raises((ValueError, TypeError)):
      lma(jnp.asarray(X), *map(jnp.zeros, shapes), STATS)


class TestReluStart:
  @EVERY_K
  def test_slopes_and_intercepts(self, k):
    for ours, expected in zip(relu_init(k), oracles.relu_init(k), strict=True):
      np.testing.assert_array_equal(ours, expected)
      assert ours.dtype == jnp.float32

  @pytest.mark.parametrize('k', [1, 0, -3])
  def test_fewer_than_two_segments_raise(self, k):
    with pytest.raises(ValueError, match='at least 2'):
      relu_init(k)

  @EVERY_K
  def test_zero_deltas_are_relu_about_the_mean(self, k):
    act = LMA(num_segments=k)
    y, variables = act.init_with_output(jax.random.key(0), jnp.asarray(X), train=True)
    assert not np.any(variables['params']['slope_deltas'])
    mean, std = oracles.measure(X)
    kink = mean - (3 * std / k if k % 2 else 0)
    np.testing.assert_allclose(y, np.where(kink <= X, X, 0))

  @pytest.mark.parametrize('joined', [False, True])
  def test_fresh_evaluation_is_exactly_relu(self, joined):
    act, x = LMA(joined=joined), jnp.asarray(np.concatenate([X.ravel(), [0, -0.0, 1e-30, -1e-30, 1e30]]), jnp.float32)
    y, _ = act.init_with_output(jax.random.key(0), x, train=False)
    np.testing.assert_array_equal(y, jax.nn.relu(x))


class TestJoined:
  @EVERY_K
  def test_intercepts_equal_the_oracle(self, k):
    slopes, _ = drawn(k)
    joined = joined_intercepts(slopes, STATS)
    np.testing.assert_allclose(joined, oracles.joined_intercepts(slopes, numbers(STATS)), rtol=1e-4, atol=1e-5)

  @EVERY_K
  def test_continuous_at_every_cut_and_zero_at_the_mean(self, k):
    slopes, _ = drawn(k)
    y = lma(jnp.asarray(about_the_cuts(k)), slopes, joined_intercepts(slopes, STATS), STATS)
    below, at, above = np.split(np.asarray(y), 3)
    np.testing.assert_allclose(below, at, atol=2e-5)
    np.testing.assert_allclose(above, at, atol=2e-5)
    np.testing.assert_allclose(lma(STATS.mean, slopes, joined_intercepts(slopes, STATS), STATS), 0, atol=2e-6)

  def test_trains_slopes_alone(self):
    variables = LMA(joined=True).init(jax.random.key(0), jnp.asarray(X), train=True)
    assert set(variables['params']) == {'slope_deltas'}


class TestMeasure:
  def test_unbiased(self):
    np.testing.assert_allclose(measure(jnp.asarray(X)), (X.mean(), X.std(ddof=1)), rtol=1e-6)
    np.testing.assert_allclose(measure(jnp.asarray(X)), oracles.measure(X), rtol=1e-6)

  @pytest.mark.parametrize('sign', [1, -1])
  def test_large_mean_for_its_deviation(self, sign):
    x = (sign * 1e4 + np.random.default_rng(0).normal(size=3000)).astype(np.float32)
    np.testing.assert_allclose(measure(jnp.asarray(x)), oracles.measure(x), rtol=1e-3)

  @pytest.mark.parametrize('shape', [(1, 4_000_001), (2, 2_000_003, 1), (1, 1_000_003, 3), (2, 2_000_000)])
  def test_long_rows_lose_no_digits(self, shape):
    x = 5 + 2 * np.random.default_rng(0).standard_normal(shape, np.float32)
    mean, std = x.mean(dtype=np.float64), x.std(dtype=np.float64, ddof=1)
    found = jax.jit(measure)(jnp.asarray(x))
    np.testing.assert_allclose(found, (mean, std), atol=1e-5 * std)

  @pytest.mark.parametrize('dtype', ['bfloat16', 'float16'])
  def test_half_precision_accumulates_in_float32(self, dtype):
    x = jnp.asarray(1 + np.random.default_rng(0).normal(size=5000), dtype)
    stats = measure(x)
    assert (stats.mean.dtype, stats.std.dtype) == (jnp.float32, jnp.float32)
    np.testing.assert_allclose(stats, oracles.measure(np.asarray(x, np.float32)), rtol=1e-4)

  @pytest.mark.parametrize(
    'x, expected',
    [
      ([], (0, math.inf)),
      ([3], (3, 0)),
      ([2, 2, 2], (2, 0)),
      ([math.nan], (0, math.inf)),
      ([1, math.nan, 3, math.inf, -math.inf], (2, math.sqrt(2))),
      ([1e30, -1e30], (0, math.inf)),
      ([3e38, 3e38], (0, math.inf)),
    ],
  )
  def test_odd_inputs(self, x, expected):
    np.testing.assert_allclose(measure(jnp.array(x, jnp.float32)), expected, rtol=1e-6)
    np.testing.assert_allclose(oracles.measure(np.array(x, np.float32)), expected, rtol=1e-6)

  @pytest.mark.parametrize('shape', [(6, 5), (6, 1), (1, 5), (1, 1)])
  def test_mask_broadcasts(self, shape):
    where = np.random.default_rng(1).random(shape) < 0.6
    stats = measure(jnp.asarray(X), where=jnp.asarray(where))
    np.testing.assert_allclose(stats, oracles.measure(X, where=where), rtol=1e-5)

  def test_all_masked_knows_nothing(self):
    assert numbers(measure(jnp.asarray(X), where=jnp.zeros((6, 1), bool))) == (0, math.inf)

  @pytest.mark.parametrize('shape', [(6,), (), (1, 6, 5), (5, 6), (6, 2)])
  def test_ill_shaped_mask_raises(self, shape):
    with pytest.raises(ValueError, match='same rank'):
      measure(jnp.asarray(X), where=jnp.ones(shape, bool))
    with pytest.raises(ValueError, match='same rank'):
      LMA().init(jax.random.key(0), jnp.asarray(X), where=jnp.ones(shape, bool), train=True)


class TestRunningStats:
  def test_starts_at_nothing(self):
    assert numbers(init_stats()) == oracles.init_stats()
    assert numbers(debias(init_stats())) == oracles.debias(oracles.init_stats())
    pointers = {leaf.unsafe_buffer_pointer() for leaf in init_stats()}
    assert len(pointers) == 3, 'a donated state may not hold one buffer twice'

  @pytest.mark.parametrize('decay', [0.0, 0.5, 0.99])
  def test_update_equals_the_oracle(self, decay):
    ours, slow = init_stats(), oracles.init_stats()
    for mean, std in [(1.0, 2.0), (-3.0, 0.5), (0.25, 0.0)]:
      ours = update_stats(ours, Stats(jnp.float32(mean), jnp.float32(std)), decay=decay)
      slow = oracles.update_stats(slow, (mean, std), decay=decay)
      np.testing.assert_allclose(ours, slow, rtol=1e-5)
      np.testing.assert_allclose(debias(ours), oracles.debias(slow), rtol=1e-5)

  @pytest.mark.parametrize('batch', [(0, math.inf), (1, math.nan), (math.nan, 1), (math.inf, 1)])
  @pytest.mark.parametrize('running', [(0, 0, 0), (0.3, 0.2, 0.1)])
  def test_unknown_stats_change_nothing(self, batch, running):
    before = RunningStats(*map(jnp.float32, running))
    after = update_stats(before, Stats(*map(jnp.float32, batch)), decay=0.9)
    assert numbers(after) == numbers(before)

  def test_debiased_average_of_equal_batches_is_the_batch(self):
    running = init_stats()
    for t in range(1, 6):
      running = update_stats(running, STATS, decay=0.99)
      np.testing.assert_allclose(running.weight, 1 - 0.99**t, rtol=1e-4)
      np.testing.assert_allclose(debias(running), STATS, rtol=1e-5)


def arrays(largest=None):
  elements = st.floats(largest and -largest, largest, width=32, allow_nan=False, allow_infinity=False)
  return hnp.arrays(np.float32, st.sampled_from([(1,), (2,), (7,)]), elements=elements)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(x=arrays(), later=arrays())
def test_any_finite_input_gives_finite_output_and_statistics(x, later):
  y, running = _train(x)
  assert np.isfinite(y).all()
  assert np.isfinite(running).all()
  assert np.isfinite(_evaluate(later, running)).all()


@settings(max_examples=60, deadline=None, derandomize=True)
@given(x=arrays(largest=2.0**120))
def test_any_finite_input_stays_finite_when_joined(x):
  assert np.isfinite(_joined(x)).all()


@settings(max_examples=60, deadline=None, derandomize=True)
@given(x=arrays(largest=2.0**40))
def test_any_input_is_measured_as_by_the_oracle(x):
  slow = oracles.measure(x)
  scale = float(np.abs(x).max()) + 1e-15
  np.testing.assert_allclose(_measure(x), slow, rtol=1e-4, atol=1e-5 * scale)


@jax.jit
def _train(x):
  stats = measure(x)
  return lma(x, *relu_init(8), stats), update_stats(init_stats(), stats, decay=0.99)


@jax.jit
def _evaluate(x, running):
  return lma(x, *relu_init(8), debias(running))


@jax.jit
def _joined(x):
  stats = measure(x)
  slopes = relu_init(8)[0]
  return lma(x, slopes, joined_intercepts(slopes, stats), stats)


_measure = jax.jit(measure)


def linen_step(act, variables, x):
  """One step of gradient descent on the sum of squares, as a train step of Flax would take it."""

  def loss(params):
    y, updated = act.apply({**variables, 'params': params}, x, train=True, mutable=['batch_stats'])
    return jnp.square(y).sum(), (y, updated)

  grads, (y, updated) = jax.grad(loss, has_aux=True)(variables['params'])
  return y, {'params': jax.tree.map(lambda p, g: p - 0.01 * g, variables['params'], grads), **updated}


class TestLinen:
  @pytest.mark.parametrize('collection', ['batch_stats', 'quantiles'])
  def test_statistics_live_in_the_collection(self, collection):
    act = LMA(collection=collection)
    variables = act.init(jax.random.key(0), jnp.asarray(X), train=True)
    assert set(variables) == {'params', collection}
    assert numbers(RunningStats(**variables[collection])) == (0, 0, 0), 'initializing is not training'
    _, updated = act.apply(variables, jnp.asarray(X), train=True, mutable=[collection])
    expected = oracles.update_stats((0, 0, 0), oracles.measure(X), decay=0.99)
    np.testing.assert_allclose(RunningStats(**updated[collection]), expected, rtol=1e-5)

  def test_train_is_a_field_or_an_argument(self):
    variables = LMA().init(jax.random.key(0), jnp.asarray(X), train=True)
    for train in (True, False):
      by_field = LMA(train=train).apply(variables, jnp.asarray(X), mutable=['batch_stats'])
      by_argument = LMA().apply(variables, jnp.asarray(X), train=train, mutable=['batch_stats'])
      assert jax.tree.all(jax.tree.map(np.array_equal, by_field, by_argument))
    with pytest.raises(ValueError, match='train'):
      LMA(train=True).apply(variables, jnp.asarray(X), train=True, mutable=['batch_stats'])
    with pytest.raises(ValueError, match='train'):
      LMA().apply(variables, jnp.asarray(X))

  def test_decay_is_a_field(self):
    act = LMA(decay=0.5)
    variables = act.init(jax.random.key(0), jnp.asarray(X), train=True)
    _, updated = act.apply(variables, jnp.asarray(X), train=True, mutable=['batch_stats'])
    np.testing.assert_allclose(updated['batch_stats']['weight'], 0.5)

  def test_weight_decay_pulls_toward_relu(self):
    act = LMA()
    variables = act.init(jax.random.key(0), jnp.asarray(X), train=True)
    params = jax.tree.map(lambda p: p + 1, variables['params'])
    decayed = jax.tree.map(lambda p: 0.0 * p, params)
    y, _ = act.apply({**variables, 'params': decayed}, jnp.asarray(X), train=True, mutable=['batch_stats'])
    np.testing.assert_allclose(y, np.where(oracles.measure(X)[0] <= X, X, 0))

  def test_survives_serialization(self):
    act = LMA()
    fresh = act.init(jax.random.key(0), jnp.asarray(X), train=True)
    _, variables = linen_step(act, fresh, jnp.asarray(X))
    restored = jax.tree.map(jnp.asarray, serialization.from_bytes(fresh, serialization.to_bytes(variables)))
    y = act.apply(variables, jnp.asarray(X), train=False)
    np.testing.assert_array_equal(act.apply(restored, jnp.asarray(X), train=False), y)
    assert not np.array_equal(act.apply(fresh, jnp.asarray(X), train=False), y)

  def test_scanned_layers_have_tables_and_statistics_of_their_own(self):
    class Layer(nn.Module):
      @nn.compact
      def __call__(self, x, _):
        return LMA(name='act')(2 * x + 1, train=True), None

    axes = {'params': 0, 'batch_stats': 0}
    model = nn.scan(Layer, variable_axes=axes, split_rngs={'params': True}, length=3)()
    variables = model.init(jax.random.key(0), jnp.asarray(X), None)
    (y, _), updated = model.apply(variables, jnp.asarray(X), None, mutable=['batch_stats'])
    assert variables['params']['act']['slope_deltas'].shape == (3, 8)
    expected, means = X, []
    for _ in range(3):
      expected = 2 * expected + 1
      stats = oracles.measure(expected)
      means.append(0.01 * stats[0])
      expected = oracles.lma(expected, *oracles.relu_init(8), stats)
    np.testing.assert_allclose(y, expected, rtol=1e-4)
    np.testing.assert_allclose(updated['batch_stats']['act']['mean'], means, rtol=1e-4)


def test_float64_stays_float64():
  with WIDE(True):
    x = jnp.asarray(np.asarray(X, np.float64))
    stats = measure(x)
    assert stats.mean.dtype == stats.std.dtype == jnp.float64
    np.testing.assert_allclose(stats, oracles.measure(np.asarray(X, np.float64)), rtol=1e-14)
    slopes, intercepts = (table.astype(jnp.float64) for table in drawn(8))
    y = jax.jit(partial(lma, stats=stats))(x, slopes, intercepts)
    np.testing.assert_allclose(y, oracles.lma(X, slopes, intercepts, oracles.measure(X)), rtol=1e-10)


@pytest.mark.parametrize('dtype', ['bfloat16', 'float16'])
def test_running_statistics_of_narrow_variables_arrive_where_they_should(dtype):
  act, rng = LMA(), np.random.default_rng(0)
  variables = jax.tree.map(lambda leaf: leaf.astype(dtype), act.init(jax.random.key(0), jnp.zeros((2, 3)), train=False))
  step = jax.jit(lambda variables, x: act.apply(variables, x, train=True, mutable=['batch_stats'])[1])
  for _ in range(600):
    x = (5 + 2 * rng.standard_normal((64, 8))).astype(np.float32)
    variables = {**variables, **step(variables, jnp.asarray(x, dtype))}
  running = variables['batch_stats']
  assert {leaf.dtype for leaf in jax.tree.leaves(running)} == {jnp.dtype('float32')}
  mean, std = debias(RunningStats(**running))
  np.testing.assert_allclose((mean, std), (5, 2), atol=0.05)


@pytest.mark.parametrize('decay', [1.0, 2.0, -0.1, math.nan])
def test_a_decay_out_of_range_is_refused(decay):
  with pytest.raises(ValueError, match='decay'):
    update_stats(init_stats(), Stats(jnp.array(0.0), jnp.array(1.0)), decay=decay)
