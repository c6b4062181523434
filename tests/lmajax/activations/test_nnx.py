"""The activations as NNX modules: equal to their Linen twins, in every mode, and among what else NNX has."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from lmajax import LMA, compress, tree
from lmajax.activations import linen
from lmajax.activations import nnx as ours
from tests import oracles

X = np.random.default_rng(0).normal(size=(32, 6)).astype(np.float32)

TWINS = {
  'prelu': (linen.PReLU, ours.PReLU),
  'swish': (linen.Swish, lambda: ours.Swish(6)),
  'aplu': (partial(linen.APLU, 5), lambda: ours.APLU(6, 5, rngs=nnx.Rngs(0))),
  'lma': (LMA, ours.LMA),
  'lma-5': (partial(LMA, 5), lambda: ours.LMA(5)),
  'lma-joined': (partial(LMA, joined=True), lambda: ours.LMA(joined=True)),
  'quantized': (partial(linen.Quantized, linen.PReLU, bits=3), lambda: ours.Quantized(ours.PReLU(), 3)),
  'quantized-lma': (
    partial(linen.Quantized, LMA, bits=4, learned=True),
    lambda: ours.Quantized(ours.LMA(), 4, learned=True),
  ),
}


@pytest.fixture(scope='module', params=TWINS)
def twins(request):
  """A Linen module with variables, and the NNX module with the same parameters."""
  theirs, module = (make() for make in TWINS[request.param])
  variables = theirs.init(jax.random.key(1), jnp.asarray(X), train=False)
  params = nnx.to_pure_dict(nnx.state(module, nnx.Param))
  assert jax.tree.structure(params) == jax.tree.structure(variables.get('params', {}))
  state = nnx.state(module, nnx.Param)
  nnx.replace_by_pure_dict(state, variables.get('params', {}))
  nnx.update(module, state)
  return theirs, variables, module


def statistics(module):
  return nnx.to_pure_dict(nnx.state(module, nnx.BatchStat))


def test_equals_linen_in_training_and_evaluation(twins):
  theirs, variables, module = twins
  module.train()
  apply = jax.jit(partial(theirs.apply, train=True, mutable=['batch_stats']))
  call = nnx.jit(lambda module, x: module(x))
  for shift in range(3):
    x = jnp.asarray(X + np.float32(shift))
    expected, moved = apply(variables, x)
    variables = {**variables, **moved}
    np.testing.assert_allclose(call(module, x), expected, rtol=1e-5, atol=1e-6)
  module.eval()
  np.testing.assert_allclose(module(x), theirs.apply(variables, x, train=False), rtol=1e-5, atol=1e-6)
  same = partial(np.testing.assert_allclose, rtol=1e-5)
  jax.tree.map(same, statistics(module), variables.get('batch_stats', {}))


class Model(nnx.Module):
  """With a batch norm and dropout, whose modes all of them share."""

  def __init__(self, rngs):
    self.linear, self.norm, self.dropout = nnx.Linear(6, 6, rngs=rngs), nnx.BatchNorm(6, rngs=rngs), nnx.Dropout(0.5)
    self.acts = nnx.List([ours.LMA(4, rngs=rngs), ours.Quantized(ours.LMA(), 8)])

  def __call__(self, x, rngs=None):
    x = self.acts[0](self.norm(self.linear(x)))
    return self.acts[1](self.dropout(x, rngs=rngs))


@pytest.fixture
def model():
  model = Model(nnx.Rngs(0))
  model.train()
  model(jnp.asarray(X), nnx.Rngs(1))
  return model


def moves(model, call):
  before = jax.tree.map(np.array, statistics(model))
  call()
  pairs = zip(jax.tree.leaves(before), jax.tree.leaves(statistics(model)), strict=True)
  return [not np.array_equal(a, b) for a, b in pairs]


def gathered(model):
  return np.array([float(act.weight[...]) for act in (*model.acts, model.acts[1].act)])


VIEWS = pytest.mark.skipif(not hasattr(nnx, 'view'), reason='Flax has views from 0.12.1 on')


class TestModes:
  @VIEWS
  def test_evaluation_moves_nothing_however_it_is_asked_for(self, model):
    x = jnp.asarray(X)
    view = nnx.view(model, use_running_average=True, deterministic=True)
    seen = []
    assert not any(moves(model, lambda: seen.append(view(x))))
    model.eval()
    assert not any(moves(model, lambda: seen.append(model(x))))
    np.testing.assert_array_equal(*seen)

  @VIEWS
  def test_training_moves_all_statistics_however_it_is_asked_for(self, model):
    x, rngs = jnp.asarray(X + 1), nnx.Rngs(2)
    model.eval()
    view = nnx.view(model, use_running_average=False, deterministic=False)
    for call in (view, model):
      model.train() if call is model else None
      before = gathered(model)
      call(x, rngs)
      assert (gathered(model) > before).all()

  @VIEWS
  def test_a_view_of_an_activation_alone_is_taken(self):
    for act in (ours.LMA(), ours.Quantized(nnx.relu, 2)):
      view = nnx.view(act, use_running_average=True)
      assert view.use_running_average and not act.use_running_average

  def test_the_call_overrides_the_mode(self):
    act, x = ours.LMA(), jnp.asarray(X)
    assert not any(moves(act, lambda: act(x, train=False)))
    act.eval()
    np.testing.assert_array_equal(act(x), jax.nn.relu(x))
    assert all(moves(act, lambda: act(x, train=True)))
    np.testing.assert_allclose(act.weight[...], 0.01, rtol=1e-5)


def test_an_optimizer_trains_it_in_one_trace():
  model, traces = Model(nnx.Rngs(0)), []
  optimizer = nnx.Optimizer(model, optax.adam(1e-2), wrt=nnx.Param)

  @nnx.jit
  def step(model, optimizer, x, rngs):
    traces.append(x.shape)
    loss, grads = nnx.value_and_grad(lambda model, rngs: jnp.square(model(x, rngs) - 1).mean())(model, rngs)
    optimizer.update(model, grads)
    return loss

  rngs = nnx.Rngs(1)
  losses = [float(step(model, optimizer, jnp.asarray(X), rngs)) for _ in range(40)]
  assert len(traces) == 1 and np.mean(losses[-5:]) < 0.9 * losses[0]
  assert np.any(model.acts[0].slope_deltas[...] != 0)


class TestBridges:
  def test_a_linen_model_takes_it(self):
    module, x = nnx.bridge.to_linen(ours.LMA, 8), jnp.asarray(X)
    variables = module.init(jax.random.key(0), x)
    y, moved = module.apply(variables, x, mutable=['batch_stats'])
    np.testing.assert_allclose(y, np.where(oracles.measure(X)[0] <= X, X, 0), rtol=1e-6)
    np.testing.assert_allclose(moved['batch_stats']['weight'], 0.01, rtol=1e-5)

  def test_an_nnx_model_takes_the_linen_one(self):
    x = jnp.asarray(X)
    act = nnx.bridge.ToNNX(LMA(5, train=True), rngs=nnx.Rngs(0)).lazy_init(x)
    np.testing.assert_allclose(act(x, mutable=['batch_stats']), ours.LMA(5)(x), rtol=1e-6)


def test_weights_of_a_state_are_selected_by_the_paths_of_their_modules(model):
  state = nnx.state(model, nnx.Param)
  paths = tree.by_path(state)
  assert {'linear/kernel', 'linear/bias', 'acts/0/slope_deltas'} < paths.keys()
  reparam = compress.masked(compress.uniform(2))
  theta, code = reparam.init(state, jax.random.key(0))
  nnx.update(model, reparam.apply(theta, code, None))
  assert len(np.unique(model.linear.kernel[...])) <= 4 < len(np.unique(jax.tree.leaves(theta.selected)[0]))
