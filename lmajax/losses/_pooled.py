"""Brings two maps to the places of the smaller one."""

import numpy as np
from jaxtyping import Array, Float

from lmajax._arguments import check_floats, shown


def to_smaller(
  one: Float[Array, 'b *space channels'], other: Float[Array, 'b *other_space other_channels']
) -> tuple[Float[Array, 'b *least channels'], Float[Array, 'b *least other_channels']]:
  """Averages the larger of two maps over blocks, to the places of the smaller.

  Args:
    one: the batch's axis first, the channels last, and any number of axes of places between, also none.
    other: of as many axes.

  Raises:
    ValueError: one is no such array, or neither is a multiple of the other along an axis of places.

  >>> one, other = to_smaller(jnp.arange(4.).reshape(1, 4, 1), jnp.ones((1, 2, 5)))
  >>> one.ravel().tolist(), other.shape
  ([0.5, 2.5], (1, 2, 5))

  Source: RepDistiller's code for attention transfer, where the larger map is averaged to the size of the smaller.
  """
  check_floats('one', one, least_rank=2)
  check_floats('other', other, least_rank=2)
  least = tuple(map(min, one.shape[1:-1], other.shape[1:-1]))
  sizes = [shape[1:-1] for shape in (one.shape, other.shape)]
  fits = one.ndim == other.ndim and 0 not in least
  if not fits or any(size % low for each in sizes for size, low in zip(each, least, strict=True)):
    said = f'the maps are {shown(one)} and {shown(other)}'
    raise ValueError(f'{said}; give two of which one is a multiple of the other in height and width')
  return _averaged(one, least), _averaged(other, least)


def _averaged(features: Array, least: tuple[int, ...]) -> Array:
  space = features.shape[1:-1]
  if space == least:
    return features
  parts = [part for size, low in zip(space, least, strict=True) for part in (low, size // low)]
  blocks = features.reshape(features.shape[0], *parts, features.shape[-1])
  return blocks.mean(tuple(int(axis) for axis in 2 + 2 * np.arange(len(least))))
