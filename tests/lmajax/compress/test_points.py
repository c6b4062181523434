"""Differentiable quantization: the nearest level, the gradient of the levels, and how many of them a tensor gets."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmajax.compress import PackedTree, masked, points, share_points
from tests import oracles

RNG = np.random.default_rng(0)
W = RNG.normal(size=(45, 11)).astype(np.float32)
CT = RNG.normal(size=(45, 11)).astype(np.float32)
LEVELS = np.array([0.9, -0.2, 0.4, 0.45, 1.3], np.float32)  # unsorted, and beyond 0 … 1


@pytest.mark.parametrize('bucket_size', [256, 'channel', None, 7])
class TestPoints:
  def test_equals_its_oracle(self, bucket_size):
    ours = points(2, bucket_size=bucket_size).apply(jnp.asarray(LEVELS), jnp.asarray(W), None)
    np.testing.assert_allclose(ours, oracles.points(W, LEVELS, bucket_size=bucket_size), atol=1e-5)

  def test_gradient_of_a_level_is_the_sum_over_its_weights(self, bucket_size):
    """Of the incoming gradient times the range of the bucket; by the differences of the oracle, assignments held."""
    reparam = points(2, bucket_size=bucket_size)
    _, pull = jax.vjp(lambda levels: reparam.apply(levels, jnp.asarray(W), jax.random.key(0)), jnp.asarray(LEVELS))
    slow, chosen = np.zeros(len(LEVELS)), oracles.points(W, LEVELS, bucket_size=bucket_size)
    for i in range(len(LEVELS)):
      moved = LEVELS.astype(np.float64).copy()
      moved[i] += 1e-4
      change = (oracles.points(W, moved, bucket_size=bucket_size).astype(np.float64) - chosen) / 1e-4
      # A weight that the tiny move hands to another level jumps by far more than its bucket's range.
      slow[i] = (CT * np.where(np.abs(change) < 20, change, 0)).sum()
    np.testing.assert_allclose(pull(jnp.asarray(CT))[0], slow, rtol=0.02, atol=0.05)


def test_gradient_of_a_level_by_hand():
  w, levels = jnp.array([0.0, 1.0, 3.0, 4.0]), jnp.array([0.75, 0.25])
  gradient = jax.grad(lambda p: (points(1).apply(p, w, None) * jnp.array([1.0, 2.0, 4.0, 8.0])).sum())(levels)
  np.testing.assert_allclose(gradient, [4 * (4 + 8), 4 * (1 + 2)])


@pytest.mark.parametrize('start, expected', [('quantile', [0, 0.1, 0.2, 1]), ('uniform', [0, 1 / 3, 2 / 3, 1])])
def test_start(start, expected):
  w = jnp.array([2.0, 0.0, 1.0, 10.0])
  theta, _ = points(2, start=start).init(w, jax.random.key(0))
  np.testing.assert_allclose(theta, expected, rtol=1e-6)


def test_a_quantile_start_shares_the_weights_out():
  theta, code = points(3).init(jnp.asarray(W**3), jax.random.key(0))
  np.testing.assert_allclose(theta, np.percentile(scaled(W**3), np.linspace(0, 100, 8)), rtol=1e-5, atol=1e-6)
  assert len(np.unique(points(3, bucket_size=None).apply(theta, code, None))) == 8


def scaled(w):
  rows = [w.ravel()[:256], w.ravel()[256:]]
  return np.concatenate([(row - row.min()) / (row.max() - row.min()) for row in rows])


def test_shares_by_path_and_their_width_in_the_file():
  params = {'a': {'kernel': jnp.asarray(W)}, 'b': {'kernel': jnp.asarray(W[:4]), 'bias': jnp.zeros(3)}}
  reparam = masked(points(2, shares={'a/kernel': 3, 'b/kernel': 17}))
  theta, code = reparam.init(params, jax.random.key(0))
  assert [leaf.shape for leaf in jax.tree.leaves(theta.selected)] == [(3,), (17,)]
  packed = reparam.stored(theta, code)
  assert isinstance(packed, PackedTree)
  assert (packed.tensors['a']['kernel'].bits, packed.tensors['b']['kernel'].bits) == (2, 5)
  assert packed.mean_bits() == pytest.approx((2 * 495 + 5 * 44) / 539)
  assert packed.bits() == 8 * math.ceil(2 * 495 / 8) + 32 * (3 + 4) + 8 * math.ceil(5 * 44 / 8) + 32 * (17 + 2) + 96


def test_momentum_stays_with_its_level():
  """Two levels that cross keep their places in theta."""
  w, reparam = jnp.array([0.0, 1.0]), points(1)
  np.testing.assert_array_equal(reparam.apply(jnp.array([0.8, 0.1]), w, None), jnp.float32([0.1, 0.8]))
  gradient = jax.grad(lambda p: reparam.apply(p, w, None)[1])(jnp.array([0.8, 0.1]))
  np.testing.assert_array_equal(gradient, [1, 0])


@pytest.mark.parametrize(
  'build, says',
  [
    (lambda: points(0), 'bits is 0'),
    (lambda: points(9), 'bits is 9'),
    (lambda: points(2, bucket_size=0), 'bucket_size is 0'),
    (lambda: points(2, shares={'kernel': 1}), r"shares\['kernel'\] is 1"),
    (lambda: points(2, shares={'kernel': 257}), r"shares\['kernel'\] is 257"),
    (lambda: points(2, shares={'other': 4}), r"shares\['kernel'\] is None"),
  ],
)
def test_what_is_out_of_range_is_refused(build, says):
  with pytest.raises(ValueError, match=says):
    build().init({'kernel': jnp.asarray(W)}, jax.random.key(0))


NORMS = st.dictionaries(st.text('abc/', min_size=1, max_size=4), st.floats(0, 1e6, width=32), min_size=1, max_size=9)
TIED = st.dictionaries(st.text('abc/', min_size=1, max_size=4), st.sampled_from([1.0, 3.0]), min_size=3, max_size=9)


class TestSharePoints:
  @settings(deadline=None)
  @given(norms=NORMS, bits=st.integers(1, 8))
  def test_equals_its_oracle_and_keeps_the_sum(self, norms, bits):
    shares = share_points(norms, bits)
    assert shares == oracles.share_points(norms, bits)
    assert all(max(2, 2**bits // 2) <= share <= 256 for share in shares.values())
    if max(shares.values()) < 256:
      assert sum(shares.values()) == len(norms) * 2**bits

  @settings(deadline=None)
  @given(norms=TIED, bits=st.integers(2, 7), random=st.randoms(use_true_random=False))
  def test_the_order_of_the_tensors_does_not_matter(self, norms, bits, random):
    items = list(norms.items())
    random.shuffle(items)
    assert share_points(dict(items), bits) == share_points(norms, bits)
    assert share_points(dict(items[::-1]), bits) == share_points(dict(items), bits)

  def test_a_greater_gradient_gets_more(self):
    shares = share_points({'a': 1.0, 'b': 5.0, 'c': 2.0}, 5)
    assert shares == {'a': 22, 'b': 46, 'c': 28}

  def test_a_norm_that_is_none_is_refused(self):
    for norm in (-1.0, math.nan, math.inf):
      with pytest.raises(ValueError, match=r"norms\['b'\]"):
        share_points({'a': 1.0, 'b': norm}, 4)


def test_trained_levels_come_closer_than_equal_ones():
  """The squared error of the weights themselves, by gradient descent on the levels."""
  w, reparam, tx = jnp.asarray(W**3), points(2, start='uniform'), optax.adam(0.01)
  levels, code = reparam.init(w, jax.random.key(0))

  def error(levels):
    return jnp.square(reparam.apply(levels, code, None) - w).mean()

  @jax.jit
  def step(levels, opt_state):
    updates, opt_state = tx.update(jax.grad(error)(levels), opt_state)
    return optax.apply_updates(levels, updates), opt_state

  first, state = error(levels), (levels, tx.init(levels))
  for _ in range(100):
    state = step(*state)
  np.testing.assert_allclose(first, np.square(oracles.uniform(W**3, 2) - W**3).mean(), rtol=1e-4)
  assert error(state[0]) < 0.7 * first
