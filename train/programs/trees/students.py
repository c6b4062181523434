"""The students: one small tree for each way to learn from labels or from beliefs."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor
from sklearn.utils.class_weight import compute_sample_weight

from lmajax.compress import Median, allowed_rows, crembo, memo

Predicts = Callable[[np.ndarray], np.ndarray]
"""Features [n, d] -> class numbers [n]."""
LABELS, MAJORITY = 'labels', 'majority'
ARMS = (LABELS, 'labels, all rows', "teacher's labels", 'beliefs', 'memo', 'crembo')


class Part(NamedTuple):
  """The examples of a fold that students learn from: those to train on, and those that choose a threshold."""

  features: Float[np.ndarray, 'n d']
  labels: Int[np.ndarray, ' n']
  beliefs: Float[np.ndarray, 'n c']
  held: tuple[np.ndarray, np.ndarray]  # features and labels


class Student(NamedTuple):
  """A trained student, and what MEMO or CREMBO say of it."""

  predicts: Predicts
  tree: Any
  median: Median | None = None


def grown(arm: str, part: Part, *, depth: int, balanced: bool, thresholds: int, seed: int) -> Student:
  """Trains the tree of an arm."""
  how: dict[str, Any] = {'max_depth': depth, 'random_state': seed}
  own = {**how, 'class_weight': 'balanced' if balanced else None}
  believed = part.beliefs.argmax(axis=1)

  def tree(features: np.ndarray, labels: np.ndarray, weights: np.ndarray | None = None) -> Any:
    return DecisionTreeClassifier(**own).fit(features, labels, sample_weight=weights)

  if arm == 'beliefs':
    weights = compute_sample_weight('balanced', believed) if balanced else None
    regression = DecisionTreeRegressor(**how).fit(part.features, part.beliefs, sample_weight=weights)
    return Student(lambda features: regression.predict(features).argmax(axis=1), regression)
  if arm in ('memo', 'crembo'):

    def fit(allowed: Bool[np.ndarray, 'n c']) -> tuple[Any, np.ndarray]:
      rows, labels, weights = allowed_rows(allowed)
      found = tree(part.features[rows], labels, weights)
      return found, found.predict(part.features)

    def score(found: Any) -> float:
      return float(np.mean(found.predict(part.held[0]) == part.held[1]))

    most = {'most': thresholds}
    median = memo(part.beliefs, fit, **most) if arm == 'memo' else crembo(part.beliefs, fit, score, **most)
    return Student(median.hypothesis.predict, median.hypothesis, median)
  if arm == 'labels, all rows':
    every = np.concatenate([part.features, part.held[0]]), np.concatenate([part.labels, part.held[1]])
    found = tree(*every)
  else:
    found = tree(part.features, part.labels if arm == LABELS else believed)
  return Student(found.predict, found)
