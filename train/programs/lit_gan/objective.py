"""Trains a generator and its discriminator to translate between styles, by one objective."""

from collections.abc import Callable
from typing import Any, NamedTuple, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from lmajax.losses import gradient_penalty
from lmajax.training import Parts, Taught
from lmajax.types import Array, Batch, Frozen, Key, ModelStats, Objective, Params
from train.programs.lit_gan.styles import STYLES, styled

_BETWEEN = 0xBE7  # keeps the penalty's points apart from the draws of styles


class Adversaries(nn.Module):
  """A generator and its discriminator as one module, trained by one step and initialized from images alone."""

  generator: Any
  discriminator: nn.Module

  def __call__(self, images: Array, *, train: bool):
    """Translates the images to the first style and returns the taps too; uses all parameters of both networks."""
    self.discriminator(images)
    return self.generator((images, one_hot(jnp.zeros(len(images), jnp.int32))), train=train)

  def translate(self, images: Array, styles: Array, *, train: bool) -> Array:
    """Translates the images to the given styles."""
    return self.generator((images, one_hot(styles)), train=train)[0]

  def stage(self, i: int, tap: Array, *, train: bool) -> Array:
    """Runs the generator's stage ``i``."""
    return self.generator.stage(i, tap, train=train)

  def judge(self, images: Array) -> tuple[Array, Array]:
    """Returns the critic's value of each patch, and the logits of the styles."""
    return self.discriminator(images)


def one_hot(styles: Array) -> Array:
  """Encodes styles one-hot, as the generator takes them."""
  return jax.nn.one_hot(styles, len(STYLES))


def generator_of(variables: Any) -> dict[str, Any]:
  """Returns the generator's part of both networks' variables."""
  return {collection: part['generator'] for collection, part in variables.items()}


class Drawn(NamedTuple):
  """Images in their source styles, and the target styles to translate them to."""

  images: Array
  source: Array
  target: Array


def draw(images: Array, key: Key) -> Drawn:
  """Draws the source and target style of each image: plain images become the unpaired examples of a step."""
  source, target = jax.random.randint(key, (2, len(images)), 0, len(STYLES))
  return Drawn(styled(images, source), source, target)


class Weights(NamedTuple):
  """Weights of the loss terms besides the critic's values; the defaults are the paper's."""

  domain: float = 1.0
  reconstruction: float = 10.0
  penalty: float = 10.0


TRANSLATED: tuple[str, ...] = ('critic', 'penalty', 'reconstruction', 'unlike_target')
"""What ``translate`` says beside its loss."""


def translate(model: Adversaries, weights: Weights) -> Objective:
  """Adds StarGAN's discriminator loss, made images held fixed, and generator loss, discriminator held fixed.

  So each network's gradient is that of its own loss, and one step moves both, or only one if the optimizer says so.
  Both losses use the parameters before the step, where the authors' code moves the discriminator first. Images are made
  once, for both losses. The generator's statistics are updated on the images first, then on its translations of them,
  on the way back.
  """

  def objective(params: Params, stats: ModelStats, frozen: Frozen, batch: Batch, key: Key):
    del frozen
    drawn = draw(batch.inputs, key)
    made, kept = Parts(params, stats, key).run(model, 'translate', drawn.images, drawn.target, train=True)
    back, kept = kept.run(model, 'translate', made, drawn.source, train=True)
    fixed = jax.lax.stop_gradient((params, made))
    of_critic = _discriminating(_judge(model, params), fixed[1], drawn, weights, jax.random.fold_in(key, _BETWEEN))
    values, logits = _judge(model, fixed[0])(made)
    domain, reconstruction = _cross_entropy(logits, drawn.target), jnp.abs(back - drawn.images).mean()
    of_generator = weights.domain * domain + weights.reconstruction * reconstruction - values.mean()
    said = dict(zip(TRANSLATED, (*of_critic[1:], reconstruction, domain), strict=True))
    return of_critic[0] + of_generator, (kept.stats, said)

  return objective


def _judge(model: Adversaries, params: Params) -> Callable[[Array], tuple[Array, Array]]:
  def judge(images: Array) -> tuple[Array, Array]:
    values, logits = cast(tuple[Array, Array], model.apply({'params': params}, images, method='judge'))
    return values.astype('float32'), logits

  return judge


def _discriminating(
  judge: Callable, made: Array, drawn: Drawn, weights: Weights, key: Key
) -> tuple[Array, Array, Array]:
  """Returns the discriminator's loss, the critic's margin of real over made images, and the penalty."""
  values, logits = judge(drawn.images)
  above = values.mean() - judge(made)[0].mean()
  penalty = gradient_penalty(lambda images: judge(images)[0], drawn.images, made.astype(drawn.images.dtype), key).mean()
  loss = weights.domain * _cross_entropy(logits, drawn.source) + weights.penalty * penalty - above
  return loss, above, penalty


def _cross_entropy(logits: Array, labels: Array) -> Array:
  return optax.losses.softmax_cross_entropy_with_integer_labels(logits.astype('float32'), labels).mean()


def representing(objective: Objective, teacher: Adversaries) -> Objective:
  """Feeds an objective the frozen teacher's outputs for images in drawn styles; each student draws its own."""

  def of_drawn(params: Params, stats: ModelStats, frozen: Frozen, batch: Batch, key: Key):
    drawn = draw(batch.inputs, key)
    said: Any = teacher.generator.apply(generator_of(frozen), (drawn.images, one_hot(drawn.target)), train=False)
    return objective(params, stats, jax.lax.stop_gradient(Taught(*said)), batch, key)

  return of_drawn
