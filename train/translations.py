"""What translations of the test set are worth: how far they are from the images that they are meant to be."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from train.adversarial import answered, asked, features
from train.frechet import frechet_distance


class Made(NamedTuple):
  """All test images in each style, and the classifier's features of them."""

  images: np.ndarray  # [styles, n, h, w, c]
  features: np.ndarray  # [styles, n, d]


Make = Callable[[Any, Any], Made]
"""(a model, or None for the true styles; its variables) -> what it makes of the test set."""


def maker(classifier: nn.Module, variables: Any, test: Sequence[Any], count: int, placed: Any) -> Make:
  """Goes through the batches of the test set, which holds so many images; one program for each model."""
  programs: dict[Any, Callable] = {}

  def program(model: Any) -> Callable:
    def both(variables: Any, known: Any, images: Any) -> Made:
      made = asked(images).answers if model is None else answered(model, variables, images)
      return Made(made, jnp.stack([features(classifier, known, each) for each in made]))

    return jax.jit(both, out_shardings=placed)

  def make(model: Any, mine: Any) -> Made:
    compiled = programs.setdefault(model, program(model))
    parts = [jax.device_get(compiled(mine, variables, batch.inputs)) for batch, _ in test]
    return Made(*(np.concatenate(each, axis=1)[:, :count] for each in zip(*parts, strict=True)))

  return make


def frechet(made: Made, real: Made) -> float:
  """The mean over the styles of the Fréchet distance of the features."""
  each = [frechet_distance(*pair) for pair in zip(made.features, real.features, strict=True)]
  return float(np.mean(each))


def apart(made: Made, meant: Made) -> float:
  """The mean difference of pixels, of which black and white are 1 apart."""
  return float(np.abs(made.images - meant.images).mean(dtype=np.float64) / 2)
