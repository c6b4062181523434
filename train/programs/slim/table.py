"""Results table of slim: accuracies by rule and start, against PCA's, and widths correlated with sensitivities."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

from train.activations import labelled
from train.results.statistics import difference, markdown, spread

ORIGINAL = 'original'


class Row(NamedTuple):
  """One row of the table: a kind of network, its accuracy per seed, and its cost."""

  name: str
  activation: str
  segments: int | None
  rule: str  # of the widths, or what kind of original it is
  start: str
  rate: float  # that was asked for
  reached: float
  widths: list[int]
  accuracy: list[float]
  validation_accuracy: list[float]
  parameters: int
  bytes: int
  macs: int
  milliseconds: float  # an example
  sensitivities: list[float] | None = None  # of an original's layers
  null: list[int] | None = None  # what random weights give at the same rate
  null_at_share: list[int] | None = None  # and at the share of variance of PCA's widths

  label = labelled


def counterpart(row: Row, rows: Sequence[Row], rule: str) -> Row | None:
  """Returns the row that differs only in its rule, if there is one."""
  same = (row.label, row.rate, row.start)
  return next((other for other in rows if other.rule == rule and (other.label, other.rate, other.start) == same), None)


def text(rows: Sequence[Row]) -> str:
  """Returns the tables as Markdown: the networks, then the widths beside their controls."""
  return '\n\n'.join([markdown(_HEAD, [_cells(row, rows) for row in rows]), layers(rows)])


_HEAD = (
  'widths by', 'start', 'activation', 'rate asked %', 'reached %', 'accuracy %', 'PCA − this', '95 % interval',
  'validation %', 'parameters', 'bytes', 'million MACs', 'µs an example',
)  # fmt: skip


def _cells(row: Row, rows: Sequence[Row]) -> tuple[str, ...]:
  pca = counterpart(row, rows, 'pca')
  return (
    row.rule,
    row.start,
    row.label,
    f'{100 * row.rate:g}' if row.rate else '',
    f'{100 * row.reached:.1f}' if row.rate else '',
    spread(row.accuracy),
    *(('', '') if pca is None or pca is row else difference(pca.accuracy, row.accuracy)),
    spread(row.validation_accuracy),
    f'{row.parameters:,}',
    f'{row.bytes:,}',
    f'{row.macs / 1e6:.3g}',
    f'{1000 * row.milliseconds:.2f}',
  )


_WIDTHS_HEAD = (
  'activation', 'rate %', 'PCA', 'null, same rate', 'null, same share', 'PCA / null, same rate', 'same share',
  'rank correlation of PCA', 'of the null',
)  # fmt: skip


def layers(rows: Sequence[Row]) -> str:
  """Returns a table of the layers' widths beside those of random weights, and their correlation with sensitivities."""
  found = {(row.label, row.rate): row for row in reversed(rows) if row.rule == 'pca'}
  lines = [_widths_cells(row, rows) for row in reversed(found.values())]
  note = (
    'PCA / null are means over the slimmed layers. The rank correlation (Spearman) is that of the kept part of each'
    ' layer with what half of its filters are worth; 1 where the more is kept the more is lost without it.'
  )
  return f'{markdown(_WIDTHS_HEAD, lines)}\n\n{note}' if lines else ''


def _widths_cells(row: Row, rows: Sequence[Row]) -> tuple[str, ...]:
  original = next(other for other in rows if (other.label, other.rule) == (row.label, ORIGINAL))
  null, at_share = row.null or [], row.null_at_share or []
  return (
    row.label,
    f'{100 * row.rate:g}',
    ' '.join(map(str, row.widths)),
    ' '.join(map(str, null)),
    ' '.join(map(str, at_share)),
    f'{ratio(row.widths, null, original.widths):.2f}',
    f'{ratio(row.widths, at_share, original.widths):.2f}',
    correlation(row.widths, original),
    correlation(null, original),
  )


def ratio(widths: Sequence[int], null: Sequence[int], full: Sequence[int]) -> float:
  """Returns the mean of width / null over the layers that either makes thinner; 1 if there are none."""
  pairs = [(width, other) for width, other, most in zip(widths, null, full, strict=True) if min(width, other) < most]
  return float(np.mean([width / other for width, other in pairs])) if pairs else 1.0


def correlation(widths: Sequence[int], original: Row) -> str:
  """Formats the rank correlation of kept parts and sensitivities; — below three layers or where either is constant."""
  kept = np.round(np.divide(widths, original.widths), 9)
  losses = np.round(original.sensitivities or [], 9)  # a rounding is no rank
  if len(losses) < 3 or np.ptp(kept) == 0 or np.ptp(losses) == 0:
    return '—'
  found: Any = stats.spearmanr(kept, losses)
  return f'{found.statistic:+.2f}'
