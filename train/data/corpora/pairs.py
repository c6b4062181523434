"""What there is to translate: sentences, and what each is in the other language."""

from typing import NamedTuple


class Pairs(NamedTuple):
  """Sentence i of one is sentence i of the other."""

  source: list[str]
  target: list[str]

  def first(self, count: int) -> 'Pairs':
    return Pairs(self.source[:count], self.target[:count])


class Corpus(NamedTuple):
  name: str
  train: Pairs
  validation: Pairs
  test: Pairs
