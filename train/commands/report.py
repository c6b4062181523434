"""Joins finished runs that differ only in their students or seeds, to report them as one."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, get_type_hints

from msgspec import Meta

from train.programs import PROGRAMS
from train.results.rows import Finished, read_results, read_rows, whole, write_found
from train.runtime.errors import UserError
from train.runtime.options import option, text
from train.runtime.outside import MOST, Plain, made

_STUDENTS = ('activations', 'segments', 'width')
_SEEDS = ('seeds', 'first_seed')
_Seeds = {'seeds': Annotated[int, Meta(ge=1, le=MOST['seeds'])], 'first_seed': Annotated[int, Meta(ge=0, le=2**32)]}
_TIMED = ('milliseconds', 'bytes', 'file')  # of the first seed of a run: the first run's are kept
_OF_LAYERS = ('sensitivities',)


def joined(folders: Sequence[Path]) -> Finished:
  """Joins finished runs.

  Rows of one name are merged: they hold the figures of all seeds, in the seeds' order; two runs of one seed must have
  the same figures. All options but students and seeds must agree between the runs.

  Raises:
    UserError: the runs are not of one command, or differ in other options.
  """
  found = [_results(folder) for folder in folders]
  first, command = found[0], found[0]['recipe']
  for folder, results in zip(folders, found, strict=True):
    _check_alike(folder, results, folders[0], first)
  order = sorted(range(len(found)), key=lambda i: found[i]['config'].get('first_seed', 0))
  kind = PROGRAMS[command].table().Row
  rows: dict[str, tuple[Any, set[int]]] = {}
  for i in order:
    seeds = _seeds(found[i])
    for row in read_rows(folders[i], command, kind):
      known = rows.get(row.name)
      rows[row.name] = _together(*known, row, seeds, found[i], folders[i]) if known else (row, seeds)
  names = list(dict.fromkeys(row['name'] for results in found for row in results['rows']))
  merged = [rows[name][0] for name in names]
  seeds = set[int]().union(*map(_seeds, found))
  students = {name: _union(found, name) for name in _STUDENTS if name in first['config']}
  results = {
    'recipe': command,
    'config': {**first['config'], **students, 'seeds': len(seeds), 'first_seed': min(seeds, default=0)},
    'environments': _each_once(value for results in found for value in results['environments']),
    'seconds_of_training': round(sum(results['seconds_of_training'] for results in found), 1),
    'rows': [row._asdict() for row in merged],
  }
  return Finished(command, results, merged, PROGRAMS[command].text(merged))


def write(folder: Path, found: Finished) -> None:
  """Writes ``results.json`` and ``results.md``."""
  try:
    folder.mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise UserError(f'cannot make the folder {folder}: {error.strerror}; choose another --out') from error
  write_found(folder, found.results, found.table)


def _results(folder: Path) -> dict[str, Any]:
  results: Any = read_results(folder)
  known = PROGRAMS.get(results['recipe']) if whole(results) else None
  if known is None or not known.joins(results['config']):
    raise UserError(f'{folder} holds no finished run of seeds, and report takes no other without --html')
  for name in set(_STUDENTS) & set(results['config']):
    made(results['config'][name], list[Plain], f'{folder / "results.json"}: {name} of its config')
  for name in _SEEDS:
    made(results['config'].get(name, 1), _Seeds[name], f'{folder / "results.json"}: {name} of its config')
  return results


def _check_alike(folder: Path, results: dict[str, Any], other: Path, base: dict[str, Any]) -> None:
  own, theirs = ({'command': each['recipe'], **each['config']} for each in (results, base))
  for name in [*theirs, *own]:
    if name not in (*_STUDENTS, *_SEEDS) and own.get(name) != theirs.get(name):
      raise UserError(
        f'{folder} has {option(name)} {text(own.get(name))}, {other} has {text(theirs.get(name))}: report them one by'
        ' one'
      )


def _seeds(results: dict[str, Any]) -> set[int]:
  start = results['config'].get('first_seed', 0)
  return set(range(start, start + results['config']['seeds']))


def _together(
  row: Any, seeds: set[int], other: Any, more: set[int], results: dict[str, Any], folder: Path
) -> tuple[Any, set[int]]:
  """Merges two rows that have either all seeds or no seed in common."""
  ours = {name: value for name, value in row._asdict().items() if name not in _TIMED}
  one = row.name.endswith('teacher') or (results['config'].get('teacher_digests') and row.name.endswith('original'))
  if ours == {name: getattr(other, name) for name in ours} and (one or seeds & more):
    return row, seeds
  by_seed = [name for name in _by_seed(type(row)) if getattr(row, name) is not None]
  different = [name for name in ours if name not in by_seed and getattr(row, name) != getattr(other, name)]
  if different or seeds & more or any(len(getattr(row, name)) != len(seeds) for name in by_seed):
    raise UserError(f'{row.name} in {folder} differs from that of an earlier run: report them one by one')
  return row._replace(**{name: [*getattr(row, name), *getattr(other, name)] for name in by_seed}), seeds | more


def _by_seed(kind: Any) -> list[str]:
  """Returns the columns that have a figure for each seed."""
  hints = get_type_hints(kind)
  return [name for name, hint in hints.items() if hint in (list[float], list[float] | None) and name not in _OF_LAYERS]


def _union(found: Sequence[dict[str, Any]], name: str) -> list[Any]:
  return list(dict.fromkeys(value for results in found for value in results['config'][name]))


def _each_once(values: Iterable[Any]) -> list[Any]:
  kept: list[Any] = []
  for value in values:
    if value not in kept:
      kept.append(value)
  return kept
