"""Translates text line by line with a network of a finished distill-text run."""

import codecs
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

from train.config import TEACHER, recipe_of
from train.data.corpora.buckets import numbers
from train.deploy.model_file import file_name
from train.programs.distill_text import build as build_text
from train.programs.distill_text import model_file as shipped_text
from train.programs.distill_text.config import Translate
from train.programs.distill_text.decode import Lines, Search, translated, translator
from train.programs.distill_text.table import Row
from train.results.rows import read_rows
from train.runtime.errors import UserError
from train.runtime.options import require
from train.runtime.outside import read_json

_AT_ONCE = 256
_TOKENS = 3200


def lines(command: Translate, stdin: BinaryIO) -> Iterator[str]:
  """Yields a translation for each line: empty for an empty line, and of the beginning alone for a very long line."""
  if (made_by := recipe_of(command.run)) != 'distill-text':
    raise UserError(f'{command.run} is a run of {made_by}: translate takes runs of distill-text alone')
  known = build_text.load_vocabularies(command.run)
  row = chosen(read_rows(command.run, 'distill-text', Row), command.student)
  path = command.run / file_name(row.name, command.seed)
  shipped = shipped_text.fitting(shipped_text.read(path, command.limits), path)
  about, variables = shipped.description, shipped.variables()
  if about['vocabulary_digest'] != build_text.digest(known):
    raise UserError(f'{command.run}: its vocabulary is not the one that {row.name} was trained with; restore it')
  search = asked(command, about['max_length'])
  program = translator(shipped_text.model(about), search)
  for number, some in _some(sentences(command.file, stdin)):
    cut = [numbers(line, known.source, search.length) for line in some]
    for i, (line, each) in enumerate(zip(some, cut, strict=True), number):
      if len(each) == search.length and (pieces := len(known.source.encode(line))) >= search.length:
        kept = f'the first {search.length - 1} are translated'
        print(f'line {i}: {pieces} pieces, of which {kept}', file=sys.stderr)
    yield from translated(program, variables, Lines(cut, _TOKENS, _shapes(search.length)), known.target)


def asked(command: Translate, length: int) -> Search:
  """Returns the search options of a command: those of its run where it gives none."""
  config = read_json(command.run / 'config.json')
  beams = config['beams'] if command.beams is None else command.beams
  penalty = config['length_penalty'] if command.length_penalty is None else command.length_penalty
  require(beams >= 1, 'beams', beams, 'give 1 or more')
  require(0 <= penalty < math.inf, 'length_penalty', penalty, 'give 0 or more')
  return Search(beams, penalty, length)


def chosen(rows: list[Row], name: str | None) -> Row:
  """Returns the row of that name, or without a name the student with the least validation perplexity."""
  if name is None:
    return min((row for row in rows if row.name != TEACHER), key=lambda row: float(np.mean(row.validation_perplexity)))
  found = next((row for row in rows if row.name == name), None)
  if found is None:
    raise UserError(f'--student {name}: the run has {", ".join(row.name for row in rows)}')
  return found


def sentences(file: Path | None, stdin: BinaryIO) -> list[str]:
  """Reads and decodes all lines before anything is translated."""
  try:
    content = stdin.read() if file is None else file.read_bytes()
  except OSError as error:
    raise UserError(f'cannot read {file}: {error.strerror or error}') from error
  content = content.removeprefix(codecs.BOM_UTF8)
  found = content.removesuffix(b'\n').split(b'\n') if content else []
  decoded = []
  for number, line in enumerate(found, 1):
    try:
      decoded.append(line.decode('utf-8').strip())
    except UnicodeDecodeError as error:
      raise UserError(f'{file or "standard input"}, line {number}: is no UTF-8 text; save it as UTF-8') from error
  return decoded


def _some(found: list[str]) -> Iterator[tuple[int, list[str]]]:
  for start in range(0, len(found), _AT_ONCE):
    yield start + 1, found[start : start + _AT_ONCE]


def _shapes(most: int) -> tuple[int, ...]:
  """Returns a quarter, a half and all of the longest length: few programs to compile, little padding."""
  return tuple(sorted({max(1, most // 4), max(1, most // 2), most}))
