"""Four styles of the same images, by transforms that are known: domains between which a generator translates.

It is trained unpaired, on images each of which is seen in one style; since the transform is known, what it makes of an
image can be compared, pixel by pixel, with what is right.
"""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

STYLES = ('plain', 'glow', 'outline', 'negative')


def styled(images: Float[Array, 'b h w c'], styles: Int[Array, ' b']) -> Float[Array, 'b h w c']:
  """Each image, light on dark in [-1, 1], in its style of ``STYLES``.

  Bold would be at each pixel the largest of the 3 × 3 about it, which leaves no digit of 8 × 8 legible: a glow is
  halfway there, an outline what bold adds to plain.
  """
  bold = nn.max_pool(images, (3, 3), padding='SAME')
  of_all = (images, (images + bold) / 2, bold - images - 1, -images)
  return jnp.select([styles[:, None, None, None] == i for i in range(len(STYLES))], of_all)
