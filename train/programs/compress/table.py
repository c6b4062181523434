"""Results table of compress: bytes, time and accuracy of each stage, beside the original and the stage before."""

from collections.abc import Sequence
from typing import NamedTuple

from train.activations import labelled
from train.results.statistics import difference, markdown, spread

ORIGINAL, SLIMMED, LIT = 'original', 'slimmed', 'lit'
DISTILLED, PRUNED, HASHED = 'distilled', 'pruned', 'hashed'
QUANTIZED, PACKED = 'quantized', 'packed'
_ORDER = (ORIGINAL, SLIMMED, LIT, DISTILLED, PRUNED, HASHED, QUANTIZED, PACKED)


class Row(NamedTuple):
  """One row of the table: a stage, its size and time, and its files' accuracy per seed."""

  name: str
  stage: str
  activation: str
  segments: int | None
  widths: list[int]
  accuracy: list[float]
  validation_accuracy: list[float]
  parameters: int
  bytes: int
  milliseconds: float  # an example
  file: str

  label = labelled


def before(row: Row, rows: Sequence[Row]) -> Row | None:
  """Returns the row of the stage that a stage continues; None for the first."""
  earlier = [other for other in rows if _ORDER.index(other.stage) < _ORDER.index(row.stage)]
  if not earlier:
    return None
  last = max(_ORDER.index(other.stage) for other in earlier)
  found = [other for other in earlier if _ORDER.index(other.stage) == last]
  return next((other for other in found if other.label == row.label), found[0])


_HEAD = (
  'stage', 'activation', 'widths', 'parameters', 'bytes', '× smaller', 'µs an example', 'accuracy %', '− original',
  '95 % interval', '− stage before', '95 % interval', 'validation %',
)  # fmt: skip


def text(rows: Sequence[Row]) -> str:
  """The table as Markdown, a row for each stage."""
  return markdown(_HEAD, [_cells(row, rows) for row in rows])


def _cells(row: Row, rows: Sequence[Row]) -> tuple[str, ...]:
  original = next(other for other in rows if other.stage == ORIGINAL)
  base = before(row, rows)
  return (
    row.stage,
    row.label,
    ' '.join(map(str, row.widths)),
    f'{row.parameters:,}',
    f'{row.bytes:,}',
    '' if row is original else f'{original.bytes / row.bytes:.1f}',
    f'{1000 * row.milliseconds:.2f}',
    spread(row.accuracy),
    *(('', '') if row is original else difference(row.accuracy, original.accuracy)),
    *(('', '') if base is None else difference(row.accuracy, base.accuracy)),
    spread(row.validation_accuracy),
  )
