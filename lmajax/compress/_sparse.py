"""A tensor that is mostly zeros, as it lies in a file: where it has weights, and which."""

import dataclasses
import math
from typing import Any

import jax.numpy as jnp
import numpy as np

from lmajax.compress._golomb import best_rice, gaps, golomb, numbers, places
from lmajax.compress._tensors import DECODED, Plain, Scalars, Tensor, check_dtype, check_shape, pack_bits

LARGEST = 2**48
"""Places of the largest tensor: as a float their number is exact."""


@dataclasses.dataclass(frozen=True)
class Sparse(Tensor):
  """The places of some entries and their values in the same order; all others are zero.

  The gaps between the places, along the flattened tensor, are coded by Golomb and Rice. Where more than half of the
  entries stay, the places of the others are coded in their stead, so that a dense tensor has no gaps at all.
  """

  gaps: np.ndarray  # uint8
  values: Plain | Scalars  # [kept]
  shape: tuple[int, ...]
  rice: int
  inverted: bool  # the gaps are of what is zero
  dtype: str = 'float32'  # of the weights

  def __post_init__(self):
    check_shape(self.shape, 1)
    check_dtype(self.dtype)
    size, kept = math.prod(self.shape), self.values.shape
    if size >= LARGEST or len(kept) != 1 or kept[0] > size:
      raise ValueError(f'values of the shape {kept} in a tensor of the shape {self.shape}')
    if isinstance(self.values, Plain) and self.values.array.dtype.name not in DECODED:
      raise ValueError(f'values of {self.values.array.dtype.name}')
    if self.gaps.dtype != np.uint8 or self.gaps.ndim != 1 or type(self.rice) is not int:
      raise ValueError(f'gaps of {self.gaps.dtype} and a Rice parameter of {self.rice}')
    if type(self.inverted) is not bool:
      raise ValueError(f'inverted is {self.inverted}')
    self.coded_places()

  @classmethod
  def of(cls, mask: np.ndarray, values: Plain | Scalars, dtype: str) -> 'Sparse':
    """Puts values at the places where a mask of one element or more is true."""
    flat = mask.reshape(-1)
    inverted = bool(2 * np.count_nonzero(flat) > flat.size)
    between = gaps(np.flatnonzero(flat != inverted))
    rice = best_rice(between)
    return cls(golomb(between, rice), values, tuple(mask.shape), rice, inverted, dtype)

  @property
  def codes(self) -> np.ndarray:
    """Of the values, packed."""
    return self.arrays()['codes']

  @property
  def bits(self) -> int:
    """Of each value."""
    return self.values.bits if isinstance(self.values, Scalars) else 8 * self.values.array.itemsize

  def count(self) -> int:
    """Counts the entries that have a value."""
    return self.values.shape[0]

  def coded_places(self) -> np.ndarray:
    size, kept = math.prod(self.shape), self.count()
    return places(numbers(self.gaps, self.rice, size - kept if self.inverted else kept), size)

  def places(self) -> np.ndarray:
    """Gives the places of the values in the flattened tensor, in their order."""
    coded = self.coded_places()
    if not self.inverted:
      return coded
    stays = np.ones(math.prod(self.shape), bool)
    stays[coded] = False
    return np.flatnonzero(stays)

  def mask(self) -> np.ndarray:
    """Says which entries have a value, in the tensor's shape."""
    mask = np.zeros(math.prod(self.shape), bool)
    mask[self.places()] = True
    return mask.reshape(self.shape)

  def arrays(self) -> dict[str, np.ndarray]:
    own = self.values.arrays() if isinstance(self.values, Scalars) else {'values': self.values.array}
    return {'gaps': self.gaps, **own}

  def fields(self) -> dict[str, Any]:
    found = {name: getattr(self, name) for name in ('shape', 'rice', 'inverted', 'dtype')}
    if isinstance(self.values, Scalars):
      found |= {'kept': self.count(), 'bits': self.bits, 'bucket_size': self.values.bucket_size}
    return found

  @classmethod
  def of_file(cls, fields: dict[str, Any], arrays: dict[str, np.ndarray]) -> 'Sparse':
    dtype = fields['dtype']
    if 'values' in arrays:
      values = Plain(arrays['values'])
    else:
      low, span = arrays['scales']
      about = (fields['kept'],), fields['bits'], fields['bucket_size']
      values = Scalars(arrays['codes'], low, span, None, *about, False, dtype)
    return cls(arrays['gaps'], values, tuple(fields['shape']), fields['rice'], fields['inverted'], dtype)

  def decode(self, xp: Any = np) -> Any:
    """Makes the tensor; the places are decoded on the host, and a program holds four bytes for each."""
    at, size = self.places(), math.prod(self.shape)
    values = self.values.decode(xp).astype(jnp.dtype(self.dtype))
    flat = xp.zeros(size, values.dtype)
    if xp is np:
      flat[at] = values
    else:
      at = at.astype(np.int32 if size < 2**31 else np.int64)
      flat = flat.at[at].set(values, indices_are_sorted=True, unique_indices=True)
    return flat.reshape(self.shape)


def scalars(values: np.ndarray, bits: int, bucket_size: int) -> Scalars:
  """Puts values on 2^bits equal steps between the extremes of each bucket: the tensor of ``uniform``, in NumPy."""
  wide = values.astype(np.promote_types(values.dtype, np.float32))
  size, top = min(bucket_size, wide.size), 2**bits - 1
  rows = np.pad(wide, (0, -wide.size % size), mode='edge').reshape(-1, size)
  low = rows.min(axis=-1)
  span = rows.max(axis=-1) - low
  span = np.where(span < 1e-10, np.ones_like(span), span)
  codes = np.clip(np.round((rows - low[:, None]) / span[:, None] * top), 0, top).astype(np.uint8)
  packed = pack_bits(codes.reshape(-1)[: wide.size], bits)
  return Scalars(packed, low, span, None, (wide.size,), bits, size, False, values.dtype.name)
