"""The gradient penalty: its value, its own gradient through the critic's, and who is trained by it."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmajax.losses import gradient_penalty
from lmajax.models import Discriminator, _generator
from tests import oracles

RNG = np.random.default_rng(0)
KEY = jax.random.key(3)
REAL, FAKE = (RNG.normal(size=(5, 2, 3)).astype(np.float32) for _ in range(2))
REAL_, FAKE_ = map(jnp.asarray, (REAL, FAKE))
W1, W2 = RNG.normal(size=(6, 4)).astype(np.float32), RNG.normal(size=(4, 2)).astype(np.float32)


def critic(params, x, tanh=jnp.tanh):
  w1, w2 = params
  return tanh(x.reshape(len(x), -1) @ w1) @ w2


def penalty(params, real=REAL_, fake=FAKE_):
  return gradient_penalty(partial(critic, params), real, fake, KEY)


def slow(params, real=REAL, fake=FAKE):
  shares = np.asarray(jax.random.uniform(KEY, (len(real), 1, 1))).ravel()
  return oracles.gradient_penalty(partial(critic, params, tanh=np.tanh), np.float64(real), np.float64(fake), shares)


class TestGradientPenalty:
  @pytest.mark.parametrize('compiled', [False, True])
  def test_equals_its_oracle(self, compiled, strict_dtypes):
    ours = (jax.jit(penalty) if compiled else penalty)((jnp.asarray(W1), jnp.asarray(W2)))
    assert (ours.shape, ours.dtype) == ((5,), jnp.float32)
    np.testing.assert_allclose(ours, slow((np.float64(W1), np.float64(W2))), rtol=1e-4)

  def test_gradient_equals_the_differences_of_the_oracle(self):
    gradient = jax.grad(lambda w1: penalty((w1, jnp.asarray(W2))).mean())(jnp.asarray(W1))
    expected = oracles.slope_of(lambda w1: slow((w1, np.float64(W2))).mean(), W1, 1e-4)
    np.testing.assert_allclose(gradient, expected, rtol=1e-3, atol=1e-3)

  def test_points_lie_evenly_between_real_and_fake(self):
    """A critic of slope x tells where it was asked: between -1 and 1, and anywhere there."""
    real = jnp.ones((4000, 2))
    places = 1 + jnp.sqrt(gradient_penalty(lambda x: jnp.square(x - 9)[:, :1] / 2, real, -real, KEY)) - 9
    np.testing.assert_allclose(np.quantile(-places, [0, 0.25, 0.5, 0.75, 1]), [-1, -0.5, 0, 0.5, 1], atol=0.05)

  def test_one_number_places_a_whole_example(self):
    """With a critic whose slope is its input, the norm is √n times the place, if all n entries are at one place."""
    real = jnp.full((6, 4, 5), 9.0)
    norms = 1 + jnp.sqrt(gradient_penalty(lambda x: jnp.square(x) / 2, real, real / 9, KEY))
    np.testing.assert_allclose(norms, np.sqrt(20) * (1 + 8 * jax.random.uniform(KEY, (6, 1, 1)).ravel()), rtol=1e-5)

  def test_trains_the_critic_alone(self):
    gradients = jax.grad(lambda real, fake: penalty((W1, W2), real, fake).sum(), (0, 1))(REAL_, FAKE_)
    for gradient in gradients:
      np.testing.assert_array_equal(gradient, 0)

  def test_a_flat_critic_has_a_finite_gradient(self):
    value, gradient = jax.value_and_grad(lambda w: gradient_penalty(lambda x: w * x.sum(1), REAL_, FAKE_, KEY).mean())(
      0.0
    )
    assert (float(value), float(gradient)) == (1, 0)

  @pytest.mark.parametrize('dtype', ['bfloat16', 'float16'])
  def test_half_precision_takes_norms_in_float32(self, dtype, strict_dtypes):
    many = jnp.ones((2, 70_000), dtype)
    ours = gradient_penalty(lambda x: x.sum(1), many, many, KEY)
    assert ours.dtype == jnp.float32
    np.testing.assert_allclose(ours, (np.sqrt(70_000) - 1) ** 2, rtol=1e-5)

  def test_other_shapes_raise(self):
    with pytest.raises((TypeError, ValueError)):
      penalty((W1, W2), REAL_, FAKE_[:, :1])


@pytest.fixture
def discriminated():
  """What a penalty and its gradient are made of: a function of the parameters, these, and the norms of the slopes."""
  model = Discriminator(channels=4, layers=2, domains=3)
  real, fake = jnp.asarray(RNG.uniform(-1, 1, (2, 3, 8, 8, 1)), jnp.float32)
  params = jax.tree.map(lambda leaf: 3 * leaf, model.init(jax.random.key(0), real)['params'])

  def loss(params):
    return gradient_penalty(lambda x: model.apply({'params': params}, x)[0], real, fake, KEY).mean()

  share = jax.random.uniform(KEY, (3, 1, 1, 1))
  slopes = jax.grad(lambda x: model.apply({'params': params}, x)[0].sum())(share * real + (1 - share) * fake)
  return loss, params, np.linalg.norm(np.asarray(slopes, np.float64).reshape(3, -1), axis=1)


class TestSecondDerivatives:
  """Through the discriminator's convolutions, as this library has them."""

  def test_follow_from_the_scale_of_each_layer(self, discriminated):
    """Without biases every norm n grows with each kernel, so that the slope along a kernel is that of (n - 1)² by n."""
    loss, params, norms = discriminated
    gradient = jax.jit(jax.grad(loss))(params)
    for name in ('Conv_0', 'Conv_1', 'Conv_2'):
      along = jnp.vdot(gradient[name]['kernel'], params[name]['kernel'])
      np.testing.assert_allclose(along, (2 * (norms - 1) * norms).mean(), rtol=1e-3)

  def test_equal_those_of_plain_convolutions(self, discriminated, monkeypatch):
    loss, params, _ = discriminated
    ours = jax.jit(jax.grad(loss))(params)
    monkeypatch.setattr(_generator, 'conv_general_dilated', jax.lax.conv_general_dilated)
    close = partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-4)
    jax.tree.map(close, ours, jax.jit(jax.grad(lambda params: loss(params)))(params))
