"""The likeliest classes of a teacher and the rest of the mass: what is kept, what is spread, what is lost."""

import re
from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmajax import losses
from lmajax.losses import TopK, from_top_k, top_k
from tests import oracles

HALF = 2**-11  # how far float16 is from a number, in parts of it
LOGITS = (3 * np.random.default_rng(0).normal(size=(2, 3, 7))).astype(np.float32)


def each(oracle, *arrays):
  """An oracle of one example over the leading axes."""
  shape = arrays[0].shape[:-1]
  return [oracle(*(array[at] for array in arrays)) for at in np.ndindex(*shape)], shape


class TestTopK:
  @pytest.mark.parametrize('k', [1, 3, 7])
  def test_equals_its_oracle_and_goes_back_as_its_oracle(self, k):
    found, shape = each(lambda row: oracles.top_k(row, k), LOGITS)
    top = jax.jit(top_k, static_argnums=1)(jnp.asarray(LOGITS), k)
    chex.assert_shape(top, (*shape, k))
    assert top.log_probabilities.dtype == jnp.float32
    np.testing.assert_allclose(top.log_probabilities.reshape(-1, k), [row[0] for row in found], rtol=1e-5, atol=1e-6)
    assert top.classes.reshape(-1, k).tolist() == [row[1] for row in found]
    back = jax.jit(from_top_k, static_argnums=1)(top, 7)
    assert (back.shape, back.dtype) == (LOGITS.shape, jnp.float32)
    slow = [oracles.from_top_k(row, 7) for row in found]
    np.testing.assert_allclose(back.reshape(-1, 7), slow, rtol=1e-4, atol=1e-5)

  def test_of_equal_classes_the_first_are_taken(self):
    assert top_k(jnp.array([1.0, 2.0, 2.0, 1.0]), 3).classes.tolist() == [1, 2, 0]

  @pytest.mark.parametrize('k', [1, 4])
  def test_no_mass_is_lost_and_the_others_share_what_is_left(self, k):
    back = np.exp(np.asarray(from_top_k(top_k(jnp.asarray(LOGITS), k), 7), np.float64))
    np.testing.assert_allclose(back.sum(-1), 1, rtol=1e-5)
    true = np.exp(LOGITS) / np.exp(LOGITS).sum(-1, keepdims=True)
    order = np.argsort(-true, axis=-1)
    others = np.take_along_axis(back, order[..., k:], -1)
    left = np.take_along_axis(true, order[..., k:], -1).sum(-1, keepdims=True)
    np.testing.assert_allclose(others, np.broadcast_to(left / (7 - k), others.shape), rtol=1e-4)

  def test_a_smoothed_teacher_comes_back_as_it_was(self):
    """64 of 6,000 classes hold but a part of it; to keep that part alone would teach other targets."""
    draw = np.random.default_rng(1)
    sharp = np.zeros((4, 6000))
    for row in sharp:
      row[draw.choice(6000, 50, replace=False)] = draw.dirichlet(np.ones(50))
    logits = np.log(0.8 * sharp + 0.2 / 6000).astype(np.float32)
    top = top_k(jnp.asarray(logits), 64)
    assert np.all(np.exp(top.log_probabilities).sum(-1) < 0.81)
    np.testing.assert_allclose(from_top_k(top, 6000), logits, rtol=1e-4)
    halved = top._replace(log_probabilities=top.log_probabilities.astype(jnp.float16))
    np.testing.assert_allclose(from_top_k(halved, 6000), logits, rtol=1e-3)

  def test_of_all_classes_nothing_is_lost(self):
    np.testing.assert_allclose(
      from_top_k(top_k(jnp.asarray(LOGITS), 7), 7), jax.nn.log_softmax(LOGITS), rtol=1e-6, atol=1e-6
    )

  def test_a_sure_teacher_leaves_the_spacing_of_floats_at_1(self):
    back = from_top_k(top_k(jnp.array([90.0, 0.0, -5.0]), 1), 3)
    np.testing.assert_allclose(back, [0, *[np.log(np.finfo(np.float32).eps / 2)] * 2], atol=1e-6)

  def test_what_rounding_leaves_too_much_of_exceeds_no_known_class(self):
    known = np.log([0.9, 0.09, 1e-6]).astype(np.float32)
    less = TopK(jnp.asarray(known), jnp.array([3, 0, 2]))  # a hundredth is left: were it true, 2 would not be known
    np.testing.assert_allclose(from_top_k(less, 5), [known[1], known[2], known[2], known[0], known[2]])
    more = TopK(jnp.asarray(known + 0.1), jnp.array([3, 0, 2]))
    assert np.all(np.isfinite(from_top_k(more, 5))) and from_top_k(more, 5)[1] <= known[2] + 0.1

  @pytest.mark.parametrize('k, temperature', [(7, 1.0), (7, 3.0), (3, 1.0)])
  def test_half_precision_moves_a_loss_by_little(self, k, temperature):
    top = top_k(jnp.asarray(LOGITS), k)
    halved = top._replace(log_probabilities=top.log_probabilities.astype(jnp.float16))
    apart = np.abs(np.asarray(halved.log_probabilities, np.float64) - top.log_probabilities)
    assert np.all(apart <= HALF * np.abs(top.log_probabilities) + 2**-25) and apart.max() > 0
    loss = partial(losses.soft_targets, jnp.asarray(LOGITS[..., ::-1]), temperature=temperature)
    np.testing.assert_allclose(loss(from_top_k(halved, 7)), loss(from_top_k(top, 7)), rtol=3e-3)

  def test_no_gradient_reaches_the_teacher_and_the_students_is_that_of_the_spread_targets(self):
    student = jnp.asarray(LOGITS[..., ::-1])

    def loss(student, known, classes):
      return losses.soft_targets(student, from_top_k(TopK(known, classes), 7)).sum()

    of_student, of_known = jax.jit(jax.grad(loss, (0, 1)))(student, *top_k(jnp.asarray(LOGITS), 2))
    assert not of_known.any()
    rows, _ = each(lambda row: oracles.from_top_k(oracles.top_k(row, 2), 7), LOGITS)
    expected = jax.nn.softmax(student) - np.exp(np.array(rows)).reshape(LOGITS.shape)
    np.testing.assert_allclose(of_student, expected, rtol=1e-4, atol=1e-5)

  def test_spread_over_devices_each_keeps_its_rows(self):
    top = top_k(jnp.asarray(np.random.default_rng(2).normal(size=(8, 3, 50)), jnp.float32), 4)
    alone, program = from_top_k(top, 50), jax.jit(partial(from_top_k, num_classes=50))
    there = jax.device_put(top, build_sharding())
    np.testing.assert_allclose(program(there), alone, rtol=1e-6)
    assert not re.search('all-gather|all-reduce|all-to-all|permute', program.lower(there).compile().as_text())

  @pytest.mark.parametrize('k', [0, 8])
  def test_k_out_of_range(self, k):
    with pytest.raises(ValueError, match=f'the {k} likeliest of 7 classes: give from 1 to 7'):
      top_k(jnp.asarray(LOGITS), k)

  def test_more_known_classes_than_classes(self):
    with pytest.raises(ValueError, match='3 known classes of 2'):
      from_top_k(top_k(jnp.asarray(LOGITS), 3), 2)


def build_sharding(devices=8):
  mesh = jax.make_mesh((devices,), ('data',), axis_types=(jax.sharding.AxisType.Auto,), devices=jax.devices()[:devices])
  return jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec('data'))
