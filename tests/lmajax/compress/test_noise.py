"""Quant-noise: which weights are replaced, by what, and that the gradient knows nothing of it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmajax.compress import masked, noise, points, uniform

W = np.random.default_rng(0).normal(size=(3, 3, 5, 11)).astype(np.float32)
KEY = jax.random.key(7)


def noisy(rate=0.5, **options):
  reparam = noise(uniform(2), rate, **options)
  theta, code = reparam.init(jnp.asarray(W), KEY)
  return reparam, theta, code


def replaced(w):
  return np.asarray(w) != W


@pytest.mark.parametrize('block_size', [1, 8])
class TestNoise:
  def test_none_at_rate_0_and_all_at_rate_1(self, block_size):
    reparam, theta, code = noisy(block_size=block_size)
    np.testing.assert_array_equal(reparam.apply(theta, code._replace(rate=jnp.float32(0)), KEY), W)
    quantized = uniform(2).apply(theta, (), None)
    np.testing.assert_array_equal(reparam.apply(theta, code._replace(rate=jnp.float32(1)), KEY), quantized)
    np.testing.assert_array_equal(reparam.apply(theta, code, None), quantized)

  def test_each_entry_is_the_weight_or_its_quantized_value(self, block_size):
    reparam, theta, code = noisy(block_size=block_size)
    seen, quantized = np.asarray(reparam.apply(theta, code, KEY)), np.asarray(uniform(2).apply(theta, (), None))
    assert ((seen == W) | (seen == quantized)).all()
    assert 0.3 < (seen == W).mean() < 0.7

  def test_the_gradient_goes_straight_through(self, block_size):
    reparam, theta, code = noisy(block_size=block_size)
    ct = jnp.asarray(W[::-1])
    _, pull = jax.vjp(lambda theta: reparam.apply(theta, code, KEY), theta)
    np.testing.assert_array_equal(pull(ct)[0], ct)

  @pytest.mark.parametrize('rate', [0.05, 0.2, 0.5])
  def test_rate_of_many_draws(self, block_size, rate):
    """Within three standard deviations, of blocks and not of entries."""
    reparam, theta, code = noisy(rate, block_size=block_size, replacement=jnp.zeros_like)
    draws = jax.vmap(lambda k: reparam.apply(theta, code, k))(jax.random.split(KEY, 100))
    blocks = 100 * 11 * -(-45 // block_size)
    assert abs((draws == 0).mean() - rate) < 3 * np.sqrt(rate * (1 - rate) / blocks)


@pytest.mark.parametrize('block_size', [1, 4, 8, 45, 64])
def test_a_block_is_drawn_together(block_size):
  """Consecutive entries of a filter, the last block of a filter with what is left."""
  reparam, theta, code = noisy(block_size=block_size, replacement=jnp.zeros_like)
  filters = np.moveaxis(replaced(reparam.apply(theta, code, KEY)), -1, 0).reshape(11, 45)
  ones = 0
  for row in filters:
    for start in range(0, 45, block_size):
      block = row[start : start + block_size]
      assert block.all() or not block.any()
      ones += block.all()
  assert 0 < ones < 11 * -(-45 // block_size)
  assert len({tuple(row) for row in filters}) > 1


def test_replacement_is_of_training_alone():
  reparam, theta, code = noisy(1.0, replacement=jnp.zeros_like)
  np.testing.assert_array_equal(reparam.apply(theta, code, KEY), 0)
  np.testing.assert_array_equal(reparam.apply(theta, code, None), uniform(2).apply(theta, (), None))


def test_the_rate_changes_without_a_trace():
  reparam, theta, code = noisy()
  traces = []

  @jax.jit
  def step(code):
    traces.append(code)
    return reparam.apply(theta, code, KEY)

  shares = [replaced(step(code._replace(rate=jnp.float32(rate)))).mean() for rate in (0.1, 0.4, 0.9)]
  assert len(traces) == 1
  assert shares == sorted(shares)


def test_leaves_draw_for_themselves():
  reparam = noise(uniform(2), 0.5)
  theta, code = reparam.init({'a': jnp.asarray(W), 'b': jnp.asarray(W), 'slope': jnp.float32(0.25)}, KEY)
  seen = reparam.apply(theta, code, KEY)
  assert (replaced(seen['a']) != replaced(seen['b'])).any()
  assert seen['slope'].shape == ()


@pytest.mark.parametrize(
  'build, says',
  [
    (lambda: noise(uniform(4), 1.5), 'rate is 1.5'),
    (lambda: noise(uniform(4), -0.1), 'rate is -0.1'),
    (lambda: noise(uniform(4), 0.1, block_size=0), 'block_size is 0'),
    (lambda: noise(points(4), 0.1), 'theta is the weights'),
    (lambda: noise(masked(uniform(4)), 0.1), 'theta is the weights'),
  ],
)
def test_what_cannot_be_is_refused(build, says):
  with pytest.raises(ValueError, match=says):
    build().init({'kernel': jnp.asarray(W)}, KEY)
