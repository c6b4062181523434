"""Distillation against a teacher's softened output."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int


def soft_targets(
  student_logits: Float[Array, '*batch classes'],
  teacher_logits: Float[Array, '*batch classes'],
  *,
  temperature: float = 1.0,
  where: Bool[Array, '*batch'] | None = None,
) -> Float[Array, '*batch']:
  r"""Divergence of the student from the teacher's softened distribution.

  .. math:: T^2 \, \mathrm{KL}\left(\mathrm{softmax}(z^t / T) \,\|\, \mathrm{softmax}(z^s / T)\right)

  The factor :math:`T^2` keeps the gradient's size independent of the temperature.

  Args:
    student_logits: unnormalized, the classes last; computed in float32 at least.
    teacher_logits: like ``student_logits``; no gradient flows into them.
    temperature: T > 0; 1 leaves the teacher as it is.
    where: examples (or tokens) to count; the others give 0 and no gradient, whatever they hold.

  Returns:
    One number per example, in nats; the caller takes the mean.

  Raises:
    ValueError: the temperature is not positive.
    AssertionError: the logits differ in shape, which is seen when the function is traced.

  >>> round(float(soft_targets(jnp.array([0., 0.]), jnp.array([9., -9.]))), 4)  # log 2
  0.6931

  Source: Hinton et al. 2015, section 2; the LMA paper, equation 5, whose text leaves out T² and whose code has it.
  """
  if temperature <= 0:
    raise ValueError(f'temperature is {temperature}, and must be positive')
  chex.assert_equal_shape((student_logits, teacher_logits))
  student, teacher = _counted(student_logits, where), jax.lax.stop_gradient(_counted(teacher_logits, where))
  divergence = optax.losses.kl_divergence(
    jax.nn.log_softmax(student / temperature), jax.nn.softmax(teacher / temperature)
  )
  return _only(temperature**2 * divergence, where)


def distillation(
  student_logits: Float[Array, '*batch classes'],
  teacher_logits: Float[Array, '*batch classes'],
  labels: Int[Array, '*batch'],
  *,
  temperature: float = 2.0,
  soft_weight: float = 0.7,
  where: Bool[Array, '*batch'] | None = None,
) -> Float[Array, '*batch']:
  r"""The soft targets of a teacher mixed with the labels.

  .. math:: w\,T^2\,\mathrm{KL}(p^t_T \,\|\, p^s_T) - (1 - w) \log p^s_1(\text{label})

  Args:
    student_logits: unnormalized, the classes last.
    teacher_logits: like ``student_logits``; no gradient flows into them.
    labels: class numbers.
    temperature: T > 0, of the soft targets alone.
    soft_weight: w in [0, 1]; the paper's 0.7 is the default, as is its T.
    where: examples (or tokens) to count; the others give 0 and no gradient, whatever they hold.

  Returns:
    One number per example, in nats; the caller takes the mean.

  Raises:
    ValueError: the temperature is not positive, or the weight is outside [0, 1].
    AssertionError: the logits differ in shape, or the labels are not one per example.

  >>> z = jnp.array([0., 0.])
  >>> round(float(distillation(z, z, jnp.array(0))), 4)  # 0.3 log 2
  0.2079

  Source: the LMA paper, equation 5; its weights are those of Polino et al. 2018.
  """
  if not 0 <= soft_weight <= 1:
    raise ValueError(f'soft_weight is {soft_weight}, and must lie between 0 and 1')
  soft = soft_targets(student_logits, teacher_logits, temperature=temperature, where=where)
  labels = labels if where is None else jnp.where(where, labels, jnp.zeros_like(labels))
  chex.assert_shape(labels, student_logits.shape[:-1])
  hard = optax.losses.softmax_cross_entropy_with_integer_labels(_counted(student_logits, where), labels)
  return soft_weight * soft + (1 - soft_weight) * _only(hard, where)


def _counted(logits: Array, where: Array | None) -> Array:
  """Zeros in place of the logits that do not count, so that no NaN of theirs reaches a gradient."""
  logits = logits.astype(np.promote_types(logits.dtype, np.float32))
  return logits if where is None else jnp.where(where[..., None], logits, jnp.zeros_like(logits))


def _only(loss: Array, where: Array | None) -> Array:
  return loss if where is None else jnp.where(where, loss, jnp.zeros_like(loss))
