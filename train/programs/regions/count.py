"""Counts the regions on which a perceptron is affine: all of them along a line, those a grid meets on a plane.

A region's pattern says for every hidden unit on which affine piece of its activation it is. A pattern holds on a convex
set, so that a line meets one region more than the pattern changes. A change that no later unit passes on counts as
well: these are the activation regions of Hanin & Rolnick 2019 ("Deep ReLU networks have surprisingly few activation
patterns"), never fewer than the affine pieces of the output.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from train.programs.regions.pieces import Pieces, pieces

_CLOSE = 1e-9  # breaks nearer than this part of the line are one: the cuts are known no better
_BATCH_NORM_EPSILON = 1e-5  # Flax's
_HASH_SEED = 0


class Layer(NamedTuple):
  """A hidden layer, ``pieces(x @ kernel + bias)``."""

  kernel: np.ndarray
  bias: np.ndarray
  pieces: Pieces


class Network(NamedTuple):
  """Hidden layers and the logits' affine map, in float64."""

  layers: Sequence[Layer]
  kernel: np.ndarray
  bias: np.ndarray


def fold(variables: Any, measure: Callable[[Any, Any], tuple[Any, Any]], hull: np.ndarray) -> Network | None:
  """Reads a perceptron in evaluation mode as affine maps and piecewise affine functions.

  Args:
    variables: of one ``lmajax.models.MLP``; its batch norms are folded into its dense layers.
    measure: (an activation's variables, its input) -> its output and slope, as ``pieces.differentiated`` gives it.
    hull: [n, d], flat inputs; the activations are searched for pieces as far as the convex hull of these can reach.

  Returns:
    None where an activation is smooth: there are no linear regions to count.
  """
  params, stats = variables['params'], variables['batch_stats']
  layers, reach = [], None
  for name in sorted((n for n in params if n.startswith('stages_')), key=lambda n: int(n[7:])):
    kernel, bias = _without_norm(params[name], stats[name]['norm'])
    low, high = _spread(hull @ kernel + bias) if reach is None else _interval(*reach, kernel, bias)
    site = {'params': params[name].get('act', {}), 'batch_stats': stats[name].get('act', {})}
    found = pieces(lambda z, site=site: measure(site, z), low, high)
    if found is None:
      return None
    layers.append(Layer(kernel, bias, found))
    reach = found.image(low, high)
  return Network(layers, *_dense(params['logits']))


def _dense(params: Any) -> tuple[np.ndarray, np.ndarray]:
  return np.asarray(params['kernel'], np.float64), np.asarray(params['bias'], np.float64)


def _without_norm(params: Any, stats: Any) -> tuple[np.ndarray, np.ndarray]:
  kernel, bias = _dense(params['Dense_0'])
  leaves = params['norm']['scale'], params['norm']['bias'], stats['mean'], stats['var']
  scale, shift, mean, var = (np.asarray(leaf, np.float64) for leaf in leaves)
  factor = scale / np.sqrt(var + _BATCH_NORM_EPSILON)
  return kernel * factor, (bias - mean) * factor + shift


def _spread(z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Returns each unit's range, widened a little so that none is empty."""
  low, high = z.min(0), z.max(0)
  margin = 1e-3 * (1 + abs(low) + abs(high))
  return low - margin, high + margin


def _interval(low: np.ndarray, high: np.ndarray, kernel: np.ndarray, bias: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  center, radius = (low + high) / 2 @ kernel + bias, (high - low) / 2 @ abs(kernel)
  return _spread(np.stack([center - radius, center + radius]))


def restricted(network: Network, origin: np.ndarray, directions: np.ndarray) -> Network:
  """Returns the network as a function of the coordinates u in ``origin + u @ directions``, directions [n, d]."""
  first = network.layers[0]
  first = first._replace(kernel=directions @ first.kernel, bias=origin @ first.kernel + first.bias)
  return network._replace(layers=[first, *network.layers[1:]])


def breaks(network: Network, start: np.ndarray, end: np.ndarray) -> np.ndarray:
  """Returns where the pattern changes on the segment from ``start`` (0) to ``end`` (1).

  Layer by layer the segment is cut into intervals on which every unit's input is affine, ``offset + rate · t``. Solving
  for each cut of the activation misses no piece, however short, but those below a billionth of the segment.
  """
  t = np.array([0.0, 1.0])
  offset, rate = start[None], (end - start)[None]
  for layer in network.layers:
    offset, rate = offset @ layer.kernel + layer.bias, rate @ layer.kernel
    finer = _cut(t, _crossings(offset, rate, layer.pieces.cuts))
    middles = (finer[:-1] + finer[1:]) / 2
    parents = np.searchsorted(t, middles) - 1
    t, offset, rate = finer, offset[parents], rate[parents]
    slopes, intercepts = layer.pieces.line(layer.pieces.which(offset + rate * middles[:, None]))
    offset, rate = slopes * offset + intercepts, slopes * rate
  return t[1:-1]


def _crossings(offset: np.ndarray, rate: np.ndarray, cuts: np.ndarray) -> np.ndarray:
  """[intervals, units] -> [intervals, units · cuts]: where each unit would meet each of its cuts."""
  with np.errstate(divide='ignore', invalid='ignore', over='ignore'):
    return ((cuts - offset[..., None]) / rate[..., None]).reshape(len(offset), -1)


def _cut(t: np.ndarray, crossings: np.ndarray) -> np.ndarray:
  """Merges the intervals' ends with the crossings inside their own interval, sorted and without near duplicates."""
  inside = (crossings > t[:-1, None] + _CLOSE) & (crossings < t[1:, None] - _CLOSE)
  new = np.sort(crossings[inside])
  new = new[np.diff(new, prepend=-1.0) > _CLOSE]
  return np.sort(np.concatenate([t, new]))


def patterns(network: Network, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Inputs [n, d] -> the pattern of each [n, hidden units] and its class."""
  parts = []
  for layer in network.layers:
    z = x @ layer.kernel + layer.bias
    parts.append(layer.pieces.which(z))
    slopes, intercepts = layer.pieces.line(parts[-1])
    x = slopes * z + intercepts
  return np.concatenate(parts, axis=1), (x @ network.kernel + network.bias).argmax(1)


def hashed(pattern: np.ndarray) -> np.ndarray:
  """Patterns [n, units] -> 64-bit numbers [n], the same for the same pattern in every run."""
  factors = np.random.default_rng(_HASH_SEED).integers(2**63, size=pattern.shape[1], dtype=np.uint64)
  return pattern.astype(np.uint64) @ (factors * np.uint64(2) + np.uint64(1))


class Plane(NamedTuple):
  """A square of a plane: ``origin + u · directions[0] + v · directions[1]`` for u and v among ``ticks``."""

  origin: np.ndarray
  directions: np.ndarray  # [2, d], orthonormal
  ticks: np.ndarray
  marks: np.ndarray  # [3, 2], where the three points lie that it goes through
  labels: np.ndarray  # [3], their classes

  @property
  def coordinates(self) -> np.ndarray:
    """Returns the coordinates of the grid, [grid · grid, 2], row by row from the lowest v."""
    return np.stack(np.meshgrid(self.ticks, self.ticks), axis=-1).reshape(-1, 2)

  @property
  def corners(self) -> np.ndarray:
    """Returns the corners of the square, [4, d]."""
    low, high = self.ticks[0], self.ticks[-1]
    return self.origin + np.array([[low, low], [low, high], [high, low], [high, high]]) @ self.directions


def plane_through(points: np.ndarray, labels: np.ndarray, grid: int) -> Plane:
  """Returns the plane through three points [3, d], with a square around their mean that leaves a quarter of margin."""
  origin = points.mean(0)
  first, second = points[1] - points[0], points[2] - points[0]
  first = first / np.linalg.norm(first)
  second = second - (second @ first) * first
  directions = np.stack([first, second / np.linalg.norm(second)])
  marks = (points - origin) @ directions.T
  reach = 1.25 * abs(marks).max()
  return Plane(origin, directions, np.linspace(-reach, reach, grid), marks, labels)
