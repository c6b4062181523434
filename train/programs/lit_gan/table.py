"""Makes the table of generators shallower than their teacher: distances, paired differences and costs."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from train.activations import labelled
from train.config import TEACHER
from train.results.statistics import difference, markdown, spread

ONLY, LIT, SCRATCH = 'lit-only', 'lit', 'scratch'
"""The student after the first phase, after both, and trained against the discriminator alone."""


class Row(NamedTuple):
  """One kind of generator: its errors per seed, and its costs."""

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

  label = labelled


_HEAD = (
  'generator', 'blocks', 'activation', 'Fréchet distance', 'pixel error %', 'from the teacher %', 'validation error %',
  'parameters', 'bytes', 'million MACs', 'µs an image',
)  # fmt: skip
_PAIRED = ('paired difference', 'Fréchet distance', '95 % interval', 'pixel error, points', '95 % interval')
_DISTANCE: dict[str, Any] = {'unit': 1, 'digits': 3}
_NOTE = (
  "The Fréchet distance is that of our own classifier's features of styled test images, the mean over target styles;"
  ' its numbers are in units of their own. 0 is what the true styles have.'
)


def text(rows: Sequence[Row]) -> str:
  """Formats the tables as Markdown, with a note on what the distance is of."""
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
    spread(row.frechet, **_DISTANCE),
    spread(row.pixel_error),
    '' if row.method == TEACHER else spread(row.teacher_error),
    spread(row.validation_error),
    f'{row.parameters:,}',
    f'{row.bytes:,}',
    f'{row.macs / 1e6:.3g}',
    f'{1000 * row.milliseconds:.2f}',
  )


def _difference(row: Row, base: Row, *, several: bool) -> tuple[str, ...]:
  name = f'{row.method} − {base.method}' + (f', {row.label}' if several else '')
  distances = difference(row.frechet, base.frechet, **_DISTANCE)
  return name, *distances, *difference(row.pixel_error, base.pixel_error)
