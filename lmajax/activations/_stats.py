"""The two numbers per layer that place LMA's segments: a mean and a standard deviation."""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from lmajax._arguments import as_given, check_count, check_floats, check_mask, is_between, shown
from lmajax.types import Mask

_RUN = 2**12  # elements added one after another: XLA's CPU makes a tree of a sum, but not of several sums at once
_SHORT = 2**8  # a run below this is not worth a partial sum


class Stats(NamedTuple):
  """The mean and the unbiased standard deviation of one layer's input.

  A ``std`` that is not finite says that nothing is known; every cut then falls on the mean.

  >>> segment_index(jnp.array([-9., 9.]), Stats(mean=jnp.array(0.), std=jnp.array(jnp.inf)), 8).tolist()
  [0, 7]
  """

  mean: Float[Array, '']
  std: Float[Array, '']


class RunningStats(NamedTuple):
  """Running statistics of a site: moving averages that start at zero, and the weight that they have gathered.

  >>> RunningStats(mean=jnp.array(.02), std=jnp.array(.01), weight=jnp.array(.01))._fields
  ('mean', 'std', 'weight')
  """

  mean: Float[Array, '']
  std: Float[Array, '']
  weight: Float[Array, '']


def measure(x: Float[Array, '...'], *, where: Mask = None, axis_name: str | None = None) -> Stats:
  r"""Measures a whole layer input: all examples, positions and channels together.

  .. math:: \mu = \frac1n \sum_i x_i, \qquad \sigma^2 = \frac1{n-1} \sum_i (x_i - \mu)^2

  Args:
    x: any shape, any float type, read once; the sums are taken in float32 at least, the squares about the mean of a
      small part of ``x``, so that a mean of many deviations does no harm.
    where: elements to count, of the rank of ``x`` and broadcasting to it (tokens: ``mask[..., None]``).
    axis_name: the mapped axis to measure across, under ``jax.shard_map`` or ``jax.vmap``. Under ``jax.jit`` with
      sharded arrays leave it out: the sums are global as they stand.

  Returns:
    Two scalars of float32 (float64 for float64), through which no gradient flows. Elements that are not finite are left
    out. One element or equal elements have ``std`` 0. With nothing to measure, or with squares that overflow, ``std``
    is infinite, and the mean 0 unless it is finite.

  Raises:
    ValueError: ``x`` is no array of floats, or ``where`` has another rank or does not broadcast to it.

  >>> stats = measure(jnp.array([[1., 2.], [3., 4.]]))
  >>> round(float(stats.mean), 4), round(float(stats.std), 4)
  (2.5, 1.291)

  Source: the LMA paper, before equation 3. The paper does not say which deviation it takes; the authors' code takes the
  unbiased one, and a single NaN there spoils a layer's statistics for good.
  """
  check_floats('x', x)
  check_mask(where, x)
  x = jax.lax.stop_gradient(jnp.atleast_1d(x))
  zero = jnp.zeros((), np.promote_types(x.dtype, np.float32))
  some = _sample(x)  # before anything is computed from x, else a TPU computes it of the whole x and keeps it
  few = _counted(x[some], None if where is None else where[some], zero)
  count, total = _across(axis_name, tuple(term.sum() for term in few))
  near = total / jnp.maximum(count, 1)
  near = jnp.where(jnp.isfinite(near), near, zero)
  ones, off = _counted(x, where, near)
  count, first, second = _across(axis_name, _sums(ones, off, jnp.square(off)))
  mean = near + first / jnp.maximum(count, 1)
  variance = jnp.maximum(second - first * first / jnp.maximum(count, 1), 0) / jnp.maximum(count - 1, 1)
  return Stats(
    mean=jnp.where(jnp.isfinite(mean) & (count > 0), mean, jnp.zeros_like(mean)),
    std=jnp.where(jnp.isfinite(variance) & (count > 0), jnp.sqrt(variance), jnp.full_like(mean, jnp.inf)),
  )


def _counted(x: Array, where: Mask, about: Array) -> tuple[Array, Array]:
  """1 for each element that counts and 0 for each other, and how far those lie off a number, in its type."""
  kept = jnp.isfinite(x) if where is None else jnp.isfinite(x) & where
  off = x.astype(about.dtype) - about
  return jnp.broadcast_to(kept, off.shape).astype(off.dtype), jnp.where(kept, off, jnp.zeros_like(off))


def _sample(x: Array) -> tuple[slice, ...]:
  """The first position of every example, or its first feature.

  The mean of a part f of all elements lies within std / √(f (1 − f)) of theirs: near enough for the squares about it.
  """
  whole = {0, x.ndim - 1} if x.ndim > 2 else {0}
  whole |= {i for i, axis in enumerate(jax.typeof(x).sharding.spec) if axis is not None}
  return tuple(slice(None) if i in whole else slice(1) for i in range(x.ndim))


def added(some: tuple[Array, ...], others: tuple[Array, ...]) -> tuple[Array, ...]:
  """One function for all calls: outside of ``jax.jit`` a new one would be compiled at each."""
  return tuple(one + other for one, other in zip(some, others, strict=True))


def _across(axis_name: str | None, sums: tuple[Array, ...]) -> tuple[Array, ...]:
  return sums if axis_name is None else jax.lax.psum(sums, axis_name)


def _sums(*terms: Array) -> tuple[Array, ...]:
  """The sums of several arrays in one pass over what they are computed from, in runs that are summed as a tree."""

  def summed(terms: tuple[Array, ...]) -> tuple[Array, ...]:
    zeros = tuple(jnp.zeros((), term.dtype) for term in terms)
    runs = jax.lax.reduce(terms, zeros, added, range(_first_of_run(terms[0].shape), terms[0].ndim))
    return tuple(run.sum() for run in runs)

  return functools.reduce(added, map(summed, _with_runs(terms)))


def _first_of_run(shape: tuple[int, ...]) -> int:
  """The first of the last axes, but never of all, that hold no more than a run together."""
  return next((i for i in range(1, len(shape)) if math.prod(shape[i:]) <= _RUN), len(shape))


def _with_runs(terms: tuple[Array, ...]) -> list[tuple[Array, ...]]:
  """The terms, with an axis cut into runs where the last axes are too short for one; its rest is a part by itself."""
  shape, spread = terms[0].shape, jax.typeof(terms[0]).sharding.spec
  axis = _first_of_run(shape) - 1
  held = math.prod(shape[axis + 1 :])
  if axis < 1 or held >= _SHORT or spread[axis] is not None:
    return [terms]
  length = _RUN // held
  whole = shape[axis] - shape[axis] % length
  before = (slice(None),) * axis
  cut = (*shape[:axis], -1, length, *shape[axis + 1 :])
  runs = tuple(term[*before, :whole].reshape(cut) for term in terms)
  return [runs, tuple(term[*before, whole:] for term in terms)] if whole < shape[axis] else [runs]


def batch_norm_stats(
  variance: Float[Array, ' c'],
  scale: Float[Array, ' c'],
  bias: Float[Array, ' c'],
  *,
  count: int,
  epsilon: float = 1e-5,
) -> Stats:
  r"""Says what ``measure`` would find in the output of a batch norm, without reading it.

  .. math:: \mu = \overline{\beta}, \qquad \sigma^2 = \frac{n}{n-1} \left(\overline{\gamma^2 v / (v + \epsilon)} +
    \overline{(\beta - \mu)^2}\right)

  with means over the channels, each of which has the same number of elements.

  Args:
    variance: v, the biased variance of each channel of the norm's input in this batch.
    scale: γ.
    bias: β.
    count: n, the number of elements of the whole output.
    epsilon: ε of the norm.

  Returns:
    As ``measure``, with no gradient.

  Raises:
    ValueError: the three are no vectors of floats of one length, or the count is below 1.

  >>> stats = batch_norm_stats(jnp.array([4., 9.]), jnp.array([1., 2.]), jnp.array([0., 1.]), count=2**20, epsilon=0.)
  >>> round(float(stats.mean), 4), round(float(stats.std), 4)  # √((1 + 4)/2 + 1/4)
  (0.5, 1.6583)

  Source: not in the paper; Ioffe & Szegedy 2015, algorithm 1, averaged over the channels.
  """
  check_floats('variance', variance, least_rank=1)
  for name, value in (('scale', scale), ('bias', bias)):
    check_floats(name, value, variance.shape)
  check_count('count', count, 1)
  variance, scale, bias = (
    jax.lax.stop_gradient(a).astype(np.promote_types(a.dtype, np.float32)) for a in (variance, scale, bias)
  )
  biased = jnp.mean(jnp.square(scale) * variance / (variance + epsilon)) + jnp.var(bias)
  unbiased = biased * (count / max(count - 1, 1))
  return Stats(jnp.mean(bias), jnp.where(jnp.isfinite(unbiased), jnp.sqrt(unbiased), jnp.full_like(unbiased, jnp.inf)))


def check_stats(stats: Any) -> None:
  """Refuses statistics that are not two or three scalars, as ``measure`` and ``debias`` give them."""
  if not isinstance(stats, Stats | RunningStats):
    raise ValueError(f'stats is {shown(stats)}; give Stats or RunningStats')
  for name, value in zip(stats._fields, stats, strict=True):
    check_floats(f'stats.{name}', value, ())


def init_stats() -> RunningStats:
  """Remembers nothing yet: three zeros, each an array of its own so that a donated state may hold them.

  >>> [float(leaf) for leaf in init_stats()]
  [0.0, 0.0, 0.0]

  Source: the authors' code starts at 0 too, but has no weight to divide that start out.
  """
  return RunningStats(*(jnp.zeros((), jnp.float32) for _ in RunningStats._fields))


def update_stats(running: RunningStats, batch: Stats, *, decay: float) -> RunningStats:
  r"""Moves the averages one batch on.

  .. math:: r \leftarrow d\,r + (1 - d)\,b, \qquad w \leftarrow d\,w + (1 - d)

  Args:
    running: the averages so far.
    batch: what ``measure`` gave; with a ``std`` that is not finite it changes nothing, so that no batch can poison
      the averages.
    decay: d, in [0, 1); the paper's is 0.99.

  Returns:
    The averages, in float32 at least, whatever they were kept in.

  Raises:
    ValueError: the decay is out of range, or the statistics are no scalars of floats.

  >>> running = update_stats(init_stats(), Stats(jnp.array(2.), jnp.array(1.)), decay=0.99)
  >>> [round(float(leaf), 4) for leaf in running]
  [0.02, 0.01, 0.01]

  Source: the LMA paper, below equation 3 ("moving average factor 0.99"). As in the authors' code the standard deviation
  is averaged, not the variance; unlike there, only training calls this.
  """
  check_stats(running)
  check_stats(batch)
  return RunningStats(*moved(running, batch, decay))


def moved(running: tuple[Array, ...], batch: tuple[Array, ...], decay: float) -> list[Array]:
  """Moves averages, and the weight that stands last among them, one batch on, where all that it gave is finite."""
  if not is_between(decay, 0.0, 1.0) or decay == 1:
    raise ValueError(f'decay is {as_given(decay)}, and must be at least 0 and below 1')
  known, kept = jnp.isfinite(jnp.stack(batch)).all(), [_wide(old) for old in running]
  return [
    jnp.where(known, decay * old + (1 - decay) * new.astype(old.dtype), old)
    for old, new in zip(kept, (*batch, jnp.ones_like(kept[-1])), strict=True)
  ]


def _wide(number: Any) -> Any:
  """In float32 at least: a hundredth of the way is lost in the digits of bfloat16."""
  return number.astype(np.promote_types(number.dtype, np.float32))


def debias(running: RunningStats) -> Stats:
  r"""Divides the zero start out of the moving averages.

  .. math:: \mu = m / w, \qquad \sigma = s / w, \qquad w = 1 - d^t

  Returns:
    The averages over the batches seen; before the first batch the mean 0 and an infinite ``std``, with which a fresh
    LMA is exactly ReLU.

  >>> stats = debias(RunningStats(jnp.array(.02), jnp.array(.01), jnp.array(.01)))
  >>> round(float(stats.mean), 4), round(float(stats.std), 4)
  (2.0, 1.0)

  Raises:
    ValueError: the averages are no three scalars of floats.

  Source: Kingma & Ba 2015, section 3. The authors' LMA is not debiased.
  """
  check_stats(running)
  running = RunningStats(*map(_wide, running))
  seen = running.weight > 0
  weight = jnp.where(seen, running.weight, jnp.ones_like(running.weight))
  return Stats(
    mean=jnp.where(seen, running.mean / weight, jnp.zeros_like(weight)),
    std=jnp.where(seen, running.std / weight, jnp.full_like(weight, jnp.inf)),
  )
