"""Tables in a Markdown file, made from committed results."""

import re
from pathlib import Path

from train import report, report_compress, report_lit, report_lit_gan, report_quantize, report_slim, report_text
from train.bench import activation, latency, record, scaling, stages, step, translation
from train.errors import UserError
from train.recipes import regions

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
