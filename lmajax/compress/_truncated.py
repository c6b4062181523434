"""Files of sparse tensors, cut down to a size."""

import math

import jax
import numpy as np

from lmajax._arguments import check_count
from lmajax.compress._pack import pack, unpack
from lmajax.compress._sparse import Sparse, scalars
from lmajax.compress._tensors import PackedTree, Plain, Scalars


def truncated(data: bytes, limit: int, *, entropy: bool = False) -> bytes:
  """Packs a file again with fewer weights, so that it has at most so many bytes: of its sparse tensors the smallest go.

  A file of ``pack`` cannot be cut, since its digest is over all of it. All sparse tensors share one threshold; of equal
  weights the last go first, and dense tensors, statistics and the config stay. Values that are stored as they are stay
  exact; those of codes are put on the levels of their new buckets, within half a level of what they were.

  Args:
    data: a file that ``pack`` wrote.
    limit: bytes of the new file.
    entropy: as of ``pack``, for the new file.

  Returns:
    The bytes of a file for ``unpack``; ``data`` itself where it is short enough.

  Raises:
    ValueError: the bytes are no such file, or without any weight of its sparse tensors the file is longer than that.
    ImportError: safetensors is not installed.

  >>> theta = {'kernel': np.arange(1, 1001, dtype=np.float32)}
  >>> data = pack(sparse().stored(theta, {'kernel': theta['kernel'] > 500}), {}, {})
  >>> less = truncated(data, 1500)
  >>> len(data) > 2000, len(less) <= 1500, float(unpack(less).packed.decode()['kernel'].max())
  (True, True, 1000.0)

  Source: the prefix of a stream, as ``to_stream``, for files with random access.
  """
  check_count('limit', limit, 0)
  model = unpack(data)
  if len(data) <= limit:
    return data
  tensors, structure = jax.tree.flatten(model.packed.tensors)
  values = [np.abs(t.values.decode().astype(np.float64)) for t in tensors if isinstance(t, Sparse)]
  sizes = np.concatenate([np.zeros(0), *values])
  order = np.argsort(-sizes, kind='stable')

  def packed(count: int) -> bytes:
    stays = np.zeros(sizes.size, bool)
    stays[order[:count]] = True
    parts = iter(np.split(stays, np.cumsum([each.size for each in values])))
    fewer = [thinned(t, next(parts)) if isinstance(t, Sparse) else t for t in tensors]
    return pack(PackedTree(structure.unflatten(fewer)), model.stats, model.config, entropy=entropy)

  best, low, high = packed(0), 0, sizes.size
  if len(best) > limit:
    raise ValueError(f'limit is {limit}; without a weight in its sparse tensors the file has {len(best)} bytes')
  while high - low > 1:  # sizes are not quite monotone: what is kept is one that fits
    middle = (low + high) // 2
    tried = packed(middle)
    if len(tried) <= limit:
      best, low = tried, middle
    else:
      high = middle
  return best


def thinned(tensor: Sparse, stays: np.ndarray) -> Sparse:
  """The tensor with only those of its values that stay."""
  mask = np.zeros(math.prod(tensor.shape), bool)
  mask[tensor.places()[stays]] = True
  decoded = tensor.values.decode()[stays]
  values = Plain(decoded)
  if isinstance(tensor.values, Scalars) and decoded.size:
    values = scalars(decoded, tensor.values.bits, tensor.values.bucket_size)
  return Sparse.of(mask.reshape(tensor.shape), values, tensor.dtype)
