"""Networks in Linen, in NNX and as plain functions: trained, taught and measured again by the same functions."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from lmajax import LMA, compress, models, training
from lmajax.activations.nnx import LMA as NnxLMA
from lmajax.activations.nnx import Quantized as NnxQuantized
from lmajax.types import Batch

DRAW = np.random.default_rng(0)
BATCH = Batch(jnp.asarray(DRAW.normal(size=(16, 4)), jnp.float32), jnp.arange(16, dtype=jnp.int32) % 3)


class Net(nnx.Module):
  """A foreign network, with all that moves: batch norm, LMA's statistics and dropout."""

  def __init__(self, rngs):
    self.layers = nnx.List([nnx.Linear(4, 8, rngs=rngs), nnx.Linear(8, 3, rngs=rngs)])
    self.norm, self.act, self.dropout = nnx.BatchNorm(8, rngs=rngs), NnxLMA(4), nnx.Dropout(0.5, rngs=rngs)
    self.eval()  # as a teacher comes; training has a mode of its own

  def __call__(self, x):
    return self.layers[1](self.dropout(self.act(self.norm(self.layers[0](x)))))


def linear(params, stats, x, key):
  """Counts its passes in training mode."""
  return x @ params['kernel'], stats if key is None else {'state': {'passes': stats['state']['passes'] + 1}}


def in_training(module):
  module.train()
  return module


NETWORKS = {
  'linen': lambda: training.linen(models.MLP((8,), 3, LMA)),
  'nnx': lambda: training.nnx(Net(nnx.Rngs(0))),
  'nnx in training': lambda: training.nnx(in_training(Net(nnx.Rngs(0)))),
  'function': lambda: training.function(
    linear, {'kernel': jnp.eye(4)[:, :3]}, stats={'state': {'passes': jnp.zeros(())}}
  ),
}


@pytest.fixture(scope='module', params=NETWORKS)
def network(request):
  return NETWORKS[request.param]()


def changed(before, after):
  """Whether any leaf has changed."""
  pairs = zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True)
  return any(not np.array_equal(a, b) for a, b in pairs)


def test_evaluation_moves_nothing_and_training_moves_statistics_alone(network):
  params, stats = network.init(jax.random.key(0), BATCH.inputs)
  logits, same = training.forward(network, params, stats, BATCH.inputs, None)
  assert logits.shape == (16, 3) and not changed(stats, same)
  _, moved = training.forward(network, params, stats, BATCH.inputs, jax.random.key(1))
  assert jax.tree.structure(moved) == jax.tree.structure(stats) and changed(stats, moved)


def test_a_step_of_distillation_into_few_bits_lowers_its_loss(network):
  tx = optax.sgd(0.1)
  reparam = compress.masked(compress.uniform(4))
  state = training.init_state(network, tx, jax.random.key(0), BATCH.inputs)
  teacher = jax.tree.map(jnp.copy, {'params': state.params, **state.stats})  # the step takes those of the state
  params = jax.tree.map(lambda leaf: leaf + jnp.asarray(DRAW.normal(size=leaf.shape), leaf.dtype), state.params)
  theta, code = reparam.init(params, jax.random.key(1))
  state = state._replace(params=theta, opt_state=tx.init(theta))
  objective = training.distilled(network, training.mixed(temperature=2.0, soft_weight=0.7))
  step = training.make_train_step(training.reparameterized(objective, reparam), tx, share=training.teach(network))
  losses = []
  for _ in range(30):
    state, metrics = step(state, training.WithCode(teacher, code), BATCH)
    losses.append(float(metrics['loss']))
  assert np.mean(losses[-5:]) < np.mean(losses[:5])
  data = compress.pack(reparam.stored(state.params, code), state.stats, {})
  packed, stats, _ = compress.unpack(data)
  variables = jax.tree.map(jnp.asarray, {'params': packed.decode(), **stats})
  expected, _ = training.forward(network, reparam.apply(state.params, code, None), state.stats, BATCH.inputs, None)
  found, _ = training.forward(network, *training.parted(variables), BATCH.inputs, None)
  np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_statistics_measured_again_are_those_of_passes_in_training_mode(network):
  params, stats = network.init(jax.random.key(0), BATCH.inputs)
  expected = stats
  for _ in range(3):
    _, expected = network.apply(params, expected, BATCH.inputs, jax.random.key(7))
  found = training.recalibrated(network, params, [BATCH.inputs, BATCH, BATCH.inputs])
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), found, expected)
  with pytest.raises(ValueError, match='batches is empty'):
    training.recalibrated(network, params, [])


def test_variables_that_are_given_are_copied_and_started_from():
  module = models.MLP((8,), 3, LMA)
  given = module.init(jax.random.key(5), BATCH.inputs, train=False)
  network = training.linen(module, variables=given)
  found = network.variables()
  assert not changed(given, found)
  for leaf in jax.tree.leaves(found):
    leaf.delete()
  assert not changed(given, network.variables(jax.random.key(0), BATCH.inputs))


def test_statistics_are_measured_from_those_that_are_given_each_pass_with_dropout_of_its_own():
  class Dropping(nnx.Module):
    def __init__(self, rngs):
      self.dropout, self.norm = nnx.Dropout(0.5, broadcast_dims=(0,), rngs=rngs), nnx.BatchNorm(8, rngs=rngs)

    def __call__(self, x):
      return self.norm(self.dropout(x))

  worn = Dropping(nnx.Rngs(0))
  worn.norm.mean[...] = jnp.full(8, -1000.0)
  params, fresh = training.nnx(Dropping(nnx.Rngs(0))).init(None, None)
  found = training.recalibrated(training.nnx(worn), params, [jnp.full((4, 8), 5.0)] * 400, stats=fresh)
  np.testing.assert_allclose(found['state']['norm']['mean'], 5, atol=2.5)  # with one mask, they would be 0 or 10


class TestNnx:
  def test_it_answers_as_the_module_does_which_stays_as_it_was(self):
    module = Net(nnx.Rngs(3))
    before = jax.tree.map(np.array, nnx.to_pure_dict(nnx.state(module, nnx.Not(nnx.RngState))))
    network = training.nnx(module)
    for leaf in jax.tree.leaves(network.init(jax.random.key(0), None)):
      leaf.delete()  # as a step does with what it is given
    params, stats = network.init(jax.random.key(0), None)
    _, stats = jax.jit(network.apply)(params, stats, BATCH.inputs, jax.random.key(0))
    assert not changed(before, nnx.to_pure_dict(nnx.state(module, nnx.Not(nnx.RngState))))
    logits, _ = network.apply(params, stats, BATCH.inputs, None)
    module.norm.mean[...], module.norm.var[...] = (stats['state']['norm'][name] for name in ('mean', 'var'))
    for name in ('mean', 'std', 'weight'):
      getattr(module.act, name)[...] = stats['state']['act'][name]
    module.eval()
    np.testing.assert_allclose(logits, module(BATCH.inputs), rtol=1e-6)

  def test_dropout_is_drawn_by_the_key(self):
    network = training.nnx(Net(nnx.Rngs(0)))
    params, stats = network.init(jax.random.key(0), None)
    one, same, other = (network.apply(params, stats, BATCH.inputs, jax.random.key(i))[0] for i in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert changed(one, other)

  def test_generators_draw_apart(self):
    """Two layers of dropout with a generator each, begun alike, drop different units."""

    class Two(nnx.Module):
      def __init__(self):
        self.one, self.other = (nnx.Dropout(0.5, rngs=nnx.Rngs(0)) for _ in range(2))

      def __call__(self, x):
        return jnp.stack([self.one(x), self.other(x)])

    network = training.nnx(Two())
    params, stats = network.init(jax.random.key(0), None)
    (one, other), _ = network.apply(params, stats, jnp.ones((8, 8)), jax.random.key(0))
    assert changed(one, other)


class Noisy(nnx.Module):
  """Draws in evaluation, notes what it saw, and has keys with a shape."""

  def __init__(self, rngs):
    self.linear, self.rngs = nnx.Linear(4, 3, rngs=rngs), rngs
    self.many = nnx.Dict({'1': nnx.Linear(3, 3, rngs=rngs)})

    @nnx.split_rngs(splits=3)
    @nnx.vmap
    def dropouts(rngs):
      return nnx.Dropout(0.5, rngs=rngs)

    self.dropouts = dropouts(rngs)

  def __call__(self, x):
    y = self.many['1'](self.linear(x)) + jax.random.normal(self.rngs.noise(), (1, 3))
    self.seen = nnx.Intermediate(y)
    return nnx.vmap(lambda dropout, y: dropout(y), in_axes=(0, None))(self.dropouts, y).sum(0)


class TestOddModules:
  def test_evaluation_leaves_the_generators_of_the_module_alone(self):
    module = Noisy(nnx.Rngs(0))
    network = training.nnx(module)
    before = jax.tree.map(np.array, nnx.to_pure_dict(nnx.state(module, nnx.RngCount)))
    variables = network.variables()
    assert list(variables) == ['params']
    taught = [jax.jit(training.teach(network))(variables, BATCH).logits for _ in range(2)]
    np.testing.assert_array_equal(*taught)
    assert not changed(before, nnx.to_pure_dict(nnx.state(module, nnx.RngCount)))

  def test_what_is_born_in_the_call_is_left_out_and_what_has_no_statistics_is_packed(self):
    network, tx = training.nnx(Noisy(nnx.Rngs(0))), optax.sgd(0.1)
    step = training.make_train_step(training.supervised(network), tx)
    state = training.init_state(network, tx, jax.random.key(0), None)
    for _ in range(2):
      state, _ = step(state, None, BATCH)
    stats = training.recalibrated(network, state.params, [BATCH])
    reparam = compress.masked(compress.uniform(4))
    theta, code = reparam.init(state.params, jax.random.key(0))
    assert stats == {} and compress.pack(reparam.stored(theta, code), stats, {})

  @pytest.mark.parametrize(
    'params, said',
    [
      ({}, 'params has none at linear/bias, where the module has float32'),
      ({'more': jnp.ones(2)}, r'float32\[2\] at more, where the module has none'),
      (
        {'linear': {'kernel': jnp.ones((4, 4)), 'bias': jnp.zeros(3)}},
        r'float32\[4, 4\] at linear/kernel, where .*\[4, 3\]',
      ),
    ],
  )
  def test_parameters_of_another_module_are_named(self, params, said):
    network = training.nnx(Noisy(nnx.Rngs(0)))
    whole = {} if params == {} else network.variables()['params']
    with pytest.raises(ValueError, match=said):
      network.apply({**whole, **params}, {}, BATCH.inputs, None)


REFUSED = {
  r'model is the class Net: give': lambda: training.network_of(Net),
  r'key is None: give one': lambda: training.linen(models.MLP((8,), 3, LMA)).variables(),
  r"variables is \['w'\]: give a dictionary of 'params'": lambda: training.parted({'w': 1}),
  r'the model gives a list: let it give logits': lambda: training.logits_of([1, 2]),
  r'the model gives a tuple: let it give logits': lambda: training.logits_of((jnp.ones(2), 1, 2)),
  r'act is the class LMA: give an instance of it': lambda: NnxQuantized(NnxLMA),
}


@pytest.mark.parametrize('said', REFUSED)
def test_what_is_of_another_kind_is_named(said):
  with pytest.raises(ValueError, match=said):
    REFUSED[said]()


def test_what_is_no_network_is_named_with_what_makes_one():
  with pytest.raises(ValueError, match=r'model is a Net: give a Linen module, or a network made by nnx\(…\)'):
    training.supervised(Net(nnx.Rngs(0)))
  with pytest.raises(ValueError, match=r'model is a function: give a Linen module, or a network made by function\(…\)'):
    training.teach(linear)


class Blocks(nnx.Module):
  """Two blocks in a list, and a head that is called twice."""

  def __init__(self, rngs):
    self.blocks = nnx.List([nnx.Linear(4, 4, rngs=rngs), nnx.Sequential(nnx.Linear(4, 4, rngs=rngs), nnx.relu)])
    self.norm = nnx.BatchNorm(4, rngs=rngs)
    self.head = nnx.Linear(4, 4, rngs=rngs)
    self.width = 4

  def __call__(self, x):
    for block in self.blocks:
      x = block(x)
    return self.head(self.head(self.norm(x)))


class TestTapsOfNNX:
  def test_are_what_the_modules_give_and_nothing_else_changes(self):
    module = Blocks(nnx.Rngs(0))
    plain, tapped = training.nnx(module), training.nnx(module, taps=('blocks/0', 'blocks/1', 'norm'))
    params, stats = plain.init(None, None)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(5, 4)), jnp.float32)
    for key in (None, jax.random.key(1)):
      expected, moved = plain.apply(params, stats, x, key)
      (output, taps), moved_too = jax.jit(tapped.apply)(params, stats, x, key)
      np.testing.assert_allclose(output, expected, rtol=1e-6)
      chex.assert_trees_all_close(moved_too, moved, rtol=1e-6)
      np.testing.assert_allclose(taps[0], x @ params['blocks']['0']['kernel'], rtol=1e-5, atol=1e-6)
      inner = params['blocks']['1']['layers']['0']['kernel']
      np.testing.assert_allclose(taps[1], np.maximum(taps[0] @ inner, 0), rtol=1e-5, atol=1e-6)
    taught = training.teach(tapped)({'params': params, **stats}, Batch(x, None))
    assert len(taught.taps) == 3 and taught.logits.shape == (5, 4)

  @pytest.mark.parametrize('path, said', [
    ('blocks/2', 'Blocks has no module blocks/2'), ('nothing', 'Blocks has no module nothing'),
    ('width', 'width of Blocks is a int: give the path of a module'),
  ])  # fmt: skip
  def test_a_path_to_no_module_is_named(self, path, said):
    with pytest.raises(ValueError, match=said):
      training.nnx(Blocks(nnx.Rngs(0)), taps=(path,))

  def test_a_module_that_is_called_twice_is_named(self):
    network = training.nnx(Blocks(nnx.Rngs(0)), taps=('head',))
    with pytest.raises(ValueError, match='the tap head is called 2 times'):
      network.apply(*network.init(None, None), jnp.ones((1, 4)), None)
