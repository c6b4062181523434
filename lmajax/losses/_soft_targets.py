"""Distillation against a teacher's softened output."""

import jax
import jax.numpy as jnp
import optax
from jax.core import Tracer
from jaxtyping import Array, Bool, Float, Int

from lmajax._arguments import as_given, check_alike, is_between, of_type, shown
from lmajax.losses._rows import Number, check_classes, check_logits, check_numbers, counted, kl, only, tempered


def soft_targets(
  student_logits: Float[Array, '*batch classes'],
  teacher_logits: Float[Array, '*batch classes'],
  *,
  temperature: Number = 1.0,
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
    ValueError: the temperature is not positive and finite, the logits are no floats with the classes last or differ in
      shape, or the mask does not fit them.

  >>> round(float(soft_targets(jnp.array([0., 0.]), jnp.array([9., -9.]))), 4)  # log 2
  0.6931

  Source: Hinton et al. 2015, section 2; the LMA paper, equation 5, whose text leaves out T² and whose code has it.
  """
  check_logits(student_logits, teacher_logits, where, temperature)
  student, teacher = tempered(student_logits, teacher_logits, temperature, where)
  return only(temperature**2 * kl(student, teacher), where)


def distillation(
  student_logits: Float[Array, '*batch classes'],
  teacher_logits: Float[Array, '*batch classes'],
  labels: Int[Array, '*batch'] | Float[Array, '*batch classes'],
  *,
  temperature: Number = 2.0,
  soft_weight: Number = 0.7,
  where: Bool[Array, '*batch'] | None = None,
) -> Float[Array, '*batch']:
  r"""The soft targets of a teacher mixed with the labels.

  .. math:: w\,T^2\,\mathrm{KL}(p^t_T \,\|\, p^s_T) - (1 - w) \log p^s_1(\text{label})

  Args:
    student_logits: unnormalized, the classes last.
    teacher_logits: like ``student_logits``; no gradient flows into them.
    labels: class numbers; or floats, a probability of each class (one-hot, smoothed, mixed).
    temperature: T > 0, of the soft targets alone.
    soft_weight: w in [0, 1]; the paper's 0.7 is the default, as is its T.
    where: examples (or tokens) to count; the others give 0 and no gradient, whatever they hold.

  Returns:
    One number per example, in nats; the caller takes the mean.

  Raises:
    ValueError: as of ``soft_targets``, or the weight is outside [0, 1], the labels are not one per example, or a class
      number is none of the classes; inside ``jax.jit`` numbers are not seen, and there -1 counts from the end and
      others give NaN.

  >>> z = jnp.array([0., 0.])
  >>> round(float(distillation(z, z, jnp.array(0))), 4)  # 0.3 log 2
  0.2079

  Source: the LMA paper, equation 5; its weights are those of Polino et al. 2018.
  """
  if not isinstance(soft_weight, Tracer) and not is_between(soft_weight, 0.0, 1.0):
    raise ValueError(f'soft_weight is {as_given(soft_weight)}, and must lie between 0 and 1')
  soft = soft_targets(student_logits, teacher_logits, temperature=temperature, where=where)
  hard = _cross_entropy(student_logits, labels, where)
  return soft_weight * soft + (1 - soft_weight) * only(hard, where)


def _cross_entropy(logits: Array, labels: Array, where: Array | None) -> Array:
  """With class numbers, or with a probability of each class."""
  known = counted(logits, where)
  if not (of_type(labels, jnp.floating) or of_type(labels, jnp.integer)):
    raise ValueError(f'labels is {shown(labels)}; give an array of class numbers, or of a probability of each class')
  if of_type(labels, jnp.floating):
    check_alike(labels=labels, student_logits=logits)
    labels = jax.lax.stop_gradient(labels.astype(known.dtype))
    logs = jnp.where(labels > 0, jax.nn.log_softmax(known), jnp.zeros_like(known))
    return -(labels * logs).sum(-1)
  check_numbers(labels, logits)
  labels = labels if where is None else jnp.where(where, labels, jnp.zeros_like(labels))
  check_classes(labels, logits.shape[-1])
  return optax.losses.softmax_cross_entropy_with_integer_labels(known, labels)
