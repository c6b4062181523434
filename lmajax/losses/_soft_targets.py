"""Distillation against a teacher's softened output."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.core import Tracer
from jaxtyping import Array, Bool, Float, Int

from lmajax._arguments import as_given, check_alike, check_pair, is_between, of_type, shown


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
    ValueError: the temperature is not positive and finite, the logits are no floats with the classes last or differ in
      shape, or the mask does not fit them.

  >>> round(float(soft_targets(jnp.array([0., 0.]), jnp.array([9., -9.]))), 4)  # log 2
  0.6931

  Source: Hinton et al. 2015, section 2; the LMA paper, equation 5, whose text leaves out T² and whose code has it.
  """
  if not is_between(temperature, 0.0, math.inf) or temperature in (0, math.inf):
    raise ValueError(f'temperature is {as_given(temperature)}, and must be positive and finite')
  check_pair(student_logits=student_logits, teacher_logits=teacher_logits)
  _check_where(where, student_logits)
  student, teacher = _counted(student_logits, where), jax.lax.stop_gradient(_counted(teacher_logits, where))
  return _only(temperature**2 * _divergence(student / temperature, teacher / temperature), where)


def _divergence(student: Float[Array, '*batch classes'], teacher: Float[Array, '*batch classes']) -> Array:
  r"""KL of two softmaxes; where they are near each other, without the difference of two nearly equal numbers.

  With d the difference of the logits less its mean under p, KL = log E[e^d] = log(1 + E[e^d - 1 - d]).
  """
  chances, zeros = jax.nn.softmax(teacher), jnp.zeros_like(student)
  possible = chances > 0
  finite = possible & jnp.isfinite(student)
  difference = jnp.where(finite, student, zeros) - jnp.where(finite, teacher, zeros)
  difference -= (chances * difference).sum(-1, keepdims=True)
  near = (finite & (jnp.abs(difference) < 1)).all(-1)
  small = jnp.where(near[..., None], difference, zeros)
  logs = [jnp.where(possible, jax.nn.log_softmax(logits), zeros) for logits in (teacher, student)]
  far = (chances * (logs[0] - logs[1])).sum(-1)
  return jnp.where(near, jnp.log1p((chances * _beyond_linear(small)).sum(-1)), far)


def _beyond_linear(d: Array) -> Array:
  """e^d - 1 - d for |d| ≤ 1, by its series: to the last bits also where d is small."""
  total = jnp.zeros_like(d)
  for n in range(12, 1, -1):
    total = (1 + total) * d / n
  return total * d


def distillation(
  student_logits: Float[Array, '*batch classes'],
  teacher_logits: Float[Array, '*batch classes'],
  labels: Int[Array, '*batch'] | Float[Array, '*batch classes'],
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
  if not is_between(soft_weight, 0.0, 1.0):
    raise ValueError(f'soft_weight is {as_given(soft_weight)}, and must lie between 0 and 1')
  soft = soft_targets(student_logits, teacher_logits, temperature=temperature, where=where)
  hard = _cross_entropy(student_logits, labels, where)
  return soft_weight * soft + (1 - soft_weight) * _only(hard, where)


def _cross_entropy(logits: Array, labels: Array, where: Array | None) -> Array:
  """With class numbers, or with a probability of each class."""
  counted = _counted(logits, where)
  if not (of_type(labels, jnp.floating) or of_type(labels, jnp.integer)):
    raise ValueError(f'labels is {shown(labels)}; give an array of class numbers, or of a probability of each class')
  if of_type(labels, jnp.floating):
    check_alike(labels=labels, student_logits=logits)
    labels = jax.lax.stop_gradient(labels.astype(counted.dtype))
    logs = jnp.where(labels > 0, jax.nn.log_softmax(counted), jnp.zeros_like(counted))
    return -(labels * logs).sum(-1)
  if labels.shape != logits.shape[:-1]:
    raise ValueError(f'labels is {shown(labels)} and student_logits {shown(logits)}; give one class number per example')
  labels = labels if where is None else jnp.where(where, labels, jnp.zeros_like(labels))
  _check_labels(labels, logits.shape[-1])
  return optax.losses.softmax_cross_entropy_with_integer_labels(counted, labels)


def _check_where(where: Array | None, logits: Array) -> None:
  if where is not None and (not of_type(where, jnp.bool_) or where.shape != logits.shape[:-1]):
    raise ValueError(f'where is {shown(where)} and student_logits {shown(logits)}; give one bool per example')


def _check_labels(labels: Array, classes: int) -> None:
  """Refuses numbers that are no class, where they are known: in NumPy, since inside ``jax.jit`` JAX knows none."""
  if isinstance(labels, Tracer) or not getattr(labels, 'is_fully_addressable', True) or not labels.size:
    return
  numbers = np.asarray(labels)
  if numbers.min() < 0 or numbers.max() >= classes:
    raise ValueError(
      f'labels go from {numbers.min()} to {numbers.max()}, and there are {classes} classes: 0 to {classes - 1}'
    )


def _counted(logits: Array, where: Array | None) -> Array:
  """Zeros in place of the logits that do not count, so that no NaN of theirs reaches a gradient."""
  logits = logits.astype(np.promote_types(logits.dtype, np.float32))
  return logits if where is None else jnp.where(where[..., None], logits, jnp.zeros_like(logits))


def _only(loss: Array, where: Array | None) -> Array:
  return loss if where is None else jnp.where(where, loss, jnp.zeros_like(loss))
