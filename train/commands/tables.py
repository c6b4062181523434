"""Fills the tables in Markdown files from committed results."""

import csv
import io
import os
import re
from pathlib import Path

from train.programs import PROGRAMS
from train.programs.bench.record import benchmark, read
from train.results.rows import read_results, read_rows
from train.results.statistics import cells
from train.runtime.errors import UserError
from train.runtime.files import write_atomically

_MARKED = re.compile(r'(<!-- table of ([^\s,]+)(?:, rows ([^\n]+))? -->\n).*?(<!-- end of table -->)', re.DOTALL)
_ROWS = re.compile(r'(?:^\|.*\n?)+', re.MULTILINE)


def fill(file: Path) -> None:
  """Fills the tables of a file, and writes the CSV files of those that it shortens."""
  text = file.read_text(encoding='utf-8')
  for path, table in files(text, file.parent).items():
    write_atomically(path, table)
  write_atomically(file, filled(text, file.parent))


def filled(text: str, root: Path) -> str:
  """Replaces every marked table in the text.

  Marks name a results folder, or a benchmark's JSON without suffix. With ``rows`` and a regular expression a table has
  those rows alone in which it is found, and a link to the CSV file of all.
  """

  def block(marked: re.Match[str]) -> str:
    table = _table(root / marked[2])
    if marked[3]:
      paths = iter(_paths(root / marked[2], len(_ROWS.findall(table))))
      table = _ROWS.sub(lambda rows: _some(rows[0], marked[3], os.path.relpath(next(paths), root)), table)
    return f'{marked[1]}\n{table.strip()}\n\n{marked[4]}'

  return _MARKED.sub(block, text)


def files(text: str, root: Path) -> dict[Path, str]:
  """Returns the CSV files of the tables of which the text shows some rows, as they are to stand beside the results."""
  found = {}
  for _, results, some, _ in _MARKED.findall(text):
    tables = _ROWS.findall(_table(root / results)) if some else []
    for path, table in zip(_paths(root / results, len(tables)), tables, strict=True):
      if _some(table, some, '') != table:
        found[path] = _csv(table)
  return found


def _table(results: Path) -> str:
  if not results.is_dir():
    figures = read(results.with_suffix('.json'))
    return benchmark(figures['recipe'].removeprefix('bench-')).table(figures)
  command = read_results(results).get('recipe')
  if command not in PROGRAMS:
    raise UserError(f'{results / "results.json"} is of {command}, which has no table')
  known = PROGRAMS[command]
  return known.text(read_rows(results, command, known.table().Row))


def _paths(results: Path, count: int) -> list[Path]:
  """The CSV files of so many tables: results.csv or NAME.csv, and with -2, -3 behind the name those below it."""
  first = results / 'results' if results.is_dir() else results
  return [first.with_name(f'{first.name}{f"-{i}" if i > 1 else ""}.csv') for i in range(1, count + 1)]


def _some(table: str, pattern: str, link: str) -> str:
  head, line, *rows = table.splitlines()
  shown = [row for row in rows if re.search(pattern, row)]
  if len(shown) == len(rows):
    return table
  said = f'{len(shown)} of {len(rows)} rows' if shown else f'A table of {len(rows)} rows'
  kept = [head, line, *shown, ''] if shown else []
  return '\n'.join([*kept, f'{said}; [all of them]({link}).', ''])


def _csv(table: str) -> str:
  head, _, *rows = table.splitlines()
  found = io.StringIO()
  for row in (head, *rows):
    numbers = (re.sub(r'(?<=\d),(?=\d{3})', '', cell) for cell in cells(row))
    csv.writer(found, lineterminator='\n').writerow(numbers)
  return found.getvalue()
