"""Activations on few levels: the rounding, its gradient, and the range that the levels lie in."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from lmajax._arguments import check_count, check_floats, check_mask
from lmajax.activations import _stats
from lmajax.types import Mask


def fake_quantize(
  x: Float[Array, '*shape'], low: Float[Array, ''], high: Float[Array, ''], bits: int
) -> Float[Array, '*shape']:
  r"""Puts each element on the nearest of 2^bits levels between two ends, half to even, in floating point.

  .. math:: y = \ell + s \, \mathrm{round}\bigl((\mathrm{clip}(x, \ell, h) - \ell)/s\bigr), \qquad
    s = \frac{h - \ell}{2^b - 1}

  The gradient goes straight through the rounding: 1 within the range, ends included, and 0 outside. To an end it is 1
  from what is clipped there; what is rounded by a share r of a step, −½ … ½, gives the upper end r / (2^b − 1) and the
  lower end the negative of it.

  Args:
    x: any shape and float type; computed in float32 at least and returned in its own type.
    low: ℓ. With an ℓ that is not below h everything becomes ℓ.
    high: h. A range that is not finite quantizes nothing: x is returned.
    bits: b, 1 … 8.

  Raises:
    ValueError: bits are out of range, x is no array of floats, or an end no scalar of them.

  >>> fake_quantize(jnp.array([-1., .2, 1.4, 9.]), jnp.array(0.), jnp.array(3.), 2).tolist()
  [0.0, 0.0, 1.0, 3.0]

  Source: Choi et al. 2018 (PACT), equation 3, for what is clipped; Esser et al. 2020 (LSQ), equation 3, for what is
  rounded; Bhalgat et al. 2020 (LSQ+) for two free ends, written there as a step and an offset. Zero need not be a
  level, as Jacob et al. 2018 have it, and LSQ's scale of the gradient is left to the optimizer.
  """
  check_count('bits', bits, 1, 8)
  check_floats('x', x)
  for name, end in (('low', low), ('high', high)):
    check_floats(name, end, ())
  wide = np.promote_types(x.dtype, np.float32)
  value, low, high = (a.astype(wide) for a in (x, low, high))
  known = jnp.isfinite(high - low)
  low, high = (jnp.where(known, end, jnp.zeros_like(end)) for end in (low, high))
  step = jnp.maximum(high - low, 0) / (2**bits - 1)
  clipped = jnp.where(value < low, low, jnp.where(value > high, high, value))
  scaled = (clipped - low) / jnp.where(step > 0, step, jnp.ones_like(step))
  rounded = jnp.round(scaled)
  through = clipped + step * jax.lax.stop_gradient(rounded - scaled)
  # The value of the first line and the gradient of the others, which give the same but for the last bit.
  y = jax.lax.stop_gradient(low + step * rounded) + (through - jax.lax.stop_gradient(through))
  return jnp.where(known, y.astype(x.dtype), x)


class Range(NamedTuple):
  """The least and the greatest element; of nothing infinity and minus infinity."""

  low: Float[Array, '']
  high: Float[Array, '']


class RunningRange(NamedTuple):
  """Zero-started moving averages of both ends, and the weight they have gathered."""

  low: Float[Array, '']
  high: Float[Array, '']
  weight: Float[Array, '']


def measure_range(x: Float[Array, '...'], *, where: Mask = None, axis_name: str | None = None) -> Range:
  """Measures what is finite and not masked, in float32 at least and with no gradient; arguments as of ``measure``."""
  check_floats('x', x)
  check_mask(where, x)
  x = jax.lax.stop_gradient(x).astype(np.promote_types(x.dtype, np.float32))
  kept = jnp.isfinite(x) if where is None else jnp.isfinite(x) & where
  low, high = jnp.min(x, where=kept, initial=jnp.inf), jnp.max(x, where=kept, initial=-jnp.inf)
  if axis_name is not None:
    low, high = jax.lax.pmin(low, axis_name), jax.lax.pmax(high, axis_name)
  return Range(low, high)


def init_range() -> RunningRange:
  """Remembers nothing yet; each zero an array of its own, so that a donated state may hold them."""
  return RunningRange(*(jnp.zeros((), jnp.float32) for _ in RunningRange._fields))


def update_range(running: RunningRange, batch: Range, *, decay: float) -> RunningRange:
  """Moves the averages one batch on, as ``update_stats``."""
  return RunningRange(*_stats.moved(running, batch, decay))


def debias_range(running: RunningRange) -> Range:
  """Divides the zero start out; before the first batch the range of nothing."""
  running = RunningRange(*(leaf.astype(np.promote_types(leaf.dtype, np.float32)) for leaf in running))
  seen = running.weight > 0
  weight = jnp.where(seen, running.weight, jnp.ones_like(running.weight))
  return Range(
    low=jnp.where(seen, running.low / weight, jnp.full_like(weight, jnp.inf)),
    high=jnp.where(seen, running.high / weight, jnp.full_like(weight, -jnp.inf)),
  )


def stretch(ends: Range, deltas: Float[Array, '2']) -> Range:
  """Moves each end by its share of the span, a number that is trained; the range of nothing stays as it is."""
  span = ends.high - ends.low
  span = jnp.where(jnp.isfinite(span), span, jnp.zeros_like(span))
  low, high = deltas.astype(span.dtype)
  return Range(ends.low + span * low, ends.high + span * high)
