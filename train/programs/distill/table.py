"""Makes the table of distilled students."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from train.activations import labelled
from train.config import TEACHER
from train.results.rows import alike
from train.results.statistics import Difference, interval, markdown, mean, paired, spread


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

  label = labelled


def counterpart(row: Row, rows: Sequence[Row], **changes: object) -> Row | None:
  """Finds the student row that differs from this one only by ``changes``."""
  return next(iter(alike(row, rows, ('activation', 'segments', 'width', 'hard_label'), **changes)), None)


def minus_relu(row: Row, rows: Sequence[Row]) -> Difference | None:
  """Returns the paired difference from the ReLU student of the same size and labels, where there is one."""
  base = counterpart(row, rows, activation='relu', segments=None)
  return None if base is None or row.activation == 'relu' else paired(row.accuracy, base.accuracy)


def gap_closed(row: Row, rows: Sequence[Row]) -> float | None:
  """Returns (student − hard) / (teacher − hard), of means; hard is the hard-label student of the same activation."""
  teacher = next((other for other in rows if other.name == TEACHER), None)
  hard = counterpart(row, rows, hard_label=True)
  if row.hard_label or teacher is None or hard is None:
    return None
  student, low, high = (mean(r.accuracy) for r in (row, hard, teacher))
  return (student - low) / (high - low) if high != low else None


_HEAD = ('student', 'width', 'labels', 'accuracy %', '− ReLU', '95 % interval', 'gap closed', 'parameters', 'bytes')


def text(rows: Sequence[Row]) -> str:
  """Formats the rows as Markdown."""
  return markdown(_HEAD, [_cells(row, rows) for row in rows])


def _cells(row: Row, rows: Sequence[Row]) -> tuple[str, ...]:
  found, closed = minus_relu(row, rows), gap_closed(row, rows)
  return (
    TEACHER if row.name == TEACHER else row.label,
    str(row.width or '–'),
    'hard' if row.hard_label else 'distilled',
    spread(row.accuracy),
    '' if found is None or not np.isfinite(found.mean) else f'{100 * found.mean:+.2f}',
    '' if found is None else interval(found),
    '' if closed is None or not np.isfinite(closed) else f'{closed:.2f}',
    f'{row.parameters:,}',
    f'{row.bytes:,}',
  )
