"""Loads parallel texts by name: sentences in two languages, from two files or from one with a tab on every line."""

import codecs
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from train.data import fetch
from train.data.corpora import numbers
from train.data.corpora.pairs import Corpus, Pairs
from train.data.files import naming, read_bytes
from train.runtime.errors import UserError

__all__ = ['Corpus', 'Pairs', 'load']

_URL = 'https://raw.githubusercontent.com/multi30k/dataset/master/data/task1/raw/'
FILES = {  # the publisher gives no checksums: these are of its files
  'train.de.gz': 'sha256:726e39b2fa9eb9ffb6dc763fb35a179f80fae06ffc5d28b6ace5faa883de28a6',
  'train.en.gz': 'sha256:d79cfa999dd4c51d2cb42499b6796d5a882c3a8a961923c25a898c90f8bbd56f',
  'val.de.gz': 'sha256:f0cba2f995189cf5770f29a8a9a537a3ad3f51657ad873405082ff6863a5e75a',
  'val.en.gz': 'sha256:14f7d25ddd868909a9213e361768460edcacdd6ab9d1e77b92560dc10c10dc28',
  'test_2016_flickr.de.gz': 'sha256:9204244e408ccb38d2a55cfcd344df15005fc42a07a6e55ca6c52b6ababb8cc8',
  'test_2016_flickr.en.gz': 'sha256:611d361c6334bc7246101d48097c13cf5c4413c5befc793cc629934359d532d9',
}
_TRAIN, _VALIDATION, _TEST = ('train',), ('val',), ('test', 'test_2016_flickr')


def load(
  name: str,
  *,
  data_dir: Path | None = None,
  source: str = 'de',
  target: str = 'en',
  train_sentences: int | None = None,
) -> Corpus:
  """Reads a corpus; one from a folder has the folder's own name.

  The files are UTF-8 with one sentence a line, split at line feeds alone and stripped of the white space around them:
  train, val and test (or, where there is no test, test_2016_flickr), each as two files, ``train.de`` and ``train.en``,
  or as one, ``train.tsv``, with the source, a tab and the target on every line; all gzipped or not. Pairs with an
  empty sentence, as in Europarl, are left out of training and validation, and stay in the test.

  Args:
    name: numbers, multi30k, or the path of a folder.
    data_dir: where multi30k's published files are; None takes them from the cache or the internet.
    source: the language to translate from, as the files' names end; the first column of a .tsv, whatever it is.
    target: the language to translate into.
    train_sentences: keeps only so many of the training pairs, the first; None keeps all.
  """
  if source == target:
    raise UserError(f'source and target are both {source}; choose two languages')
  corpus = _corpus(name, data_dir, source, target)
  count = len(corpus.train.source) if train_sentences is None else train_sentences
  if not 1 <= count <= len(corpus.train.source):
    raise UserError(f'{count} training sentences asked of {name}; choose from 1 to {len(corpus.train.source)}')
  return corpus._replace(train=corpus.train.first(count))


def _corpus(name: str, data_dir: Path | None, source: str, target: str) -> Corpus:
  if data_dir is not None and name != 'multi30k':
    raise UserError(f'{name}: takes no --data-dir, which is for multi30k; a folder of your own is named instead')
  if name == 'numbers':
    if (source, target) != ('de', 'en'):
      raise UserError(f'numbers: are from de to en, not from {source} to {target}; leave the languages out')
    return numbers.load()
  if name == 'multi30k':
    return _read(name, _multi30k(source, target) if data_dir is None else Path(data_dir), (source, target))
  with naming(Path(name)):
    if not name or not Path(name).is_dir():
      raise UserError(f'{name}: no such folder; choose numbers, multi30k or a folder with train, val and test')
  return _read(Path(name).resolve().name, Path(name), (source, target))


def _multi30k(source: str, target: str) -> Path:
  if {source, target} != {'de', 'en'}:
    raise UserError(
      f'multi30k: is downloaded in de and en, not in {source} and {target}; pass a folder with them as --data-dir'
    )
  return fetch.fetch('multi30k', _URL, FILES)


def _read(name: str, folder: Path, languages: tuple[str, str]) -> Corpus:
  with naming(folder):
    train, validation = (_full(*_pairs(folder, part, languages)) for part in (_TRAIN, _VALIDATION))
    return Corpus(name, train, validation, _pairs(folder, _TEST, languages)[1])


def _pairs(folder: Path, names: Sequence[str], languages: tuple[str, str]) -> tuple[Path, Pairs]:
  """Reads the first of the names that has a file; returns that file's path and the pairs."""
  for name in names:
    source, target = (folder / f'{name}.{language}' for language in languages)
    if _find(source) or _find(target):
      paths = _find(source) or _missing(source), _find(target) or _missing(target)
      return paths[0], _of_two(*paths)
    table = _find(folder / f'{name}.tsv')
    if table:
      return table, _of_one(table)
  part = names[0]
  raise UserError(
    f'{folder}: there is no {part}.{languages[0]}, nor with .gz, nor {part}.tsv; '
    f'name a folder with train, val and test, each as .{languages[0]} and .{languages[1]} or as .tsv'
  )


def _find(path: Path) -> Path | None:
  zipped = path.with_name(f'{path.name}.gz')
  return next((one for one in (path, zipped) if one.is_file()), None)


def _missing(path: Path) -> NoReturn:
  raise UserError(f'{path}: no such file, nor with .gz; the other language is there, so put this one beside it')


def _of_two(source: Path, target: Path) -> Pairs:
  pairs = Pairs(*([line.strip() for line in _lines(path)] for path in (source, target)))
  if len(pairs.source) != len(pairs.target):
    raise UserError(
      f'{source} has {len(pairs.source)} lines and {target.name} {len(pairs.target)}; '
      'line i of one must be the translation of line i of the other'
    )
  return pairs


def _of_one(path: Path) -> Pairs:
  pairs = Pairs([], [])
  for number, line in enumerate(_lines(path), 1):
    fields = line.split('\t')
    if len(fields) != 2:
      raise UserError(f'{path}, line {number}: {len(fields) - 1} tabs; write the source, one tab and the target')
    pairs.source.append(fields[0].strip())
    pairs.target.append(fields[1].strip())
  return pairs


def _lines(path: Path) -> list[str]:
  """Reads lines, split at line feeds alone: str.splitlines also splits at characters that occur within sentences."""
  raw = read_bytes(path).removeprefix(codecs.BOM_UTF8)
  try:
    text = raw.decode()
  except UnicodeDecodeError as error:
    line = 1 + raw.count(b'\n', 0, error.start)
    raise UserError(f'{path}, line {line}: is no UTF-8 text; save the file as UTF-8') from error
  if not text.strip():
    raise UserError(f'{path}: is empty; put one sentence on every line')
  return text.removesuffix('\n').split('\n')


def _full(path: Path, pairs: Pairs) -> Pairs:
  """Keeps the pairs of which neither sentence is empty."""
  kept = [pair for pair in zip(*pairs, strict=True) if all(pair)]
  if not kept:
    raise UserError(f'{path}: no pair of it has both sentences; check that its lines belong together')
  return Pairs(*(list(side) for side in zip(*kept, strict=True)))
