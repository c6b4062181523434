"""Number words, German to English: a corpus that comes with a package; each sentence has one right translation."""

from collections.abc import Callable

import numpy as np

from train.data.corpora.pairs import Corpus, Pairs
from train.runtime.errors import UserError

BELOW = 1_000_000
TRAIN, VALIDATION, TEST = 20_000, 500, 1_000


def load(*, train_count: int = TRAIN) -> Corpus:
  """Draws different numbers below a million, written as by num2words: in lower case, with commas and hyphens.

  They are drawn once, in one order: test and validation do not depend on ``train_count``, and a smaller one gives the
  first training pairs of a larger.
  """
  most = BELOW - TEST - VALIDATION
  if not 1 <= train_count <= most:
    raise UserError(f'{train_count} training pairs asked of numbers; choose from 1 to {most}')
  order = np.random.default_rng(0).permutation(BELOW)
  german, english = _writers()

  def pairs(start: int, count: int) -> Pairs:
    drawn = order[start : start + count].tolist()
    return Pairs([german(number) for number in drawn], [english(number) for number in drawn])

  return Corpus('numbers', pairs(TEST + VALIDATION, train_count), pairs(TEST, VALIDATION), pairs(0, TEST))


def _writers() -> tuple[Callable[[int], str], Callable[[int], str]]:
  """Returns functions that compose numbers from the words below 1000: num2words takes 0.25 ms for each."""
  try:
    from num2words import num2words
  except ImportError as error:
    raise UserError('num2words is not installed: pip install -e ".[text]"') from error
  german, english = ([num2words(number, lang=language) for number in range(1000)] for language in ('de', 'en'))

  def in_german(number: int) -> str:
    thousands, rest = divmod(number, 1000)
    if not thousands:
      return german[rest]
    return ('ein' if thousands == 1 else german[thousands]) + 'tausend' + (german[rest] if rest else '')

  def in_english(number: int) -> str:
    thousands, rest = divmod(number, 1000)
    if not thousands:
      return english[rest]
    joint = (' and ' if rest < 100 else ', ') + english[rest] if rest else ''
    return f'{english[thousands]} thousand{joint}'

  return in_german, in_english
