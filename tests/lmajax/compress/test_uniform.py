"""Uniform quantization against its oracle, and what its choices are for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmajax import compress
from lmajax.compress import kernels, uniform
from tests import oracles

RNG = np.random.default_rng(0)


def weights(*shape):
  return RNG.normal(size=shape).astype(np.float32)


def quantized(reparam, w, key=None):
  theta, code = reparam.init(jnp.asarray(w), jax.random.key(0))
  return reparam.apply(theta, code, key)


@pytest.mark.parametrize('bits', range(1, 9))
@pytest.mark.parametrize('shape, bucket_size', [((45, 11), 256), ((3, 5, 4), 'channel'), ((9, 3), None), ((1,), 256)])
@pytest.mark.parametrize('ranges', ['min_max', 'least_error'])
def test_equals_its_oracle(bits, shape, bucket_size, ranges):
  w = weights(*shape)
  ours = quantized(uniform(bits, bucket_size=bucket_size, ranges=getattr(compress, ranges)), w)
  slow = oracles.uniform(w, bits, bucket_size=bucket_size, ranges=getattr(oracles, ranges))
  np.testing.assert_allclose(ours, slow, atol=1e-5)


@pytest.mark.parametrize('ranges', ['min_max', 'least_error'])
def test_ranges_equal_their_oracle(ranges):
  rows = np.concatenate([weights(3, 40) ** 3, np.full((1, 40), 2, np.float32)])
  for ours, slow in zip(
    getattr(compress, ranges)(jnp.asarray(rows), 3), getattr(oracles, ranges)(rows, 3), strict=True
  ):
    np.testing.assert_allclose(ours, slow, rtol=1e-5)


def test_the_last_bucket_is_not_judged_by_what_fills_it_up():
  """44 entries, the last an outlier: filled up with that one, its range would be all that counts."""
  w = np.concatenate([weights(299), [9]]).astype(np.float32)
  alone = quantized(uniform(3, ranges=compress.least_error), w[256:])
  np.testing.assert_allclose(quantized(uniform(3, ranges=compress.least_error), w)[256:299], alone[:-1], atol=0.3)


def test_least_error_is_at_most_that_of_the_extremes():
  w = weights(20, 30) ** 3
  errors = [np.square(quantized(uniform(3, ranges=r), w) - w).sum() for r in (compress.least_error, compress.min_max)]
  assert errors[0] < 0.9 * errors[1]


def test_truncated_weights_get_no_gradient_outside():
  w = jnp.array([-3.0, -0.5, 0.2, 1.5])
  reparam = uniform(2, truncated=True)
  np.testing.assert_allclose(quantized(reparam, w), oracles.uniform(np.asarray(w), 2, truncated=True), atol=1e-6)
  gradient = jax.grad(lambda w: (reparam.apply(w, (), jax.random.key(0)) * jnp.arange(1.0, 5)).sum())(w)
  np.testing.assert_array_equal(gradient, [0, 2, 3, 0])


def test_the_gradient_goes_straight_through():
  w, ct = weights(9, 40), weights(9, 40)
  reparam = uniform(2)
  y, pull = jax.vjp(lambda w: reparam.apply(w, (), jax.random.key(0)), jnp.asarray(w))
  np.testing.assert_allclose(y, quantized(reparam, w), atol=1e-6)
  np.testing.assert_array_equal(pull(jnp.asarray(ct))[0], ct)


def test_stochastic_rounding_keeps_the_mean():
  """Four hundred draws: the mean lies within five of its standard errors, at most half a step each."""
  w = weights(40)
  reparam = uniform(2, stochastic=True)
  draws = np.asarray(jax.vmap(lambda k: reparam.apply(jnp.asarray(w), (), k))(jax.random.split(jax.random.key(0), 400)))
  step = (w.max() - w.min()) / 3
  assert np.abs(draws.mean(0) - w).max() < 5 * 0.5 * step / 20
  assert np.abs(draws - w).max() <= step * 1.001
  assert np.std(draws, 0).max() > 0.3 * step


@pytest.mark.parametrize('bits, bucket_size', [(1, 256), (3, 64), (8, 'channel'), (5, None)])
def test_size_of_the_file(bits, bucket_size):
  w = weights(3, 30, 7)
  buckets = {256: 3, 64: 10, 'channel': 7, None: 1}[bucket_size]
  packed = uniform(bits, bucket_size=bucket_size).stored(jnp.asarray(w), ())
  assert packed.bits() == 8 * -(-630 * bits // 8) + 64 * buckets


@pytest.mark.parametrize('wrong', [{'bits': 0}, {'bits': 9}, {'bits': 4, 'bucket_size': 0}])
def test_what_is_out_of_range_is_refused(wrong):
  with pytest.raises(ValueError, match=r'bits is|bucket_size is 0'):
    uniform(**wrong)


@pytest.mark.parametrize('path', ['kernel', 'a/kernel', 'a/embedding', 'kernel/bias', 'a/scale', 'a/slope_deltas'])
def test_kernels_are_selected_by_name(path):
  assert kernels(path, None) == oracles.kernels(path, None)
