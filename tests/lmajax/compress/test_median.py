"""The median hypothesis is the deepest, and what is scored starts there."""

import numpy as np
import pytest

from lmajax import compress
from tests import oracles

RNG = np.random.default_rng(0)
SEEDS = range(200)


def drawn(seed, examples=6, classes=3):
  """Beliefs that are votes of seven, so that many are equal; of some examples one class has all."""
  rng = np.random.default_rng(seed)
  return rng.multinomial(7, rng.dirichlet(np.ones(classes), examples)) / 7


def finite(seed, count=9, examples=6, classes=3):
  return np.random.default_rng(1000 + seed).integers(0, classes, (count, examples))


def consistent(hypotheses):
  """An exact learner on a finite set: the first hypothesis that gives allowed labels alone, or else the first."""

  def fit(allowed):
    allowed = np.asarray(allowed)
    for i, labels in enumerate(hypotheses):
      if allowed[np.arange(len(labels)), labels].all():
        return i, labels
    return 0, hypotheses[0]

  return fit


class TestAllowed:
  @pytest.mark.parametrize('threshold', [0.0, 1 / 7, 0.5, 6 / 7, 1.0])
  def test_equals_its_oracle(self, threshold):
    beliefs = drawn(0)
    found = compress.allowed_labels(beliefs, threshold)
    assert found.dtype == bool and found.tolist() == oracles.allowed_labels(beliefs, threshold)
    rows = compress.allowed_rows(found)
    assert [part.tolist() for part in rows] == [list(part) for part in oracles.allowed_rows(found)]

  def test_every_example_with_a_label_weighs_one(self):
    allowed = compress.allowed_labels(drawn(1), 0.3)
    rows, labels, weights = compress.allowed_rows(allowed)
    sums = np.bincount(rows, weights, minlength=len(allowed))
    np.testing.assert_allclose(sums, allowed.any(axis=1))
    assert allowed[rows, labels].all() and len(rows) == allowed.sum()

  def test_float32_beliefs_are_compared_as_they_are(self):
    beliefs = np.float32([[0.1, 0.9]])
    assert compress.allowed_labels(beliefs, float(beliefs[0, 0])).all()


class TestDepth:
  @pytest.mark.parametrize('seed', range(5))
  def test_equals_its_oracle(self, seed):
    beliefs, labels = drawn(seed), finite(seed)[0]
    assert compress.empirical_depth(beliefs, labels) == oracles.empirical_depth(beliefs, labels)

  def test_of_a_class_that_nobody_believes_in_is_0(self):
    beliefs = np.array([[1.0, 0, 0], [0.5, 0.5, 0]])
    assert compress.empirical_depth(beliefs, np.array([0, 2])) == 0


class TestThresholds:
  @pytest.mark.parametrize('most', [3, 5, 8, 64])
  @pytest.mark.parametrize('seed', range(5))
  def test_equals_its_oracle(self, seed, most):
    beliefs = np.random.default_rng(seed).dirichlet(np.ones(4), 7)
    found = compress.thresholds(beliefs, most=most)
    np.testing.assert_array_equal(found, oracles.thresholds(beliefs, most))
    assert len(found) <= most and found[0] == 0 and found[-1] == beliefs.max()
    assert beliefs.max(axis=1).min() in found


class TestMemo:
  def test_of_a_finite_set_it_is_the_deepest(self):
    for seed in SEEDS:
      beliefs, hypotheses = drawn(seed), finite(seed)
      found = compress.memo(beliefs, consistent(hypotheses))
      assert found.depth == oracles.memo(beliefs, hypotheses)
      assert found.depth == compress.empirical_depth(beliefs, hypotheses[found.hypothesis])

  def test_is_asked_at_no_threshold_that_leaves_an_example_without_labels(self):
    beliefs, asked = drawn(3), []

    def fit(allowed):
      asked.append(allowed)
      return None, beliefs.argmax(axis=1)

    compress.memo(beliefs, fit)
    assert all(allowed.any(axis=1).all() for allowed in asked)
    assert len(asked) == sum(t <= beliefs.max(axis=1).min() for t in compress.thresholds(beliefs))

  def test_beliefs_of_one_class_alone_are_plain_labels(self):
    labels = RNG.integers(0, 3, 8)
    found = compress.memo(np.eye(3)[labels], lambda allowed: (allowed, allowed.argmax(axis=1)))
    assert (found.threshold, found.depth) == (1.0, 1.0)
    np.testing.assert_array_equal(found.hypothesis, np.eye(3, dtype=bool)[labels])

  def test_where_nothing_is_consistent_beliefs_of_one_class_are_plain_labels_too(self):
    beliefs = np.eye(2)[[0, 1, 1]]
    found = compress.memo(beliefs, lambda allowed: (allowed, np.array([1, 1, 1])))
    assert (found.threshold, found.depth) == (1.0, 0.0)
    np.testing.assert_array_equal(found.hypothesis, beliefs == 1)

  def test_of_equally_deep_ones_the_threshold_is_the_greatest(self):
    beliefs = np.array([[0.2, 0.8], [0.6, 0.4]])
    found = compress.memo(beliefs, lambda allowed: (allowed, np.array([1, 0])))
    assert (found.threshold, found.depth) == (0.6, 0.6)


class TestCrembo:
  def test_equals_its_oracle(self):
    for seed in SEEDS:
      beliefs, hypotheses = drawn(seed), finite(seed)
      score = np.random.default_rng(seed).integers(0, 4, len(hypotheses)).__getitem__
      found = compress.crembo(beliefs, consistent(hypotheses), score)
      assert found.threshold == oracles.crembo(beliefs, consistent(hypotheses), score)
      assert found.depth == compress.empirical_depth(beliefs, hypotheses[found.hypothesis])

  def test_is_trained_once_at_every_threshold(self):
    beliefs, asked = drawn(4), []

    def fit(allowed):
      asked.append(allowed)
      return len(asked), beliefs.argmax(axis=1)

    found = compress.crembo(beliefs, fit, score=float)
    known = compress.thresholds(beliefs)
    assert found.hypothesis == len(asked) == len(known) and found.threshold == known[-1]


REFUSED = [
  (lambda: compress.allowed_labels([[1.0, 0.0]], 0.5), 'beliefs is list; give an array of floats with 2 axis'),
  (lambda: compress.allowed_labels(np.ones(3), 0.5), 'beliefs is float64'),
  (lambda: compress.allowed_labels(np.ones((2, 2, 2)), 0.5), 'beliefs is float64.* give shares between 0 and 1'),
  (lambda: compress.allowed_labels(np.full((2, 2), np.nan), 0.5), 'give shares between 0 and 1'),
  (lambda: compress.allowed_labels(np.full((2, 2), 1.1), 0.5), 'give shares between 0 and 1'),
  (lambda: compress.allowed_labels(np.ones((0, 2)), 0.5), 'give shares between 0 and 1'),
  (lambda: compress.allowed_labels(np.ones((2, 2)), 2.0), 'threshold is 2.0; give a number between 0 and 1'),
  (lambda: compress.allowed_rows(np.ones((2, 2))), 'allowed is float64.* give an array of bools'),
  (lambda: compress.allowed_rows(np.ones(2, bool)), 'allowed is bool.* give an array of bools'),
  (lambda: compress.empirical_depth(np.ones((2, 2)), np.ones(2)), 'labels is float64.* for each of 2 examples'),
  (lambda: compress.empirical_depth(np.ones((2, 2)), np.zeros(3, int)), 'labels is int64.* for each of 2 examples'),
  (lambda: compress.empirical_depth(np.ones((2, 2)), np.array([0, 2])), 'labels has 0 to 2; there are the classes 0'),
  (lambda: compress.empirical_depth(np.ones((2, 2)), np.array([-1, 0])), 'labels has -1 to 0'),
  (lambda: compress.thresholds(np.ones((2, 2)), most=2), 'most is 2'),
  (lambda: compress.memo(np.ones((2, 2)), lambda allowed: (0, np.zeros(1, int))), 'for each of 2 examples'),
]


@pytest.mark.parametrize(('call', 'line'), REFUSED, ids=[line for _, line in REFUSED])
def test_what_is_none_is_refused(call, line):
  with pytest.raises(ValueError, match=line):
    call()
