"""Makes the tables of students without data: accuracies by the source of their inputs, and how like those are."""

from collections.abc import Sequence
from typing import NamedTuple

from train.activations import labelled
from train.programs.datafree.config import GAUSSIAN, REAL
from train.results.rows import alike
from train.results.statistics import difference, markdown, mean, spread

ORIGINAL = 'original'


class Row(NamedTuple):
  """A network, a student by the inputs of a source, or what a network says of inputs; figures are by seed."""

  name: str
  activation: str
  segments: int | None
  source: str  # of the inputs; original: the network itself
  bits: str  # of weights and activations
  calibrated: list[float] | None  # accuracy before it is tuned
  accuracy: list[float]
  bytes: int
  file: str
  divergence: list[float] | None  # of inputs, by the network's batch norms
  lma_divergence: list[float] | None  # by the statistics of its LMA

  label = labelled


def of_source(row: Row, rows: Sequence[Row], source: str) -> Row | None:
  """Finds the student that was tuned on the inputs of another source."""
  if row.source in (ORIGINAL, source):
    return None
  return next(iter(alike(row, rows, ('activation', 'segments', 'source', 'bits', 'divergence'), source=source)), None)


def text(rows: Sequence[Row]) -> str:
  """Formats both tables as Markdown."""
  likenesses = [row for row in rows if row.divergence is not None]
  return f'{students([row for row in rows if row.divergence is None])}\n\n{likeness(likenesses)}'


_HEAD = (
  'network', 'bits', 'inputs', 'calibrated %', 'tuned %', '− real', '95 % interval', '− gaussian', '95 % interval',
  'bytes',
)  # fmt: skip


def students(rows: Sequence[Row]) -> str:
  """Formats the accuracies of the files, and their differences from students by real inputs and by noise."""
  return markdown(_HEAD, [_cells(row, rows) for row in rows])


def _cells(row: Row, rows: Sequence[Row]) -> tuple[str, ...]:
  others = [of_source(row, rows, source) for source in (REAL, GAUSSIAN)]
  pairs = [('', '') if each is None else difference(row.accuracy, each.accuracy) for each in others]
  return (
    row.label, row.bits, '' if row.source == ORIGINAL else row.source,
    '' if row.calibrated is None else spread(row.calibrated), spread(row.accuracy),
    *pairs[0], *pairs[1], f'{row.bytes:,}',
  )  # fmt: skip


def likeness(rows: Sequence[Row]) -> str:
  """Formats the divergences: a row for each kind of inputs, a column for each network and measure."""
  labels = list(dict.fromkeys(row.label for row in rows))
  measures = [(label, which) for label in labels for which in ('divergence', 'lma_divergence')]
  known = [
    (label, which) for label, which in measures if any(getattr(row, which) for row in rows if row.label == label)
  ]
  head = [f'{label}, {"batch norms" if which == "divergence" else "LMA"}' for label, which in known]
  lines = []
  for source in dict.fromkeys(row.source for row in rows):
    found = {row.label: row for row in rows if row.source == source}
    lines.append((source, *(_shortly(getattr(found[label], which)) for label, which in known)))
  return markdown(('divergence of', *head), lines)


def _shortly(values: Sequence[float]) -> str:
  return f'{mean(values):.2g} ({min(values):.1g} … {max(values):.1g})'
