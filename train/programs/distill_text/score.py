"""Scores networks that translate: perplexity of references, and BLEU, chrF and exact matches of the translations."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from train.data.corpora.buckets import Text, evaluation_batches
from train.engine.cohort import Group
from train.engine.evaluate import member, scores
from train.engine.walk import Data
from train.programs.distill_text.decode import (
  LOG_LIKELIHOOD,
  Lines,
  Search,
  Translate,
  judged,
  perplexity,
  translated,
  translator,
  words,
)


class Figures(NamedTuple):
  """Scores of a kind of network, one per seed."""

  bleu: list[float]
  chrf: list[float]
  perplexity: list[float]
  perplexity_per_word: list[float]
  exact_match: list[float]
  validation_perplexity: list[float]


class Scoring:
  """Scores networks; those of one architecture share their compiled programs."""

  def __init__(self, text: Text, data: Data, search: Search, batch_tokens: int):
    self._text, self._data, self._search = text, data, search
    how = {'batch_tokens': batch_tokens, 'lengths': text.lengths, 'sharding': data.sharding}
    self._test = list(evaluation_batches(text.test, **how))
    self._lines = Lines(text.test.source, *how.values())
    self._programs: dict[int, tuple[Callable, Translate]] = {}

  def scored(self, group: Group, variables: Any) -> tuple[Figures, list[list[str]]]:
    """Returns the scores of all seeds, and the translations that they come from."""
    likelihood, translate = self._of(group)
    on_test, on_validation = (likelihood({'': variables}, part)[''] for part in (self._test, self._data.validation))
    said = [self._said(translate, member(variables, i)) for i in range(len(group.seeds))]
    found = [judged(lines, self._text.corpus.test.target) for lines in said]
    lost = ~np.isfinite(on_test)  # what a diverged network says is nobody's
    bleu, chrf, exact = (np.where(lost, np.nan, column).tolist() for column in zip(*found, strict=True))
    a_word = sum(map(len, self._text.test.target)) / words(self._text.corpus.test.target)
    by_token, by_word, by_validation = (
      [perplexity(x) for x in column] for column in (on_test, on_test * a_word, on_validation)
    )
    return Figures(bleu, chrf, by_token, by_word, exact, by_validation), said

  def _said(self, translate: Translate, variables: Any) -> list[str]:
    return translated(translate, jax.tree.map(np.asarray, variables), self._lines, self._text.vocabularies.target)

  def _of(self, group: Group) -> tuple[Callable, Translate]:
    if id(group.model) not in self._programs:
      likelihood = scores({'': group._replace(score=LOG_LIKELIHOOD)})
      translate = translator(group.model, self._search, self._data.batches.everywhere)
      self._programs[id(group.model)] = likelihood, translate
    return self._programs[id(group.model)]
