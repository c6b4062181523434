"""The Fréchet distance of features: closed forms, a slow oracle, and sets too small for their covariance."""

import numpy as np
import pytest
import scipy.linalg

from train.programs.lit_gan.frechet import frechet_distance
from train.runtime.errors import UserError

RNG = np.random.default_rng(0)


def slow(features, others):
  """The formula as it stands, by the root of a matrix."""
  (m1, c1), (m2, c2) = ((x.mean(0), np.cov(x, rowvar=False)) for x in (features, others))
  return float(((m1 - m2) ** 2).sum() + np.trace(c1 + c2 - 2 * scipy.linalg.sqrtm(c1 @ c2).real))


def diagonal(mean, deviations):
  """Four rows a feature whose mean is so, and whose covariance is diagonal with such deviations, exactly."""
  signs = scipy.linalg.hadamard(4)[:, 1:]
  return np.asarray(mean) + np.sqrt(3 / 4) * signs * np.asarray(deviations)


def test_equals_the_formula():
  features, others = RNG.normal(size=(40, 6)) @ RNG.normal(size=(6, 6)), 2 * RNG.normal(size=(30, 6)) + 1
  np.testing.assert_allclose(frechet_distance(features, others), slow(features, others), rtol=1e-9)


def test_of_diagonal_covariances_is_that_of_means_and_deviations():
  features, others = diagonal([0, 1, 2], [1, 2, 3]), diagonal([3, 1, 0], [5, 2, 1])
  assert np.cov(features, rowvar=False) == pytest.approx(np.diag([1, 4, 9]))
  assert frechet_distance(features, others) == pytest.approx((9 + 0 + 4) + (16 + 0 + 4))


def test_of_a_set_from_itself_is_0_and_of_a_set_moved_what_it_was_moved_by():
  features = RNG.normal(size=(50, 8))
  assert 0 <= frechet_distance(features, features[::-1]) < 1e-12
  assert frechet_distance(features, features + 2) == pytest.approx(8 * 4)


def test_fewer_rows_than_features():
  """Two sets of rank 2 in planes at right angles: nothing but their spreads is left."""
  features, others = np.zeros((3, 10)), np.zeros((3, 10))
  features[:, :2], others[:, 2:4] = RNG.normal(size=(2, 3, 2))
  features, others = features - features.mean(0), others - others.mean(0)
  expected = features.var(0, ddof=1).sum() + others.var(0, ddof=1).sum()
  assert frechet_distance(features, others) == pytest.approx(expected)
  assert 0 <= frechet_distance(features, features) < 1e-12
  assert frechet_distance(features, 3 * features) == pytest.approx(4 * features.var(0, ddof=1).sum())


def test_is_symmetric_and_computed_in_float64():
  features, others = (1000 + RNG.normal(size=(20, 5)).astype(np.float32) for _ in range(2))
  distance = frechet_distance(features, others)
  assert distance == pytest.approx(frechet_distance(others, features))
  assert distance == pytest.approx(slow(np.float64(features), np.float64(others)))


@pytest.mark.parametrize('features, words', [(np.zeros((1, 3)), 'two'), (np.full((4, 3), np.nan), 'finite')])
def test_what_has_no_distance_is_said(features, words):
  with pytest.raises(UserError, match=words):
    frechet_distance(np.ones((4, 3)), features)
