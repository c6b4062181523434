"""Weights that are zero where a mask says so, in training, in a program and in a file."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from lmajax import tree
from lmajax._arguments import as_given, check_count, is_count, of_type, shown
from lmajax.compress._scores import MaskTree
from lmajax.compress._sparse import Sparse, scalars
from lmajax.compress._tensors import PackedTree, Plain
from lmajax.compress._uniform import copied, cut, min_max, quantized_rows, wide
from lmajax.types import Params, Reparam


def sparse(
  *, bits: int | None = None, bucket_size: int = 256, start: Callable[[Params], MaskTree] | None = None
) -> Reparam:
  r"""Puts zeros where a mask is false; theta is the weights themselves, and the code is the mask.

  .. math:: \hat w_i = \begin{cases} q(w_i) & \text{where } m_i \\ 0 & \text{otherwise} \end{cases}

  What is masked gets no gradient; that of the rest goes straight through q. A mask is chosen between fits, as in
  ``code = keep(lamp(theta), .05)``, and ``refresh`` leaves it as it is: to score anew raised the error in 55 of 200
  draws. A file holds the places that stay, by Golomb's code, and their values alone. Measure the statistics of batch
  norms again under a new mask: at a density of .1 that took a network from 26 % back to 90 %.

  Args:
    bits: of the values that stay. None: as they are. 16: the nearest of float16, at most ±65504. 1 … 8: q puts them on
      2^bits equal steps between the extremes of their bucket, as ``uniform`` does.
    bucket_size: values that stay a bucket, in the order of the flattened tensor; two float32 numbers are stored for
      each. So the zeros stretch no range, and none of them comes back to life.
    start: weights -> their mask, for ``init``, such as ``lambda params: keep(lamp(params), .05)``; by default all stay.

  Raises:
    ValueError: bits or the bucket size are out of range, or a mask is no array of bools of its weights' shape; from
      ``init``, a weight is no array of floats or not finite.

  >>> reparam = sparse(start=lambda params: keep(magnitude(params), .5))
  >>> theta, code = reparam.init({'kernel': jnp.array([3., -1., .5, -2.])}, jax.random.key(0))
  >>> reparam.apply(theta, code, None)['kernel'].tolist(), reparam.stored(theta, code).bits()
  ([3.0, 0.0, 0.0, -2.0], 72)

  Source: Han et al. 2015, with the mask in the forward pass in place of one in the optimizer, whose momentum would move
  what it hides. That ranges are those of the values that stay is our choice.
  """
  if bits not in (None, 16) and (not is_count(bits) or not 1 <= bits <= 8):
    raise ValueError(f'bits is {as_given(bits)}; give 1 to 8, 16, or None for the values as they are')
  check_count('bucket_size', bucket_size, 1)

  def quantized(w: Array, mask: Array) -> Array:
    if bits is None or not w.size:
      return w
    return halved(w).astype(w.dtype) if bits == 16 else in_buckets(w, mask, bits, bucket_size)

  def made(w: Array, mask: Array, key: jax.Array | None) -> Array:
    if key is None or bits is None:
      values = quantized(w, mask)
    else:
      fixed = jax.lax.stop_gradient(w)
      values = quantized(fixed, mask) + (w - fixed)  # the difference is 0 and has the gradient
    return jnp.where(mask, values, jnp.zeros_like(w))

  def init(params, key):
    theta = copied(params)
    mask = jax.tree.map(lambda w: jnp.ones(w.shape, bool), theta) if start is None else start(theta)
    check_masks(theta, mask)
    return theta, mask

  def tensor(w: Any, mask: Any) -> Sparse | Plain:
    if not w.size:
      return Plain.of(w)
    flags = np.asarray(mask)
    kept = np.asarray(halved(jnp.asarray(w)) if bits == 16 else w)[flags]
    if bits is None or bits == 16 or not kept.size:
      values = Plain(kept if bits is None else kept.astype(np.float16))
    else:
      values = scalars(kept, bits, bucket_size)
    return Sparse.of(flags, values, w.dtype.name)

  def apply(theta, code, key):
    check_masks(theta, code)
    return jax.tree.map(lambda w, mask: made(w, mask, key), theta, code)

  def stored(theta, code):
    check_masks(theta, code)
    return PackedTree(jax.tree.map(tensor, theta, code))

  return Reparam(init, apply, lambda theta, code, key: code, stored)


def check_masks(theta: Params, code: MaskTree) -> None:
  if jax.tree.structure(theta) != jax.tree.structure(code):
    raise ValueError('the masks are no tree like that of the weights; give one for each, None where there is none')
  tree.map_with_path(check_mask, theta, code)


def check_mask(path: str, w: Any, mask: Any) -> None:
  if not of_type(mask, jnp.bool_) or mask.shape != w.shape:
    raise ValueError(f'the mask of {path} is {shown(mask)}; give an array of bools of the shape {w.shape}')


def halved(w: Float[Array, '...']) -> Float[Array, '...']:
  """The nearest numbers of float16, in float32 at least; below its normal ones they are 0."""
  # A cast and the cast back would be dropped where XLA may keep excess precision.
  most = float(np.finfo(np.float16).max)
  return jax.lax.reduce_precision(jnp.clip(wide(w), -most, most), 5, 10)


def in_buckets(w: Float[Array, '...'], mask: Bool[Array, '...'], bits: int, bucket_size: int) -> Float[Array, '...']:
  """Quantizes what the mask keeps, in buckets of it alone; what it hides gets any value."""
  flat, stays = wide(w).reshape(-1), mask.reshape(-1)
  rank = jnp.cumsum(stays.astype(jnp.int32)) - 1
  to = jnp.where(stays, rank, flat.size)
  first = jnp.zeros_like(flat).at[to].set(flat, mode='drop')
  # Behind the last one that stays comes itself again: a bucket that it shares keeps its extremes.
  last = jnp.maximum(rank[-1], 0)
  first = jnp.where(jnp.arange(flat.size) <= last, first, first[last])
  rows = cut(first, bucket_size).rows
  values = quantized_rows(rows, *min_max(rows, bits), bits, None).reshape(-1)
  return values[jnp.maximum(rank, 0)].reshape(w.shape).astype(w.dtype)
