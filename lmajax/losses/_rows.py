"""What losses of logits share: their masks and checks, and divergences that lose no digits where two are near."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float

from lmajax._arguments import as_given, check_pair, is_between, of_type, shown

Number = float | Float[Array, '']
"""Of a temperature or a weight: known, or what a schedule gives inside a program."""


def check_temperature(temperature: Any) -> None:
  """Refuses a temperature that is not positive and finite, where it is known: a schedule's is traced."""
  if isinstance(temperature, Tracer):
    return
  if not is_between(temperature, 0.0, math.inf) or temperature in (0, math.inf):
    raise ValueError(f'temperature is {as_given(temperature)}, and must be positive and finite')


def check_weight(name: str, weight: Any) -> None:
  """Refuses a weight of a loss's part that is negative or infinite, where it is known."""
  if isinstance(weight, Tracer):
    return
  if not is_between(weight, 0.0, math.inf) or weight == math.inf:
    raise ValueError(f'{name} is {as_given(weight)}, and must be at least 0 and finite')


def check_logits(student_logits: Any, teacher_logits: Any, where: Any, temperature: Any) -> None:
  """Refuses what no loss of a student's and a teacher's logits takes."""
  check_temperature(temperature)
  check_pair(student_logits=student_logits, teacher_logits=teacher_logits)
  check_where(where, student_logits)


def check_where(where: Array | None, logits: Array) -> None:
  """Refuses a mask that has not one bool for each example."""
  if where is not None and (not of_type(where, jnp.bool_) or where.shape != logits.shape[:-1]):
    raise ValueError(f'where is {shown(where)} and student_logits {shown(logits)}; give one bool per example')


def check_numbers(labels: Any, logits: Array) -> None:
  """Refuses labels that are not one class number for each example."""
  if not of_type(labels, jnp.integer):
    raise ValueError(f'labels is {shown(labels)}; give an array of class numbers')
  if labels.shape != logits.shape[:-1]:
    raise ValueError(f'labels is {shown(labels)} and student_logits {shown(logits)}; give one class number per example')


def check_classes(labels: Array, classes: int) -> None:
  """Refuses numbers that are no class, where they are known: in NumPy, since inside ``jax.jit`` JAX knows none."""
  if isinstance(labels, Tracer) or not getattr(labels, 'is_fully_addressable', True) or not labels.size:
    return
  numbers = np.asarray(labels)
  if numbers.min() < 0 or numbers.max() >= classes:
    raise ValueError(
      f'labels go from {numbers.min()} to {numbers.max()}, and there are {classes} classes: 0 to {classes - 1}'
    )


def counted(logits: Array, where: Array | None) -> Array:
  """Zeros in place of the logits that do not count, so that no NaN of theirs reaches a gradient."""
  logits = logits.astype(np.promote_types(logits.dtype, np.float32))
  return logits if where is None else jnp.where(where[..., None], logits, jnp.zeros_like(logits))


def tempered(student: Array, teacher: Array, temperature: Number, where: Array | None) -> tuple[Array, Array]:
  """Divides the logits that count by the temperature; no gradient reaches the teacher's."""
  return counted(student, where) / temperature, jax.lax.stop_gradient(counted(teacher, where)) / temperature


def only(loss: Array, where: Array | None) -> Array:
  """Zeros in place of the numbers that do not count."""
  return loss if where is None else jnp.where(where, loss, jnp.zeros_like(loss))


def kl(student: Float[Array, '*batch classes'], teacher: Float[Array, '*batch classes']) -> Array:
  r"""KL of two softmaxes, of the student's from the teacher's, to the last digits also where they are near each other.

  With d the difference of the logits less its mean under p, KL = log E[e^d] = log(1 + E[e^d - 1 - d]).
  """
  chances, near, difference = _compared(student, teacher, most=1.0)
  zeros = jnp.zeros_like(student)
  logs = [jnp.where(chances > 0, jax.nn.log_softmax(logits), zeros) for logits in (teacher, student)]
  far = (chances * (logs[0] - logs[1])).sum(-1)
  return jnp.where(near, jnp.log1p((chances * _beyond_linear(difference)).sum(-1)), far)


def to_mixture(student: Float[Array, '*batch classes'], teacher: Float[Array, '*batch classes'], share: float) -> Array:
  r"""KL of β p + (1 - β) q from p, of a teacher's p and a student's q, with the same care.

  With r = log(q / p) and u = (1 - β)(e^r - 1), of which E[u] = 0 under p, KL = E[u - log(1 + u)].
  """
  chances, near, difference = _compared(student, teacher, most=0.5)
  zeros = jnp.zeros_like(student)
  to_either = ~(jnp.isneginf(student) & jnp.isneginf(teacher))
  logs = [jnp.where(to_either, jax.nn.log_softmax(logits), zeros) for logits in (teacher, student)]
  mixed = jnp.logaddexp(math.log(share) + logs[0], math.log1p(-share) + logs[1])
  far = (chances * jnp.where(chances > 0, logs[0] - mixed, zeros)).sum(-1)
  ratio = difference - jnp.log1p((chances * _beyond_linear(difference)).sum(-1, keepdims=True))
  u = (1 - share) * jnp.where(near[..., None], jnp.expm1(ratio), zeros)
  return jnp.where(near, (chances * beyond_log(u)).sum(-1), far)


def _compared(student: Array, teacher: Array, *, most: float) -> tuple[Array, Array, Array]:
  """Returns p; whether all d of an example are below ``most``; and d, 0 of an example of which they are not."""
  chances, zeros = jax.nn.softmax(teacher), jnp.zeros_like(student)
  finite = (chances > 0) & jnp.isfinite(student)
  difference = jnp.where(finite, student, zeros) - jnp.where(finite, teacher, zeros)
  difference -= jnp.where(finite, (chances * difference).sum(-1, keepdims=True), zeros)
  shut = jnp.isneginf(student) & jnp.isneginf(teacher)
  near = (shut | (finite & (jnp.abs(difference) < most))).all(-1)
  return chances, near, jnp.where(near[..., None], difference, zeros)


def _beyond_linear(d: Array) -> Array:
  """e^d - 1 - d for |d| ≤ 1, by its series: to the last bits also where d is small."""
  total = jnp.zeros_like(d)
  for n in range(12, 1, -1):
    total = (1 + total) * d / n
  return total * d


def beyond_log(u: Array) -> Array:
  """Computes u - log(1 + u) for -0.6 ≤ u ≤ 2, to the last bits also where u is small.

  With s = u / (2 + u), log(1 + u) = 2 (s + s³/3 + s⁵/5 + …) and u - 2 s = u s.
  """
  s = u / (2 + u)
  total = jnp.zeros_like(s)
  for n in range(27, 1, -2):
    total = (total + 1 / n) * jnp.square(s)
  return u * s - 2 * s * total
