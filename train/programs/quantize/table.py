"""Makes the table of quantized students: bits, bytes, accuracies, and paired differences with their intervals."""

from collections.abc import Sequence
from typing import NamedTuple

from train.activations import labelled
from train.config import TEACHER
from train.programs.quantize.methods import METHODS
from train.results.rows import alike
from train.results.statistics import difference, markdown, mean, spread
from train.teaching import KD


class Row(NamedTuple):
  """One kind of network: the size of its file, and accuracies per seed of the weights in it."""

  name: str
  activation: str
  width: int
  segments: int | None
  method: str
  size: int | None  # bits a weight, or rows of a codebook
  activation_bits: int | None
  accuracy: list[float]
  validation_accuracy: list[float]
  accuracy_as_trained: list[float]  # with the running statistics of training
  bits: float  # of the codes of a quantized weight, on average
  bytes: int
  file: str
  shadow_accuracy: list[float] | None
  parameters: int
  milliseconds: float
  temperature: float | None
  soft_weight: float | None
  loss: str = KD

  label = labelled

  @property
  def kind(self) -> str:
    """The method and its size."""
    return self.method if self.size is None else f'{self.method} {self.size}'


_KIND = ('activation', 'segments', 'width', 'method', 'size', 'activation_bits', 'loss')


def counterpart(row: Row, rows: Sequence[Row], **changes: object) -> Row | None:
  """Finds the student row that differs only by ``changes``; in a grid, the one of the most similar soft targets."""

  def shared(other: Row) -> int:
    return (other.temperature == row.temperature) + (other.soft_weight == row.soft_weight)

  return max(alike(row, rows, _KIND, **changes), key=shared, default=None)


def relu_of(row: Row, rows: Sequence[Row]) -> Row | None:
  """Finds the ReLU student that is otherwise like this one."""
  return None if row.activation == 'relu' else counterpart(row, rows, activation='relu', segments=None)


def kd_of(row: Row, rows: Sequence[Row]) -> Row | None:
  """Finds the student of kd that is otherwise like this one of another loss."""
  return None if row.loss == KD else counterpart(row, rows, loss=KD)


def base_of(row: Row, rows: Sequence[Row]) -> Row | None:
  """Finds the student that this one's method is compared with."""
  if row.activation_bits:
    return counterpart(row, rows, activation_bits=None)
  method = METHODS[row.method].against if row.method in METHODS else None
  size = row.size if method and METHODS[method].size else None
  base = None if method is None else counterpart(row, rows, method=method, size=size)
  if base is None and row.name != TEACHER and row.method != 'float':
    return counterpart(row, rows, method='float', size=None)
  return base


def text(rows: Sequence[Row]) -> str:
  """Formats the tables as Markdown; where each kind of student had several soft targets, their grid instead."""
  floats = [row for row in rows if row.method == 'float' and row.name != TEACHER and row.loss == KD]
  several = {(row.temperature, row.soft_weight) for row in floats}
  return grid(rows) if len(several) > 1 else f'{table(rows)}\n\n{comparisons(rows)}'


def grid(rows: Sequence[Row]) -> str:
  """Formats validation accuracies, a row per kind of weights over all activations and seeds; the best is bold."""
  found: dict[str, dict[tuple[float, float], list[float]]] = {}
  for row in rows:
    if row.temperature is not None and row.soft_weight is not None:
      cells = found.setdefault(row.kind, {})
      cells.setdefault((row.temperature, row.soft_weight), []).extend(row.validation_accuracy)
  targets = sorted({target for cells in found.values() for target in cells})
  means = {kind: {target: 100 * mean(cells[target]) for target in cells} for kind, cells in found.items()}
  lines = [(kind, *(_bold(cells, target) for target in targets)) for kind, cells in means.items()]
  return markdown(('weights', *(f'T {t:g}, soft {s:g}' for t, s in targets)), lines)


def _bold(cells: dict[tuple[float, float], float], target: tuple[float, float]) -> str:
  text = f'{cells[target]:.2f}'
  return f'**{text}**' if cells[target] == max(cells.values()) else text


_HEAD = (
  'student', 'weights', 'activations', 'bits a weight', 'bytes', '× smaller', 'accuracy %', '− ReLU', '95 % interval',
  'as trained', 'shadow', 'µs an image',
)  # fmt: skip


def wide(row: Row) -> str:
  """Names a kind of student: by its activation, its width where the options say one, and its loss if that is not kd."""
  width, loss = f', width {row.width}' if row.width else '', '' if row.loss == KD else f', {row.loss}'
  return f'{row.label}{width}{loss}'


def table(rows: Sequence[Row]) -> str:
  """Formats a row for each kind of network; sizes are relative to the float32 rows."""
  return markdown(_HEAD, [_cells(row, rows) for row in rows])


def comparisons(rows: Sequence[Row]) -> str:
  """Compares each method with the one before it, and each loss with kd, paired by seed."""
  pairs = [(row, base) for row in rows for base in (base_of(row, rows), kd_of(row, rows)) if base]
  lines = [(row.name, base.name, *difference(row.accuracy, base.accuracy)) for row, base in pairs]
  return markdown(('student', 'against', 'difference', '95 % interval'), lines)


def _cells(row: Row, rows: Sequence[Row]) -> tuple[str, ...]:
  base, full = relu_of(row, rows), counterpart(row, rows, method='float', size=None, activation_bits=None)
  full = None if row.name == TEACHER else full
  return (
    TEACHER if row.name == TEACHER else wide(row),
    row.kind,
    str(row.activation_bits or 32),
    f'{row.bits:.3g}',
    f'{row.bytes:,}',
    '' if full is None or full is row else f'{full.bytes / row.bytes:.1f}',
    spread(row.accuracy),
    *(('', '') if base is None else difference(row.accuracy, base.accuracy)),
    spread(row.accuracy_as_trained),
    '' if row.shadow_accuracy is None else spread(row.shadow_accuracy),
    f'{1000 * row.milliseconds:.2f}',
  )
