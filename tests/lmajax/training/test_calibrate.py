"""Ranges alone are measured; networks train in evaluation mode; trained variables come under quantized activations."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lmajax import LMA, models, training, tree
from lmajax.activations import linen
from lmajax.activations._fake_quantize import RunningRange
from lmajax.types import Batch

DRAW = np.random.default_rng(0)
X = [jnp.asarray(DRAW.normal(size=(16, 8, 8, 2)), jnp.float32) for _ in range(3)]


def network(act):
  return models.CNN((3, 4), (5,), 3, act)


def varied(variables):
  """Gives every leaf values of its own."""

  def one(path, leaf):
    draw = np.random.default_rng(list(path.encode()))
    values = draw.normal(0, 0.3, leaf.shape) if path.endswith('kernel') else draw.uniform(0.5, 1.5, leaf.shape)
    return jnp.asarray(values, leaf.dtype)

  return tree.map_with_path(one, variables)


@pytest.fixture(scope='module', params=[linen.ReLU, LMA], ids=['relu', 'lma'])
def trained(request):
  model = network(request.param)
  return request.param, model, varied(model.init(jax.random.key(0), X[0], train=False))


@pytest.fixture(scope='module')
def quantized(trained):
  act, _, variables = trained
  model = network(partial(linen.Quantized, act, bits=4))
  fresh = model.init(jax.random.key(1), X[0], train=False)
  return model, training.grafted(fresh, variables)


def test_a_grafted_network_is_the_trained_one_but_for_its_ranges(trained, quantized):
  _, model, variables = trained
  under, filled = quantized
  logits, _ = model.apply(variables, X[0], train=False)
  same, _ = under.apply(filled, X[0], train=False)  # a range that knows nothing quantizes nothing
  np.testing.assert_array_equal(logits, same)
  fresh = under.init(jax.random.key(1), X[0], train=False)
  assert tree.by_path(fresh).keys() == tree.by_path(filled).keys()
  known = {f'batch_stats/stages_{i}/act/{name}' for i in range(3) for name in RunningRange._fields}
  given = [path for path in tree.by_path(filled) if path not in known]
  assert len(given) == len(tree.by_path(variables))
  for path in known:
    np.testing.assert_array_equal(tree.by_path(filled)[path], tree.by_path(fresh)[path])


def test_a_graft_names_what_has_no_counterpart(trained, quantized):
  _, _, variables = trained
  under, _ = quantized
  fresh = under.init(jax.random.key(1), X[0], train=False)
  wider = models.CNN((3, 5), (5,), 3, linen.ReLU).init(jax.random.key(0), X[0], train=False)
  with pytest.raises(
    ValueError, match=r'\S+ is float32\[.*\], and the trained network has (float32\[5\]|nothing) at \S+$'
  ):
    training.grafted(fresh, wider)
  less = {**variables, 'params': {k: v for k, v in variables['params'].items() if k != 'logits'}}
  with pytest.raises(ValueError, match=r'has nothing at params/logits/'):
    training.grafted(fresh, less)
  more = {**variables, 'params': {**variables['params'], 'other': jnp.zeros(2)}}
  with pytest.raises(ValueError, match='params/other of the trained network has no place'):
    training.grafted(fresh, more)


def test_calibration_moves_ranges_alone_and_to_what_is_met(trained, quantized):
  _, model, variables = trained
  under, filled = quantized
  params, stats = training.linen(under, filled).init(None, None)
  moved = training.calibrated(under, params, [Batch(X[0], None), *X[1:]], stats=stats)
  before, after = tree.by_path(stats), tree.by_path(moved)
  own = {f'batch_stats/stages_{i}/act/{name}' for i in range(3) for name in RunningRange._fields}
  for path in before.keys() - own:
    np.testing.assert_array_equal(before[path], after[path], path)
  assert all(after[path] != before[path] for path in own if not path.endswith('low'))  # ReLU's is 0
  # The first activation is met as it is in evaluation: the mean over batches of its least and greatest output.
  outputs = [model.apply(variables, x, train=False)[1][1] for x in X]
  decay = np.float64(0.99) ** np.arange(2, -1, -1)
  for name, of in (('low', np.min), ('high', np.max)):
    mean = sum(d * of(y) for d, y in zip(decay, outputs, strict=True)) / decay.sum()
    cell, weight = (float(after[f'batch_stats/stages_0/act/{leaf}']) for leaf in (name, 'weight'))
    assert cell / weight == pytest.approx(float(mean), rel=1e-4)


def test_what_cannot_be_calibrated_is_refused(trained, quantized):
  _, model, variables = trained
  params, stats = training.parted(variables)
  with pytest.raises(ValueError, match='CNN has no quantized activation'):
    training.calibrated(model, params, X, stats=stats)
  under, filled = quantized
  with pytest.raises(ValueError, match='batches is empty'):
    training.calibrated(under, filled['params'], [], stats={'batch_stats': filled['batch_stats']})
  with pytest.raises(ValueError, match='model is a Network: give a Linen module'):
    training.calibrated(training.linen(under), params, X, stats=stats)


class Counting(nn.Module):
  """Counts its calls, whatever the mode."""

  how: tuple = ()

  @nn.compact
  def __call__(self, x, train):
    calls = self.variable('counters', 'calls', lambda: jnp.zeros((), jnp.int32))
    if self.is_mutable_collection('counters'):
      calls.value += 1
    return linen.Quantized(LMA, bits=4, **dict(self.how))(x, **({} if self.how else {'train': train}))


def test_a_counter_stands_still_and_the_mode_is_given_at_the_call():
  params, stats = training.linen(Counting()).init(jax.random.key(0), X[0])
  moved = training.calibrated(Counting(), params, X, stats=stats)
  assert moved['counters']['calls'] == stats['counters']['calls']
  assert float(moved['batch_stats']['Quantized_0']['weight']) > 0
  fixed = Counting((('train', False),))
  params, stats = training.linen(fixed).init(jax.random.key(0), X[0])
  with pytest.raises(ValueError, match='the Quantized Quantized_0 is made with train=False: give train at the call'):
    training.calibrated(fixed, params, X, stats=stats)
  with pytest.raises(ValueError, match=r'batches is float32\[16, 8, 8, 2\]: give several of them'):
    training.calibrated(Counting(), params, X[0], stats=stats)


def test_a_single_activation_can_be_grafted_too():
  act = linen.Quantized(LMA, bits=4)
  trained = varied(LMA().init(jax.random.key(0), X[0], train=False))
  filled = training.grafted(act.init(jax.random.key(0), X[0], train=False), trained)
  np.testing.assert_array_equal(filled['params']['act']['slope_deltas'], trained['params']['slope_deltas'])


def test_a_network_that_stands_still_is_trained_and_its_statistics_are_not(quantized):
  under, filled = quantized
  params, stats = training.parted(filled)
  tx, batch = optax.sgd(0.01), Batch(X[0], jnp.arange(16, dtype=jnp.int32) % 3)
  step = training.make_train_step(training.supervised(training.still(under)), tx)
  state = training.TrainState(
    jnp.int32(0), jax.tree.map(jnp.copy, params), jax.tree.map(jnp.copy, stats), tx.init(params), jax.random.key(0)
  )
  losses = []
  for _ in range(5):
    state, metrics = step(state, None, batch)
    losses.append(float(metrics['loss']))
  assert losses[-1] < losses[0]
  jax.tree.map(np.testing.assert_array_equal, state.stats, stats)
  moved = jax.tree.map(lambda a, b: not np.array_equal(a, b), state.params, params)
  still = {path for path, each in tree.by_path(moved).items() if not each}
  assert not still, still
