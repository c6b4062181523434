"""Gathers what the start page of a run says, from its folder, and writes the page."""

import shlex
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from train.config import TEACHER, published
from train.programs import PROGRAMS
from train.results.page import Page, Picture, document, lasting, said
from train.results.rows import Finished, read_results, read_rows, whole
from train.runtime.errors import UserError
from train.runtime.files import write_atomically
from train.runtime.outside import Config, Name, made, read_json

NAME = 'report.html'
_PNG = b'\x89PNG\r\n\x1a\n'
_SHOWS = {
  'accuracy': 'Accuracies of the networks of the table',
  'against_segments': 'Accuracy minus that of ReLU, with its interval, against the number of segments',
  'against_width': 'Accuracy minus that of ReLU, with its interval, against the width',
  'bleu': 'BLEU and perplexity per word against file size',
  'curves': 'Trained activations of the first seed, site by site',
  'errors': 'Error of each stage over the epochs of the first phase',
  'regions': 'Linear regions on a plane through three test images, before and after training',
  'samples': 'The first inputs of each source',
  'sheet': 'Test images in each target style: given, true, and as each generator makes them',
  'tree': 'A tree with its questions',
  'widths': 'The kept part of each layer, and the accuracy that is lost without half of it',
}  # fmt: skip


def alone(folder: Path) -> Finished:
  """Reads one finished run of any program, with seeds or without.

  Raises:
    UserError: the folder holds none.
  """
  results: Any = read_results(folder)
  if not whole(results) or results['recipe'] not in PROGRAMS:
    raise UserError(f'{folder} holds no finished run of {", ".join(PROGRAMS)}')
  known = PROGRAMS[results['recipe']]
  rows = read_rows(folder, results['recipe'], known.table().Row)
  return Finished(results['recipe'], results, rows, known.text(rows))


def write(out: Path, runs: Sequence[Path], found: Finished) -> Path:
  """Writes the page of one run, or of several that were joined, into a folder; returns its path."""
  path = out / NAME
  write_atomically(path, document(gathered(out, runs, found)))
  return path


def gathered(out: Path, runs: Sequence[Path], found: Finished) -> Page:
  """Returns what a page says of runs whose joined files, if there are any, lie in a folder of their own.

  Raises:
    UserError: their files hold what no run writes.
  """
  config, path = found.results['config'], runs[0] / 'config.json'
  data = made(config.get('data'), Name, f'{runs[0] / "results.json"}: data of its config')
  saved = read_json(path, Config) if len(runs) == 1 and path.exists() else {}
  options = {name: value for name, value in {**config, **saved}.items() if name != 'recipe'}
  written = max((run / 'results.json').stat().st_mtime for run in runs)
  lasted = lasting(found.results['seconds_of_training'])
  return Page(
    title=f'{found.command} on {data}',
    date=time.strftime('%Y-%m-%d', time.localtime(written)),
    summary=_summary(found, data, lasted),
    tables=found.table,
    pictures=list(_pictures([out, *runs])),
    config=options,
    defaults=_defaults(found.command, data),
    environments=found.results['environments'],
    lasted=lasted,
    commands=[(what, _line(words)) for what, words in commands(out, runs, found)],
  )


def _summary(found: Finished, data: str, lasted: str) -> str:
  config, purpose = found.results['config'], str(PROGRAMS[found.command].options.__doc__).split('\n\n')[0]
  facts = [f'the data {data}', *(f'{config[name]} {name}' for name in ('seeds', 'epochs') if name in config)]
  if config.get('activations'):
    facts.append(f'the activations {_listed(config["activations"])}')
  return (
    f'The program {found.command} is there to {purpose[0].lower()}{" ".join(purpose[1:].split())} This run used'
    f' {_listed(facts)}. Training took {lasted}.'
  )


def _listed(words: Any) -> str:
  *most, last = words if isinstance(words, list) else [words]
  return f'{", ".join(map(str, most))} and {last}' if most else str(last)


def _pictures(folders: Sequence[Path]) -> Iterator[Picture]:
  several = len(set(folders)) > 1
  for folder in dict.fromkeys(folders):
    for path in sorted(folder.glob('[!.]*.png')):
      content = path.read_bytes() if path.is_file() else b''
      if content.startswith(_PNG):
        shows = _SHOWS.get(path.stem) or _SHOWS.get(path.stem.split('-')[0], 'A picture of this run')
        yield Picture(f'{folder.name}/{path.name}' if several else path.name, shows, content)


def _defaults(command: str, data: str) -> dict[str, Any]:
  """Returns a program's options for a data set; none for data that only another version knows."""
  try:
    return published(PROGRAMS[command].defaults(data))
  except KeyError:
    return {}


def commands(out: Path, runs: Sequence[Path], found: Finished) -> Iterator[tuple[str, list[str]]]:
  """Yields what one can do next with a run, and the words of the command line; the folders are absolute."""
  if len(runs) == 1 and (runs[0] / 'config.json').exists():
    yield from _with_networks(runs[0].resolve(), found)
  if len(runs) == 1 and PROGRAMS[found.command].joins(found.results['config']):
    more = [str(runs[0].resolve()), 'OTHER_RUN', '--out', 'FOLDER', '--html']
    yield 'Report it together with a run of other seeds or students', ['report', *more]
  where = ['--out', str(out.resolve())] if out not in runs else []
  yield 'Write this page again', ['report', *(str(run.resolve()) for run in runs), *where, '--html']


def _with_networks(run: Path, found: Finished) -> Iterator[tuple[str, list[str]]]:
  """Yields what takes the options and the trained networks, which only the folder of a run holds."""
  folder, command = str(run), found.command
  if hasattr(PROGRAMS[command].run(), 'again'):
    yield 'Score its networks again', ['evaluate', folder]
  yield 'Go on with it, where it was stopped', [command, '--resume', '--workdir', folder]
  if command == 'distill-text':
    yield 'Translate a text, a sentence a line', ['translate', folder, 'FILE.txt']
    return
  students = [row for row in found.rows if command == 'distill' or getattr(row, 'file', '')]
  if students:
    yield from _exports(run, [row for row in students if row.name != TEACHER] or students, found.results['config'])


def _exports(run: Path, students: Sequence[Any], config: Mapping[str, Any]) -> Iterator[tuple[str, list[str]]]:
  last = students[-1]
  own = [name for key in ('student', 'network') if ':' in (name := said(config.get(key)))][:1]
  network, student = (['--network', *own], ['--student', *own]) if own else ([], [])
  yield 'Export a network to run elsewhere', ['export', str(run), '--student', last.name, *network]
  file = getattr(last, 'file', '') or f'exports/{last.name}.stablehlo'
  first = '' if getattr(last, 'file', '') else ', once it is exported'
  packed = student if file.endswith('.safetensors') else []
  yield f'Say what image files show, by that network{first}', ['predict', str(run / file), 'IMAGE.png', *packed]


def _line(words: Sequence[str]) -> str:
  return shlex.join(['python', '-m', 'train', *words])
