"""Types of parallel texts: sentences and their translations."""

from typing import NamedTuple


class Pairs(NamedTuple):
  """Parallel sentences: ``target[i]`` is the translation of ``source[i]``."""

  source: list[str]
  target: list[str]

  def first(self, count: int) -> 'Pairs':
    return Pairs(self.source[:count], self.target[:count])


class Corpus(NamedTuple):
  name: str
  train: Pairs
  validation: Pairs
  test: Pairs
