"""Translation between styles: a generator and the discriminator it is trained against, by one objective."""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from lmajax.losses import gradient_penalty
from lmajax.types import Array, Key, ModelStats, Params
from train.data.batches import Batch
from train.data.styles import STYLES, styled
from train.objectives import Kept, Taught, supervised
from train.step import ACCURACY, Frozen, Objective, Score

_BETWEEN = 0xBE7  # keeps the penalty's points apart from the draws of styles


class Adversaries(nn.Module):
  """A generator and its discriminator: what a step moves; they start from images alone."""

  generator: Any
  discriminator: nn.Module

  def __call__(self, images: Array, *, train: bool):
    """The images as they are in the first style, and the taps; all parameters are needed for it."""
    self.discriminator(images)
    return self.generator((images, one_hot(jnp.zeros(len(images), jnp.int32))), train=train)

  def translate(self, images: Array, styles: Array, *, train: bool) -> Array:
    """The images in those styles."""
    return self.generator((images, one_hot(styles)), train=train)[0]

  def stage(self, i: int, tap: Array, *, train: bool) -> Array:
    """That of the generator."""
    return self.generator.stage(i, tap, train=train)

  def judge(self, images: Array) -> tuple[Array, Array]:
    """The critic's value of each patch, and the logits of the styles."""
    return self.discriminator(images)


def one_hot(styles: Array) -> Array:
  """Styles as the generator takes them."""
  return jax.nn.one_hot(styles, len(STYLES))


def generator_of(variables: Any) -> dict[str, Any]:
  """The generator's part of the variables of both."""
  return {collection: part['generator'] for collection, part in variables.items()}


class Drawn(NamedTuple):
  """Images in the styles that they are seen in, and the styles to take them to."""

  images: Array
  source: Array
  target: Array


def draw(images: Array, key: Key) -> Drawn:
  """Draws both styles of each image: plain images become the unpaired examples of a step."""
  source, target = jax.random.randint(key, (2, len(images)), 0, len(STYLES))
  return Drawn(styled(images, source), source, target)


class Weights(NamedTuple):
  """Of the terms beside the critic's values; these are the paper's."""

  domain: float = 1.0
  reconstruction: float = 10.0
  penalty: float = 10.0


TRANSLATED = ('critic', 'penalty', 'reconstruction', 'unlike_target')
"""What ``translate`` says beside its loss."""


def translate(model: Adversaries, weights: Weights) -> Objective:
  """StarGAN: the discriminator's loss, the made images held fixed, plus the generator's, the discriminator held fixed.

  So the gradient of each player's parameters is that of its own loss, and one step moves both, or by its optimizer one
  of them. Images are made once, for both losses. Statistics of the generator move under the images first, then under
  those that it made of them, on the way back.
  """

  def objective(params: Params, stats: ModelStats, frozen: Frozen, batch: Batch, key: Key):
    del frozen
    drawn = draw(batch.inputs, key)
    made, kept = Kept(params, stats, key).run(model, 'translate', drawn.images, drawn.target, train=True)
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
    values, logits = model.apply({'params': params}, images, method='judge')
    return values.astype('float32'), logits

  return judge


def _discriminating(
  judge: Callable, made: Array, drawn: Drawn, weights: Weights, key: Key
) -> tuple[Array, Array, Array]:
  """The discriminator's loss, by how much real images are above made ones, and the penalty."""
  values, logits = judge(drawn.images)
  above = values.mean() - judge(made)[0].mean()
  penalty = gradient_penalty(lambda images: judge(images)[0], drawn.images, made.astype(drawn.images.dtype), key).mean()
  loss = weights.domain * _cross_entropy(logits, drawn.source) + weights.penalty * penalty - above
  return loss, above, penalty


def _cross_entropy(logits: Array, labels: Array) -> Array:
  return optax.losses.softmax_cross_entropy_with_integer_labels(logits.astype('float32'), labels).mean()


def representing(objective: Objective, teacher: Adversaries) -> Objective:
  """The objective of what the frozen teacher says of images in drawn styles: each student draws its own."""

  def of_drawn(params: Params, stats: ModelStats, frozen: Frozen, batch: Batch, key: Key):
    drawn = draw(batch.inputs, key)
    said: Any = teacher.generator.apply(generator_of(frozen), (drawn.images, one_hot(drawn.target)), train=False)
    return objective(params, stats, jax.lax.stop_gradient(Taught(*said)), batch, key)

  return of_drawn


class Asked(NamedTuple):
  """Every image on its way to every style, each from another one; images and answers are [styles, b, h, w, c]."""

  images: Array
  targets: Array
  answers: Array


def asked(images: Array) -> Asked:
  """The sources take turns from image to image, so that all are asked alike and nothing is left to chance."""
  targets = jnp.broadcast_to(jnp.arange(len(STYLES))[:, None], (len(STYLES), len(images)))
  sources = (targets + 1 + jnp.arange(len(images))[None] % (len(STYLES) - 1)) % len(STYLES)
  each = jax.vmap(styled, in_axes=(None, 0))
  return Asked(each(images, sources), targets, each(images, targets))


def answered(model: Adversaries, variables: Any, images: Array) -> Array:
  """What a generator makes of all that is asked, [styles, b, h, w, c]."""
  question = asked(images)
  made = [
    model.apply(variables, given, targets, method='translate', train=False)
    for given, targets in zip(question.images, question.targets, strict=True)
  ]
  return jnp.stack(made)


def agreement(model: Any) -> Callable:
  """A function (variables, batch, mask) -> 1 less the mean difference from the true styles, of which 2 is the most."""

  def summed(variables: dict[str, Any], batch: Batch, mask: Array) -> Array:
    apart = jnp.abs(answered(model, variables, batch.inputs) - asked(batch.inputs).answers) / 2
    return jnp.sum((1 - apart.mean(axis=(0, 2, 3, 4))) * mask)

  return summed


AGREEMENT = Score('agreement', agreement)


def told_apart(model: nn.Module, num_classes: int) -> Objective:
  """Cross-entropy with style and class together, of images in drawn styles."""

  def objective(params: Params, stats: ModelStats, frozen: Frozen, batch: Batch, key: Key):
    drawn = draw(batch.inputs, key)
    labels = drawn.source * num_classes + batch.labels
    return supervised(model)(params, stats, frozen, Batch(drawn.images, labels), key)

  return objective


def in_every_style(num_classes: int) -> Score:
  """The right answers of style and class together, each style a share of each image."""

  def of(model: nn.Module) -> Callable:
    def count(variables: dict[str, Any], batch: Batch, mask: Array) -> Array:
      question, right = asked(batch.inputs), ACCURACY.of(model)
      of_each = [
        right(variables, Batch(images, i * num_classes + batch.labels), mask)
        for i, images in enumerate(question.answers)
      ]
      return jnp.stack(of_each).mean()

    return count

  return Score('accuracy', of)


def features(model: nn.Module, variables: Any, images: Array) -> Array:
  """The last tap before the logits, averaged over positions."""
  tap = model.apply(variables, images, train=False)[1][-1]
  return tap.mean(axis=tuple(range(1, tap.ndim - 1))).astype('float32')
