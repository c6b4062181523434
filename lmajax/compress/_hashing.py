"""Structured multi-hashing: all weights of a network from one product of two thin factors; and pools beside it."""

import dataclasses
import itertools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float

from lmajax import tree
from lmajax._arguments import as_given, check_count, check_floats, is_between
from lmajax.compress._combine import kernels
from lmajax.compress._generated import MOST, Generated, numbers, scaled
from lmajax.compress._tensors import PackedTree, Plain
from lmajax.types import Reparam, Where


class Theta(NamedTuple):
  """What is trained: the arrays that all weights share, and a scale for each leaf, None where scales are not trained.

  ``shared`` has ``left`` and ``right``, the factors, or ``pools``.
  """

  shared: dict[str, Float[Array, '...']]
  scales: Any


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Layout:
  """The tree that weights make, in which no array is held: where each leaf begins, its shape and its type."""

  structure: Any
  offsets: tuple[int, ...]
  shapes: tuple[tuple[int, ...], ...]
  dtypes: tuple[str, ...]

  @classmethod
  def of(cls, params: Any) -> 'Layout':
    leaves, structure = jax.tree.flatten(params)
    shapes = tuple(tuple(leaf.shape) for leaf in leaves)
    ends = itertools.accumulate((math.prod(shape) for shape in shapes), initial=0)
    return cls(structure, tuple(ends)[:-1], shapes, tuple(leaf.dtype.name for leaf in leaves))

  def size(self) -> int:
    return sum(map(math.prod, self.shapes))

  def made(self, leaf: Callable[..., Any], scales: Any) -> Any:
    """Makes the tree from a function of (offset, shape, dtype, scale)."""
    parts = zip(self.offsets, self.shapes, self.dtypes, jax.tree.leaves(scales), strict=True)
    return self.structure.unflatten([leaf(*part) for part in parts])


class Hashed(NamedTuple):
  """The code: the layout, and the scales where they are not trained."""

  layout: Layout
  scales: Any


def side(count: int) -> int:
  """n, the side of the least square that holds so many weights."""
  return math.isqrt(count - 1) + 1 if count else 0


def least_ratio(params: Any, *, where: Where = kernels) -> float:
  r"""Gives the least ratio that ``multi_hash`` can have on these weights, :math:`2 n / N`, about :math:`2/\sqrt N`.

  Args:
    params: a pytree of arrays or of ``jax.ShapeDtypeStruct``.
    where: (path, leaf) -> whether it is one of the N; as of ``masked``.

  Raises:
    ValueError: no leaf is selected, or those that are have no weights.

  >>> least_ratio({'kernel': jnp.zeros((100, 100)), 'bias': jnp.zeros(100)})
  0.02

  Source: Eban et al. 2020, section 3, by its count of 2 n M with M = 1.
  """
  count = tree.size(tree.partition(params, where)[0])
  if not count:
    raise ValueError('where selects no weights; hand another')
  return 2 * side(count) / count


def multi_hash(ratio: float, *, trained_scale: bool = True) -> Reparam:
  r"""Makes all weights of a network from one product of two thin factors, with a scale a layer; theta is these.

  .. math:: w_l[i] = s_l \sum_{m=1}^{M} U_{r m} V_{m c}, \quad r = \lfloor (o_l + i)/n \rfloor,
     \quad c = (o_l + i) \bmod n, \quad n = \lceil \sqrt N \rceil, \quad M = \lfloor \rho N / 2n \rfloor

  The N weights lie side by side in the order of their paths, layer l from place :math:`o_l` on, and fill the rows of an
  n × n matrix, which is never made as a whole: a leaf multiplies the rows that it stands in. Entries of U and V start
  normal with deviation :math:`M^{-1/4}`, so that a product's is 1, and :math:`s_l` starts at the deviation of the
  layer's own weights, whose values are forgotten. Train from there: nothing is fitted.

  Args:
    ratio: ρ, above 0 and at most 1. U and V have 2 n M numbers, at most ρ N; ``least_ratio`` gives the least for which
      M is 1. The scales, one a leaf, come on top.
    trained_scale: train the scales; else they stay where they start, in the code.

  Raises:
    ValueError: the ratio is out of range; from ``init``, it is below the least for these weights, which is named; a
      weight is no array of floats or not finite; a leaf whose weights are all equal, as those of zero biases and unit
      norms are, would become zero (known where ``init`` runs outside of ``jax.jit``): select others by ``masked``.

  >>> reparam = masked(multi_hash(.5))
  >>> params = {'kernel': jax.random.normal(jax.random.key(0), (20, 20)), 'bias': jnp.zeros(20)}
  >>> theta, code = reparam.init(params, jax.random.key(1))
  >>> theta.selected.shared['left'].shape, reparam.apply(theta, code, None)['kernel'].shape
  ((20, 5), (20, 20))

  Source: structured multi-hashing, Eban et al., CVPR 2020, section 3. The paper rounds M up and hashes biases; the
  released code rounds M down, as here, so that the ratio is never exceeded. The scale is a number, not its logarithm,
  since it may change its sign in training. A normal start for every layer and the order by path are choices; the paper
  takes layers as they were created.
  """
  _check_ratio(ratio)

  def init(params, key):
    layout, deviations = _begun(params)
    count = layout.size()
    n = side(count)
    rank = _whole(ratio, count) // (2 * n) if count else 1
    if not rank:
      raise ValueError(f'ratio is {ratio}; the least for these {count:,} weights is {2 * n / count:.6g}')
    dtype = _widest(deviations)
    deviation = jnp.asarray(rank**-0.25, dtype)
    keys = jax.random.split(key)
    shapes = {'left': (n, rank), 'right': (rank, n)}
    factors = {
      name: deviation * jax.random.normal(k, shapes[name], dtype) for name, k in zip(shapes, keys, strict=True)
    }
    trained, fixed = (deviations, None) if trained_scale else (None, deviations)
    return Theta(factors, trained), Hashed(layout, fixed)

  return _made(init, signed=False)


def hash_pools(ratio: float, hashes: int, *, signed: bool = False) -> Reparam:
  r"""Makes every weight of a network from numbers of shared pools, at places that hashes give; theta is the pools.

  .. math:: w_l[i] = s_l \sum_{k=1}^{K} \xi_k(o_l + i)\, p_k[h_k(o_l + i)], \quad p_k \in \mathbb R^T, \quad
     T = \lfloor \rho N / K \rfloor

  The baseline that ``multi_hash`` is compared with. Each :math:`h_k` is a hash of 32 bits, the same in NumPy and in
  JAX, and :math:`s_l` a scale a layer, which is trained. Pools start normal with deviation :math:`K^{-1/2}`.

  Args:
    ratio: ρ, above 0 and at most 1: the pools have at most ρ N numbers.
    hashes: K, 1 … 16; each has a pool of its own.
    signed: let another bit of the hash choose a sign ξ, −1 or 1; else ξ is 1.

  Raises:
    ValueError: the ratio or the hashes are out of range; from ``init`` as of ``multi_hash``.

  >>> reparam = masked(hash_pools(.5, 2))
  >>> params = {'kernel': jax.random.normal(jax.random.key(0), (20, 20)), 'bias': jnp.zeros(20)}
  >>> reparam.init(params, jax.random.key(1))[0].selected.shared['pools'].shape
  (2, 100)

  Source: the hash pools of Eban et al. 2020, section 4, after HashedNets (Chen et al. 2015), which have a pool a layer
  and signs. The hash is the last step of MurmurHash3, and a pool's deviation keeps the sum's at 1; the released code
  divides by K. Both are choices.
  """
  _check_ratio(ratio)
  check_count('hashes', hashes, 1, 16)

  def init(params, key):
    layout, deviations = _begun(params)
    count = layout.size()
    size = _whole(ratio, count) // hashes if count else 1
    if not size:
      raise ValueError(f'ratio is {ratio}; the least for these {count:,} weights is {hashes / count:.6g}')
    if count > MOST:
      raise ValueError(f'there are {count:,} weights; a hash of 32 bits has places for {MOST:,}')
    dtype = _widest(deviations)
    pools = jnp.asarray(hashes**-0.5, dtype) * jax.random.normal(key, (hashes, size), dtype)
    return Theta({'pools': pools}, deviations), Hashed(layout, None)

  return _made(init, signed=signed)


def _made(init: Callable[..., Any], *, signed: bool) -> Reparam:
  def apply(theta, code, key):
    del key

    def leaf(offset, shape, dtype, scale):
      return scaled(numbers(theta.shared, offset, math.prod(shape), signed, jnp), scale, shape, dtype, jnp)

    return code.layout.made(leaf, code.scales if theta.scales is None else theta.scales)

  def stored(theta, code):
    shared = jax.tree.map(np.asarray, theta.shared)

    def leaf(offset, shape, dtype, scale):
      if not math.prod(shape):
        return Plain(np.zeros(shape, jnp.dtype(dtype)))
      return Generated(np.asarray(scale), shared, shape, offset, signed, dtype)

    return PackedTree(code.layout.made(leaf, code.scales if theta.scales is None else theta.scales))

  return Reparam(init, apply, lambda theta, code, key: code, stored)


def _check_ratio(ratio: float) -> None:
  if not is_between(ratio, 0.0, 1.0) or ratio == 0:
    raise ValueError(f'ratio is {as_given(ratio)}; give a number above 0, at most 1')


def _whole(ratio: float, count: int) -> int:
  """ρ N rounded down; a ratio that was made of whole numbers gives them again."""
  return math.floor(ratio * count * (1 + 1e-12))


def _begun(params: Any) -> tuple[Layout, Any]:
  """The layout, and the deviation of every leaf, in float32 at least."""
  tree.map_with_path(check_floats, params)
  tree.check_finite(params)

  def deviation(path: str, leaf: Any) -> Any:
    found = leaf.astype(np.promote_types(leaf.dtype, np.float32)).std() if leaf.size else jnp.zeros((), np.float32)
    if leaf.size and not isinstance(found, Tracer) and not found > 0:
      raise ValueError(f'{path} has the deviation 0, and would become zero; select others by masked')
    return found

  return Layout.of(params), tree.map_with_path(deviation, params)


def _widest(deviations: Any) -> Any:
  return np.result_type(np.float32, *(leaf.dtype for leaf in jax.tree.leaves(deviations)))
