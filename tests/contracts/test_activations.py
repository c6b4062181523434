"""Every activation keeps the same promises; a new one joins by one line in MEMBERS."""

from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmajax.activations.linen import APLU, LMA, Elementwise, Identity, PReLU, Quantized, ReLU, Swish
from lmajax.types import Activation
from tests import oracles


class Seen(NamedTuple):
  """What is data to one call: the batches that its statistics are of, and the place where its rounding is held fast."""

  batches: list[Any]
  params: Any
  at: Any = None


def lma(x, params, seen):
  running = oracles.init_stats()
  for batch in seen.batches:
    running = oracles.update_stats(running, oracles.measure(batch), decay=0.99)
  stats = oracles.debias(running)
  slopes = oracles.relu_init(len(params['slope_deltas']))[0] + params['slope_deltas']
  intercepts = params['intercepts'] if 'intercepts' in params else oracles.joined_intercepts(slopes, stats)
  return oracles.lma(x, slopes, intercepts, stats)


def relu(x, params, seen):
  return oracles.relu(x)


def quantized(inner, bits=8):
  """The oracle of an activation whose output lies on few levels; without its rounding where that is held fast."""

  def apply(x, params, seen):
    mine, theirs = seen.params, seen.params.get('act', {})
    outputs = [inner(batch, theirs, Seen([batch], theirs)) for batch in seen.batches]
    low, high = (oracles.average([end(y) for y in outputs], decay=0.99) for end in (np.min, np.max))

    def ends(params):
      below, above = params.get('range_deltas', (0, 0))
      return low + below * (high - low), high + above * (high - low)

    y = inner(x, params.get('act', {}), Seen(seen.batches, theirs))
    if seen.at is None:
      return oracles.fake_quantize(y, *ends(params), bits)
    place = inner(seen.at, theirs, Seen(seen.batches, theirs)), *ends(mine)
    return oracles.straight_through(y, *ends(params), bits, place)

  return apply


# A factory, and its oracle of the input, the parameters and what was seen.
MEMBERS = [
  pytest.param(ReLU, relu, id='relu'),
  pytest.param(Identity, lambda x, params, seen: x, id='identity'),
  pytest.param(partial(Elementwise, jax.nn.relu), relu, id='elementwise'),
  pytest.param(PReLU, lambda x, params, seen: oracles.prelu(x, **params), id='prelu'),
  pytest.param(Swish, lambda x, params, seen: oracles.swish(x, **params), id='swish'),
  pytest.param(APLU, lambda x, params, seen: oracles.aplu(x, **params), id='aplu'),
  pytest.param(LMA, lma, id='lma8'),
  pytest.param(partial(LMA, num_segments=5), lma, id='lma5'),
  pytest.param(partial(LMA, joined=True), lma, id='lma_joined'),
  pytest.param(partial(Quantized, act=ReLU), quantized(relu), id='relu_a8'),
  pytest.param(partial(Quantized, act=LMA), quantized(lma), id='lma_a8'),
  pytest.param(partial(Quantized, act=LMA, learned=True), quantized(lma), id='lma_a8_learned'),
]


SHAPE = (4, 3, 5)
X = 0.7 + 2 * np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)
CT = np.random.default_rng(1).normal(size=SHAPE).astype(np.float32)


def train_step(act, variables, x, **options):
  """The output and all variables after one pass in training."""
  y, updated = act.apply(variables, x, train=True, mutable=['batch_stats'], **options)
  return y, {**variables, **updated}


def moved(act, seed=2):
  """Variables as after some training: parameters off their start, statistics of two batches."""
  variables = act.init(jax.random.key(seed), jnp.asarray(X), train=True)
  rng = np.random.default_rng(seed)
  params = jax.tree.map(lambda p: p + 0.3 * rng.normal(size=p.shape).astype(p.dtype), variables.get('params', {}))
  variables = {**variables, 'params': params}
  for shift in (0.0, 0.5):
    _, variables = train_step(act, variables, jnp.asarray(X + shift))
  return variables


def close(tree, other, rtol=1e-5):
  for ours, theirs in zip(jax.tree.leaves(tree), jax.tree.leaves(other), strict=True):
    np.testing.assert_allclose(ours, theirs, rtol=rtol, atol=rtol * max(1.0, float(np.abs(theirs).max())))


def finite(tree):
  return all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(tree))


def batches_for(train):
  """Whose statistics count: the batch's own in training, those of the two before in evaluation."""
  return [X] if train else [X + np.float32(shift) for shift in (0.0, 0.5)]


@pytest.mark.parametrize('factory, oracle', MEMBERS)
class TestEveryActivation:
  def test_is_an_activation(self, factory, oracle):
    assert isinstance(factory(), Activation)

  @pytest.mark.parametrize('train', [True, False])
  def test_equals_its_oracle(self, factory, oracle, train):
    act = factory()
    variables = moved(act)
    y, _ = act.apply(variables, jnp.asarray(X), train=train, mutable=['batch_stats'])
    params = jax.tree.map(np.asarray, variables['params'])
    close(y, oracle(X, params, Seen(batches_for(train), params)))

  @pytest.mark.parametrize('train', [True, False])
  def test_gradients_equal_the_differences_of_the_oracle(self, factory, oracle, train):
    act = factory()
    variables = moved(act)

    def loss(params, x):
      y, _ = act.apply({**variables, 'params': params}, x, train=train, mutable=['batch_stats'])
      return (CT * y).sum()

    dparams, dx = jax.jit(jax.grad(loss, (0, 1)))(variables['params'], jnp.asarray(X))
    params = jax.tree.map(lambda p: np.asarray(p, np.float64), variables['params'])
    seen = Seen(batches_for(train), params, X)
    close(dx, oracles.slope_of(lambda x: (CT * oracle(x, params, seen)).sum(), X), rtol=1e-4)
    leaves, structure = jax.tree.flatten(params)
    assert jax.tree.structure(dparams) == structure
    for i, ours in enumerate(jax.tree.leaves(dparams)):

      def at(leaf, i=i):
        return (CT * oracle(X, structure.unflatten([*leaves[:i], leaf, *leaves[i + 1 :]]), seen)).sum()

      close(ours, oracles.slope_of(at, leaves[i]), rtol=1e-4)

  def test_jit_equals_eager(self, factory, oracle):
    act = factory()
    variables = moved(act)
    close(jax.jit(partial(train_step, act))(variables, jnp.asarray(X)), train_step(act, variables, jnp.asarray(X)))

  @pytest.mark.parametrize('train', [True, False])
  def test_extreme_input_stays_finite(self, factory, oracle, train):
    act = factory()
    variables = moved(act)

    @jax.jit
    def grads_and_aux(params, x):
      def loss(params, x):
        y, updated = act.apply({**variables, 'params': params}, x, train=train, mutable=['batch_stats'])
        return (y / jnp.maximum(jnp.abs(x).max(), 1)).sum(), (y, updated)

      return jax.grad(loss, (0, 1), has_aux=True)(params, x)

    inputs = [1e4 * X, 1e30 * X, -1e30 * X, np.full_like(X, 3), np.zeros_like(X), X[:1, :1]]
    for x in inputs:
      assert finite(grads_and_aux(variables['params'], jnp.asarray(x)))

  @pytest.mark.parametrize('dtype', ['bfloat16', 'float16', 'float32'])
  def test_keeps_shape_and_dtype(self, factory, oracle, dtype):
    act = factory()
    variables = moved(act)
    for train in (True, False):
      y, updated = act.apply(variables, jnp.asarray(X, dtype), train=train, mutable=['batch_stats'])
      assert (y.shape, y.dtype) == (SHAPE, dtype)
      assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(updated))
      np.testing.assert_allclose(
        np.asarray(y, np.float32),
        act.apply(variables, jnp.asarray(X, dtype).astype(jnp.float32), train=train, mutable=['batch_stats'])[0],
        rtol=0.02,
        atol=0.05,
      )

  @pytest.mark.parametrize('garbage', [1e6, np.nan, np.inf])
  def test_what_is_masked_changes_nothing_else(self, factory, oracle, garbage):
    act = factory()
    variables = moved(act)
    where = jnp.arange(12).reshape(4, 3, 1) % 3 > 0
    y, updated = train_step(act, variables, jnp.where(where, X, garbage), where=where)
    expected, expected_updated = train_step(act, variables, jnp.where(where, X, -1), where=where)
    shown = np.broadcast_to(where, SHAPE)
    np.testing.assert_array_equal(np.asarray(y)[shown], np.asarray(expected)[shown])
    close(updated, expected_updated)
    alone, params = X[np.asarray(where)[..., 0]], variables['params']
    by_oracle = oracle(alone, params, Seen([alone], params))
    np.testing.assert_allclose(np.asarray(y)[shown], by_oracle.ravel(), rtol=1e-4, atol=1e-5)

  def test_traces_once_and_can_be_donated(self, factory, oracle):
    act, traces = factory(), []

    @partial(jax.jit, donate_argnums=0)
    def step(variables, x):
      traces.append(x.shape)
      return train_step(act, variables, x)[1]

    variables = act.init(jax.random.key(2), jnp.asarray(X), train=True)
    for shift in range(3):
      variables = step(variables, jnp.asarray(X + np.float32(shift)))
    assert len(traces) == 1
    assert finite(variables)

  def test_vmap_over_stacked_parameters_equals_a_loop(self, factory, oracle):
    act = factory()
    each = [moved(act, seed) for seed in (2, 3, 4)]
    inputs = [jnp.asarray(X + np.float32(shift)) for shift in range(3)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *each)
    at_once = jax.jit(jax.vmap(partial(train_step, act)))(stacked, jnp.stack(inputs))
    one_by_one = [train_step(act, variables, x) for variables, x in zip(each, inputs, strict=True)]
    close(at_once, jax.tree.map(lambda *leaves: jnp.stack(leaves), *one_by_one))

  def test_scan_and_remat_give_the_loop_gradients(self, factory, oracle):
    act = factory()
    start = moved(act)
    inputs = jnp.stack([jnp.asarray(X + np.float32(shift)) for shift in range(3)])

    def step(params, rest, x):
      y, updated = train_step(act, {'params': params, **rest}, x)
      return {name: updated[name] for name in rest}, (CT * y).sum()

    def looped(params, inputs, rest):
      losses = []
      for x in inputs:
        rest, loss = step(params, rest, x)
        losses.append(loss)
      return sum(losses), rest

    def scanned(params, inputs, rest):
      rest, losses = jax.lax.scan(jax.checkpoint(partial(step, params)), rest, inputs)
      return losses.sum(), rest

    rest = {name: tree for name, tree in start.items() if name != 'params'}
    args = start['params'], inputs, rest
    ours, expected = (jax.jit(jax.grad(f, (0, 1), has_aux=True))(*args) for f in (scanned, looped))
    close(ours, expected)

  @pytest.mark.parametrize('dtype', ['float32', 'bfloat16', 'float16'])
  @pytest.mark.parametrize('train', [True, False])
  def test_promotes_no_dtype_by_accident(self, factory, oracle, dtype, train, strict_dtypes):
    act, x = factory(), jax.ShapeDtypeStruct(SHAPE, dtype)
    variables = jax.eval_shape(partial(act.init, train=True), jax.random.key(2), x)

    def loss(params, rest, x):
      y, _ = act.apply({'params': params, **rest}, x, train=train, mutable=['batch_stats'])
      return y.sum()

    rest = {name: tree for name, tree in variables.items() if name != 'params'}
    dparams, dx = jax.eval_shape(jax.grad(loss, (0, 2)), variables.get('params', {}), rest, x)
    assert dx.dtype == dtype
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(dparams))

  def test_two_sites_have_separate_parameters(self, factory, oracle):
    class Two(nn.Module):
      @nn.compact
      def __call__(self, x):
        return factory(name='second')(factory(name='first')(x, train=True), train=True)

    one, two = (
      act.init(jax.random.key(2), jnp.asarray(X), **o) for act, o in ((factory(), {'train': True}), (Two(), {}))
    )
    for collection, tree in one.items():
      assert set(two[collection]) == {'first', 'second'}
      for site in two[collection].values():
        assert jax.tree.map(jnp.shape, site) == jax.tree.map(jnp.shape, tree)
    assert set(two) == set(one)

  def test_evaluation_updates_no_statistics(self, factory, oracle):
    act = factory()
    variables = moved(act)
    _, updated = act.apply(variables, jnp.asarray(X + 9), train=False, mutable=['batch_stats'])
    for ours, before in zip(jax.tree.leaves(updated), jax.tree.leaves(variables.get('batch_stats', {})), strict=True):
      assert ours == before
