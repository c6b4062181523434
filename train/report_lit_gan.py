"""The table of generators that are shallower than their teacher: distances, paired differences, and what they cost."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from train.report import TEACHER, markdown, paired, spread

ONLY, LIT, SCRATCH = 'lit-only', 'lit', 'scratch'
"""The student after the first phase, after both, and trained against the discriminator alone."""


class Row(NamedTuple):
  """One kind of generator: what it is worth per seed, and what it costs."""

  name: str
  method: str
  activation: str
  segments: int | None
  blocks: int
  frechet: list[float]
  pixel_error: list[float]  # where black and white are 1 apart
  teacher_error: list[float]  # the same from what the teacher makes
  validation_error: list[float]  # of pixels
  parameters: int
  bytes: int
  macs: int
  milliseconds: float  # an image

  @property
  def label(self) -> str:
    return self.activation if self.segments is None else f'{self.activation}-{self.segments}'


_HEAD = (
  'generator', 'blocks', 'activation', 'Fréchet distance', 'pixel error %', 'from the teacher %', 'validation error %',
  'parameters', 'bytes', 'million MACs', 'µs an image',
)  # fmt: skip
_PAIRED = ('paired difference', 'Fréchet distance', '95 % interval', 'pixel error, points', '95 % interval')
_NOTE = (
  "The Fréchet distance is that of our own classifier's features of styled test images, the mean over target styles;"
  ' its numbers are in units of their own. 0 is what the true styles have.'
)


def text(rows: Sequence[Row]) -> str:
  """The tables as Markdown, and what the distance is of."""
  by_name = {(row.label, row.method): row for row in rows}
  labels = dict.fromkeys(row.label for row in rows)
  pairs = [(by_name[label, LIT], by_name[label, base]) for label in labels for base in (SCRATCH, ONLY)]
  lines = [_difference(*pair, several=len(labels) > 1) for pair in pairs]
  return '\n\n'.join([markdown(_HEAD, [_cells(row) for row in rows]), markdown(_PAIRED, lines), _NOTE])


def _cells(row: Row) -> tuple[str, ...]:
  return (
    row.method,
    str(row.blocks),
    row.label,
    _plain(row.frechet),
    spread(row.pixel_error),
    '' if row.method == TEACHER else spread(row.teacher_error),
    spread(row.validation_error),
    f'{row.parameters:,}',
    f'{row.bytes:,}',
    f'{row.macs / 1e6:.3g}',
    f'{1000 * row.milliseconds:.2f}',
  )


def _plain(values: Sequence[float]) -> str:
  return f'{np.mean(values):.3f}' + (f' ± {np.std(values, ddof=1):.3f}' if len(values) > 1 else '')


def _difference(row: Row, base: Row, *, several: bool) -> tuple[str, ...]:
  name = f'{row.method} − {base.method}' + (f', {row.label}' if several else '')
  points, base_points = ([100 * error for error in each.pixel_error] for each in (row, base))
  return name, *_minus(row.frechet, base.frechet, 3), *_minus(points, base_points, 2)


def _minus(values: Sequence[float], base: Sequence[float], digits: int) -> tuple[str, str]:
  """The mean of the differences seed by seed, and its interval."""
  mean, half = paired(values, base)
  if half is None:
    return f'{mean:+.{digits}f}', 'one seed'
  return f'{mean:+.{digits}f}', f'{mean - half:+.{digits}f} … {mean + half:+.{digits}f}'
