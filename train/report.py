"""From results to a table that is honest: means, spreads, paired differences with their intervals."""

import json
import os
import re
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from scipy import stats

from train.errors import UserError
from train.run import read_json, write_atomically


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
    return self.activation if self.segments is None else f'{self.activation}-{self.segments}'


class Difference(NamedTuple):
  """A paired difference of accuracies and its 95 % interval, which one seed alone cannot have."""

  mean: float
  half_width: float | None


TEACHER = 'teacher'


def write(folder: Path, config: dict[str, Any], rows: Sequence[Row]) -> None:
  """Writes ``results.json``, with what it takes to get the same numbers again, and ``results.md``."""
  results = {'config': config, 'environment': environment(), 'rows': [row._asdict() for row in rows]}
  write_atomically(folder / 'results.json', json.dumps(results, indent=1) + '\n')
  write_atomically(folder / 'results.md', table(rows) + '\n')


def environment() -> dict[str, Any]:
  """The versions and devices behind the numbers."""
  versions = {name: metadata.version(name) for name in ('jax', 'flax', 'optax', 'numpy')}
  return {**versions, 'device': jax.devices()[0].device_kind, 'devices': jax.device_count(), 'cores': os.cpu_count()}


def read(folder: Path) -> tuple[str, list[Row]]:
  """Reads what ``write`` wrote: the data set's name and the rows."""
  path = folder / 'results.json'
  results = read_json(path)
  try:
    rows = [Row(**{name: row[name] for name in Row._fields}) for row in results['rows']]
    return results['config']['data'], rows
  except (KeyError, TypeError) as error:
    raise UserError(f'{path} does not hold the rows of a distill run ({error!r})') from error


def merged(results: Sequence[tuple[str, list[Row]]]) -> list[Row]:
  """The rows of several runs on the same data; what stands in two of them must be the same."""
  names = sorted({data for data, _ in results})
  if len(names) > 1:
    raise UserError(f'the runs are on different data ({", ".join(names)}): report them one by one')
  rows: dict[str, Row] = {}
  for row in (row for _, run in results for row in run):
    if rows.setdefault(row.name, row) != row:
      raise UserError(f'{row.name} stands in two of the runs with different results: report them one by one')
  return list(rows.values())


def paired(row: Row, base: Row) -> Difference:
  """The mean of the differences seed by seed, with Student's interval."""
  differences = np.subtract(row.accuracy, base.accuracy)
  n = len(differences)
  if n < 2:
    return Difference(float(differences.mean()), None)
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
  return None if base is None or row.activation == 'relu' else paired(row, base)


def gap_closed(row: Row, rows: Sequence[Row]) -> float | None:
  """(student − hard) / (teacher − hard), of means; hard is the hard-label student of the same activation."""
  teacher = next((other for other in rows if other.name == TEACHER), None)
  hard = counterpart(row, rows, hard_label=True)
  if row.hard_label or teacher is None or hard is None:
    return None
  student, low, high = (float(np.mean(r.accuracy)) for r in (row, hard, teacher))
  return (student - low) / (high - low) if high != low else None


_HEAD = ('student', 'width', 'labels', 'accuracy %', '− ReLU', '95 % interval', 'gap closed', 'parameters', 'bytes')


def table(rows: Sequence[Row]) -> str:
  """The rows as Markdown."""
  lines = [_HEAD, ('---', *('---:' for _ in _HEAD[1:]))]
  lines += [_cells(row, rows) for row in rows]
  return '\n'.join(f'| {" | ".join(cells)} |' for cells in lines)


def _cells(row: Row, rows: Sequence[Row]) -> tuple[str, ...]:
  accuracy = 100 * np.asarray(row.accuracy)
  spread = f' ± {accuracy.std(ddof=1):.2f}' if len(accuracy) > 1 else ''
  difference, closed = minus_relu(row, rows), gap_closed(row, rows)
  return (
    TEACHER if row.name == TEACHER else row.label,
    str(row.width),
    'hard' if row.hard_label else 'distilled',
    f'{accuracy.mean():.2f}{spread}',
    '' if difference is None else f'{100 * difference.mean:+.2f}',
    '' if difference is None else interval(difference),
    '' if closed is None else f'{closed:.2f}',
    f'{row.parameters:,}',
    f'{row.bytes:,}',
  )


def interval(difference: Difference) -> str:
  """The interval in points."""
  if difference.half_width is None:
    return 'one seed'
  low, high = (100 * (difference.mean + sign * difference.half_width) for sign in (-1, 1))
  return f'{low:+.2f} … {high:+.2f}'


_MARKED = re.compile(r'(<!-- table of (\S+) -->\n).*?(<!-- end of table -->)', re.DOTALL)


def filled(text: str, root: Path) -> str:
  """A Markdown text with the table of every marked results folder, relative to ``root``, put in anew."""
  return _MARKED.sub(lambda m: f'{m[1]}\n{table(read(root / m[2])[1])}\n\n{m[3]}', text)
