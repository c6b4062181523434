"""Makes the table of hashed students: numbers trained, bytes, accuracies, and paired differences from multi-hash."""

from collections.abc import Sequence
from typing import NamedTuple

from train.activations import labelled
from train.config import TEACHER
from train.results.rows import alike
from train.results.statistics import difference, markdown, spread


class Row(NamedTuple):
  """One kind of network: what it trains, the size of its file, and accuracies per seed of the weights in it."""

  name: str
  activation: str
  segments: int | None
  method: str
  hashes: int | None
  ratio: float | None
  width: list[int]
  parameters: int  # numbers that are trained
  learning_rate: float | None  # chosen on the validation set
  tried: list[float]  # the mean accuracy on the validation set at each of the learning rates
  accuracy: list[float]
  validation_accuracy: list[float]
  bytes: int
  file: str

  label = labelled

  @property
  def kind(self) -> str:
    """The method, with the number of its hashes."""
    if self.hashes is None:
      return self.method
    signed = ' signed' if self.method == 'signed-pools' else ''
    return f'{self.hashes}{signed} hash{"es" * (self.hashes > 1)}'


def counterpart(row: Row, rows: Sequence[Row], **changes: object) -> Row | None:
  """Finds the student row that differs from this one only by ``changes``."""
  return next(iter(alike(row, rows, ('activation', 'segments', 'method', 'hashes', 'ratio'), **changes)), None)


_HEAD = (
  'student', 'weights', 'ratio', 'widths', 'numbers trained', 'bytes', 'learning rate', 'accuracy %', '− ReLU',
  '95 % interval', 'multi-hash − it', '95 % interval',
)  # fmt: skip


def text(rows: Sequence[Row]) -> str:
  """Formats the rows as Markdown; the last two columns compare multi-hash with the other methods of the same ratio."""
  return markdown(_HEAD, [_cells(row, rows) for row in rows])


def _cells(row: Row, rows: Sequence[Row]) -> tuple[str, ...]:
  student = row.name != TEACHER
  relu = counterpart(row, rows, activation='relu', segments=None) if student and row.activation != 'relu' else None
  hashed = (
    counterpart(row, rows, method='multi-hash', hashes=None) if row.ratio and row.method != 'multi-hash' else None
  )
  return (
    row.label if student else TEACHER,
    row.kind if student else '',
    '' if row.ratio is None else f'{row.ratio:g}',
    ' '.join(map(str, row.width)),
    f'{row.parameters:,}',
    f'{row.bytes:,}',
    '' if row.learning_rate is None else f'{row.learning_rate:g}',
    spread(row.accuracy),
    *(('', '') if relu is None else difference(row.accuracy, relu.accuracy)),
    *(('', '') if hashed is None else difference(hashed.accuracy, row.accuracy)),
  )
