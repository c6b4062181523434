"""How far moments lie apart, and how rough images are: against the oracles, at equality, near it and within a slack."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmajax import losses
from lmajax.losses import Moments, Site
from tests import oracles

DRAW = np.random.default_rng(0)


def moments(size=5):
  return Moments(jnp.asarray(DRAW.normal(size=size), jnp.float32), jnp.asarray(DRAW.uniform(0.2, 3, size), jnp.float32))


MEASURES = ('gaussian_divergence', 'squared_difference')


@pytest.mark.parametrize('name', MEASURES)
def test_a_measure_and_its_gradient_are_those_of_the_oracle(name):
  stored, measured = moments(), moments()
  ours, oracle = getattr(losses, name), getattr(oracles, name)
  np.testing.assert_allclose(ours(stored, measured), oracle(stored, measured), rtol=1e-6, atol=1e-6)
  slopes = jax.grad(lambda mean, std: ours(stored, Moments(mean, std)).sum(), argnums=(0, 1))(*measured)
  for at in (0, 1):

    def total(leaf, at=at):
      return oracle(stored, [leaf if i == at else each for i, each in enumerate(measured)]).sum()

    np.testing.assert_allclose(slopes[at], oracles.slope_of(total, np.asarray(measured[at])), rtol=1e-3, atol=1e-5)


@given(st.floats(-5, 5), st.floats(0.1, 10), st.floats(-1e-2, 1e-2))
@settings(max_examples=50, deadline=None)
def test_it_is_0_at_equality_and_never_below_nor_lost_near_it(mean, std, off):
  one = Moments(jnp.full(1, mean, jnp.float32), jnp.full(1, std, jnp.float32))
  assert float(losses.gaussian_divergence(one, one)[0]) == 0
  near = one._replace(std=one.std * jnp.float32(1 + off))
  found, exact = float(losses.gaussian_divergence(one, near)[0]), float(oracles.gaussian_divergence(one, near)[0])
  assert found >= 0 and found == pytest.approx(exact, rel=1e-2, abs=1e-12)


def test_a_channel_that_hardly_varied_makes_no_infinity():
  one, far = Moments(jnp.zeros(1), jnp.full(1, 3e-3)), Moments(jnp.zeros(1), jnp.full(1, 300.0))
  value, slope = jax.value_and_grad(lambda std: losses.gaussian_divergence(one, Moments(far.mean, std)).sum())(far.std)
  assert float(value) == pytest.approx(float(oracles.gaussian_divergence(one, far)[0]), rel=1e-5)
  assert float(slope[0]) == pytest.approx(1 / 300, rel=1e-3)


@pytest.mark.parametrize('name', MEASURES)
def test_it_is_the_mean_over_channels_and_then_over_sites(name):
  sites = {'wide': Site(moments(7), moments(7)), 'narrow': Site(moments(2), moments(2))}
  found = losses.divergence(sites, measure=getattr(losses, name))
  np.testing.assert_allclose(found, oracles.divergence(sites, measure=getattr(oracles, name)), rtol=1e-6)
  with pytest.raises(ValueError, match='sites is empty'):
    losses.divergence({})


def test_slack_is_a_share_of_gaussian_inputs_and_what_lies_within_it_costs_nothing():
  sites = {'one': Site(moments(10), moments(10))}
  most = losses.slack(sites, share=0.9)
  jax.tree.map(np.testing.assert_array_equal, most, oracles.slack(sites, share=0.9))
  moved = losses.slackened(sites, most)
  jax.tree.map(
    lambda ours, slow: np.testing.assert_allclose(ours, slow, rtol=1e-5), moved, oracles.slackened(sites, most)
  )
  assert np.sum(np.asarray(moved['one'].measured.mean) == np.asarray(moved['one'].stored.mean)) == 9
  assert float(losses.divergence(losses.slackened(sites, losses.slack(sites, share=1.0)))) == 0
  with pytest.raises(ValueError, match='slack has nothing for one'):
    losses.slackened(sites, {})
  with pytest.raises(ValueError, match=r'share is 1\.5'):
    losses.slack(sites, share=1.5)


def test_roughness():
  images = DRAW.normal(size=(2, 3, 4, 2)).astype(np.float32)
  np.testing.assert_allclose(losses.roughness(jnp.asarray(images)), oracles.roughness(images), rtol=1e-5)
  assert losses.roughness(jnp.ones((2, 1, 3, 1))).tolist() == [0, 0]
  with pytest.raises(ValueError, match='height, width'):
    losses.roughness(jnp.zeros((2, 3)))
