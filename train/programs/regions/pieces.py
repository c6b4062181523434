"""Finds the affine pieces of any elementwise function from its values and slopes alone."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

SAMPLES = 2048
MOST_PIECES = 128  # of one unit; a function with more is taken for smooth
_NARROW = 1e-12  # about 0, neighbouring float32 numbers are needlessly near
_ROUNDING = 32 * np.finfo(np.float32).eps
_UNIT, _Z, _Y, _SLOPE = range(4)  # a point, as a row

Measure = Callable[[Any], tuple[Any, Any]]
"""Inputs [n, units] -> outputs and slopes, of the same shape."""


class Pieces(NamedTuple):
  """One piecewise affine function per unit: ``slopes[u, k] · z + intercepts[u, k]``, k the number of cuts ≤ z."""

  cuts: np.ndarray  # [units, c], ascending, filled up with infinity
  slopes: np.ndarray  # [units, c + 1]
  intercepts: np.ndarray  # [units, c + 1]

  def which(self, z: np.ndarray) -> np.ndarray:
    """Returns the index of the piece of each element of z [n, units]."""
    index = np.zeros(z.shape, np.uint8)
    for cut in self.cuts.T:
      index += z >= cut
    return index

  def line(self, index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the slopes and intercepts of pieces, given by index [n, units]."""
    units = np.arange(index.shape[1])
    return self.slopes[units, index], self.intercepts[units, index]

  def image(self, low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the least and the greatest value of each unit between ``low`` and ``high``."""
    edges = _edges(self.cuts, low, high)
    values = np.stack([self.slopes * z + self.intercepts for z in (edges[:, :-1], edges[:, 1:])])
    return values.min((0, 2)), values.max((0, 2))


def differentiated(act: Callable[[Any, Any], Any]) -> Callable[[Any, Any], tuple[Any, Any]]:
  """Compiles an elementwise function (variables, z) -> y to (variables, z) -> (y, dy/dz)."""

  def both(variables: Any, z: Any) -> tuple[Any, Any]:
    y, pull = jax.vjp(lambda z: act(variables, z), z)
    return y, pull(jnp.ones_like(y))[0]

  return jax.jit(both)


def pieces(measure: Measure, low: np.ndarray, high: np.ndarray) -> Pieces | None:
  """Finds the affine pieces of an elementwise function, unit by unit, from ``low`` to ``high``.

  Neighbouring samples whose slopes differ, or between which the line jumps by more than rounding, lie on two pieces.
  The interval between them is halved, and so is every half whose ends differ again, down to neighbouring float32
  numbers: a piece far narrower than the samples' distance is found too, unless both its neighbours are the same line.
  Rounding is taken for 4e-6 of the unit's largest value: in a sum of hinges it does not shrink where the sum does.

  Returns:
    None for a smooth function: one with more than 128 pieces in some unit.
  """
  grid = _measured(measure, np.linspace(low, high, SAMPLES))
  jump = _ROUNDING * (abs(grid[..., _Y]).max(0) + abs(grid[..., _SLOPE] * grid[..., _Z]).max(0))
  differ = _differ(grid[:-1], grid[1:], jump)
  if differ.sum(0).max() >= MOST_PIECES:
    return None
  cuts = _by_unit(_bisected(measure, grid[:-1][differ], grid[1:][differ], jump), len(low))
  edges = _edges(cuts, low, high)
  middles = _measured(measure, ((edges[:, :-1] + edges[:, 1:]) / 2).T).T
  return Pieces(cuts, middles[_SLOPE], middles[_Y] - middles[_SLOPE] * middles[_Z])


def _measured(measure: Measure, z: np.ndarray) -> np.ndarray:
  """Measures [n, units] as points [n, units, 4]; pads to a multiple of SAMPLES rows, so that calls share a program."""
  count, units = z.shape
  z = z.astype(np.float32)
  full = np.concatenate([z, np.zeros((-count % SAMPLES, units), np.float32)])
  y, slope = (np.asarray(array)[:count] for array in measure(full))
  return np.stack([np.broadcast_to(np.arange(units), z.shape), z, y, slope], axis=-1).astype(np.float64)


def _differ(a: np.ndarray, b: np.ndarray, jump: np.ndarray) -> np.ndarray:
  """Tells which points lie on different lines: of other slopes, or apart by more than their unit's ``jump``."""
  rise = a[..., _SLOPE] * (b[..., _Z] - a[..., _Z])
  apart = abs(b[..., _Y] - a[..., _Y] - rise) > jump[a[..., _UNIT].astype(int)]
  return (a[..., _SLOPE] != b[..., _SLOPE]) | apart


def _bisected(measure: Measure, left: np.ndarray, right: np.ndarray, jump: np.ndarray) -> np.ndarray:
  """Bisects pairs of points that differ, and returns the first point of every further piece between them."""
  found = [right[:0]]
  while len(left):
    each = np.arange(len(left)), left[:, _UNIT].astype(int)
    halves = np.zeros((len(left), len(jump)))
    halves[each] = (left[:, _Z] + right[:, _Z]) / 2
    middle = _measured(measure, halves)[each]
    inside = (left[:, _Z] < middle[:, _Z]) & (middle[:, _Z] < right[:, _Z]) & (right[:, _Z] - left[:, _Z] > _NARROW)
    found.append(right[~inside])
    lower, upper = inside & _differ(left, middle, jump), inside & _differ(middle, right, jump)
    left, right = np.concatenate([left[lower], middle[upper]]), np.concatenate([middle[lower], right[upper]])
  return np.concatenate(found)


def _by_unit(points: np.ndarray, units: int) -> np.ndarray:
  rows = [np.sort(points[points[:, _UNIT] == unit, _Z]) for unit in range(units)]
  most = max(len(row) for row in rows)
  return np.stack([np.pad(row, (0, most - len(row)), constant_values=np.inf) for row in rows])


def _edges(cuts: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
  return np.concatenate([low[:, None], np.minimum(cuts, high[:, None]), high[:, None]], axis=1)
