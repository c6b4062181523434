"""The only helpers for pytrees."""

import math
from typing import Any

import jax


def size(tree: Any) -> int:
  """Counts the elements of all leaves.

  Args:
    tree: a pytree of arrays or of ``jax.ShapeDtypeStruct``.

  >>> size({'kernel': jax.numpy.zeros((3, 4)), 'bias': jax.numpy.zeros(4)})
  16
  """
  return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def nbytes(tree: Any) -> int:
  """Counts the bytes of all leaves at their own precision.

  Args:
    tree: a pytree of arrays or of ``jax.ShapeDtypeStruct``.

  >>> nbytes({'kernel': jax.numpy.zeros((3, 4)), 'bias': jax.numpy.zeros(4, 'bfloat16')})
  56
  """
  return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
