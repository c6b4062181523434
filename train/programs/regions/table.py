"""Results table of regions: linear regions before and after training."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from train.activations import labelled
from train.results.statistics import markdown

_HEAD = (
  'network', 'parameters', 'untrained', 'trained', 'per 100 parameters', 'gain per parameter', 'plane untrained',
  'plane trained', 'accuracy %',
)  # fmt: skip


class Row(NamedTuple):
  """One kind of network, untrained or trained; a number for each seed, or None where nothing can be counted."""

  activation: str
  segments: int | None
  trained: bool
  width: int
  depth: int
  parameters: int
  regions: list[float] | None  # the mean over the lines
  plane: list[int] | None  # distinct patterns on the grid
  accuracy: list[float]  # of the test set

  label = labelled

  @property
  def regions_per_parameter(self) -> float | None:
    return None if self.regions is None else float(np.mean(self.regions)) / self.parameters

  def gain(self, relu: 'Row') -> float | None:
    """Returns the regions gained over ReLU for each parameter added to it; None where that is undefined."""
    if self.regions is None or relu.regions is None or self.parameters == relu.parameters:
      return None
    return float(np.mean(self.regions) - np.mean(relu.regions)) / (self.parameters - relu.parameters)


def text(rows: Sequence[Row]) -> str:
  """The rows as Markdown, untrained and trained side by side; the gain is ``Row.gain`` of the trained."""
  relu = next((row for row in rows if row.activation == 'relu' and row.trained), None)
  return markdown(_HEAD, [_cells(*pair, relu) for pair in zip(rows[::2], rows[1::2], strict=True)])


def _cells(before: Row, after: Row, relu: Row | None) -> tuple[str, ...]:
  share, gain = after.regions_per_parameter, None if relu is None else after.gain(relu)
  return (
    after.label,
    f'{after.parameters:,}',
    _spread(before.regions, '.1f'),
    _spread(after.regions, '.1f'),
    '—' if share is None else f'{100 * share:.1f}',
    '—' if gain is None else f'{gain:+.2f}',
    _spread(before.plane, ',.0f'),
    _spread(after.plane, ',.0f'),
    _spread([100 * a for a in after.accuracy], '.1f'),
  )


def _spread(numbers: Sequence[float] | None, form: str) -> str:
  if numbers is None:
    return '—'
  deviation = f' ± {np.std(numbers, ddof=1):{form}}' if len(numbers) > 1 else ''
  return f'{np.mean(numbers):{form}}{deviation}'
