"""Block-wise training against a teacher's intermediate representations."""

from collections.abc import Callable

import jax
import numpy as np
import optax
from jaxtyping import Array, Float

from lmajax._arguments import check_pair


def representation_error(
  student_tap: Float[Array, 'b ...'],
  teacher_tap: Float[Array, 'b ...'],
  *,
  distance: Callable[[Array, Array], Array] = optax.losses.squared_error,
) -> Float[Array, ' b']:
  r"""Compares what leaves a stage of the student with what leaves the teacher's.

  .. math:: \frac{1}{n} \sum_{j=1}^{n} d\big(s_j, t_j\big), \qquad d(s, t) = (s - t)^2

  LIT feeds stage i of the student with the teacher's output of stage i - 1, and adds this error over the stages:
  ``representation_error(stage(i, taps[i]), taps[i + 1])``.

  Args:
    student_tap: any shape after the batch's axis, n elements; computed in float32 at least.
    teacher_tap: like ``student_tap``; no gradient flows into it.
    distance: d, elementwise: ``optax.losses.squared_error``, ``optax.losses.huber_loss``, …

  Returns:
    One number per example; the caller takes the mean.

  Raises:
    ValueError: a tap is no batch of floats, they differ in shape, or an example has no element.

  >>> representation_error(jnp.array([[1., 3.]]), jnp.array([[1., 1.]]))
  Array([2.], dtype=float32)

  Source: Koratana et al. 2019 (LIT), as the authors' code computes it: the mean over all elements, not averaged over
  the stages.
  """
  check_pair(student_tap=student_tap, teacher_tap=teacher_tap)
  if 0 in student_tap.shape[1:]:
    raise ValueError(f'the taps have the shape {student_tap.shape}: there is nothing to compare')
  each = distance(*(_wide(tap) for tap in (student_tap, jax.lax.stop_gradient(teacher_tap))))
  return each.mean(axis=tuple(range(1, each.ndim)))


def _wide(tap: Array) -> Array:
  return tap.astype(np.promote_types(tap.dtype, np.float32))
