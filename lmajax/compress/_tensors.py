"""One tensor as it lies in a file, in its three kinds, and the tree of them that ``Reparam.stored`` gives."""

import dataclasses
import math
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np

from lmajax import tree

DECODED = ('float32', 'float64', 'bfloat16', 'float16')
"""What the weights of a coded tensor may be of; their tables and scales are of float32 at least."""


@runtime_checkable
class Tensor(Protocol):
  """One tensor of a file: named arrays, and a few plain fields that say how they are read."""

  def arrays(self) -> dict[str, np.ndarray]:
    """Returns the stored arrays; elements of fewer than 8 bits are packed into bytes already."""
    ...

  def shared(self) -> dict[str, np.ndarray]:
    """Returns the arrays that it shares with other tensors, the same objects in each: a file has them once."""
    return {}

  def fields(self) -> dict[str, Any]:
    """The rest of it, of JSON's types."""
    ...

  @classmethod
  def of_file(cls, fields: dict[str, Any], arrays: dict[str, np.ndarray]) -> 'Tensor':
    """Puts ``fields()``, ``arrays()`` and ``shared()`` together again."""
    ...

  def decode(self, xp: Any = np) -> Any:
    """Makes the tensor, in NumPy or by the same lines in ``jax.numpy``."""
    ...


def pack_bits(codes: np.ndarray, bits: int) -> np.ndarray:
  """Lays integers below 2^bits end to end, the highest bit first, and fills the last byte up with zeros."""
  each = (codes.reshape(-1, 1) >> np.arange(bits - 1, -1, -1, dtype=np.uint8)) & 1
  return np.packbits(each.astype(np.uint8))


def unpack_bits(packed: Any, bits: int, count: int, xp: Any = np) -> Any:
  """Takes the first ``count`` integers of ``pack_bits`` out again, as uint8."""
  flat = xp.unpackbits(packed)[: count * bits].reshape(count, bits)
  weights = xp.asarray(1 << np.arange(bits - 1, -1, -1), dtype=np.uint8)
  return (flat * weights[None]).sum(axis=-1, dtype=np.uint8)


def check_dtype(dtype: str) -> None:
  if dtype not in DECODED:
    raise ValueError(f'a tensor of {dtype}')


def check_shape(shape: tuple[int, ...], bits: int) -> None:
  if not all(type(size) is int and size > 0 for size in (*shape, bits)) or bits > 8:
    raise ValueError(f'a tensor of the shape {shape} in {bits} bits')


def check_codes(codes: np.ndarray, bits: int, count: int, table: np.ndarray | None) -> None:
  """Checks the number of codes, and that each is the number of a row; allocates nothing before the first is known."""
  if codes.dtype != np.uint8 or codes.shape != (-(-count * bits // 8),):
    raise ValueError(f'{codes.nbytes} bytes for {count} codes of {bits} bits')
  if table is None or len(table) == 2**bits:
    return
  if len(table) > 2**bits or unpack_bits(codes, bits, count).max() >= len(table):
    raise ValueError(f'codes of {bits} bits for a table of {len(table)}')


@dataclasses.dataclass(frozen=True)
class Plain(Tensor):
  """An array as it is."""

  array: np.ndarray

  @property
  def shape(self) -> tuple[int, ...]:
    return self.array.shape

  @classmethod
  def of(cls, leaf: Any) -> 'Plain':
    return cls(np.asarray(leaf))

  def arrays(self) -> dict[str, np.ndarray]:
    return {'': self.array}

  def fields(self) -> dict[str, Any]:
    return {}

  @classmethod
  def of_file(cls, fields: dict[str, Any], arrays: dict[str, np.ndarray]) -> 'Plain':
    return cls(arrays[''], **fields)

  def decode(self, xp: Any = np) -> Any:
    return xp.asarray(self.array)


@dataclasses.dataclass(frozen=True)
class Scalars(Tensor):
  """Every entry a level of its bucket: ``low[b] + span[b] · levels[code]``."""

  codes: np.ndarray  # packed
  low: np.ndarray  # float32, one per bucket
  span: np.ndarray
  levels: np.ndarray | None  # float32; None: 0 … 1 in equal steps
  shape: tuple[int, ...]
  bits: int
  bucket_size: int
  channels_first: bool  # the last axis was brought to the front before the cut into buckets
  dtype: str = 'float32'  # of the weights

  def __post_init__(self):
    check_shape(self.shape, self.bits)
    check_dtype(self.dtype)
    if self.levels is not None and self.levels.ndim != 1:
      raise ValueError(f'levels of the shape {self.levels.shape}')
    check_codes(self.codes, self.bits, self.count(), self.levels)
    if type(self.bucket_size) is not int or not 1 <= self.bucket_size <= self.count():
      raise ValueError(f'buckets of {self.bucket_size} in a tensor of {self.count()}')
    if not self.low.shape == self.span.shape == (-(-self.count() // self.bucket_size),):
      raise ValueError(f'{self.low.size} and {self.span.size} scales for buckets of {self.bucket_size}')
    if type(self.channels_first) is not bool or (self.channels_first and not self.shape):
      raise ValueError(f'channels_first is {self.channels_first} in a tensor of the shape {self.shape}')

  def arrays(self) -> dict[str, np.ndarray]:
    trained = {} if self.levels is None else {'levels': self.levels}
    return {'codes': self.codes, 'scales': np.stack([self.low, self.span]), **trained}

  def count(self) -> int:
    return math.prod(self.shape)

  def fields(self) -> dict[str, Any]:
    names = ('shape', 'bits', 'bucket_size', 'channels_first')
    return {**{name: getattr(self, name) for name in names}, **narrow(self.dtype)}

  @classmethod
  def of_file(cls, fields: dict[str, Any], arrays: dict[str, np.ndarray]) -> 'Scalars':
    low, span = arrays['scales']
    own = {'dtype': 'float32', **fields, 'shape': tuple(fields['shape'])}
    names = ('shape', 'bits', 'bucket_size', 'channels_first', 'dtype')
    return cls(arrays['codes'], low, span, arrays.get('levels'), **{name: own[name] for name in names})

  def decode(self, xp: Any = np) -> Any:
    count = self.count()
    codes = unpack_bits(xp.asarray(self.codes), self.bits, count, xp)
    levels = xp.asarray(equal_levels(self.bits) if self.levels is None else self.levels)
    filled = xp.pad(codes, (0, -count % self.bucket_size)).reshape(-1, self.bucket_size)
    values = levels[filled] * xp.asarray(self.span)[:, None] + xp.asarray(self.low)[:, None]
    return uncut(values, self.shape, self.channels_first).astype(jnp.dtype(self.dtype))


def narrow(dtype: str) -> dict[str, Any]:
  """The field of a dtype; float32 goes without saying."""
  return {} if dtype == 'float32' else {'dtype': dtype}


def uncut(rows: Any, shape: tuple[int, ...], channels_first: bool) -> Any:
  """Puts the buckets of a tensor together again, in NumPy or in JAX."""
  return joined(rows, shape) if channels_first else rows.reshape(-1)[: math.prod(shape)].reshape(shape)


def equal_levels(bits: int) -> np.ndarray:
  """0 … 1 in 2^bits − 1 equal steps."""
  return np.arange(2**bits, dtype=np.float32) / np.float32(2**bits - 1)


@dataclasses.dataclass(frozen=True)
class Blocks(Tensor):
  """Every block of a filter's entries a row of the codebook; a filter's last block may stick out over its end."""

  codes: np.ndarray  # packed
  codebook: np.ndarray  # float32 [centroids, block_size]
  shape: tuple[int, ...]
  bits: int
  dtype: str = 'float32'  # of the weights

  def __post_init__(self):
    check_shape(self.shape, self.bits)
    check_dtype(self.dtype)
    if self.codebook.ndim != 2 or not self.codebook.size:
      raise ValueError(f'a codebook of the shape {self.codebook.shape}')
    check_codes(self.codes, self.bits, self.count(), self.codebook)

  def arrays(self) -> dict[str, np.ndarray]:
    return {'codes': self.codes, 'codebook': self.codebook}

  def count(self) -> int:
    filters = (1, *self.shape)[-1]
    return filters * -(-math.prod(self.shape) // filters // self.codebook.shape[-1])

  def fields(self) -> dict[str, Any]:
    return {'shape': self.shape, 'bits': self.bits, **narrow(self.dtype)}

  @classmethod
  def of_file(cls, fields: dict[str, Any], arrays: dict[str, np.ndarray]) -> 'Blocks':
    shape, dtype = tuple(fields['shape']), fields.get('dtype', 'float32')
    return cls(arrays['codes'], arrays['codebook'], shape, fields['bits'], dtype)

  def decode(self, xp: Any = np) -> Any:
    codes = unpack_bits(xp.asarray(self.codes), self.bits, self.count(), xp)
    return joined(xp.asarray(self.codebook)[codes], self.shape).astype(jnp.dtype(self.dtype))


def joined(blocks: Any, shape: tuple[int, ...]) -> Any:
  """Puts the blocks of all filters, in the order of the filters, together to a tensor, in NumPy or in JAX."""
  filters = (1, *shape)[-1]
  return blocks.reshape(filters, -1)[:, : math.prod(shape) // filters].T.reshape(shape)


class PackedTree(NamedTuple):
  """A tree of tensors as they lie in a file; ``|`` puts two together whose leaves exclude each other.

  >>> PackedTree({'bias': Plain(np.zeros(2, np.float32))}).decode()
  {'bias': array([0., 0.], dtype=float32)}
  """

  tensors: Any

  def decode(self, xp: Any = np) -> Any:
    """Makes the weights, in NumPy; handed ``jax.numpy``, in a program that holds them packed."""
    return jax.tree.map(lambda tensor: tensor.decode(xp), self.tensors)

  def bits(self) -> int:
    """Counts the bits of all arrays: packed codes (whole bytes), tables and scales, and once what tensors share."""
    tensors = jax.tree.leaves(self.tensors)
    own = [array for tensor in tensors for array in tensor.arrays().values()]
    shared = {id(array): array for tensor in tensors for array in tensor.shared().values()}
    return 8 * sum(array.nbytes for array in (*own, *shared.values()))

  def size(self) -> int:
    """Counts the weights, as they are once they are decoded; nothing is."""
    return sum(math.prod(tensor.shape) for tensor in jax.tree.leaves(self.tensors))

  def mean_bits(self) -> float:
    """The bits of the codes and of the gaps, tables and scales apart, over all weights that have one; 32 for none."""
    coded = [tensor for tensor in jax.tree.leaves(self.tensors) if {'codes', 'gaps'} & set(tensor.arrays())]
    weights = sum(math.prod(tensor.shape) for tensor in coded)
    gaps = 8 * sum(tensor.arrays()['gaps'].nbytes for tensor in coded if 'gaps' in tensor.arrays())
    return (gaps + sum(tensor.bits * tensor.count() for tensor in coded)) / weights if weights else 32.0

  def __or__(self, other: 'PackedTree') -> 'PackedTree':
    return PackedTree(tree.combine(self.tensors, other.tensors))
