"""Fills the tables in a Markdown file from committed results."""

import re
from pathlib import Path

from train.programs import PROGRAMS
from train.programs.bench.record import benchmark, read
from train.results.rows import read_results, read_rows
from train.runtime.errors import UserError

_MARKED = re.compile(r'(<!-- table of (\S+) -->\n).*?(<!-- end of table -->)', re.DOTALL)


def filled(text: str, root: Path) -> str:
  """Replaces every marked table in the text; marks name a results folder, or a benchmark's JSON without suffix."""

  def block(marked: re.Match[str]) -> str:
    return f'{marked[1]}\n{_table(root / marked[2])}\n\n{marked[3]}'

  return _MARKED.sub(block, text)


def _table(results: Path) -> str:
  if not results.is_dir():
    figures = read(results.with_suffix('.json'))
    return benchmark(figures['recipe'].removeprefix('bench-')).table(figures)
  command = read_results(results).get('recipe')
  if command not in PROGRAMS:
    raise UserError(f'{results / "results.json"} is of {command}, which has no table')
  table = PROGRAMS[command].table()
  return table.text(read_rows(results, command, table.Row))
