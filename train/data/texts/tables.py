"""Reads texts and classes from train.csv and test.csv, the form in which AG News and Amazon Reviews are published.

No header row; in every row a class, numbered from 1, then columns of text, quoted where they must be.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int, Int32

from train.data.files import read_csv
from train.runtime.errors import UserError

_CLASS = re.compile('[1-9][0-9]{0,8}')


class Texts(NamedTuple):
  """Texts and the class of each."""

  texts: list[str]
  labels: Int32[np.ndarray, ' n']

  def take(self, rows: Int[np.ndarray, ' m']) -> 'Texts':
    return Texts([self.texts[row] for row in rows], self.labels[rows])


def load(folder: Path, columns: Sequence[int] | None) -> tuple[Texts, Texts]:
  """Reads training and test texts with classes from 0.

  Args:
    folder: holds train.csv and test.csv, each gzipped or not.
    columns: those of the text, joined by a space: 1 is the first after the class, -1 the last; None takes all.
  """
  paths = _find(folder, 'train'), _find(folder, 'test')
  train, test = map(_rows, paths)
  if len(test[0]) != len(train[0]):
    raise UserError(f'{paths[1]}: rows of {len(test[0])} fields where {paths[0].name} has {len(train[0])}')
  known = _known(paths[0], train)
  for number, row in enumerate(test, 1):
    if int(row[0]) not in known:
      raise UserError(f'{paths[1]}, row {number}: class {row[0]}, of which {paths[0].name} has no row')
  return _texts(paths[0], train, columns), _texts(paths[1], test, columns)


def _find(folder: Path, part: str) -> Path:
  for path in (folder / f'{part}.csv', folder / f'{part}.csv.gz'):
    if path.is_file():
      return path
  raise UserError(
    f'{folder / part}.csv: no such file, nor with .gz; --data-dir must hold train.csv and test.csv, unpacked or gzipped'
  )


def _rows(path: Path) -> list[list[str]]:
  """Reads rows of equally many fields, the first of which is a number."""
  rows = read_csv(path)
  for number, row in enumerate(rows, 1):
    if len(row) != len(rows[0]) or len(row) < 2:
      raise UserError(f'{path}, row {number}: {len(row)} fields; every row needs a class and as many texts as row 1')
    if not _CLASS.fullmatch(row[0]):
      raise UserError(f'{path}, row {number}: class {row[0][:20]!r} is no number from 1; leave out a header row')
  return rows


def _known(path: Path, rows: list[list[str]]) -> set[int]:
  """Returns the classes of the training rows, which must run from 1 without gaps and be two at least."""
  classes = sorted({int(row[0]) for row in rows})
  for expected, found in enumerate(classes, 1):
    if found != expected:
      raise UserError(f'{path}: there are rows of class {found} and none of class {expected}; number them without gaps')
  if len(classes) < 2:
    raise UserError(f'{path}: all rows are of class 1; give two classes at least')
  return set(classes)


def _texts(path: Path, rows: list[list[str]], columns: Sequence[int] | None) -> Texts:
  last = len(rows[0]) - 1
  chosen = range(1, last + 1) if columns is None else columns
  for column in chosen:
    if not 1 <= abs(column) <= last:
      raise UserError(f'{path}: no text column {column}; choose from 1 to {last}, or from -1 to {-last}, the first')
  texts = [' '.join(row[column] for column in chosen).strip() for row in rows]
  for number, text in enumerate(texts, 1):
    if not text:
      raise UserError(f'{path}, row {number}: no text in the chosen columns; leave the row out or choose others')
  return Texts(texts, np.array([int(row[0]) - 1 for row in rows], np.int32))
