"""LMA on data spread over eight devices gives what it gives on one: the statistics are those of the whole batch."""

import contextlib
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from lmajax import LMA, Stats, joined_intercepts, lma, measure, segment_index
from tests import oracles

# Every device's share has a mean and a deviation of its own.
X = (np.random.default_rng(0).normal(size=(16, 6)) * np.linspace(1, 3, 16)[:, None]).astype(np.float32)
X += np.linspace(-2, 4, 16, dtype=np.float32)[:, None]
SLOPES, INTERCEPTS = np.random.default_rng(1).normal(size=(2, 8)).astype(np.float32)


@pytest.fixture(params=[AxisType.Auto, AxisType.Explicit], ids=['auto', 'explicit'])
def mesh(request):
  return jax.make_mesh((8,), ('data',), axis_types=(request.param,))


@pytest.fixture(params=[False, True], ids=['as_placed', 'set_mesh'])
def placed(request, mesh):
  """Puts a tree on the mesh: its arrays of two axes split over the devices, the others whole on each."""
  with jax.set_mesh(mesh) if request.param else contextlib.nullcontext():
    yield lambda tree: jax.tree.map(
      lambda leaf: jax.device_put(leaf, NamedSharding(mesh, P('data') if np.ndim(leaf) > 1 else P())), tree
    )


def close(tree, other):
  for ours, theirs in zip(jax.tree.leaves(tree), jax.tree.leaves(other), strict=True):
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.fixture(scope='module')
def variables():
  """Of an LMA that is off its start; as NumPy arrays, which are on no mesh yet."""
  fresh = LMA().init(jax.random.key(0), jnp.asarray(X), train=True)
  return jax.tree.map(np.asarray, {**fresh, 'params': {'slope_deltas': SLOPES, 'intercepts': INTERCEPTS}})


@pytest.fixture(scope='module', params=[False, True], ids=['free', 'joined'])
def joined(request):
  return request.param


@pytest.fixture(scope='module')
def tables_alone(joined):
  """What one device gives: the loss with the output, and the gradients."""
  step = jax.jit(jax.value_and_grad(partial(table_loss, joined=joined), (0, 1, 2), has_aux=True))
  return jax.tree.map(np.asarray, step(*map(jnp.asarray, (X, SLOPES, INTERCEPTS))))


@pytest.fixture(scope='module')
def module_alone(variables, joined):
  return jax.tree.map(np.asarray, module_step(joined)(*jax.tree.map(jnp.asarray, module_args(variables, joined))))


def module_args(variables, joined):
  params = {name: leaf for name, leaf in variables['params'].items() if not (joined and name == 'intercepts')}
  return params, variables['batch_stats'], X


def module_step(joined, axis_name=None):
  act = LMA(joined=joined, axis_name=axis_name)
  return jax.jit(jax.value_and_grad(partial(loss_and_stats, act), has_aux=True))


def table_loss(x, slopes, intercepts, joined=False):
  stats = measure(x)
  y = lma(x, slopes, joined_intercepts(slopes, stats) if joined else intercepts, stats)
  return jnp.square(y).mean(), y


def loss_and_stats(act, params, stats, x):
  y, updated = act.apply({'params': params, 'batch_stats': stats}, x, train=True, mutable=['batch_stats'])
  return jnp.square(y).mean(), (y, updated['batch_stats'])


def test_eight_devices_are_here():
  assert jax.device_count() == 8


class TestUnderJit:
  def test_measure_sees_the_whole_batch(self, placed):
    stats = jax.jit(measure)(placed(X))
    np.testing.assert_allclose(stats, oracles.measure(X), rtol=1e-5)

  def test_measure_sees_the_whole_mask(self, placed):
    where = np.arange(16)[:, None] % 3 > 0
    stats = jax.jit(lambda x, where: measure(x, where=where))(placed(X), placed(where))
    np.testing.assert_allclose(stats, oracles.measure(X, where=where), rtol=1e-5)

  def test_segment_index(self, placed):
    index = jax.jit(lambda x: segment_index(x, measure(x), 8))(placed(X))
    np.testing.assert_array_equal(index, oracles.segment_index(X, oracles.measure(X), 8))
    assert not index.sharding.is_fully_replicated

  def test_lma_and_its_gradients(self, tables_alone, joined, placed):
    step = jax.jit(jax.value_and_grad(partial(table_loss, joined=joined), (0, 1, 2), has_aux=True))
    (_, y), _ = sharded = step(*placed((X, SLOPES, INTERCEPTS)))
    close(sharded, tables_alone)
    stats = oracles.measure(X)
    intercepts = oracles.joined_intercepts(SLOPES, stats) if joined else INTERCEPTS
    np.testing.assert_allclose(y, oracles.lma(X, SLOPES, intercepts, stats), rtol=1e-4, atol=1e-4)
    assert not y.sharding.is_fully_replicated

  def test_eager_equals_jit(self, placed):
    args = placed((X, SLOPES, INTERCEPTS))
    close(lma(*args, measure(args[0])), jax.jit(lambda x, a, b: lma(x, a, b, measure(x)))(*args))

  def test_module_in_training(self, module_alone, variables, joined, placed):
    (_, (_, stats)), _ = sharded = module_step(joined)(*placed(module_args(variables, joined)))
    close(sharded, module_alone)
    np.testing.assert_allclose(stats['mean'], 0.01 * oracles.measure(X)[0], rtol=1e-4)


class TestUnderShardMap:
  def test_measure_across_the_axis(self, mesh):
    with jax.set_mesh(mesh):
      stats = jax.jit(jax.shard_map(partial(measure, axis_name='data'), in_specs=P('data'), out_specs=P()))(
        jax.device_put(X, NamedSharding(mesh, P('data')))
      )
    np.testing.assert_allclose(stats, oracles.measure(X), rtol=1e-5)

  def test_measure_without_the_axis_sees_each_share_alone(self, mesh):
    def measured(x):
      return jax.tree.map(lambda stat: stat[None], measure(x))

    mapped = jax.jit(jax.shard_map(measured, mesh=mesh, in_specs=P('data'), out_specs=P('data')))
    stats = jax.tree.map(np.asarray, mapped(jax.device_put(X, NamedSharding(mesh, P('data')))))
    for device, share in enumerate(np.split(X, 8)):
      np.testing.assert_allclose((stats.mean[device], stats.std[device]), oracles.measure(share), rtol=1e-5)

  @pytest.mark.parametrize('axis_name', ['data', None])
  def test_module_equals_the_whole_only_with_axis_name(self, mesh, variables, axis_name):
    def step(params, stats, x):
      (_, (y, updated)), grads = module_step(False, axis_name)(params, stats, x)
      return y, *jax.lax.pmean((updated, grads), 'data')

    args, specs = module_args(variables, False), (P(), P(), P('data'))
    mapped = jax.shard_map(step, mesh=mesh, check_vma=False, in_specs=specs, out_specs=(P('data'), P(), P()))
    placed = (jax.device_put(arg, NamedSharding(mesh, spec)) for arg, spec in zip(args, specs, strict=True))
    y, updated, grads = jax.jit(mapped)(*placed)
    (_, (expected, expected_stats)), expected_grads = module_step(False)(*jax.tree.map(jnp.asarray, args))
    if axis_name:
      close((y, updated, grads), (expected, expected_stats, expected_grads))
    else:
      assert (np.abs(np.asarray(y) - expected) > 0.1).sum() > 5
      assert abs(float(updated['std']) - float(expected_stats['std'])) > 1e-3

  def test_varying_axes_are_tracked(self, mesh, variables):
    act = LMA(axis_name='data')
    mapped = jax.shard_map(
      lambda variables, x: act.apply(variables, x, train=True, mutable=['batch_stats']),
      mesh=mesh,
      in_specs=(P(), P('data')),
      out_specs=(P('data'), P()),
    )
    x = jax.device_put(X, NamedSharding(mesh, P('data')))
    y, updated = jax.jit(mapped)(jax.device_put(variables, NamedSharding(mesh, P())), x)
    stats = oracles.measure(X)
    expected = oracles.lma(X, oracles.relu_init(8)[0] + SLOPES, INTERCEPTS, stats)
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(updated['batch_stats']['std'], 0.01 * stats[1], rtol=1e-4)


def test_vmap_measures_across_a_named_axis():
  shares = jnp.asarray(X.reshape(8, 2, 6))
  stats = jax.vmap(partial(measure, axis_name='data'), axis_name='data')(shares)
  whole = Stats(*(np.full(8, number) for number in oracles.measure(X)))
  close(stats, whole)
