"""Differentiable quantization: the weights stay where they are, and the levels are trained."""

import math
from collections.abc import Mapping
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from lmajax import tree
from lmajax._arguments import as_given, is_between, is_count
from lmajax.compress._tensors import PackedTree, Plain, Scalars, pack_bits, uncut
from lmajax.compress._uniform import BucketSize, check, copied, cut, min_max, wide
from lmajax.types import Reparam

MOST = 256


def scaled(rows: Float[Array, 'b n'], low: Float[Array, ' b'], span: Float[Array, ' b']) -> Float[Array, 'b n']:
  """Puts every bucket between 0 and 1."""
  return (rows - low[:, None]) / span[:, None]


def nearest(at: Float[Array, 'b n'], levels: Float[Array, ' k']) -> Int[Array, 'b n']:
  """Numbers the nearest of sorted levels: the count of the midpoints below."""
  return jnp.searchsorted((levels[1:] + levels[:-1]) / 2, at)


def quantiles(w: Float[Array, '...'], count: int, bucket_size: BucketSize) -> Float[Array, ' {count}']:
  """Levels at equal steps through the sorted weights, each on the scale of its bucket."""
  rows, _, channels_first = cut(wide(w), bucket_size)
  own = uncut(scaled(rows, *min_max(rows, 0)), w.shape, channels_first)
  return jnp.quantile(own, jnp.linspace(0.0, 1.0, count, dtype=own.dtype))


def points(
  bits: int,
  *,
  bucket_size: BucketSize = 256,
  shares: Mapping[str, int] | None = None,
  start: Literal['quantile', 'uniform'] = 'quantile',
) -> Reparam:
  r"""Puts every weight on the nearest of its tensor's levels; theta is the levels, and the code holds the weights.

  .. math:: \hat w = \ell + r\,p_{i(w)}, \quad i(w) = \arg\min_i \left|\frac{w - \ell}{r} - p_i\right|, \quad
     \frac{\partial L}{\partial p_i} = \sum_{w:\, i(w) = i} r\,\frac{\partial L}{\partial \hat w}

  ℓ and r are the least entry and the range of the weight's bucket. The weights are those that ``init`` saw, and do not
  move; the levels may leave 0 … 1, and need not be in order.

  Args:
    bits: b, 1 … 8; a tensor has 2^b levels.
    bucket_size: as of ``uniform``.
    shares: path -> number of levels of its tensor, 2 … 256, in place of 2^b: what ``share_points`` gives.
    start: levels at equal steps through the sorted weights, or through 0 … 1.

  Raises:
    ValueError: bits, the bucket size or a share are out of range, the start is none of the two, or a tensor has no
      share; from ``init``, a weight is no array of floats or not finite.

  >>> reparam = points(1, bucket_size=None)
  >>> theta, code = reparam.init({'kernel': jnp.array([0., 1., 3., 4.])}, jax.random.key(0))
  >>> theta['kernel'].tolist(), reparam.apply({'kernel': jnp.array([.75, .25])}, code, None)['kernel'].tolist()
  ([0.0, 1.0], [1.0, 1.0, 3.0, 3.0])

  Source: Polino et al. 2018, section 4. Theirs are sorted again after every step; ours are sorted as they are used, so
  that the optimizer's momentum stays with its level.
  """
  check(bits, bucket_size)
  if start not in ('quantile', 'uniform'):
    raise ValueError(f"start is {as_given(start)}; give 'quantile' or 'uniform'")

  def first(path: str, w: Array) -> Array:
    count = 2**bits if shares is None else share_of(shares, path)
    if start == 'uniform' or not w.size:
      return jnp.linspace(0.0, 1.0, count, dtype=np.promote_types(w.dtype, np.float32))
    return quantiles(w, count, bucket_size)

  def init(params, key):
    code = copied(params)
    return tree.map_with_path(first, code), code

  def quantized(levels: Array, w: Array) -> Array:
    if not w.size:
      return w
    rows, _, channels_first = cut(wide(w), bucket_size)
    low, span = min_max(rows, bits)
    ordered = jnp.sort(levels)
    values = ordered[nearest(scaled(rows, low, span), jax.lax.stop_gradient(ordered))]
    return uncut(values * span[:, None] + low[:, None], w.shape, channels_first).astype(w.dtype)

  def tensor(levels: Array, w: Array) -> Scalars | Plain:
    if not w.size:
      return Plain.of(w)
    rows, size, channels_first = cut(wide(jnp.asarray(w)), bucket_size)
    low, span = min_max(rows, bits)
    ordered = jnp.sort(jnp.asarray(levels))
    codes = np.asarray(nearest(scaled(rows, low, span), ordered), np.uint8).reshape(-1)[: w.size]
    width = max(1, math.ceil(math.log2(levels.size)))
    tables = np.asarray(low), np.asarray(span), np.asarray(ordered)
    return Scalars(pack_bits(codes, width), *tables, tuple(w.shape), width, size, channels_first, w.dtype.name)

  return Reparam(
    init=init,
    apply=lambda theta, code, key: jax.tree.map(quantized, theta, code),
    refresh=lambda theta, code, key: code,
    stored=lambda theta, code: PackedTree(jax.tree.map(tensor, theta, code)),
  )


def share_of(shares: Mapping[str, int], path: str) -> int:
  if not is_count(shares.get(path)) or not 2 <= shares[path] <= MOST:
    raise ValueError(f'shares[{path!r}] is {shares.get(path)}; give every tensor 2 to {MOST} levels')
  return shares[path]


def share_points(norms: Mapping[str, float], bits: int) -> dict[str, int]:
  r"""Shares 2^bits levels a tensor out anew: half of them stay with every tensor, the rest follows the gradient.

  .. math:: k_i = 2^{b-1} + \left\lfloor n\,2^{b-1}\,\frac{g_i}{\sum_j g_j} \right\rfloor

  What the rounding leaves over goes to the tensor of the greatest norm. Every tensor gets at least 2, and what one
  would get above 256 is lost; but for that the sum stays n · 2^b. The file has ⌈log2 k⌉ bits a weight, whatever k.

  Args:
    norms: path -> g, the norm of the gradient with respect to the tensor of that path; where all are 0, all are equal.
    bits: b, 1 … 8; with 1 there is nothing to share.

  Raises:
    ValueError: bits are out of range, or a norm is negative or not finite.

  >>> share_points({'stem/kernel': 3., 'head/kernel': 1.}, 4)
  {'stem/kernel': 20, 'head/kernel': 12}

  Source: Polino et al. 2018, section 4, as their code has it; that the rounding is downward and that the bounds are 2
  and 256 is our choice.
  """
  check(bits, None)
  for path, norm in norms.items():
    if not is_between(norm, 0.0, math.inf) or norm == math.inf:
      raise ValueError(f'norms[{path!r}] is {as_given(norm)}; a norm is finite and not negative')
  total, kept = len(norms) * 2**bits, max(2, 2 ** (bits - 1))
  whole = sum(norms.values())
  parts = {path: norm / whole if whole else 1 / len(norms) for path, norm in norms.items()}
  shares = {path: kept + int((total - len(norms) * kept) * part) for path, part in parts.items()}
  shares[max(norms, key=lambda path: (norms[path], path))] += total - sum(shares.values())
  return {path: min(share, MOST) for path, share in shares.items()}
