"""The gradient rule of LMA: two functions, each the other's derivative, that keep nothing of x's size but x."""

import itertools
import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from lmajax._versions import as_varying, varying
from lmajax.activations._stats import added

_ROWS = 4  # summed before the running total is touched
_DEVICES = 8  # over which a batch may be spread without moving
_LEAST = 8  # columns a vector of sums: fewer are slower
_TOTALS = 2**15  # numbers in the running total of the sums: small enough for a core's cache
_TOGETHER = 16  # segments whose sums a GPU takes in one kernel: XLA writes the terms of twice as many to memory


def select(
  at: Float[Array, '*shape'], table: Float[Array, 'k ...'], cuts: Float[Array, 'cuts ...']
) -> Float[Array, '...']:
  """The table's entry for the segment in which each element of ``at`` lies; entries and cuts are numbers or rows."""
  at, entry = at.astype(cuts.dtype), table[0]
  for cut, above in zip(cuts, table[1:], strict=True):
    entry = jnp.where(at >= cut, above, entry)
  return entry


def alike(*arrays: Array) -> list[Array]:
  """Varying over all the axes of ``shard_map`` over which one of them varies: a rule may not cast what JAX would."""
  axes = frozenset[str]().union(*map(varying, arrays))
  return [as_varying(a, tuple(axes - varying(a))) for a in arrays]


def plain(
  at: Float[Array, '*shape'],
  x: Float[Array, '*shape'],
  slopes: Float[Array, 'k ...'],
  intercepts: Float[Array, 'k ...'] | None,
  cuts: Float[Array, 'cuts ...'],
) -> Float[Array, '*shape']:
  """``slope · x + intercept``, of the segments in which ``at`` lies; no gradient flows into ``at`` and ``cuts``.

  Where x is not finite the slope gets none either, since even a zero that comes back would make NaN of it.
  """
  slope = select(at, slopes, cuts)
  y = jnp.where(jnp.isfinite(x), slope, jax.lax.stop_gradient(slope)) * x.astype(cuts.dtype)
  return (y if intercepts is None else y + select(at, intercepts, cuts)).astype(x.dtype)


affine = jax.custom_vjp(plain)


def _affine_forward(at, x, slopes, intercepts, cuts):
  return affine(at, x, slopes, intercepts, cuts), (at, x, slopes, intercepts, cuts)


def _affine_backward(kept, g):
  at, x, slopes, intercepts, cuts = kept
  dslopes, dintercepts = segment_sums(at, x, g, cuts)
  return None, _once(affine(at, g, slopes, None, cuts)), dslopes, None if intercepts is None else dintercepts, None


affine.defvjp(_affine_forward, _affine_backward)


def _once(dx: Array) -> Array:
  """Has the gradient of x computed but once: each of the sums that a batch norm takes of it would select again.

  Without it a step of the paper's student 3 takes a TPU v5e 3.37 M estimated cycles in float32, with it 2.29 M; in
  bfloat16 it is the other way, 1.84 M against 2.15 M. An H100 moves an eighth less in bfloat16, and as much in float32.
  """
  kept = jax.lax.optimization_barrier
  return jax.lax.platform_dependent(dx, tpu=kept if dx.dtype.itemsize >= 4 else lambda dx: dx, default=kept)


@jax.custom_vjp
def segment_sums(
  at: Float[Array, '*shape'], x: Float[Array, '*shape'], g: Float[Array, '*shape'], cuts: Float[Array, ' cuts']
) -> tuple[Float[Array, ' k'], Float[Array, ' k']]:
  """The sums of ``g · x``, where x is finite, and of ``g`` over each segment, in the type of ``cuts``."""
  if any(axis is not None for axis in jax.typeof(at).sharding.spec):  # an explicit mesh axis: no lane may cut across it
    return _by_segments(at, x, g, cuts)
  return jax.lax.platform_dependent(at, x, g, cuts, cpu=_by_lanes, default=_by_segments)


def _sums_forward(at, x, g, cuts):
  return segment_sums(at, x, g, cuts), (at, x, g, cuts)


def _sums_backward(kept, cotangents):
  at, x, g, cuts = kept
  slopes, intercepts = cotangents
  return None, affine(at, g, slopes, None, cuts), affine(at, _finite(x), slopes, intercepts, cuts), None


segment_sums.defvjp(_sums_forward, _sums_backward)


def _by_segments(at: Array, x: Array, g: Array, cuts: Array) -> tuple[Array, Array]:
  """The sums of 2 K masked terms, which the compilers of GPUs and TPUs fuse with the gradient of x.

  Together they then read x and g once and write the gradient of x: all that has to move. Three things keep it so:
  the masks are not the comparisons of ``select``, which a TPU would write to memory for both; no two segments share a
  product, which a GPU would write in float32; and a GPU makes one kernel of one reduction alone, where a TPU fuses
  plain sums. ``bench compiled`` shows it.
  """
  at, x, g = (a.astype(cuts.dtype) for a in (at, x, g))
  above = [jnp.maximum(at, cut) == at for cut in cuts]
  inside = [~above[0], *(low & ~high for low, high in itertools.pairwise(above)), above[-1]]
  finite = jnp.abs(x) <= jnp.finfo(x.dtype).max  # only the two open segments hold what is not
  sloped = [inside[0] & finite, *inside[1:-1], inside[-1] & finite]
  terms = [(_where(i, g) * _where(s, x), _where(i, g)) for i, s in zip(inside, sloped, strict=True)]
  totals = []
  for i in range(0, len(terms), _TOGETHER):
    group = itertools.chain(*terms[i : i + _TOGETHER])
    totals += jax.lax.platform_dependent(*group, cpu=_one_by_one, tpu=_one_by_one, default=_in_one_pass)
  return jnp.stack(totals[::2]), jnp.stack(totals[1::2])


def _one_by_one(*terms: Array) -> tuple[Array, ...]:
  return tuple(term.sum() for term in terms)


def _in_one_pass(*terms: Array) -> tuple[Array, ...]:
  zeros = (jnp.zeros((), terms[0].dtype),) * len(terms)
  return tuple(jax.lax.reduce(terms, zeros, added, range(terms[0].ndim)))


def _where(mask: Array, value: Array) -> Array:
  return jnp.where(mask, value, jnp.zeros_like(value))


def _finite(x: Array) -> Array:
  """0 for what is not; ``isfinite`` would cost the CPU a tenth of the whole gradient instead of a fiftieth."""
  return _where(jnp.abs(x) <= jnp.finfo(x.dtype).max, x)


def _by_lanes(at: Array, x: Array, g: Array, cuts: Array) -> tuple[Array, Array]:
  """All 2 K sums at once, one beside the other in the vector lanes of the CPU, a block of elements after the other.

  XLA's CPU compiler makes one loop of a single output only, and vectorizes along its last axis: so that is where the
  sums are, and x and g are read once.
  """
  few = math.gcd(at.shape[0], _DEVICES) if at.ndim else 1  # a batch spread over devices stays where it is
  flat = [a.reshape(few, at.size // few) for a in (at, x, g)]
  k, size, dtype = cuts.size + 1, at.size // few, cuts.dtype
  wide = max(k, _LEAST)
  column = jnp.arange(2 * wide)[None, None]
  first, sloped = column % wide == 0, column < wide  # the first segment takes all below its end, and NaN
  low, high = (
    jnp.tile(jnp.pad(cuts, ends, constant_values=jnp.inf), 2)[None, None] for ends in ((1, wide - k), (0, wide - k + 1))
  )  # nothing finite is above infinity: the last segment is open, and nobody looks at the columns beyond it
  lanes = max(1, min(_TOTALS // wide // few, -(-size // _ROWS)))
  count, rest = divmod(size, _ROWS * lanes)

  def sums(*block: Array) -> Array:
    total = jnp.zeros((few, lanes, 2 * wide), dtype)
    blocks = [a.astype(dtype).reshape(few, _ROWS, lanes, 1) for a in block]
    for row in range(_ROWS):
      at, x, g = (a[:, row] for a in blocks)
      at = jnp.minimum(at, jnp.finfo(dtype).max)  # an infinite x lies in the last segment too
      terms = g * jnp.where(sloped, _finite(x), jnp.ones_like(x))
      total += _where((first | (at >= low)) & ~(at >= high), terms)
    return total

  def add(i: Array, total: Array) -> Array:
    arrays, i = jax.lax.optimization_barrier((flat, i))  # else bfloat16 is cast whole, ahead of the loop
    start = i * (_ROWS * lanes)
    return total + sums(*(jax.lax.dynamic_slice_in_dim(a, start, _ROWS * lanes, 1) for a in arrays))

  total = sums(*(jnp.pad(a[:, size - rest :], ((0, 0), (0, _ROWS * lanes - rest))) for a in flat))
  total = (jax.lax.fori_loop(0, count, add, total) if count else total).sum(axis=(0, 1))
  return total[:k], total[wide : wide + k]
