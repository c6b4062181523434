"""Tables in a Markdown file, made from committed results."""

import re
from pathlib import Path

from train import report
from train.recipes import regions
from train.run import read_json

_TABLES = {
  'distill': lambda folder: report.table(report.read(folder)),
  'regions': lambda folder: regions.table(regions.read(folder)),
}
_MARKED = re.compile(r'(<!-- table of (\S+) -->\n).*?(<!-- end of table -->)', re.DOTALL)


def filled(text: str, root: Path) -> str:
  """The text with the table of every marked results folder, relative to ``root``, put in anew."""

  def block(marked: re.Match[str]) -> str:
    folder = root / marked[2]
    recipe = read_json(folder / 'results.json')['recipe']
    return f'{marked[1]}\n{_TABLES[recipe](folder)}\n\n{marked[3]}'

  return _MARKED.sub(block, text)
