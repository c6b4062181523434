"""Uniform quantization in buckets, trained straight through."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from lmajax import tree
from lmajax._arguments import as_given, check_count, check_floats, is_count
from lmajax.compress._tensors import PackedTree, Plain, Scalars, pack_bits, uncut
from lmajax.types import Reparam

BucketSize = int | Literal['channel'] | None
Ranges = Callable[[Array, int], tuple[Array, Array]]


class Buckets(NamedTuple):
  """A tensor cut into rows of equal size, the last one filled up with what it has over and over again."""

  rows: Float[Array, 'b n']
  size: int
  channels_first: bool


def cut(w: Float[Array, '...'], bucket_size: BucketSize) -> Buckets:
  """Cuts a tensor; a whole tensor below the bucket size, or for None, is one bucket, and a channel is a filter."""
  channels_first = bucket_size == 'channel'
  flat = (jnp.moveaxis(w, -1, 0) if channels_first else w).reshape(-1)
  if channels_first:
    size = max(1, w.size // w.shape[-1])
  else:
    size = w.size if bucket_size is None else min(bucket_size, w.size)
  whole = w.size - w.size % size
  rows = flat[:whole].reshape(-1, size)
  if whole < w.size:
    rows = jnp.concatenate([rows, jnp.pad(flat[whole:], (0, whole + size - w.size), mode='wrap')[None]])
  return Buckets(rows, size, channels_first)


def min_max(rows: Float[Array, 'b n'], bits: int) -> tuple[Float[Array, ' b'], Float[Array, ' b']]:
  """Gives each bucket the range from its least to its greatest entry; one below 1e-10 counts as 1.

  >>> [each.tolist() for each in min_max(jnp.array([[-1., 3.], [2., 2.]]), 4)]
  [[-1.0, 2.0], [4.0, 1.0]]

  Source: the quantizer of the authors' code; Polino et al. 2018, section 2.
  """
  del bits
  low = rows.min(axis=-1)
  span = rows.max(axis=-1) - low
  return low, jnp.where(span < 1e-10, jnp.ones_like(span), span)


def least_error(rows: Float[Array, 'b n'], bits: int) -> tuple[Float[Array, ' b'], Float[Array, ' b']]:
  """Gives each bucket, of 16 ranges about its mean from the whole one down to a quarter, that of least squared error.

  What lies outside is clipped. Heavy tails no longer stretch the steps of all others.

  >>> rows = jnp.concatenate([jnp.linspace(-1., 1., 99), jnp.array([10.])])[None]
  >>> bool(least_error(rows, 4)[1][0] < 11.)
  True

  Source: the idea of the histogram observer of quant-noise's scalar code, with the entries in place of a histogram.
  """
  low, span = min_max(rows, bits)
  mean = rows.mean(axis=-1)
  below, above = mean - low, low + span - mean

  def candidate(share: Array) -> tuple[Array, Array, Array]:
    bounds = mean - share * below, share * (below + above)
    error = jnp.square(quantized_rows(rows, *bounds, bits, None) - rows).sum(axis=-1)
    return error, *bounds

  errors, lows, spans = jax.lax.map(candidate, jnp.linspace(1.0, 0.25, 16, dtype=rows.dtype))
  best = errors.argmin(axis=0)[None]
  return jnp.take_along_axis(lows, best, axis=0)[0], jnp.take_along_axis(spans, best, axis=0)[0]


def encode(
  rows: Float[Array, 'b n'], low: Float[Array, ' b'], span: Float[Array, ' b'], bits: int, key: jax.Array | None
) -> Float[Array, 'b n']:
  """Numbers the level of each entry, 0 … 2^bits − 1: the nearest, half to even, or with a key one of two by chance."""
  top = 2**bits - 1
  scaled = (rows - low[:, None]) / span[:, None] * top
  rounded = jnp.round(scaled) if key is None else jnp.floor(scaled + jax.random.uniform(key, rows.shape, rows.dtype))
  return jnp.clip(rounded, 0, top)


def quantized_rows(
  rows: Float[Array, 'b n'], low: Float[Array, ' b'], span: Float[Array, ' b'], bits: int, key: jax.Array | None
) -> Float[Array, 'b n']:
  """Puts each entry on a level of its bucket."""
  return encode(rows, low, span, bits, key) / (2**bits - 1) * span[:, None] + low[:, None]


def uniform(
  bits: int,
  *,
  bucket_size: BucketSize = 256,
  ranges: Ranges = min_max,
  stochastic: bool = False,
  truncated: bool = False,
) -> Reparam:
  r"""Puts every weight on the nearest of 2^bits equally spaced levels of its bucket; theta is the weights themselves.

  .. math:: \hat w = \ell + r\,\frac{\mathrm{round}\bigl((w - \ell)/r \cdot (2^b - 1)\bigr)}{2^b - 1}

  ℓ and r are the bucket's least entry and its range. The gradient goes straight through, to the weights as they are.

  Args:
    bits: b, 1 … 8. Weights of 16 bits are quantized in float32 and given back in their own type.
    bucket_size: entries a bucket, along the flattened tensor; ``'channel'`` for one bucket a filter, None for one a
      tensor. Two float32 numbers are stored for each.
    ranges: ``min_max`` or ``least_error``.
    stochastic: in training, round up or down with the probability that leaves the mean where it is.
    truncated: clip the weights to −1 … 1 first; those outside get no gradient.

  Raises:
    ValueError: bits or the bucket size are out of range; from ``init``, a weight is no array of floats or not finite.

  >>> reparam = uniform(2, bucket_size=4)
  >>> theta, code = reparam.init({'kernel': jnp.array([0., .3, .7, 3.])}, jax.random.key(0))
  >>> reparam.apply(theta, code, None)['kernel'].tolist(), reparam.stored(theta, code).bits()
  ([0.0, 0.0, 1.0, 3.0], 72)

  Source: the LMA paper, "Joint experiment", as its code has it (which leaves out the first and the last tensor, and
  rounds to nearest); Polino et al. 2018, sections 2 and 3, for stochastic rounding and the truncated style.
  """
  check(bits, bucket_size)

  def clipped(w: Array) -> Array:
    return jnp.clip(w, -1.0, 1.0) if truncated else w

  def quantized(w: Array, key: jax.Array | None) -> Array:
    if not w.size:
      return w
    rows, _, channels_first = cut(clipped(wide(w)), bucket_size)
    return uncut(quantized_rows(rows, *ranges(rows, bits), bits, key), w.shape, channels_first).astype(w.dtype)

  def straight_through(w: Array, key: jax.Array) -> Array:
    fixed = jax.lax.stop_gradient(w)
    return clipped(w) + (quantized(fixed, key if stochastic else None) - clipped(fixed))

  def apply(theta, code, key):
    del code
    if key is None:
      return jax.tree.map(lambda w: quantized(w, None), theta)
    return jax.tree.map(straight_through, theta, tree.keys_like(key, theta))

  def tensor(w: Array) -> Scalars | Plain:
    if not w.size:
      return Plain.of(w)
    rows, size, channels_first = cut(clipped(wide(jnp.asarray(w))), bucket_size)
    low, span = ranges(rows, bits)
    codes = np.asarray(encode(rows, low, span, bits, None), np.uint8).reshape(-1)[: w.size]
    return Scalars(
      pack_bits(codes, bits), np.asarray(low), np.asarray(span), None, tuple(w.shape), bits, size, channels_first,
      w.dtype.name,
    )  # fmt: skip

  return Reparam(
    init=lambda params, key: (copied(params), ()),
    apply=apply,
    refresh=lambda theta, code, key: code,
    stored=lambda theta, code: PackedTree(jax.tree.map(tensor, theta)),
  )


def wide(w: Array) -> Array:
  """The weights in float32 at least: in 16 bits a least range of 1e-10 is 0, and a range may be infinite."""
  return w.astype(np.promote_types(w.dtype, np.float32))


def copied(params: Any) -> Any:
  """The weights in new arrays, once they are known to be floats, and finite."""
  tree.map_with_path(check_floats, params)
  tree.check_finite(params)
  return jax.tree.map(jnp.copy, params)


def check(bits: int, bucket_size: BucketSize) -> None:
  check_count('bits', bits, 1, 8)
  if bucket_size not in ('channel', None) and (not is_count(bucket_size) or bucket_size < 1):
    raise ValueError(f"bucket_size is {as_given(bucket_size)}; give a number of entries, at least 1, 'channel' or None")
