"""From results to a table that is honest: means, spreads, paired differences with their intervals."""

import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, NotRequired, TypedDict, get_type_hints

import numpy as np
from scipy import stats

from train.config import label, published, recipe
from train.runtime.errors import UserError
from train.runtime.outside import Config, Name, made, read_json
from train.runtime.run import environments, within, without_nan, write_atomically


class Row(NamedTuple):
  """One kind of network: its test accuracy per seed, and what it weighs."""

  name: str
  activation: str
  width: int
  segments: int | None
  hard_label: bool
  accuracy: list[float]
  parameters: int
  bytes: int

  @property
  def label(self) -> str:
    return label(self.activation, self.segments)


class Difference(NamedTuple):
  """A paired difference of accuracies and its 95 % interval, which one seed alone cannot have."""

  mean: float
  half_width: float | None


TEACHER = 'teacher'


def write(folder: Path, config: Any, rows: Sequence[dict[str, Any]], table: str) -> None:
  """Writes ``results.json``, with what it takes to get the same numbers again, and ``results.md``."""
  lines = (folder / 'metrics.jsonl').read_text().splitlines()
  found = {
    'recipe': recipe(config),
    'config': published(config),
    'environments': environments(folder),
    'seconds_of_training': round(sum(json.loads(line)['seconds'] for line in lines), 1),
    'rows': rows,
  }
  write_atomically(folder / 'results.json', json.dumps(without_nan(found), indent=1, allow_nan=False) + '\n')
  write_atomically(folder / 'results.md', table + '\n')


def read(folder: Path, command: str, kind: Any) -> list[Any]:
  """The rows that ``write`` wrote of a finished run of a command, of their kind, a ``Row``."""
  path = folder / 'results.json'
  if not path.exists() and (folder / 'config.json').exists():
    raise UserError(
      f'{folder} holds a run that is not finished: {command} --resume --workdir {shlex.quote(str(folder))}'
    )
  return [_row(row, kind, command, path) for row in results(folder)['rows']]


class Results(TypedDict):
  """What ``results.json`` holds; nothing but the rows is always asked for."""

  recipe: NotRequired[Name]
  config: NotRequired[Config]
  environments: NotRequired[list[Any]]
  seconds_of_training: NotRequired[float]
  rows: list[dict[str, Any]]


def results(folder: Path) -> Results:
  """The ``results.json`` of a finished run, or of several that were joined."""
  return read_json(folder / 'results.json', Results)


def _row(row: dict[str, Any], kind: Any, command: str, path: Path) -> Any:
  if 'name' in kind._fields:
    within(path.parent, row.get('name'), path)  # files are called by it
  found = {}
  for name, hint in get_type_hints(kind).items():
    if name not in row:
      raise UserError(f'{path}: a row lacks {name}, which those of a {command} run have')
    found[name] = value = np.nan if row[name] is None and hint is float else _of_json(row[name])
    made(value, hint, f'{path}: {name} of a row')
  return kind(**found)


def _of_json(value: Any) -> Any:
  """NaN again for the seeds whose students have diverged."""
  return [np.nan if each is None else each for each in value] if isinstance(value, list) else value


def known(values: Sequence[float] | np.ndarray) -> np.ndarray:
  """The figures of the students that have not diverged."""
  found = np.asarray(values, np.float64)
  return found[np.isfinite(found)]


def mean(values: Sequence[float] | np.ndarray) -> float:
  """The mean over the students that have not diverged; NaN of none."""
  found = known(values)
  return float(found.mean()) if len(found) else np.nan


def deviation(values: Sequence[float] | np.ndarray) -> float:
  """The sample deviation over the students that have not diverged; 0 of fewer than two."""
  found = known(values)
  return float(found.std(ddof=1)) if len(found) > 1 else 0.0


def paired(accuracy: Sequence[float], base: Sequence[float]) -> Difference:
  """The mean of the differences seed by seed, with Student's interval."""
  if len(accuracy) != len(base):  # what does not depend on the seed has one figure
    return Difference(mean(accuracy) - mean(base), None)
  differences = known(np.subtract(accuracy, base))
  n = len(differences)
  if n < 2:
    return Difference(mean(differences), None)
  error = differences.std(ddof=1) / np.sqrt(n)
  return Difference(float(differences.mean()), float(stats.t.ppf(0.975, n - 1) * error))


def counterpart(row: Row, rows: Sequence[Row], **changes: object) -> Row | None:
  """The row that is like this one but for some columns."""
  wanted = {'activation': row.activation, 'segments': row.segments, 'width': row.width, 'hard_label': row.hard_label}
  wanted.update(changes)
  students = [other for other in rows if other.name != TEACHER]
  return next((o for o in students if all(getattr(o, k) == v for k, v in wanted.items())), None)


def minus_relu(row: Row, rows: Sequence[Row]) -> Difference | None:
  """The paired difference from the ReLU student of the same size and labels, where there is one."""
  base = counterpart(row, rows, activation='relu', segments=None)
  return None if base is None or row.activation == 'relu' else paired(row.accuracy, base.accuracy)


def gap_closed(row: Row, rows: Sequence[Row]) -> float | None:
  """(student − hard) / (teacher − hard), of means; hard is the hard-label student of the same activation."""
  teacher = next((other for other in rows if other.name == TEACHER), None)
  hard = counterpart(row, rows, hard_label=True)
  if row.hard_label or teacher is None or hard is None:
    return None
  student, low, high = (mean(r.accuracy) for r in (row, hard, teacher))
  return (student - low) / (high - low) if high != low else None


_HEAD = ('student', 'width', 'labels', 'accuracy %', '− ReLU', '95 % interval', 'gap closed', 'parameters', 'bytes')


def table(rows: Sequence[Row]) -> str:
  """The rows as Markdown."""
  return markdown(_HEAD, [_cells(row, rows) for row in rows])


def markdown(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
  """A table whose first column is text and whose others are numbers."""
  return '\n'.join(f'| {" | ".join(cells)} |' for cells in (head, ('---', *('---:' for _ in head[1:])), *lines))


def _cells(row: Row, rows: Sequence[Row]) -> tuple[str, ...]:
  found, closed = minus_relu(row, rows), gap_closed(row, rows)
  return (
    TEACHER if row.name == TEACHER else row.label,
    str(row.width),
    'hard' if row.hard_label else 'distilled',
    spread(row.accuracy),
    '' if found is None or not np.isfinite(found.mean) else f'{100 * found.mean:+.2f}',
    '' if found is None else interval(found),
    '' if closed is None or not np.isfinite(closed) else f'{closed:.2f}',
    f'{row.parameters:,}',
    f'{row.bytes:,}',
  )


def interval(difference: Difference, *, unit: float = 0.01, digits: int = 2) -> str:
  """The interval, in points unless another unit is asked for."""
  if difference.half_width is None:
    return 'one seed' if np.isfinite(difference.mean) else ''
  low, high = ((difference.mean + sign * difference.half_width) / unit for sign in (-1, 1))
  return f'{low:+.{digits}f} … {high:+.{digits}f}'


def difference(
  values: Sequence[float], base: Sequence[float], *, unit: float = 0.01, digits: int = 2
) -> tuple[str, str]:
  """The paired difference and its interval, in points unless another unit is asked for."""
  found = paired(values, base)
  if not np.isfinite(found.mean):
    return '', ''
  return f'{round(found.mean / unit, digits) + 0.0:+.{digits}f}', interval(found, unit=unit, digits=digits)


def spread(values: Sequence[float], *, unit: float = 0.01, digits: int = 2) -> str:
  """The mean, in percent unless another unit is asked for, with the standard deviation over the seeds."""
  scaled = known(values) / unit
  lost = f'{len(values) - len(scaled)} of {len(values)} diverged' if len(scaled) < len(values) else ''
  if not len(scaled):
    return lost
  deviates = f' ± {deviation(scaled):.{digits}f}' if len(scaled) > 1 else ''
  return f'{mean(scaled):.{digits}f}{deviates}{f" ({lost})" if lost else ""}'
