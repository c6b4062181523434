"""Makes the table of students shallower than their teacher: accuracies, paired differences and costs."""

from collections.abc import Sequence
from typing import NamedTuple

from train.activations import labelled
from train.config import TEACHER
from train.results.statistics import difference, markdown, mean, spread

_A_POINT = 0.01


class Arm(NamedTuple):
  """One row of the table: a method and an activation, over all seeds."""

  method: str
  activation: str
  segments: int | None

  label = labelled

  @property
  def name(self) -> str:
    return f'{self.label}-{self.method}'

  @property
  def teacher(self) -> 'Arm':
    """The teacher of the same activation."""
    return self._replace(method=TEACHER)


class Row(NamedTuple):
  """One kind of network: its accuracies per seed, and its costs."""

  name: str
  method: str
  network: str
  activation: str
  segments: int | None
  depth: int
  accuracy: list[float]
  validation_accuracy: list[float]
  parameters: int
  bytes: int
  macs: int
  milliseconds: float  # an example

  label = labelled


def counterpart(row: Row, rows: Sequence[Row], method: str) -> Row | None:
  """Finds the row of another method and the same activation."""
  return next((other for other in rows if (other.method, other.label) == (method, row.label)), None)


_HEAD = (
  'method', 'network', 'activation', 'accuracy %', '− KD', '95 % interval', '− hard', '95 % interval', 'validation %',
  'depth', 'parameters', 'bytes', 'million MACs', 'µs an example',
)  # fmt: skip


def text(rows: Sequence[Row]) -> str:
  """Formats the table as Markdown, with a verdict on each teacher."""
  lines = [verdict(row, hard) for row in rows if row.method == TEACHER and (hard := counterpart(row, rows, 'hard'))]
  return '\n\n'.join([markdown(_HEAD, [_cells(row, rows) for row in rows]), *lines])


def _cells(row: Row, rows: Sequence[Row]) -> tuple[str, ...]:
  return (
    row.method,
    row.network,
    row.label,
    spread(row.accuracy),
    *_minus(row, counterpart(row, rows, 'kd')),
    *_minus(row, counterpart(row, rows, 'hard')),
    spread(row.validation_accuracy),
    str(row.depth),
    f'{row.parameters:,}',
    f'{row.bytes:,}',
    f'{row.macs / 1e6:.3g}',
    f'{1000 * row.milliseconds:.2f}',
  )


def _minus(row: Row, base: Row | None) -> tuple[str, str]:
  if base is None or base == row or row.method == TEACHER:
    return '', ''
  return difference(row.accuracy, base.accuracy)


def verdict(teacher: Row, hard: Row) -> str:
  """Says whether the teacher had anything to teach; judged on the validation split, as all choices are."""
  ahead = mean(teacher.validation_accuracy) - mean(hard.validation_accuracy)
  found = (
    f'On validation the {teacher.label} teacher, {teacher.network}, is {100 * ahead:+.2f} points from the student of'
    f' hard labels, {hard.network}'
  )
  if round(ahead, 9) >= _A_POINT:  # 0.965 - 0.955 is a little less
    return f'{found}: there is something to teach.'
  return f'{found}. A pair whose teacher is not a point ahead shows nothing of the methods: choose another.'
