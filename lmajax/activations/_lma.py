"""The Light Multi-segment Activation: one affine piece per segment of a layer's input range."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from lmajax._arguments import check_count, check_floats
from lmajax.activations import _gradient
from lmajax.activations._stats import Stats, check_stats


def relu_init(num_segments: int) -> tuple[Float[Array, ' k'], Float[Array, ' k']]:
  """Returns the slopes and intercepts with which LMA is ReLU about the mean: slopes 0 … 0 1 … 1, intercepts 0.

  Args:
    num_segments: K ≥ 2. The first ⌊K/2⌋ slopes are 0, so that for odd K the kink lies half a segment below the mean.

  Raises:
    ValueError: K is below 2.

  >>> relu_init(5)[0].tolist()
  [0.0, 0.0, 1.0, 1.0, 1.0]

  Source: the LMA paper, "Initialization" ("as vanilla ReLU"); the placing for odd K is the authors' code's.
  """
  check_count('num_segments', num_segments, 2)
  zeros = jnp.zeros(num_segments, jnp.float32)
  return jnp.where(jnp.arange(num_segments) < num_segments // 2, zeros, jnp.ones_like(zeros)), zeros


def _wide(*dtypes: np.dtype) -> np.dtype:
  """Float32, or wider where the inputs are; NumPy's rule, because strict promotion forbids JAX's."""
  return functools.reduce(np.promote_types, dtypes, np.dtype(np.float32))


def _cuts(stats: Stats, num_segments: int) -> Float[Array, ' cuts']:
  """The K − 1 inner cuts, mean + 6 std (j/K − 1/2); all on the mean where the std is not finite.

  They are one vector, since a GPU would compute each of several scalars in a kernel of its own.
  """
  std = jnp.where(jnp.isfinite(stats.std), stats.std, jnp.zeros_like(stats.std))
  away = std * jnp.array([6 * j / num_segments - 3 for j in range(1, num_segments)], std.dtype)
  # The least changes no finite number, and keeps a CPU from rounding product and sum at once in some of the loops that
  # compare with the cuts: ``lma`` and ``segment_index`` would part in the last bit.
  return stats.mean + jnp.minimum(away, jnp.finfo(std.dtype).max)


def segment_index(x: Float[Array, '*shape'], stats: Stats, num_segments: int) -> Int[Array, '*shape']:
  r"""Numbers each element's segment, 0 … K − 1.

  .. math:: k(x) = \#\{j \in 1 \dots K-1 : x \ge \mu + 6\sigma\,(j/K - 1/2)\}

  The interval mean ± 3 std falls into K equal segments, of which the first and the last stay open. With a ``std`` of 0
  or one that is not finite every cut lies on the mean. NaN counts as segment 0.

  Args:
    x: the raw layer input, any shape.
    stats: of the same layer input.
    num_segments: K.

  Raises:
    ValueError: K is below 2, or x or the statistics are no floats.

  >>> segment_index(jnp.array([-9., -.1, 0., .8, 9.]), Stats(jnp.array(0.), jnp.array(1.)), 8).tolist()
  [0, 3, 4, 5, 7]

  Source: the LMA paper, equation 3. A cut belongs to the segment above it, as in the authors' code; in the paper it
  belongs to the one below. Comparing and adding, unlike a search or a gather, also runs on data sharded over an
  explicit mesh axis.
  """
  check_count('num_segments', num_segments, 2)
  check_floats('x', x)
  check_stats(stats)
  x = x.astype(_wide(x.dtype, stats.mean.dtype))
  index = jnp.zeros(x.shape, jnp.int32)
  for cut in _cuts(stats, num_segments):
    index += (x >= cut).astype(jnp.int32)
  return index


def lma(
  x: Float[Array, '*shape'], slopes: Float[Array, ' k'], intercepts: Float[Array, ' k'], stats: Stats
) -> Float[Array, '*shape']:
  r"""Applies to each element the affine piece of its segment.

  .. math:: y = \alpha_{k(x)}\, x + \beta_{k(x)}

  ``x`` itself is multiplied, not its standardized value, so the function may jump at the cuts.

  Args:
    x: the raw layer input, any shape and float type; computed in float32 at least and returned in its own type.
    slopes: α, one per segment.
    intercepts: β, one per segment; ``joined_intercepts`` gives those with which the pieces meet.
    stats: ``measure(x)`` in training, ``debias(running)`` in evaluation. They are data: no gradient flows into them.

  Returns:
    y, of the shape of ``x``. NaN counts as segment 0 and gives NaN; an infinite x lies in the first or the last segment
    and gives infinity, or NaN where its slope is 0. An element that is not finite adds nothing to the gradient of its
    slope, as it adds nothing to ``measure``; its intercept and ``x`` get the gradient of any other element.

  Raises:
    ValueError: slopes and intercepts are not two vectors of one length ≥ 2, or something is no array of floats.

  >>> stats = Stats(jnp.array(0.), jnp.array(1.))
  >>> lma(jnp.array([-2., 2.]), *relu_init(8), stats).tolist()
  [0.0, 2.0]

  Source: the LMA paper, equation 4.
  """
  x, *tables = _gradient.alike(x, *_tables(x, slopes, intercepts, stats))
  return _gradient.affine(x, x, *tables)


def lma_plain(
  x: Float[Array, '*shape'], slopes: Float[Array, ' k'], intercepts: Float[Array, ' k'], stats: Stats
) -> Float[Array, '*shape']:
  """``lma`` without its gradient rule: equal in value and derivatives, and open to forward mode.

  ``jax.jvp``, ``jax.jacfwd`` and ``jax.hessian`` go through this one; its gradient takes several times as long and
  keeps every branch of the selection.

  Raises:
    ValueError: as ``lma``.

  >>> stats = Stats(jnp.array(0.), jnp.array(1.))
  >>> y, dy = jax.jvp(lambda x: lma_plain(x, *relu_init(8), stats), (jnp.array(2.),), (jnp.array(3.),))
  >>> float(y), float(dy)
  (2.0, 3.0)

  Source: the LMA paper, equation 4.
  """
  return _gradient.plain(x, x, *_tables(x, slopes, intercepts, stats))


def _tables(x: Array, slopes: Array, intercepts: Array, stats: Stats) -> tuple[Array, Array, Array]:
  """The slopes, the intercepts and the cuts, in the type that an input is computed in."""
  for name, value in (('x', x), ('slopes', slopes), ('intercepts', intercepts)):
    check_floats(name, value)
  check_stats(stats)
  if slopes.ndim != 1 or slopes.shape != intercepts.shape or slopes.size < 2:
    raise ValueError(f'slopes {slopes.shape} and intercepts {intercepts.shape} must be two vectors of one length >= 2')
  wide = _wide(x.dtype, slopes.dtype)
  return slopes.astype(wide), intercepts.astype(wide), _fixed_cuts(stats, slopes.size, wide)


def _fixed_cuts(stats: Stats, num_segments: int, dtype: np.dtype) -> Float[Array, ' cuts']:
  """The cuts in a type of their own, as data: no gradient flows into them."""
  return _cuts(Stats(*(jax.lax.stop_gradient(stat).astype(dtype) for stat in stats)), num_segments)


def joined_intercepts(slopes: Float[Array, ' k'], stats: Stats) -> Float[Array, ' k']:
  r"""Returns the intercepts with which LMA is continuous and 0 at the mean.

  .. math:: \beta_j = \beta_{j-1} + (\alpha_{j-1} - \alpha_j)\, t_j, \qquad y(\mu) = 0

  for the cuts :math:`t_j`. Slopes alone are then trained: half the parameters, no jumps.

  Args:
    slopes: α, one per segment.
    stats: the same that ``lma`` gets; no gradient flows into them.

  Returns:
    β, in float32 at least.

  Raises:
    ValueError: there are fewer than two slopes, or something is no array of floats.

  >>> joined_intercepts(jnp.array([0., 1., 3.]), Stats(jnp.array(0.), jnp.array(1.))).tolist()
  [-1.0, 0.0, -2.0]

  Source: not in the paper. It is a choice of intercepts, not another activation.
  """
  check_floats('slopes', slopes)
  check_stats(stats)
  check_count('num_segments', slopes.size, 2)
  slopes = slopes.astype(_wide(slopes.dtype))
  steps = (slopes[:-1] - slopes[1:]) * _fixed_cuts(stats, slopes.size, slopes.dtype)
  from_first = jnp.concatenate([jnp.zeros_like(steps[:1]), jnp.cumsum(steps)])
  middle = slopes.size // 2
  mean = jax.lax.stop_gradient(stats.mean).astype(slopes.dtype)
  return from_first - (slopes[middle] * mean + from_first[middle])


def fold_batch_norm(
  slopes: Float[Array, ' k'],
  intercepts: Float[Array, ' k'],
  stats: Stats,
  norm: dict[str, Float[Array, ' c']],
  *,
  epsilon: float = 1e-5,
) -> Callable[[Float[Array, '*b c']], Float[Array, '*b c']]:
  r"""Makes one layer of a batch norm and the LMA after it: for inference, an affine piece per segment and channel.

  .. math:: y = \alpha_k a_c\, x + (\alpha_k b_c + \beta_k), \quad
    a = \gamma / \sqrt{v + \epsilon}, \quad b = \beta^{bn} - a m

  with the segment k of :math:`a_c x + b_c`, found by comparing x with cuts of its own channel.

  Args:
    slopes: α of the LMA.
    intercepts: β of the LMA.
    stats: the debiased running statistics of the LMA.
    norm: ``scale``, ``bias``, ``mean`` and ``variance`` of the batch norm, a number per channel.
    epsilon: ε of the norm.

  Returns:
    The function of the norm's input. Within rounding of a cut it may take the neighbouring piece.

  Raises:
    ValueError: as of ``lma``, or the norm's four are no vectors of floats of one length.

  >>> norm = dict(scale=jnp.array([2.]), bias=jnp.array([1.]), mean=jnp.array([0.]), variance=jnp.array([1.]))
  >>> folded = fold_batch_norm(*relu_init(8), Stats(jnp.array(0.), jnp.array(1.)), norm, epsilon=0.)
  >>> folded(jnp.array([[-1.], [1.]])).tolist()
  [[0.0], [3.0]]

  Source: not in the paper.
  """
  if missing := {'scale', 'bias', 'mean', 'variance'} - {*norm}:
    raise ValueError(f'norm has no {", ".join(sorted(missing))}; give scale, bias, mean and variance')
  check_floats('scale', norm['scale'], least_rank=1)
  for name in ('bias', 'mean', 'variance'):
    check_floats(name, norm[name], norm['scale'].shape)
  slopes, intercepts, cuts = (table[:, None] for table in _tables(slopes, slopes, intercepts, stats))
  steep = (norm['scale'] / jnp.sqrt(norm['variance'] + epsilon))[None]
  shift = norm['bias'][None] - steep * norm['mean'][None]
  # A channel that falls meets its segments from the other side; one that is flat lies in one of them, wherever x is.
  sign, flat = jnp.where(steep < 0, -jnp.ones_like(steep), jnp.ones_like(steep)), steep == 0
  inside = jnp.where(shift >= cuts, -jnp.inf, jnp.inf)
  edges = jnp.where(flat, inside, (cuts - shift) / jnp.where(flat, jnp.ones_like(steep), jnp.abs(steep)))
  tables = slopes * steep, slopes * shift + intercepts, edges

  def apply(x: Float[Array, '*b c']) -> Float[Array, '*b c']:
    signs, *rows = (a.reshape(-1, *(1,) * (x.ndim - 1), x.shape[-1]) for a in (sign, *tables))
    return _gradient.plain(x * signs[0].astype(x.dtype), x, *rows)

  return apply
