"""Measures how far translations are from the true images, by pixels and by features."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from lmajax.training import supervised
from lmajax.types import Array, Batch, Frozen, Key, ModelStats, Objective, Params
from train.engine.metrics import ACCURACY, Score
from train.programs.lit_gan.frechet import frechet_distance
from train.programs.lit_gan.objective import draw
from train.programs.lit_gan.styles import STYLES, styled


class Asked(NamedTuple):
  """Every image with every target style, each from another style; images and answers are [styles, b, h, w, c]."""

  images: Array
  targets: Array
  answers: Array


def asked(images: Array) -> Asked:
  """Makes all questions; source styles rotate from image to image, so that all are asked alike and none is random."""
  targets = jnp.broadcast_to(jnp.arange(len(STYLES))[:, None], (len(STYLES), len(images)))
  sources = (targets + 1 + jnp.arange(len(images))[None] % (len(STYLES) - 1)) % len(STYLES)
  each = jax.vmap(styled, in_axes=(None, 0))
  return Asked(each(images, sources), targets, each(images, targets))


def answered(model: Any, variables: Any, images: Array) -> Array:
  """Returns a generator's translations of all questions, [styles, b, h, w, c]."""
  question = asked(images)
  return jax.lax.map(
    lambda each: model.apply(variables, *each, method='translate', train=False), (question.images, question.targets)
  )


def agreement(model: Any) -> Callable:
  """Returns a function (variables, batch, mask) -> 1 − half the mean difference (at most 2) from the true styles."""

  def summed(variables: dict[str, Any], batch: Batch, mask: Array) -> Array:
    apart = jnp.abs(answered(model, variables, batch.inputs) - asked(batch.inputs).answers) / 2
    return jnp.sum((1 - apart.mean(axis=(0, 2, 3, 4))) * mask)

  return summed


AGREEMENT = Score('agreement', agreement)


def told_apart(model: nn.Module, num_classes: int) -> Objective:
  """Trains a classifier of style and class together by cross-entropy, on images in drawn styles."""

  def objective(params: Params, stats: ModelStats, frozen: Frozen, batch: Batch, key: Key):
    drawn = draw(batch.inputs, key)
    labels = drawn.source * num_classes + batch.labels
    return supervised(model)(params, stats, frozen, Batch(drawn.images, labels), key)

  return objective


def in_every_style(num_classes: int) -> Score:
  """Scores right answers of style and class together; the styles have equal shares of each image."""

  def of(model: nn.Module) -> Callable:
    def count(variables: dict[str, Any], batch: Batch, mask: Array) -> Array:
      question, right = asked(batch.inputs), ACCURACY.of(model)
      labels = jnp.arange(len(STYLES))[:, None] * num_classes + batch.labels[None, :]
      of_each = jax.lax.map(lambda each: right(variables, Batch(*each), mask), (question.answers, labels))
      return of_each.mean()

    return count

  return Score('accuracy', of)


def features(model: nn.Module, variables: Any, images: Array) -> Array:
  """Returns the last tap before the logits, averaged over positions."""
  said: Any = model.apply(variables, images, train=False)
  tap = said[1][-1]
  return tap.mean(axis=tuple(range(1, tap.ndim - 1))).astype('float32')


class Made(NamedTuple):
  """All test images in each style, and the classifier's features of them."""

  images: Any  # [styles, n, h, w, c]
  features: Any  # [styles, n, d]


Make = Callable[[Any, Any], Made]
"""(a model, or None for the true styles; its variables) -> what it makes of the test set."""


def maker(classifier: nn.Module, variables: Any, test: Sequence[Any], count: int, placed: Any) -> Make:
  """Returns a function that translates the test set of ``count`` images by batches, with one program per model."""
  programs: dict[Any, Callable] = {}

  def program(model: Any) -> Callable:
    def both(variables: Any, known: Any, images: Any) -> Made:
      made = asked(images).answers if model is None else answered(model, variables, images)
      return Made(made, jax.lax.map(partial(features, classifier, known), made))

    return jax.jit(both, out_shardings=placed)

  def make(model: Any, mine: Any) -> Made:
    compiled = programs.setdefault(model, program(model))
    parts = [jax.device_get(compiled(mine, variables, batch.inputs)) for batch, _ in test]
    return Made(*(np.concatenate(each, axis=1)[:, :count] for each in zip(*parts, strict=True)))

  return make


def frechet(made: Made, real: Made) -> float:
  """Averages the Fréchet distance of the features over the styles."""
  each = [frechet_distance(*pair) for pair in zip(made.features, real.features, strict=True)]
  return float(np.mean(each))


def apart(made: Made, meant: Made) -> float:
  """Returns the mean difference of pixels, where black and white are 1 apart."""
  return float(np.abs(made.images - meant.images).mean(dtype=np.float64) / 2)
