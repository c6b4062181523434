"""Loads texts by name: read, checked, cut into training, validation and test parts, and encoded by character."""

import string
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8

from train.data.files import naming
from train.data.images.images import Dataset, Examples, stratified_order
from train.data.texts import descriptions, tables
from train.data.texts.tables import Texts
from train.runtime.errors import UserError

CHARACTERS = string.ascii_lowercase + string.digits + '-,;.!?:\'"/|_#$%^&*~`+=<>()[]{} '
PADDING, UNKNOWN = 0, 1
VOCABULARY = 2 + len(CHARACTERS)

_NUMBERS = np.full(129, UNKNOWN, np.uint8)  # the last stands for all beyond ASCII
_NUMBERS[[ord(character) for character in CHARACTERS]] = np.arange(2, VOCABULARY)


class _Known(NamedTuple):
  length: int
  columns: Sequence[int] | None = None


_KNOWN = {
  'descriptions': _Known(descriptions.PASSAGE),
  # The description alone: there are copies whose training rows have lost their titles, while the test rows have them,
  # and then texts with titles would be of two kinds.
  'ag-news': _Known(256, columns=(-1,)),
  'csv': _Known(1014),
}


def load(
  name: str,
  *,
  data_dir: Path | None = None,
  train_examples: int | None = None,
  length: int | None = None,
  columns: Sequence[int] | None = None,
) -> Dataset:
  """Reads a set of texts; its inputs are numbers of characters, ``[n, length]``.

  Args:
    name: descriptions, ag-news or csv.
    data_dir: a folder with train.csv and test.csv, each gzipped or not; descriptions come with a package.
    train_examples: keeps only so many of the training rows, validation included; None keeps all.
    length: in characters; longer texts are cut, shorter ones padded. None: 128, 256 and 1014.
    columns: those of the text: 1 is the first after the class, -1 the last. None: of AG News the last, the
      description; otherwise all.
  """
  if name not in _KNOWN:
    raise UserError(f'{name}: no such set of texts; choose one of {", ".join(_KNOWN)}')
  known = _KNOWN[name]
  length = known.length if length is None else length
  if length < 1:
    raise UserError(f'texts of {length} characters; choose a length from 1')
  if name == 'descriptions':
    train, validation, test = descriptions.load()
  else:
    whole, test = _published(name, data_dir, known.columns if columns is None else columns)
    train, validation = _cut(whole)
  num_classes = 1 + int(train.labels.max())
  train, validation = _limited(name, train, validation, train_examples)

  def images(part: Texts) -> Examples:
    return Examples(encode(part.texts, length), part.labels)

  return Dataset(name, images(train), images(validation), images(test), num_classes, (), (), augment=False)


def _published(name: str, data_dir: Path | None, columns: Sequence[int] | None) -> tuple[Texts, Texts]:
  if data_dir is None:
    raise UserError(f'{name}: is not downloaded; pass a folder with train.csv and test.csv as --data-dir')
  with naming(Path(data_dir)):
    return tables.load(Path(data_dir), columns)


def _cut(whole: Texts) -> tuple[Texts, Texts]:
  """Holds out a tenth for validation."""
  order = stratified_order(whole.labels)
  held_out = max(1, round(0.1 * len(order)))
  return whole.take(order[held_out:]), whole.take(order[:held_out])


def _limited(name: str, train: Texts, validation: Texts, count: int | None) -> tuple[Texts, Texts]:
  """Keeps ``count`` texts of both parts together, in their proportion."""
  sizes = len(train.labels), len(validation.labels)
  if count is None:
    return train, validation
  if not 2 <= count <= sum(sizes):
    raise UserError(f'{count} training texts asked of {name}; choose from 2 to {sum(sizes)}')
  held_out = max(1, round(count * sizes[1] / sum(sizes)))
  kept = zip((train, validation), (count - held_out, held_out), strict=True)
  train, validation = (part.take(stratified_order(part.labels)[:size]) for part, size in kept)
  return train, validation


def encode(texts: Sequence[str], length: int) -> UInt8[np.ndarray, 'n length']:
  """Encodes lower-cased characters as numbers, 1 for all outside the vocabulary, padded with zeros.

  The vocabulary is that of the LIT paper's code: 69 symbols with these two and the space, no line break and no @.
  """
  numbers = np.full((len(texts), length), PADDING, np.uint8)
  for row, text in zip(numbers, texts, strict=True):
    codes = np.frombuffer(text.lower()[:length].encode('utf-32-le'), '<u4')
    row[: len(codes)] = _NUMBERS[np.minimum(codes, 128)]
  return numbers
