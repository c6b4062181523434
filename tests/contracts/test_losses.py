"""Every loss of logits keeps the same promises; a new one joins by one line in MEMBERS."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmajax import losses
from tests import oracles


# A loss of the student's and the teacher's logits and of labels; its oracle; and, of one that is soft alone (0, without
# a gradient, where student and teacher agree), what its gradient at high temperatures is in units of the difference of
# the centred logits: NaN where that has other units.
def soft(name, **options):
  ours, slow = partial(getattr(losses, name), **options), partial(getattr(oracles, name), **options)
  return lambda s, t, y, **o: ours(s, t, **o), lambda s, t, y, **o: slow(s, t, **o)


MEMBERS = [
  pytest.param(*soft('soft_targets'), 1.0, id='soft_targets'),
  pytest.param(losses.distillation, oracles.distillation, None, id='distillation'),
  pytest.param(
    partial(losses.distillation, soft_weight=1.0),
    partial(oracles.distillation, soft_weight=1.0),
    1.0,
    id='distillation_soft',
  ),
  pytest.param(
    partial(losses.distillation, soft_weight=0.0),
    partial(oracles.distillation, soft_weight=0.0),
    None,
    id='distillation_hard',
  ),
  pytest.param(*soft('jensen_shannon'), 0.25, id='jensen_shannon'),
  pytest.param(*soft('jensen_shannon', share=1.0), 1.0, id='reverse_kl'),
  pytest.param(losses.decoupled, oracles.decoupled, np.nan, id='decoupled'),
]

RNG = np.random.default_rng(0)
STUDENT, TEACHER = 2 * RNG.normal(size=(2, 3, 4, 7)).astype(np.float32)
LABELS = RNG.integers(0, 7, (3, 4)).astype(np.int32)
STUDENT_, TEACHER_, LABELS_ = map(jnp.asarray, (STUDENT, TEACHER, LABELS))
WHERE = np.arange(12).reshape(3, 4) % 3 > 0


@pytest.mark.parametrize('loss, oracle, limit', MEMBERS)
class TestEveryLoss:
  @pytest.mark.parametrize('temperature', [None, 0.5, 1.0, 4.0])
  @pytest.mark.parametrize('where', [None, WHERE], ids=['all', 'masked'])
  def test_equals_its_oracle(self, loss, oracle, limit, temperature, where):
    options = {} if temperature is None else {'temperature': temperature}
    ours = loss(STUDENT_, TEACHER_, LABELS_, where=None if where is None else jnp.asarray(where), **options)
    assert (ours.shape, ours.dtype) == ((3, 4), jnp.float32)
    np.testing.assert_allclose(ours, oracle(STUDENT, TEACHER, LABELS, where=where, **options), rtol=1e-4, atol=1e-5)

  @pytest.mark.parametrize('temperature', [1.0, 3.0])
  def test_gradient_equals_the_differences_of_the_oracle(self, loss, oracle, limit, temperature):
    def total(f, student, *others, **options):
      return f(student, *others, temperature=temperature, **options).sum()

    gradient = jax.grad(partial(total, loss))(STUDENT_, TEACHER_, LABELS_, where=jnp.asarray(WHERE))
    slow = oracles.slope_of(lambda student: total(oracle, student, TEACHER, LABELS, where=WHERE), STUDENT)
    np.testing.assert_allclose(gradient, slow, rtol=1e-3, atol=1e-5)

  def test_jit_equals_eager(self, loss, oracle, limit):
    eager = loss(STUDENT_, TEACHER_, LABELS_)
    np.testing.assert_allclose(jax.jit(loss)(STUDENT_, TEACHER_, LABELS_), eager, rtol=1e-5, atol=1e-6)

  @pytest.mark.parametrize('scale', [1e4, 1e30])
  def test_extreme_logits_stay_finite(self, loss, oracle, limit, scale):
    value, gradient = jax.value_and_grad(lambda s: (loss(s, -scale * TEACHER_, LABELS_) / scale).sum())(
      scale * STUDENT_
    )
    assert jnp.isfinite(value)
    assert jnp.isfinite(gradient).all()

  def test_is_at_its_least_where_the_student_is_the_teacher(self, loss, oracle, limit):
    value, gradient = jax.value_and_grad(lambda s: loss(s, TEACHER_, LABELS_).sum())(TEACHER_)
    if limit is not None:
      np.testing.assert_allclose(value, 0, atol=1e-5)
      np.testing.assert_allclose(gradient, 0, atol=1e-6)
      assert (loss(STUDENT_, TEACHER_, LABELS_) > 1e-3).all()
    else:
      assert value > 1
      assert jnp.abs(gradient).max() > 0.1

  def test_a_class_that_is_impossible_to_both_counts_for_nothing(self, loss, oracle, limit):
    shut = jnp.full((3, 4, 2), -jnp.inf)
    with_shut = [jnp.concatenate([logits, shut], -1) for logits in (STUDENT_, TEACHER_)]
    value, gradient = jax.value_and_grad(lambda s: loss(s, with_shut[1], LABELS_).sum())(with_shut[0])
    plain, plain_gradient = jax.value_and_grad(lambda s: loss(s, TEACHER_, LABELS_).sum())(STUDENT_)
    np.testing.assert_allclose(value, plain, rtol=1e-6)
    np.testing.assert_allclose(gradient[..., :7], plain_gradient, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(gradient[..., 7:], 0)

  @pytest.mark.parametrize('temperature', [30.0, 1e2, 1e4, 1e5])
  def test_high_temperatures_lose_no_digits(self, loss, oracle, limit, temperature):
    ours, gradient = jax.value_and_grad(lambda s: loss(s, TEACHER_, LABELS_, temperature=temperature).sum())(STUDENT_)
    exact = oracle(STUDENT.astype(np.longdouble), TEACHER.astype(np.longdouble), LABELS, temperature=temperature)
    np.testing.assert_allclose(ours, float(exact.sum()), rtol=1e-4)
    if limit is not None and not np.isnan(limit) and temperature >= 1e5:  # but for a part of 1 / T
      centred = [logits - logits.mean(-1, keepdims=True) for logits in (STUDENT, TEACHER)]
      np.testing.assert_allclose(gradient, limit * (centred[0] - centred[1]) / 7, atol=1e-4)

  def test_no_gradient_reaches_the_teacher(self, loss, oracle, limit):
    gradient = jax.grad(lambda t: loss(STUDENT_, t, LABELS_).sum())(TEACHER_)
    np.testing.assert_array_equal(gradient, 0)

  @pytest.mark.parametrize('dtype', ['bfloat16', 'float16'])
  def test_half_precision_computes_in_float32(self, loss, oracle, limit, dtype, strict_dtypes):
    student, teacher = STUDENT_.astype(dtype), TEACHER_.astype(dtype)
    ours = loss(student, teacher, LABELS_)
    assert ours.dtype == jnp.float32
    slow = oracle(np.asarray(student, np.float32), np.asarray(teacher, np.float32), LABELS)
    np.testing.assert_allclose(ours, slow, rtol=1e-4, atol=1e-5)

  @pytest.mark.parametrize('garbage', [1e6, np.nan, np.inf])
  def test_what_is_masked_gives_zero_and_no_gradient(self, loss, oracle, limit, garbage):
    where, shown = jnp.asarray(WHERE), jnp.asarray(WHERE)[..., None]
    student, teacher = (jnp.where(shown, logits, garbage) for logits in (STUDENT_, TEACHER_))
    labels = jnp.where(where, LABELS_, -1)
    value, gradient = jax.value_and_grad(lambda s: loss(s, teacher, labels, where=where).sum())(student)
    clean, clean_gradient = jax.value_and_grad(lambda s: loss(s, TEACHER_, LABELS_, where=where).sum())(STUDENT_)
    np.testing.assert_array_equal(value, clean)
    np.testing.assert_array_equal(gradient, clean_gradient)
    np.testing.assert_array_equal(np.asarray(gradient)[~WHERE], 0)
    np.testing.assert_array_equal(np.asarray(loss(student, teacher, labels, where=where))[~WHERE], 0)

  @pytest.mark.parametrize('temperature', [0.0, -1.0, np.nan, np.inf])
  def test_temperature_must_be_positive(self, loss, oracle, limit, temperature):
    with pytest.raises(ValueError, match='temperature'):
      loss(STUDENT_, TEACHER_, LABELS_, temperature=temperature)

  def test_masks_of_another_shape_raise(self, loss, oracle, limit):
    with pytest.raises(TypeError):
      loss(STUDENT_, TEACHER_, LABELS_, where=jnp.ones((3, 4, 1), bool))


@pytest.mark.parametrize('soft_weight', [-0.1, 1.1])
def test_soft_weight_lies_between_0_and_1(soft_weight):
  with pytest.raises(ValueError, match='soft_weight'):
    losses.distillation(STUDENT_, TEACHER_, LABELS_, soft_weight=soft_weight)


class TestLabels:
  @pytest.mark.parametrize('spoilt', [-1, 7, 10])
  def test_that_are_no_class_are_refused(self, spoilt):
    with pytest.raises(ValueError, match='there are 7 classes: 0 to 6'):
      losses.distillation(STUDENT_, TEACHER_, LABELS_.at[1, 2].set(spoilt))

  @pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
  def test_one_hot_are_class_numbers(self, dtype):
    hot = jax.nn.one_hot(LABELS_, 7, dtype=dtype)
    ours, plain = (losses.distillation(STUDENT_, TEACHER_, labels) for labels in (hot, LABELS_))
    np.testing.assert_allclose(ours, plain, rtol=1e-5)

  def test_soft_ones_are_mixed(self):
    hot = jax.nn.one_hot(LABELS_, 7)
    ours = losses.distillation(STUDENT_, TEACHER_, 0.9 * hot + 0.1 / 7)
    each = [losses.distillation(STUDENT_, TEACHER_, jnp.full_like(LABELS_, k)) for k in range(7)]
    slow = 0.9 * losses.distillation(STUDENT_, TEACHER_, LABELS_) + 0.1 * sum(each) / 7
    np.testing.assert_allclose(ours, slow, rtol=1e-5)

  def test_that_are_known_inside_a_program_are_checked_there(self):
    value = jax.jit(lambda s: losses.distillation(s, TEACHER_, LABELS_))(STUDENT_)
    np.testing.assert_allclose(value, losses.distillation(STUDENT_, TEACHER_, LABELS_), rtol=1e-5)
    spoilt = LABELS_ + 1
    with pytest.raises(ValueError, match='there are 7 classes'):
      jax.jit(lambda s: losses.distillation(s, TEACHER_, spoilt))(STUDENT_)

  def test_of_another_shape_raise(self):
    with pytest.raises((ValueError, TypeError)):
      losses.distillation(STUDENT_, TEACHER_, jax.nn.one_hot(LABELS_, 6))


def test_the_example_of_an_impossible_class():
  student, teacher = jnp.array([1.0, 2.0, -jnp.inf]), jnp.array([2.0, 1.0, -jnp.inf])
  np.testing.assert_allclose(losses.soft_targets(student, teacher), 0.4621, atol=1e-4)


def test_temperature_keeps_the_size_of_the_gradient():
  """In the limit of high temperatures the gradient is the difference of the centred logits, whatever T."""
  centred = [logits - logits.mean(-1, keepdims=True) for logits in (STUDENT, TEACHER)]
  gradient = jax.grad(lambda s: losses.soft_targets(s, TEACHER_, temperature=1000.0).sum())(STUDENT_)
  np.testing.assert_allclose(gradient, (centred[0] - centred[1]) / 7, atol=3e-3)


class TestRepresentationError:
  """Of taps of any shape after the batch's axis."""

  @pytest.mark.parametrize('shape', [(12, 7), (3, 28), (3, 4, 7), (3, 2, 2, 7)])
  @pytest.mark.parametrize('jitted', [False, True])
  def test_equals_its_oracle(self, shape, jitted, strict_dtypes):
    error = jax.jit(losses.representation_error) if jitted else losses.representation_error
    ours = error(STUDENT_.reshape(shape), TEACHER_.reshape(shape))
    assert (ours.shape, ours.dtype) == (shape[:1], jnp.float32)
    slow = oracles.representation_error(STUDENT.reshape(shape), TEACHER.reshape(shape))
    np.testing.assert_allclose(ours, slow, rtol=1e-5)

  def test_gradient_equals_the_differences_of_the_oracle_and_none_reaches_the_teacher(self):
    gradients = jax.grad(lambda s, t: losses.representation_error(s, t).sum(), (0, 1))(STUDENT_, TEACHER_)
    slow = oracles.slope_of(lambda s: oracles.representation_error(s, TEACHER).sum(), STUDENT)
    np.testing.assert_allclose(gradients[0], slow, rtol=1e-3, atol=1e-5)
    np.testing.assert_array_equal(gradients[1], 0)

  def test_is_0_without_a_gradient_where_the_student_is_the_teacher(self):
    value, gradient = jax.value_and_grad(lambda s: losses.representation_error(s, TEACHER_).sum())(TEACHER_)
    np.testing.assert_array_equal(value, 0)
    np.testing.assert_array_equal(gradient, 0)

  def test_half_precision_computes_in_float32(self, strict_dtypes):
    student, teacher = STUDENT_.astype('bfloat16'), TEACHER_.astype('bfloat16')
    ours = losses.representation_error(student, teacher)
    assert ours.dtype == jnp.float32
    slow = oracles.representation_error(np.asarray(student, np.float32), np.asarray(teacher, np.float32))
    np.testing.assert_allclose(ours, slow, rtol=1e-5)

  def test_taps_of_other_shapes_raise(self):
    with pytest.raises(ValueError, match='one shape'):
      losses.representation_error(STUDENT_, TEACHER_[..., :1])
