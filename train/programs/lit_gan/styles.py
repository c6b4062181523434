"""Renders images in four styles by known transforms: the domains that a generator translates between.

The generator is trained unpaired, each image seen in one style; since the transform is known, its translation can be
compared pixel by pixel with the right one.
"""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

STYLES = ('plain', 'glow', 'outline', 'negative')


def styled(images: Float[Array, 'b h w c'], styles: Int[Array, ' b']) -> Float[Array, 'b h w c']:
  """Renders each image, light on dark in [-1, 1], in its style of ``STYLES``.

  Bold, the maximum of the 3 × 3 around each pixel, leaves no digit of 8 × 8 legible: a glow is halfway between plain
  and bold, an outline is what bold adds to plain.
  """
  bold = nn.max_pool(images, (3, 3), padding='SAME')
  of_all = (images, (images + bold) / 2, bold - images - 1, -images)
  return jnp.select([styles[:, None, None, None] == i for i in range(len(STYLES))], of_all)
