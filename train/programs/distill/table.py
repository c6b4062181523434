"""Makes the table of distilled students."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from train.activations import labelled
from train.config import TEACHER
from train.results.rows import alike
from train.results.statistics import Difference, difference, interval, markdown, mean, paired, spread
from train.teaching import KD


class Row(NamedTuple):
  """One kind of network: its test accuracy per seed, its parameters and its bytes."""

  name: str
  activation: str
  width: int
  segments: int | None
  hard_label: bool
  accuracy: list[float]
  parameters: int
  bytes: int
  loss: str = KD

  label = labelled


def counterpart(row: Row, rows: Sequence[Row], **changes: object) -> Row | None:
  """Finds the student row that differs from this one only by ``changes``."""
  return next(iter(alike(row, rows, ('activation', 'segments', 'width', 'hard_label', 'loss'), **changes)), None)


def minus_relu(row: Row, rows: Sequence[Row]) -> Difference | None:
  """Returns the paired difference from the ReLU student of the same size and labels, where there is one."""
  base = counterpart(row, rows, activation='relu', segments=None)
  return None if base is None or row.activation == 'relu' else paired(row.accuracy, base.accuracy)


def gap_closed(row: Row, rows: Sequence[Row]) -> float | None:
  """Returns (student − hard) / (teacher − hard), of means; hard is the hard-label student of the same activation."""
  teacher = next((other for other in rows if other.name == TEACHER), None)
  hard = counterpart(row, rows, hard_label=True, loss=KD)
  if row.hard_label or teacher is None or hard is None:
    return None
  student, low, high = (mean(r.accuracy) for r in (row, hard, teacher))
  return (student - low) / (high - low) if high != low else None


_HEAD = ('student', 'width', 'labels', 'accuracy %', '− ReLU', '95 % interval', 'gap closed', 'parameters', 'bytes')


def text(rows: Sequence[Row]) -> str:
  """Formats the rows as Markdown; students of several losses by their loss."""
  several = len({row.loss for row in rows if row.name != TEACHER and not row.hard_label}) > 1
  return by_loss(rows) if several else markdown(_HEAD, [_cells(row, rows) for row in rows])


def by_loss(rows: Sequence[Row]) -> str:
  """Formats a row for each loss: what each kind of student gains over the first loss, and the others over ReLU."""
  students = sorted((row for row in rows if row.name != TEACHER), key=lambda row: row.hard_label)
  kinds = list(dict.fromkeys((row.label, row.width) for row in students))
  losses = list(dict.fromkeys(map(_loss, students)))
  head = ['loss']
  for label, width in kinds:
    kind = f'{label}, width {width}' if len({width for _, width in kinds}) > 1 else label
    head += [f'{kind} %', f'− {losses[0]}', '95 % interval', *(('− ReLU', '95 % interval') if label != 'relu' else ())]
  lines = [[loss, *(cell for kind in kinds for cell in _of_kind(loss, kind, students))] for loss in losses]
  taught = [[TEACHER, spread(row.accuracy), *[''] * (len(head) - 2)] for row in rows if row.name == TEACHER]
  return markdown(head, [*taught, *lines])


def _loss(row: Row) -> str:
  return 'labels alone' if row.hard_label else row.loss


def _of_kind(loss: str, kind: tuple[str, int], students: Sequence[Row]) -> list[str]:
  found = {_loss(row): row for row in students if (row.label, row.width) == kind}
  row, base = found.get(loss), next(iter(found.values()))
  if row is None:
    return [''] * (3 if kind[0] == 'relu' else 5)
  cells = [spread(row.accuracy), *(('', '') if row is base else difference(row.accuracy, base.accuracy))]
  if kind[0] == 'relu':
    return cells
  relu = counterpart(row, students, activation='relu', segments=None)
  return [*cells, *(('', '') if relu is None else difference(row.accuracy, relu.accuracy))]


def _cells(row: Row, rows: Sequence[Row]) -> tuple[str, ...]:
  found, closed = minus_relu(row, rows), gap_closed(row, rows)
  return (
    TEACHER if row.name == TEACHER else row.label,
    str(row.width or '–'),
    'hard' if row.hard_label else 'distilled' if row.loss == KD else row.loss,
    spread(row.accuracy),
    '' if found is None or not np.isfinite(found.mean) else f'{100 * found.mean:+.2f}',
    '' if found is None else interval(found),
    '' if closed is None or not np.isfinite(closed) else f'{closed:.2f}',
    f'{row.parameters:,}',
    f'{row.bytes:,}',
  )
