"""Architecture slimming: the widths of a thin network, from the principal components of a trained one's filters."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from lmajax import tree
from lmajax._arguments import as_given, check_count, check_floats, is_between
from lmajax.types import ChannelGraph, Channels, Widths

Rule = Callable[[float], Widths]
"""A share from 0 to 1 -> widths that do not fall as it grows."""
_TOLERANCE = 1e-9  # of a share: what rounding in the eigenvalues may be
_RESOLUTION = 1e-12  # of the bisection: steps that are closer together than a share is exact are one


class Spectrum(NamedTuple):
  """The shares of variance of the principal components of some channels' filters, the greatest first.

  ``whole`` says that the channels are not to be slimmed.

  >>> Spectrum(np.array([0.75, 0.25])).whole
  False
  """

  shares: np.ndarray
  whole: bool = False


def checked(variables: Any, graph: ChannelGraph) -> dict[str, Any]:
  """The leaves by their names, if the graph fits them."""
  found = tree.by_path(variables)
  for channels in graph:
    for path in (*channels.kernels, *channels.along, *channels.consumers):
      if path not in found:
        raise ValueError(f'the graph names {path}, which the variables lack')
      check_floats(path, found[path], least_rank=1)
    if not channels.kernels:
      raise ValueError(f'the graph has channels that no kernel writes: those along {", ".join(channels.along)}')
    width = found[channels.kernels[0]].shape[-1]
    for path in (*channels.kernels, *channels.along):
      if not found[path].shape or found[path].shape[-1] != width:
        raise ValueError(f'{path} is {found[path].shape}, and {channels.kernels[0]} writes {width} channels')
    for path in channels.consumers:
      if found[path].ndim < 2 or found[path].shape[-2] % width:
        raise ValueError(f'{path} is {found[path].shape}, and does not read {width} channels on its last axis but one')
    if not set(channels.scales) <= set(channels.along):
      raise ValueError(f'the scales {", ".join(channels.scales)} are not all along {channels.kernels[0]}')
  return found


def full_widths(variables: Any, graph: ChannelGraph) -> Widths:
  """Counts the channels that a network has for each entry of its graph.

  .. math:: n_l = \\text{the last axis of kernel } l

  Args:
    variables: the model's, with ``params`` and the collections of its state; shapes suffice.
    graph: as the model's ``graph()`` gives it, or written by hand.

  Raises:
    ValueError: the graph does not fit the variables; the line names the path.

  >>> full_widths({'params': {'kernel': jnp.zeros((3, 4))}}, (Channels(('params/kernel',)),))
  (4,)

  Source: counting.
  """
  found = checked(variables, graph)
  return tuple(found[channels.kernels[0]].shape[-1] for channels in graph)


def spectra(variables: Any, graph: ChannelGraph) -> tuple[Spectrum, ...]:
  r"""Finds how the variance of a network's filters is shared out among their principal components.

  A kernel is a matrix :math:`W` with a column for each of its o filters and a row for each of its d weights a filter.

  .. math:: M = W - \tfrac1d \mathbf 1 \mathbf 1^\top W, \qquad
    s_i = \lambda_i(M^\top M) \Big/ \sum_j \lambda_j(M^\top M), \qquad s_1 \ge s_2 \ge \dots \ge s_o

  Of channels that several kernels write, each :math:`M` is divided by its norm and all are put below each other. At
  most min(o, d − 1) shares of one kernel are not 0. Filters without any variance have shares of 0.

  Channels that the first convolution writes are ``whole``: of 3 × 3 × 3 weights 26 components are the most, however
  many filters there are. So are those of a first dense layer that has no more inputs than units.

  Args:
    variables: the model's, on the host or on a device; computed on the host in float64.
    graph: which kernels.

  Raises:
    ValueError: the graph does not fit the variables, or a kernel is not finite; the line names the path.

  >>> kernel = jnp.array([[3., 0.], [-3., 0.], [0., 4.], [0., -4.]])
  >>> [spectrum] = spectra({'params': {'kernel': kernel}}, (Channels(('params/kernel',)),))
  >>> spectrum.shares.round(12).tolist()
  [0.64, 0.36]

  Source: architecture slimming by PCA (arXiv 2202.10461), of which the text has the covariance of weights, filter by
  filter, and its eigenvalues. That biases and norms stay out, that added kernels weigh alike, and what is whole are our
  choices; the centring and the rule of ``widths_at`` are also those of Zhou et al. 2021 (progressive PCA).
  """
  found = checked(variables, graph)
  return tuple(_spectrum(channels, found) for channels in graph)


def _spectrum(channels: Channels, found: dict[str, Any]) -> Spectrum:
  matrices = [_centred(path, found[path]) for path in channels.kernels]
  lengths = [np.linalg.norm(matrix) for matrix in matrices]
  stacked = np.concatenate([matrix / (length or 1.0) for matrix, length in zip(matrices, lengths, strict=True)])
  values = np.square(np.linalg.svd(stacked, compute_uv=False))
  values = np.pad(values, (0, stacked.shape[1] - len(values)))
  first = found[channels.kernels[0]]
  whole = channels.first and (first.ndim > 2 or first.shape[0] <= first.shape[1])
  return Spectrum(values / (values.sum() or 1.0), whole)


def _centred(path: str, kernel: Any) -> np.ndarray:
  matrix = np.asarray(kernel, np.float64).reshape(-1, kernel.shape[-1])
  if not np.isfinite(matrix).all():
    raise ValueError(f'{path} is not finite: its variance means nothing')
  return matrix - matrix.mean(axis=0)


def widths_at(spectra: Sequence[Spectrum], share: float, *, minimum: int = 1, multiple: int = 1) -> Widths:
  r"""Gives each layer the fewest filters whose components hold a share of its variance.

  .. math:: k_l = \min \Big\{ k : \sum_{i \le k} s_{l,i} \ge p \Big\}

  then no fewer than ``minimum``, rounded up to a ``multiple``, and never more than there are. Layers that are ``whole``
  keep all; a layer without variance gets the minimum.

  Args:
    spectra: from ``spectra``; with those of random weights of the same shapes in their place one has the control that
      tells what training did from what the shapes do.
    share: p, from 0 to 1, the same for all layers.
    minimum: filters that are left at least.
    multiple: that widths are rounded up to.

  Raises:
    ValueError: the share is not from 0 to 1, or the minimum or the multiple below 1.

  >>> widths_at([Spectrum(np.array([0.64, 0.36])), Spectrum(np.array([0.5, 0.25, 0.25]), whole=True)], 0.6)
  (1, 3)

  Source: architecture slimming by PCA (arXiv 2202.10461), "cumulative contribution"; a sum that falls short by 1e-9
  counts as reached. One share for all layers, the minimum and the rounding are our choices: the paper has no rule that
  we could read.
  """
  if not is_between(share, 0.0, 1.0):
    raise ValueError(f'the share is {as_given(share)}, and must be from 0 to 1')
  check_count('minimum', minimum, 1)
  check_count('multiple', multiple, 1)

  def width(spectrum: Spectrum) -> int:
    most = len(spectrum.shares)
    if spectrum.whole:
      return most
    reached = np.cumsum(spectrum.shares) >= share - _TOLERANCE
    fewest = int(np.argmax(reached)) + 1 if reached.any() else 0
    return min(most, -(-max(fewest, minimum) // multiple) * multiple)

  return tuple(width(spectrum) for spectrum in spectra)


def solve(rule: Rule, rate: float, cost: Callable[[Widths], float], *, full: int | float) -> Widths:
  r"""Finds the widest network of a rule that costs at least a given part less than another.

  .. math:: p^* = \max \big\{ p \in [0, 1] : 1 - C(k(p)) / C_\text{full} \ge r \big\}, \quad \text{by bisection}

  The next greater share at which a width changes falls short of the rate: what is reached is within one step of it.

  Args:
    rule: share -> widths, such as ``functools.partial(widths_at, spectra)``.
    rate: r, from 0 up to 1.
    cost: of a network with such widths: parameters, multiply-accumulates, filters.
    full: what the rate is a part of, mostly the cost of all filters.

  Raises:
    ValueError: the rate is not from 0 up to 1, or cannot be reached; the line says what can.

  >>> spectrum = Spectrum(np.array([0.4, 0.3, 0.2, 0.1]))
  >>> solve(lambda share: widths_at([spectrum], share), 0.5, sum, full=4)
  (2,)

  Source: the overall rate of the paper (arXiv 2202.10461), which does not say how it is reached; a choice.
  """
  if not is_between(rate, 0.0, 1.0) or rate == 1:
    raise ValueError(f'the rate is {as_given(rate)}, and must be from 0 up to 1')

  def falls_short(share: float) -> bool:
    return 1 - cost(rule(share)) / full < rate - _TOLERANCE

  low, high = 0.0, 1.0
  if falls_short(low):
    reached = 1 - cost(rule(low)) / full
    raise ValueError(f'a rate of {rate:g} cannot be reached: with the fewest channels it is {reached:.4g}')
  if not falls_short(high):
    return rule(high)
  while high - low > _RESOLUTION:
    middle = (low + high) / 2
    low, high = (low, middle) if falls_short(middle) else (middle, high)
  return rule(low)
