"""LMA goes where others' activations went, and networks of other libraries are taught, packed and exported as ours."""

from collections.abc import Callable
from functools import partial
from typing import Any

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax.training import train_state

import lmajax
from lmajax import LMA, compress, training
from tests import oracles

IMAGES = np.random.default_rng(0).normal(size=(16, 8, 8, 3)).astype(np.float32)
LABELS = (IMAGES.mean((1, 2, 3)) > 0).astype(np.int32)


def test_plain_jax_loop_without_flax():
  """A dictionary of parameters, a dictionary of statistics, gradient descent by hand."""
  rng = np.random.default_rng(1)
  x = jnp.asarray(rng.normal(size=(64, 2)), jnp.float32)
  target = jnp.abs(x[:, :1]) - x[:, 1:] ** 2
  slopes, intercepts = lmajax.relu_init(8)
  params = {
    'hidden': jnp.asarray(rng.normal(size=(2, 4)), jnp.float32),
    'output': jnp.asarray(rng.normal(size=(4, 1)), jnp.float32),
    'slopes': slopes,
    'intercepts': intercepts,
  }

  def predict(params, x, stats):
    hidden = x @ params['hidden']
    stats = lmajax.measure(hidden) if stats is None else stats
    return lmajax.lma(hidden, params['slopes'], params['intercepts'], stats) @ params['output'], stats

  def loss(params):
    y, stats = predict(params, x, None)
    return jnp.square(y - target).mean(), stats

  @jax.jit
  def step(params, running):
    (value, stats), grads = jax.value_and_grad(loss, has_aux=True)(params)
    params = jax.tree.map(lambda p, g: p - 0.02 * g, params, grads)
    return params, lmajax.update_stats(running, stats, decay=0.9), value

  running, values = lmajax.init_stats(), []
  for _ in range(60):
    params, running, value = step(params, running)
    values.append(float(value))
  assert values[-1] < 0.5 * values[0]
  assert not np.allclose(params['slopes'], slopes)
  evaluated, _ = predict(params, x, lmajax.debias(running))
  assert jnp.square(evaluated - target).mean() < 0.6 * values[0]


class Block(nn.Module):
  """A residual block as one finds it: nothing in it or below it comes from lmajax."""

  filters: int
  norm: Any
  act: Callable

  @nn.compact
  def __call__(self, x):
    y = nn.Conv(self.filters, (3, 3), use_bias=False)(x)
    y = self.act(self.norm()(y))
    y = nn.Conv(self.filters, (3, 3), use_bias=False)(y)
    y = self.norm()(y)
    if x.shape != y.shape:
      x = nn.Conv(self.filters, (1, 1), use_bias=False, name='shortcut')(x)
    return self.act(x + y)


class Net(nn.Module):
  """A stem, a residual block and a classifier."""

  act: Callable = nn.relu

  @nn.compact
  def __call__(self, x, train=True):
    norm = partial(nn.BatchNorm, use_running_average=not train, momentum=0.9)
    x = self.act(norm(name='stem_norm')(nn.Conv(4, (3, 3), name='stem')(x)))
    x = Block(6, norm, self.act)(x)
    return nn.Dense(2)(x.mean(axis=(1, 2)))


class TrainState(train_state.TrainState):
  """Flax's, with the batch statistics."""

  batch_stats: Any


@jax.jit
def train_step(state, images, labels):
  """The step of a model with batch norm, which knows nothing of LMA."""

  def loss(params):
    variables = {'params': params, 'batch_stats': state.batch_stats}
    logits, updates = state.apply_fn(variables, images, mutable=['batch_stats'])
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean(), updates

  (value, updates), grads = jax.value_and_grad(loss, has_aux=True)(state.params)
  return state.apply_gradients(grads=grads, batch_stats=updates['batch_stats']), value


def with_lma(train):
  return Net(act=lambda y: LMA(train=train)(y))


def test_foreign_flax_model():
  model, plain = with_lma(train=True), Net()
  variables = jax.jit(model.init)(jax.random.key(0), IMAGES)

  def at_sites(collection):
    return [collection['LMA_0'], collection['Block_0']['LMA_0'], collection['Block_0']['LMA_1']]

  before = jax.eval_shape(plain.init, jax.random.key(0), IMAGES)['params']
  assert lmajax.tree.size(variables['params']) == lmajax.tree.size(before) + 3 * 16

  state = TrainState.create(
    apply_fn=model.apply, params=variables['params'], tx=optax.sgd(0.1), batch_stats=variables['batch_stats']
  )
  values = []
  for _ in range(12):
    state, value = train_step(state, IMAGES, LABELS)
    values.append(float(value))
  assert values[-1] < 0.7 * values[0]

  tables = [np.asarray(site['slope_deltas']) for site in at_sites(state.params)]
  assert all(np.abs(table).max() > 1e-4 for table in tables), 'every site learned'
  assert len({table.tobytes() for table in tables}) == 3, 'and each its own'
  stats = at_sites(state.batch_stats)
  np.testing.assert_allclose([site['weight'] for site in stats], 1 - 0.99**12, rtol=1e-3)
  assert len({float(site['std']) for site in stats}) == 3

  evaluating = {'params': state.params, 'batch_stats': state.batch_stats}
  evaluate = jax.jit(partial(with_lma(train=False).apply, train=False))
  logits = evaluate(evaluating, IMAGES)
  np.testing.assert_allclose(evaluate(evaluating, IMAGES[:3]), logits[:3], rtol=1e-4, atol=1e-5)
  assert optax.softmax_cross_entropy_with_integer_labels(logits, LABELS).mean() < values[0]

  def forget(path, leaf):
    return 0 * leaf if path[-1].key == 'weight' else leaf

  forgotten = jax.tree_util.tree_map_with_path(forget, state.batch_stats)
  assert not np.allclose(evaluate({**evaluating, 'batch_stats': forgotten}, IMAGES), logits, atol=1e-3)


def test_foreign_activation_sees_the_statistics_that_training_left():
  """What the first site measured in training is what it uses in evaluation."""
  model = with_lma(train=True)
  variables = jax.jit(model.init)(jax.random.key(0), IMAGES)
  apply = partial(model.apply, mutable=['batch_stats', 'intermediates'], capture_intermediates=True)
  _, updated = jax.jit(apply)(variables, IMAGES)
  (normed,) = updated['intermediates']['stem_norm']['__call__']
  stats = lmajax.RunningStats(**updated['batch_stats']['LMA_0'])
  np.testing.assert_allclose(lmajax.debias(stats), oracles.measure(normed), rtol=1e-3, atol=1e-5)


def equinox_network(key, width, act=jax.nn.relu):
  """An MLP of Equinox, whose class is left as it is."""
  params, static = eqx.partition(eqx.nn.MLP(4, 3, width, 1, activation=act, key=key), eqx.is_inexact_array)

  def apply(params, stats, inputs, key):
    del key
    return jax.vmap(eqx.combine(params, static))(inputs), stats

  return training.function(apply, params)


def test_networks_of_equinox_are_distilled_packed_and_exported():
  inputs = np.random.default_rng(0).normal(size=(96, 4)).astype(np.float32)
  labels = inputs[:, :3].argmax(1)
  keys = jax.random.split(jax.random.key(0))
  how = {'epochs': 20, 'batch_size': 32, 'tx': optax.adam(0.02), 'data': (inputs, labels)}
  teacher = training.fit(equinox_network(keys[0], 16), **how)
  of_teacher = teacher.network._replace(init=lambda key, inputs: (teacher.params, teacher.stats))
  four_bits = compress.masked(compress.uniform(4, bucket_size=None), where=lambda path, leaf: path.endswith('weight'))
  student = training.distill(equinox_network(keys[1], 6, jax.nn.tanh), of_teacher)
  fitted = training.fit(student, reparam=four_bits, **how)
  assert fitted.evaluate((inputs, labels))['accuracy'] > 0.85
  packed, stats, _ = compress.unpack(fitted.pack())
  weights = packed.decode()
  assert stats == {} and len(np.unique(weights['layers']['0']['weight'])) <= 16
  np.testing.assert_allclose(weights['layers']['1']['weight'], fitted.params.layers[1].weight, rtol=1e-6)
  runs = jax.export.deserialize(bytearray(fitted.export(inputs[:1])))
  np.testing.assert_allclose(runs.call(jnp.asarray(inputs)), fitted.logits(inputs), atol=1e-5)
