"""What losses of features share: their checks, masks and lengths."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from lmajax._arguments import check_floats, of_type, shown


def both(student: Any, teacher: Any, where: Array | None, *, least_rank: int = 2) -> tuple[Array, Array]:
  """Checks two batches of features, and zeros what does not count; no gradient reaches the teacher's."""
  check_floats('student_features', student, least_rank=least_rank)
  check_floats('teacher_features', teacher, least_rank=least_rank)
  if student.shape[0] != teacher.shape[0]:
    said = f'student_features is {shown(student)} and teacher_features {shown(teacher)}'
    raise ValueError(f'{said}; give two of the same examples')
  if 0 in student.shape or 0 in teacher.shape:
    raise ValueError(f'the features have shapes {student.shape} and {teacher.shape}: there is nothing to compare')
  if where is not None and (not of_type(where, jnp.bool_) or where.shape != student.shape[:1]):
    raise ValueError(f'where is {shown(where)} and student_features {shown(student)}; give one bool per example')
  return _known(student, where), jax.lax.stop_gradient(_known(teacher, where))


def _known(features: Array, where: Array | None) -> Array:
  features = features.astype(np.promote_types(features.dtype, np.float32))
  if where is None:
    return features
  return jnp.where(where.reshape(-1, *[1] * (features.ndim - 1)), features, jnp.zeros_like(features))


def flat(features: Array) -> Float[Array, 'b d']:
  """Makes one row of each example."""
  return features.reshape(features.shape[0], -1)


def small(x: Array, axis: int | tuple[int, ...] | None) -> Array:
  """Divides by the largest magnitude, for what does not depend on scale: so that no square overflows."""
  most = jax.lax.stop_gradient(jnp.abs(x).max(axis, keepdims=True))
  return x / jnp.where(most > 0, most, jnp.ones_like(most))


def root(squares: Array) -> Array:
  """The square root, without a gradient at 0."""
  above = squares > 0
  return jnp.where(above, jnp.sqrt(jnp.where(above, squares, jnp.ones_like(squares))), jnp.zeros_like(squares))


def unit(x: Array) -> Array:
  """Divides by the length over the last axis; what is all 0 stays."""
  x = small(x, -1)
  length = root(jnp.square(x).sum(-1, keepdims=True))
  return x / jnp.where(length > 0, length, jnp.ones_like(length))


def pairs(where: Bool[Array, ' b'] | None, features: Array) -> tuple[Float[Array, 'b b'], Array]:
  """Gives 1 to every two examples that both count, and says how many count, at least 1."""
  one = jnp.ones(features.shape[0], features.dtype) if where is None else where.astype(features.dtype)
  return one[:, None] * one[None, :], jnp.maximum(one.sum(), 1)
