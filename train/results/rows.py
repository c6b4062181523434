"""Writes and reads the rows of a finished run, in results.json."""

import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, NotRequired, TypedDict, get_type_hints

import numpy as np

from train.config import TEACHER, published, recipe
from train.runtime.errors import UserError
from train.runtime.files import environments, within, without_nan, write_atomically
from train.runtime.outside import Config, Name, made, read_json


def write_results(folder: Path, config: Any, rows: Sequence[Any], table: str) -> None:
  """Writes ``results.json``, with all it takes to reproduce the numbers, and ``results.md``."""
  lines = (folder / 'metrics.jsonl').read_text().splitlines()
  found = {
    'recipe': recipe(config),
    'config': published(config),
    'environments': environments(folder),
    'seconds_of_training': round(sum(json.loads(line)['seconds'] for line in lines), 1),
    'rows': [row if isinstance(row, dict) else row._asdict() for row in rows],
  }
  write_found(folder, found, table)


def write_found(folder: Path, found: dict[str, Any], table: str) -> None:
  """Writes results and their table as they stand."""
  write_atomically(folder / 'results.json', json.dumps(without_nan(found), indent=1, allow_nan=False) + '\n')
  write_atomically(folder / 'results.md', table + '\n')


def read_rows(folder: Path, command: str, kind: Any) -> list[Any]:
  """Reads the rows of a finished run of a command; ``kind`` is the command's ``Row``."""
  path = folder / 'results.json'
  if not path.exists() and (folder / 'config.json').exists():
    raise UserError(
      f'{folder} holds a run that is not finished: {command} --resume --workdir {shlex.quote(str(folder))}'
    )
  return [_row(row, kind, command, path) for row in read_results(folder)['rows']]


def alike(row: Any, rows: Sequence[Any], names: Sequence[str], **changes: object) -> list[Any]:
  """Lists the students whose rows have the same of these fields, but for ``changes``."""
  wanted = {name: getattr(row, name) for name in names} | changes
  students = [other for other in rows if other.name != TEACHER]
  return [other for other in students if all(getattr(other, name) == value for name, value in wanted.items())]


class Results(TypedDict):
  """Content of ``results.json``; only the rows are always required."""

  recipe: NotRequired[Name]
  config: NotRequired[Config]
  environments: NotRequired[list[Any]]
  seconds_of_training: NotRequired[float]
  rows: list[dict[str, Any]]


class Finished(NamedTuple):
  """A finished run, or several that were joined: all that ``results.json`` says, its rows, and their table."""

  command: str
  results: dict[str, Any]
  rows: list[Any]
  table: str


def whole(results: Mapping[str, Any]) -> bool:
  """Returns whether results say all that a finished run does."""
  return results.keys() >= Results.__annotations__.keys()


def read_results(folder: Path) -> Results:
  """Reads the ``results.json`` of a finished run, or of several that were joined."""
  return read_json(folder / 'results.json', Results)


def _row(row: dict[str, Any], kind: Any, command: str, path: Path) -> Any:
  if 'name' in kind._fields:
    within(path.parent, row.get('name'), path)  # files are called by it
  found = {}
  for name, hint in get_type_hints(kind).items():
    if name not in row and name in kind._field_defaults:
      found[name] = kind._field_defaults[name]  # as of a run from before there was a choice
      continue
    if name not in row:
      raise UserError(f'{path}: a row lacks {name}, which those of a {command} run have')
    found[name] = value = np.nan if row[name] is None and hint is float else _of_json(row[name])
    made(value, hint, f'{path}: {name} of a row')
  return kind(**found)


def _of_json(value: Any) -> Any:
  """Restores NaN for the seeds whose students have diverged."""
  return [np.nan if each is None else each for each in value] if isinstance(value, list) else value
