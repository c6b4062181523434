"""Inputs made by the statistics of a network: in one go and in two, alone and several batches at once."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lmajax import LMA, losses, models, training
from lmajax.activations import linen

DRAW = np.random.default_rng(0)


@pytest.fixture(scope='module')
def trained():
  """A perceptron whose norms and LMA have seen inputs of another mean and spread than noise has."""
  model = models.MLP((6, 5), 3, LMA)
  seen = jnp.asarray(DRAW.normal(0.7, 2, size=(64, 4)), jnp.float32)
  params, stats = training.linen(model).init(jax.random.key(0), seen)
  return model, params, training.recalibrated(model, params, [seen] * 60, stats=stats)


@pytest.fixture(scope='module')
def loss(trained):
  model, _, _ = trained
  return lambda x, frozen: losses.divergence(training.norm_statistics(model, *frozen, x))


def test_its_gradient_is_that_of_finite_differences():
  model = models.MLP((6, 5), 3, partial(linen.Elementwise, jnp.tanh))  # without kinks, where differences say nothing
  x, direction = (jnp.asarray(DRAW.normal(size=(64, 4)), jnp.float32) for _ in range(2))
  params, stats = training.linen(model).init(jax.random.key(0), x)
  of = jax.jit(lambda x: losses.divergence(training.norm_statistics(model, params, stats, x)))
  slope, step = float((jax.grad(of)(x) * direction).sum()), 1e-2
  assert slope == pytest.approx(float(of(x + step * direction) - of(x - step * direction)) / (2 * step), rel=5e-3)


def test_made_inputs_look_to_the_norms_like_the_training_data(trained, loss):
  _, params, stats = trained
  tx = optax.adam(0.1)
  noise = jnp.asarray(DRAW.normal(size=(64, 4)), jnp.float32)
  made = training.synthesize(loss, noise, tx, 60, frozen=(params, stats))
  assert made.losses.shape == (60,) and float(made.losses[-1]) < 0.05 * float(made.losses[0])
  assert abs(float(made.inputs.mean()) - 0.7) < abs(float(noise.mean()) - 0.7)
  first = training.synthesize(loss, noise, tx, 25, frozen=(params, stats))
  both = training.synthesize(loss, first, tx, 35, frozen=(params, stats))
  jax.tree.map(np.testing.assert_array_equal, both, made)
  again = training.synthesize(loss, first, tx, 0, frozen=(params, stats))  # first is still there
  jax.tree.map(np.testing.assert_array_equal, again, first)
  with pytest.raises(ValueError, match='start was made by another tx'):
    training.synthesize(loss, first, optax.sgd(0.1, momentum=0.9), 1, frozen=(params, stats))
  with pytest.raises(ValueError, match=r'start is int32\[3\]'):
    training.synthesize(loss, jnp.arange(3), tx, 1)
  with pytest.raises(ValueError, match='steps is -1'):
    training.synthesize(loss, noise, tx, -1)


def test_one_loss_is_traced_once_for_all_batches_and_several_are_made_at_once(trained, loss):
  _, params, stats = trained
  traces = []

  def counted(x, frozen):
    traces.append(0)
    return loss(x, frozen)

  def many(x, frozen):
    return jax.vmap(loss, (0, None))(x, frozen).sum()

  tx = optax.adam(0.1)
  batches = jnp.asarray(DRAW.normal(size=(2, 64, 4)), jnp.float32)
  alone = [training.synthesize(counted, each, tx, 3, frozen=(params, stats)).inputs for each in batches]
  assert len(traces) == 1
  together = training.synthesize(many, batches, tx, 3, frozen=(params, stats)).inputs
  np.testing.assert_allclose(together, jnp.stack(alone), rtol=1e-4, atol=1e-5)


def test_lmas_own_measure_tells_other_data_from_the_training_data(trained):
  model, params, stats = trained
  alike = jnp.asarray(DRAW.normal(0.7, 2, size=(512, 4)), jnp.float32)
  of = jax.jit(lambda x: losses.divergence(training.lma_statistics(model, params, stats, x)))
  assert float(of(alike)) < 0.02 and float(of(-3 * alike)) > 10 * float(of(alike))
