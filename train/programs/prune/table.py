"""Makes the table of pruned students: sparsity, bytes and their parts, accuracies, and paired differences."""

from collections.abc import Sequence
from typing import NamedTuple

from train.activations import labelled
from train.config import TEACHER
from train.results.rows import alike
from train.results.statistics import difference, markdown, spread


class Row(NamedTuple):
  """One kind of network: its sparsity, the size of its file and of its kernels, and accuracies per seed."""

  name: str
  activation: str
  segments: int | None
  method: str
  cut: str | None
  sparsity: float | None
  bits: int | None
  accuracy: list[float]
  validation_accuracy: list[float]
  bytes: int
  file: str
  kernel_bytes: int | None = None  # of the file: places, values and scales of the kernels
  stream_bytes: int | None = None  # of the kernels as a stream, the mean over the seeds
  zlib_float16: int | None = None  # of a bitmap and the values
  zlib_int8: int | None = None
  stream_accuracy: list[float] | None = None

  label = labelled

  @property
  def kind(self) -> str:
    """The method, with its bits or its kind of cut."""
    return ' '.join(str(part) for part in (self.method, self.bits, self.cut) if part is not None)


def counterpart(row: Row, rows: Sequence[Row], **changes: object) -> Row | None:
  """Finds the student row that differs from this one only by ``changes``."""
  return next(iter(alike(row, rows, ('activation', 'segments', 'method', 'cut', 'sparsity', 'bits'), **changes)), None)


_HEAD = (
  'student', 'weights', 'zeros %', 'bytes', 'of kernels', 'accuracy %', '− ReLU', '95 % interval', '− magnitude',
  '95 % interval', '− one-shot', '95 % interval', 'stream bytes', 'its accuracy %', 'zlib float16', 'zlib int8',
)  # fmt: skip


def text(rows: Sequence[Row]) -> str:
  """Formats the rows as Markdown; differences are paired by seed."""
  return markdown(_HEAD, [_cells(row, rows) for row in rows])


def _cells(row: Row, rows: Sequence[Row]) -> tuple[str, ...]:
  student = row.name != TEACHER
  relu = counterpart(row, rows, activation='relu', segments=None) if student and row.activation != 'relu' else None
  ranked = counterpart(row, rows, method='magnitude') if row.sparsity and row.method != 'magnitude' else None
  at_once = counterpart(row, rows, cut='one-shot') if row.cut == 'iterative' else None
  compared = [('', '') if base is None else difference(row.accuracy, base.accuracy) for base in (relu, ranked, at_once)]
  sizes = row.kernel_bytes, row.stream_bytes, row.zlib_float16, row.zlib_int8
  of_kernels, stream, *zipped = ('' if size is None else f'{size:,}' for size in sizes)
  return (
    row.label if student else TEACHER,
    row.kind if student else '',
    '' if row.sparsity is None else f'{100 * row.sparsity:g}',
    f'{row.bytes:,}',
    of_kernels,
    spread(row.accuracy),
    *(cell for pair in compared for cell in pair),
    stream,
    '' if row.stream_accuracy is None else spread(row.stream_accuracy),
    *zipped,
  )
