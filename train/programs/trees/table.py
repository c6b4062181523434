"""Results table of trees: accuracy and agreement of each way, and the paired difference to a tree of the labels."""

from collections.abc import Sequence
from typing import NamedTuple

from train.programs.trees.students import LABELS
from train.results.statistics import difference, markdown, mean, spread


class Row(NamedTuple):
  """One way to a classifier: its accuracy on every test part, and how far its trees of one repeat agree."""

  table: str
  arm: str
  teacher: str | None  # that it learned from, or that it is
  weights: str | None
  accuracy: list[float]
  agreement: list[float]  # of two folds' trees on the examples that no fold has, the mean over the pairs, a repeat each
  depth: list[float] | None = None  # the empirical one
  threshold: list[float] | None = None


def base(row: Row, rows: Sequence[Row]) -> Row:
  """Returns the row of the trees that learned the labels on the same examples, under the same weights."""
  return next(other for other in rows if (other.table, other.arm, other.weights) == (row.table, LABELS, row.weights))


_HEAD = (
  'table', 'weights', 'teacher', 'tree of', 'accuracy %', '− labels', '95 % interval', 'agreement %', 'depth',
  'threshold',
)  # fmt: skip


def text(rows: Sequence[Row]) -> str:
  """The table as Markdown, and what its intervals assume."""
  lines = [_cells(row, rows) for row in rows]
  return (
    f'{markdown(_HEAD, lines)}\n\nIntervals are paired over all test parts, as if these were independent; but they '
    'share training examples, so that the intervals are too narrow.'
  )


def _cells(row: Row, rows: Sequence[Row]) -> tuple[str, ...]:
  compared = (
    ('', '') if row.weights is None or row.arm == LABELS else difference(row.accuracy, base(row, rows).accuracy)
  )
  return (
    row.table,
    row.weights or '',
    row.teacher or '',
    row.arm,
    spread(row.accuracy),
    *compared,
    spread(row.agreement),
    '' if row.depth is None else f'{mean(row.depth):.2f}',
    '' if row.threshold is None else f'{mean(row.threshold):.2f}',
  )
