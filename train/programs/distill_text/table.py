"""Results table of distill-text: scores of the translations, paired differences, and model sizes."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from train.activations import labelled
from train.config import TEACHER
from train.results.rows import alike
from train.results.statistics import difference, markdown, mean, spread
from train.teaching import KD


def _taught(self: Any) -> str:
  """The method of an arm or a row, or the loss that takes the place of its soft targets."""
  return self.method if self.loss == KD else self.loss


class Arm(NamedTuple):
  """One row of the table: a kind of student, over all seeds."""

  method: str
  activation: str
  segments: int | None
  width: int
  bits: int | None
  loss: str = KD

  label = labelled
  taught = property(_taught)

  @property
  def name(self) -> str:
    return f'{self.label}-w{self.width}-{self.taught}{f"-{self.bits}bit" if self.bits else ""}'


class Row(NamedTuple):
  """One row of the table: a kind of network, its scores per seed, and its size."""

  name: str
  method: str
  activation: str
  segments: int | None
  width: int
  bits: int | None
  bleu: list[float]
  chrf: list[float]
  perplexity: list[float]  # per token of the vocabulary
  perplexity_per_word: list[float]
  exact_match: list[float]
  validation_perplexity: list[float]
  parameters: int
  mean_bits: float
  bytes: int
  file: str
  cut: int  # sentences of validation and test that were longer than may be
  signatures: list[str]
  loss: str = KD

  label = labelled
  taught = property(_taught)


def base(row: Row, rows: Sequence[Row]) -> Row | None:
  """Returns the row that differs only in having ReLU; None if there is none, or for a row with ReLU."""
  found = alike(row, rows, ('method', 'width', 'bits', 'loss'), activation='relu')
  return None if row.activation == 'relu' else next(iter(found), None)


_HEAD = (
  'student', 'width', 'labels', 'bits', 'BLEU', '− ReLU', 'chrF', '− ReLU', 'perplexity', '− ReLU', 'per word',
  '− ReLU', 'exact %', '− ReLU', 'parameters', 'bytes',
)  # fmt: skip


def text(rows: Sequence[Row]) -> str:
  """Returns the table as Markdown, with the students' distance to their teacher and how BLEU was computed."""
  cut = rows[0].cut
  lines = [
    behind(rows),
    f'Differences are paired by seed, with their 95 % intervals. {"; ".join(rows[0].signatures)}.',
    f'{cut} sentences of validation and test were cut: they are longer than --max-length.' if cut else '',
  ]
  return '\n\n'.join([markdown(_HEAD, [_cells(row, rows) for row in rows]), *filter(None, lines)])


def behind(rows: Sequence[Row]) -> str:
  """Returns a line with how far each student is below the teacher in BLEU; empty without a teacher."""
  teacher = next((row for row in rows if row.name == TEACHER), None)
  if teacher is None:
    return ''
  gaps = {row.name: mean(teacher.bleu) - mean(row.bleu) for row in rows if row is not teacher}
  ahead = ', '.join(f'{name} {round(gap, 1) + 0.0:+.1f}' for name, gap in gaps.items())
  return f'BLEU by which the teacher is ahead: {ahead}.'


def _cells(row: Row, rows: Sequence[Row]) -> tuple[str, ...]:
  def figure(name: str, unit: float = 1.0) -> tuple[str, str]:
    values, other = getattr(row, name), base(row, rows)
    apart = '' if other is None else '{} ({})'.format(*difference(values, getattr(other, name), unit=unit))
    return spread(values, unit=unit), apart

  return (
    TEACHER if row.name == TEACHER else row.label,
    str(row.width),
    row.taught,
    '' if row.bits is None else str(row.bits),
    *figure('bleu'),
    *figure('chrf'),
    *figure('perplexity'),
    *figure('perplexity_per_word'),
    *figure('exact_match', 0.01),
    f'{row.parameters:,}',
    f'{row.bytes:,}',
  )
