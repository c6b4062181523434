"""Tables in a Markdown file, made from committed results."""

import re
from pathlib import Path

from train.programs.bench import activation, latency, record, scaling, stages, step, translation
from train.programs.compress import table as report_compress
from train.programs.distill_text import table as report_text
from train.programs.lit import table as report_lit
from train.programs.lit_gan import table as report_lit_gan
from train.programs.quantize import table as report_quantize
from train.programs.regions import run as regions
from train.programs.slim import table as report_slim
from train.results import report
from train.runtime.errors import UserError

TABLES = {
  'distill': (report.Row, report.table),
  'quantize': (report_quantize.Row, report_quantize.text),
  'lit': (report_lit.Row, report_lit.text),
  'lit-text': (report_lit.Row, report_lit.text),
  'lit-gan': (report_lit_gan.Row, report_lit_gan.text),
  'compress': (report_compress.Row, report_compress.text),
  'slim': (report_slim.Row, report_slim.text),
  'distill-text': (report_text.Row, report_text.text),
  'regions': (regions.Row, regions.table),
}
_BENCHMARKS = {
  f'bench-{module.__name__.rpartition(".")[2]}': module
  for module in (activation, step, scaling, latency, stages, translation)
}
_MARKED = re.compile(r'(<!-- table of (\S+) -->\n).*?(<!-- end of table -->)', re.DOTALL)


def filled(text: str, root: Path) -> str:
  """The text with every marked table put in anew: of a results folder, or of a benchmark's JSON without its suffix."""

  def block(marked: re.Match[str]) -> str:
    return f'{marked[1]}\n{_table(root / marked[2])}\n\n{marked[3]}'

  return _MARKED.sub(block, text)


def _table(results: Path) -> str:
  if not results.is_dir():
    figures = record.read(results.with_suffix('.json'))
    return _BENCHMARKS[figures['recipe']].table(figures)
  command = report.results(results).get('recipe')
  if command not in TABLES:
    raise UserError(f'{results / "results.json"} is of {command}, which has no table')
  kind, table = TABLES[command]
  return table(report.read(results, command, kind))
