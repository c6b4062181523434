"""Augmentation: the CIFARs' of the paper, a random crop of the padded image and a random flip; and mixed images."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key, Shaped

from lmajax.types import Batch


def crop_and_flip(key: Key[Array, ''], images: Shaped[Array, 'b h w c'], padding: int = 4) -> Shaped[Array, 'b h w c']:
  """Crops each image at a random place after padding it with black, and mirrors half of them by chance.

  Works on raw pixels, where 0 is black; the authors, too, pad before they normalize.
  """
  number, height, width, _ = images.shape
  crop_key, flip_key = jax.random.split(key)
  corner = jax.random.randint(crop_key, (number, 2), 0, 2 * padding + 1)
  flip = jax.random.bernoulli(flip_key, shape=(number, 1))
  column = jnp.arange(width)[None]
  rows = corner[:, :1] + jnp.arange(height)[None]
  columns = corner[:, 1:] + jnp.where(flip, width - 1 - column, column)
  padded = jnp.pad(images, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
  # one gather per image does crop and flip: 0.7 of the time of dynamic_slice, and it stays on its device under a mesh
  return jax.vmap(lambda image, row, column: image[row[:, None], column[None, :]])(padded, rows, columns)


def mixup(key: Key[Array, ''], batch: Batch, *, alpha: float, num_classes: int) -> Batch:
  r"""Mixes each image of a batch with another one of it, and their labels alike.

  .. math:: x'_i = \lambda_i x_i + (1 - \lambda_i)\, x_{\pi(i)}, \quad
    y'_i = \lambda_i\, [c = y_i] + (1 - \lambda_i)\, [c = y_{\pi(i)}], \quad
    \lambda_i \sim \mathrm{Beta}(\alpha, \alpha)

  Each image has a weight of its own, which is our choice: the original draws one for the whole batch.

  Args:
    key: of the batch's order π and its weights λ.
    batch: inputs [b, ...] as a model takes them (normalized pixels), and class numbers [b].
    alpha: α; 1 draws the weights evenly.
    num_classes: of the mixed labels.

  Returns:
    The mixed inputs, of the same shape, and float32 labels [b, num_classes], a probability of each class.

  Source: Zhang et al. 2018, section 1, where it has no number; with even weights, under a teacher, Beyer et al. 2022.
  """
  number = batch.inputs.shape[0]
  order_key, weight_key = jax.random.split(key)
  order = jax.random.permutation(order_key, number)
  weights = jax.random.beta(weight_key, alpha, alpha, (number,), jnp.float32)

  def mixed(values: Array) -> Array:
    own = weights.reshape(-1, *(1,) * (values.ndim - 1))
    return own * values + (1 - own) * values[order]

  return Batch(mixed(batch.inputs), mixed(jax.nn.one_hot(batch.labels, num_classes, dtype=jnp.float32)))
