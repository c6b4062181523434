"""Compression into another kind of model: the hypothesis that a teacher believes in most, example by example."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np

from lmajax._arguments import as_given, check_count, check_floats, is_between, of_type, shown

Fit = Callable[[np.ndarray], tuple[Any, np.ndarray]]
"""Allowed labels [n, classes] -> a hypothesis trained on them, and the label [n] that it gives each example."""


class Median(NamedTuple):
  """A hypothesis, the threshold that it was trained at, and its empirical depth.

  >>> Median('a tree', threshold=0.5, depth=0.6).depth
  0.6

  Source: MEMO (Gilad-Bachrach et al., AAAI 2021).
  """

  hypothesis: Any
  threshold: float
  depth: float


def allowed_labels(beliefs: Any, threshold: float) -> np.ndarray:
  r"""Marks the labels of every example that a teacher believes in enough.

  .. math:: Y_i = \{ c : p_{ic} \ge t \}

  Args:
    beliefs: p [n, classes], 0 … 1: a softmax, or the share of an ensemble's members that vote for a class.
    threshold: t, 0 … 1. At 0 all labels are allowed; above an example's greatest belief it has none.

  Returns:
    Bools [n, classes].

  Raises:
    ValueError: the beliefs are no such array, or the threshold is out of range.

  >>> allowed_labels(np.array([[.7, .3], [.5, .5]]), .5).tolist()
  [[True, False], [True, True]]

  Source: MEMO (Gilad-Bachrach et al., AAAI 2021).
  """
  if not is_between(threshold, 0.0, 1.0):
    raise ValueError(f'threshold is {as_given(threshold)}; give a number between 0 and 1')
  return _checked(beliefs) >= threshold


def allowed_rows(allowed: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  r"""Turns allowed labels into examples with one label and a weight, which any classifier takes.

  .. math:: \{ (x_i, c) : c \in Y_i \}, \qquad w_{ic} = 1 / |Y_i|

  Args:
    allowed: bools [n, classes]; an example without a label is left out.

  Returns:
    For each pair the number of its example, its label and its weight, in three arrays of one length.

  Raises:
    ValueError: ``allowed`` is no array of bools with two axes.

  >>> rows, labels, weights = allowed_rows(np.array([[True, False], [True, True], [False, False]]))
  >>> rows.tolist(), labels.tolist(), weights.tolist()
  ([0, 1, 1], [0, 0, 1], [1.0, 0.5, 0.5])

  Source: in place of the released code's trees with an output for each class, of which an output that was always the
  same is read as certain. Both scored alike where that does not happen; a choice.
  """
  if not of_type(allowed, np.bool_) or allowed.ndim != 2:
    raise ValueError(f'allowed is {shown(allowed)}; give an array of bools [n, classes]')
  allowed = np.asarray(allowed)
  rows, labels = np.nonzero(allowed)
  return rows, labels, 1 / allowed.sum(axis=1)[rows]


def empirical_depth(beliefs: Any, labels: Any) -> float:
  r"""Finds the least belief of a teacher in the labels that a hypothesis gives.

  .. math:: D(f) = \min_i p_{i f(x_i)}

  Args:
    beliefs: p [n, classes], 0 … 1.
    labels: f(x) [n], the numbers of classes.

  Raises:
    ValueError: the beliefs are no such array, or the labels are not one class number for each example.

  >>> empirical_depth(np.array([[.7, .3], [.4, .6]]), np.array([0, 0]))
  0.4

  Source: MEMO (Gilad-Bachrach et al., AAAI 2021).
  """
  beliefs = _checked(beliefs)
  if not of_type(labels, np.integer) or labels.shape != beliefs.shape[:1]:
    raise ValueError(f'labels is {shown(labels)}; give the number of a class for each of {len(beliefs)} examples')
  labels = np.asarray(labels)
  if labels.min() < 0 or labels.max() >= beliefs.shape[1]:
    raise ValueError(f'labels has {labels.min()} to {labels.max()}; there are the classes 0 to {beliefs.shape[1] - 1}')
  return float(beliefs[np.arange(len(labels)), labels].min())


def thresholds(beliefs: Any, *, most: int = 64) -> np.ndarray:
  r"""Lists the thresholds at which allowed labels change: 0 and the beliefs, the least first.

  Of more than ``most``, those at even ranks stay. 0, the greatest and :math:`\min_i \max_c p_{ic}` are always among
  them: above the last one an example has no allowed label, so that nothing is consistent with all.

  Args:
    beliefs: p [n, classes], 0 … 1.
    most: thresholds, 3 at least.

  Raises:
    ValueError: the beliefs are no such array, or ``most`` is below 3.

  >>> thresholds(np.array([[.7, .3], [.5, .5]])).tolist()
  [0.0, 0.3, 0.5, 0.7]

  Source: MEMO (Gilad-Bachrach et al., AAAI 2021), whose code takes all; a softmax has as many as n · classes.
  """
  beliefs = _checked(beliefs)
  check_count('most', most, 3)
  found = np.unique(np.append(beliefs, 0.0))
  if len(found) <= most:
    return found
  even = found[np.linspace(0, len(found) - 1, most - 1).round().astype(int)]
  return np.union1d(even, _limit(beliefs))


def memo(beliefs: Any, fit: Fit, *, most: int = 64) -> Median:
  r"""Finds the deepest hypothesis that a learner can give: the approximate median of those that it can express.

  .. math:: f^* = \arg\max_{f} \min_i p_{i f(x_i)}

  The learner is asked at every threshold up to the last at which all examples have an allowed label. One that finds
  whatever is consistent with allowed labels gives the deepest hypothesis of all, up to the thresholds that are tried.

  Args:
    beliefs: p [n, classes], 0 … 1, of the examples that ``fit`` trains on.
    fit: allowed labels -> a hypothesis, and the label that it gives each of these examples.
    most: thresholds, and so fits, at the most.

  Raises:
    ValueError: as of ``thresholds``, and of ``empirical_depth`` for what ``fit`` gives.

  >>> def fit(allowed):  # constant hypotheses: the class that most examples allow
  ...   label = int(allowed.sum(axis=0).argmax())
  ...   return label, np.full(len(allowed), label)
  >>> memo(np.array([[.7, .3], [.4, .6], [.8, .2]]), fit)
  Median(hypothesis=0, threshold=0.6, depth=0.4)

  Source: MEMO (Gilad-Bachrach et al., AAAI 2021). A scan stands in place of its binary search, which is exact only for
  a learner that is: with greedy trees it ended below a scan in 8 of 18 cases. What is returned is the deepest of
  all, consistent or not; of equally deep ones that of the greatest threshold.
  """
  at = thresholds(beliefs, most=most)
  return _deepest(_fitted(beliefs, fit, at[at <= _limit(beliefs)]))


def crembo(beliefs: Any, fit: Fit, score: Callable[[Any], float], *, most: int = 64) -> Median:
  """Finds the hypothesis of the best score from the median's depth on: a depth that forgives a few examples.

  Above the last threshold at which all examples have an allowed label, those without one are left to ``fit``, which
  gets none for them (``allowed_rows`` leaves them out).

  Args:
    beliefs: p [n, classes], 0 … 1, of the examples that ``fit`` trains on.
    fit: as of ``memo``; it is asked once at every threshold.
    score: hypothesis -> a number, mostly the accuracy on validation examples; the greater the better.
    most: thresholds, and so fits, at the most.

  Raises:
    ValueError: as of ``memo``.

  >>> def fit(allowed):
  ...   label = int(allowed.sum(axis=0).argmax())
  ...   return label, np.full(len(allowed), label)
  >>> crembo(np.array([[.7, .3], [.4, .6], [.8, .2]]), fit, score=lambda label: float(label == 1)).threshold
  0.4

  Source: CREMBO (Gilad-Bachrach et al., AAAI 2021), with a scan in place of its steps, and the last threshold among
  them, which its code leaves out. Of equal scores the least threshold.
  """
  found, limit = list(_fitted(beliefs, fit, thresholds(beliefs, most=most))), _limit(beliefs)
  median = _deepest(each for each in found if each.threshold <= limit)
  return max((each for each in found if each.threshold >= median.depth), key=lambda each: score(each.hypothesis))


def _fitted(beliefs: Any, fit: Fit, at: np.ndarray) -> Iterator[Median]:
  for threshold in at.tolist():
    hypothesis, labels = fit(allowed_labels(beliefs, threshold))
    yield Median(hypothesis, threshold, empirical_depth(beliefs, labels))


def _deepest(found: Iterable[Median]) -> Median:
  return max(found, key=lambda each: (each.depth, each.threshold))


def _limit(beliefs: Any) -> float:
  return float(np.asarray(beliefs, np.float64).max(axis=1).min())


def _checked(beliefs: Any) -> np.ndarray:
  check_floats('beliefs', beliefs, least_rank=2)
  found = np.asarray(beliefs, np.float64)
  if found.ndim != 2 or not found.size or not ((found >= 0) & (found <= 1)).all():
    raise ValueError(f'beliefs is {shown(beliefs)}; give shares between 0 and 1, [n, classes]')
  return found
