"""Brings two maps to the places of the smaller one."""

import numpy as np
from jaxtyping import Array

from lmajax._arguments import shown


def to_smaller(student: Array, teacher: Array) -> tuple[Array, Array]:
  """Averages the larger of two maps over blocks; refuses sizes of which neither is a multiple of the other."""
  own, other = student.shape[1:-1], teacher.shape[1:-1]
  if len(own) == len(other):
    least = tuple(map(min, own, other))
    if all(size % low == 0 for sizes in (own, other) for size, low in zip(sizes, least, strict=True)):
      return _averaged(student, least), _averaged(teacher, least)
  said = f'student_features is {shown(student)} and teacher_features {shown(teacher)}'
  raise ValueError(f'{said}; give maps of which one is a multiple of the other in height and width')


def _averaged(features: Array, least: tuple[int, ...]) -> Array:
  space = features.shape[1:-1]
  if space == least:
    return features
  parts = [part for size, low in zip(space, least, strict=True) for part in (low, size // low)]
  blocks = features.reshape(features.shape[0], *parts, features.shape[-1])
  return blocks.mean(tuple(int(axis) for axis in 2 + 2 * np.arange(len(least))))
