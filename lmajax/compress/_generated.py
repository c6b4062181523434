"""Tensors of a file that are made from arrays which all of them share: factors of one product, or pools of numbers."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lmajax.compress._tensors import Tensor, check_dtype, check_shape, narrow

MOST = 2**32 - 1
"""Weights that a hash of 32 bits gives a place."""


def entries(left: Any, right: Any, offset: int, count: int, xp: Any = np) -> Any:
  """Takes ``count`` entries of ``left @ right`` in reading order, and multiplies only the rows that they stand in."""
  columns = right.shape[1]
  first, last = offset // columns, -(-(offset + count) // columns)
  if xp is np:  # in float64, since the order in which a library adds differs between machines
    rows = left[first:last].astype(np.float64) @ right.astype(np.float64)
  else:
    rows = jnp.matmul(left[first:last], right, precision=jax.lax.Precision.HIGHEST)
  return rows.reshape(-1)[offset - first * columns :][:count]


def mixed_up(numbers: Any, xp: Any = np) -> Any:
  """Mixes the bits of integers of 32 bits: the last step of MurmurHash3, the same in NumPy and in JAX."""
  for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
    numbers = (numbers ^ (numbers >> xp.uint32(shift))) * xp.uint32(factor)
  return numbers ^ (numbers >> xp.uint32(16))


def places(pool: int, offset: int, count: int, size: int, xp: Any = np) -> tuple[Any, Any]:
  """Hashes ``count`` positions from ``offset`` on: a place in a pool of that size for each, and a bit for its sign."""
  seeds = mixed_up(np.arange(2, dtype=np.uint32) + np.uint32(2 * pool + 1))
  at = xp.arange(offset, offset + count, dtype=xp.uint32)
  place, sign = (mixed_up(at ^ xp.uint32(int(seed)), xp) for seed in seeds)
  return place % xp.uint32(size), sign & xp.uint32(1)


def pooled(pools: Any, offset: int, count: int, signed: bool, xp: Any = np) -> Any:
  """Adds the numbers that ``count`` positions from ``offset`` on have in each pool, a row of ``pools``."""
  total = None
  for number in range(len(pools)):
    place, sign = places(number, offset, count, pools.shape[1], xp)
    found = pools[number][place.astype(xp.int32)]
    found = xp.where(sign == 1, -found, found) if signed else found
    total = found if total is None else total + found
  return total


def scaled(units: Any, scale: Any, shape: tuple[int, ...], dtype: str, xp: Any = np) -> Any:
  """Makes the weights of a leaf; what float16 cannot hold becomes the most that it can, so that all stay finite."""
  values = (units * scale.astype(units.dtype)).reshape(shape)
  if jnp.dtype(dtype) == jnp.float16:
    most = float(jnp.finfo(jnp.float16).max)
    values = xp.clip(values, -most, most)
  return values.astype(jnp.dtype(dtype))


def numbers(shared: dict[str, Any], offset: int, count: int, signed: bool, xp: Any = np) -> Any:
  """Makes ``count`` weights from ``offset`` on, before they are scaled, from the two factors or the pools."""
  if 'pools' in shared:
    return pooled(shared['pools'], offset, count, signed, xp)
  return entries(shared['left'], shared['right'], offset, count, xp)


@dataclasses.dataclass(frozen=True)
class Generated(Tensor):
  """A scale times numbers that are made from shared arrays, by the place of each weight among all of them."""

  scale: np.ndarray  # one number
  common: dict[str, np.ndarray]  # left [rows, rank] and right [rank, columns], or pools [hashes, size]
  shape: tuple[int, ...]
  offset: int  # of the first weight
  signed: bool = False  # of pools
  dtype: str = 'float32'  # of the weights

  def __post_init__(self):
    check_shape(self.shape, 1)
    check_dtype(self.dtype)
    if not all(array.dtype in (np.float32, np.float64) for array in (self.scale, *self.common.values())):
      raise ValueError('a scale, factors or pools that are not of float32 or float64')
    if self.scale.shape or type(self.signed) is not bool or (self.signed and 'pools' not in self.common):
      raise ValueError(f'a scale of the shape {self.scale.shape}, and signed is {self.signed}')
    reached = _reached(self.common)
    if type(self.offset) is not int or not 0 <= self.offset <= reached - self.count():
      raise ValueError(f'{self.count()} weights from place {self.offset} on, of {reached}')

  def arrays(self) -> dict[str, np.ndarray]:
    return {'scale': self.scale}

  def shared(self) -> dict[str, np.ndarray]:
    return self.common

  def count(self) -> int:
    return math.prod(self.shape)

  def fields(self) -> dict[str, Any]:
    signed = {'signed': True} if self.signed else {}
    return {'shape': self.shape, 'offset': self.offset, **signed, **narrow(self.dtype)}

  @classmethod
  def of_file(cls, fields: dict[str, Any], arrays: dict[str, np.ndarray]) -> 'Generated':
    common = {name: array for name, array in arrays.items() if name != 'scale'}
    return cls(arrays['scale'], common, **{**fields, 'shape': tuple(fields['shape'])})

  def decode(self, xp: Any = np) -> Any:
    common = {name: xp.asarray(array) for name, array in self.common.items()}
    made = numbers(common, self.offset, self.count(), self.signed, xp)
    return scaled(made, xp.asarray(self.scale), self.shape, self.dtype, xp)


def _reached(common: dict[str, np.ndarray]) -> int:
  """Counts the weights that the arrays can be for; refuses arrays of other names or shapes."""
  shapes = {name: array.shape for name, array in common.items()}
  if set(shapes) == {'pools'} and len(shapes['pools']) == 2 and common['pools'].size:
    return MOST
  two = set(shapes) == {'left', 'right'} and {*map(len, shapes.values())} == {2} and common['left'].size
  if two and shapes['left'][1] == shapes['right'][0]:
    return shapes['left'][0] * shapes['right'][1]
  raise ValueError(f'factors or pools of the shapes {shapes}')
