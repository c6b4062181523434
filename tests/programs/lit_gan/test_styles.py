"""The styles: each as slow loops make it, each told from the others, each in its range."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from train.data import load
from train.programs.lit_gan.styles import STYLES, styled

RNG = np.random.default_rng(0)


def slow(image, style):
  h, w, _ = image.shape
  if style == 'plain':
    return image
  if style == 'negative':
    return -image
  made = np.zeros(image.shape)
  for a, b, c in np.ndindex(image.shape):
    largest = max(
      image[i, j, c] for i in range(max(a - 1, 0), min(a + 2, h)) for j in range(max(b - 1, 0), min(b + 2, w))
    )
    x = image[a, b, c]
    made[a, b, c] = (x + largest) / 2 if style == 'glow' else largest - x - 1
  return made


@pytest.mark.parametrize('shape', [(8, 8, 1), (5, 7, 3)])
def test_equal_the_slow_ones_and_stay_in_range(shape, strict_dtypes):
  images = RNG.uniform(-1, 1, (8, *shape)).astype(np.float32)
  which = RNG.permutation(np.arange(8, dtype=np.int32) % 4)
  made = jax.jit(styled)(jnp.asarray(images), jnp.asarray(which))
  assert (made.shape, made.dtype) == (images.shape, jnp.float32)
  for image, style, one in zip(images, which, made, strict=True):
    np.testing.assert_allclose(one, slow(image, STYLES[style]), rtol=1e-6, atol=1e-6)
  assert jnp.abs(made).max() <= 1


def test_differ_on_real_images():
  """By a tenth of the contrast, 2, averaged over the pixels of whichever two styles."""
  pixels = jnp.asarray(load('digits').validation.inputs[:100], jnp.float32) / 8 - 1
  each = [styled(pixels, jnp.full(100, i)) for i in range(len(STYLES))]
  for i in range(len(STYLES)):
    for j in range(i):
      assert jnp.abs(each[i] - each[j]).mean() > 0.2, (STYLES[i], STYLES[j])
