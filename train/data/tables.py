"""Reads tables of features and classes: those of scikit-learn, or a CSV file of one's own."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from sklearn import datasets

from train.data.files import read_csv
from train.runtime.errors import UserError

KNOWN = {
  'iris': datasets.load_iris,
  'wine': datasets.load_wine,
  'breast-cancer': datasets.load_breast_cancer,
  'digits': datasets.load_digits,
}
MISSING = frozenset({'', '?', 'na', 'n/a', 'nan', 'null', 'none'})
"""What a field that is not known reads, in small letters."""
_MOST = 10_000  # columns, once those of words are parted


class Table(NamedTuple):
  """Features of examples, NaN where one is missing, and the class of each."""

  name: str
  features: Float[np.ndarray, 'n d']
  labels: Int[np.ndarray, ' n']
  columns: list[str]
  classes: list[str]


def load(name: str) -> Table:
  """Loads a table that comes with scikit-learn."""
  found = KNOWN[name]()
  columns = [str(column) for column in found.feature_names]
  return Table(name, np.asarray(found.data, np.float64), found.target, columns, list(map(str, found.target_names)))


def read(path: Path, target: str | None) -> Table:
  """Reads a CSV file: a row an example, one column the class.

  A column whose known fields are all numbers is one feature; any other is one for each word in it, 1 or 0. Columns
  without a known field are left out.

  Args:
    path: of the file, in UTF-8, with or without a byte-order mark.
    target: the name of the class's column in the first row; of a file that has no such row its number, from 1 on.
  """
  rows = _rows(path)
  if target is None:
    raise UserError(f'--target is missing: name the column of the classes in {path}, which has {_some(rows[0])}')
  if target in rows[0]:
    head, rows = rows[0], rows[1:]
    if len(set(head)) < len(head):
      raise UserError(f'{path}: two columns have one name; give each its own')
  elif target.isdecimal() and 1 <= int(target) <= len(rows[0]):
    head = [str(number) for number in range(1, len(rows[0]) + 1)]
  else:
    raise UserError(f'--target is {target!r}, and the columns of {path} are {_some(rows[0])}; give one, or its number')
  at = head.index(target)
  words = [row[at].strip() for row in rows]
  for number, word in enumerate(words, 1):
    if word.lower() in MISSING:
      raise UserError(f'{path}, example {number}: has no {target}; leave out what has no class')
  classes = sorted(set(words), key=_order)
  if len(classes) < 2:
    raise UserError(f'{path}: {target} is the same for all {len(rows)} examples; a table needs two classes')
  columns, features = [], []
  for i, name in enumerate(head):
    if i != at:
      for column, values in _features(name, [row[i].strip() for row in rows]):
        columns.append(column)
        features.append(values)
  if not 1 <= len(features) <= _MOST:
    raise UserError(f'{path}: has {len(features):,} features; give a table of 1 to {_MOST:,}')
  labels = np.array([classes.index(word) for word in words])
  return Table(path.stem, np.stack(features, axis=1), labels, columns, classes)


def _features(name: str, fields: Sequence[str]) -> list[tuple[str, np.ndarray]]:
  known = [field for field in fields if field.lower() not in MISSING]
  numbers = {field: _number(field) for field in known}
  if None not in numbers.values():
    values = np.array([numbers.get(field, np.nan) for field in fields], np.float64)
    return [(name, values)] if known else []
  words = sorted(set(known))
  if len(words) == len(known) > 2:
    return []  # names of examples
  return [(f'{name} = {word}', np.array([float(field == word) for field in fields])) for word in words[:_MOST]]


def _number(field: str) -> float | None:
  try:
    found = float(field)
  except ValueError:
    return None
  return found if np.isfinite(found) and abs(found) < 1e30 else None


def _order(word: str) -> tuple[bool, float, str]:
  number = _number(word)
  return number is None, number or 0.0, word


def _rows(path: Path) -> list[list[str]]:
  rows = read_csv(path)
  if len(rows) < 3 or len(rows[0]) < 2:
    raise UserError(f'{path}: holds no table; give rows of two fields or more, divided by commas')
  for number, row in enumerate(rows, 1):
    if len(row) != len(rows[0]):
      raise UserError(f'{path}, row {number}: {len(row)} fields, where row 1 has {len(rows[0])}')
  rows[0] = [field.strip() for field in rows[0]]
  return rows


def _some(names: Sequence[str]) -> str:
  shown = ', '.join(name[:40] for name in names[:12])
  return shown + (f' and {len(names) - 12} more' if len(names) > 12 else '')
