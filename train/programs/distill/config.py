"""Options of distill."""

import dataclasses
from pathlib import Path

from train.config import Named, check_taught, check_training
from train.data.specs import spec
from train.runtime.options import require, text
from train.teaching import (
  CachedLogits,
  Losses,
  Mixed,
  check_cached_logits,
  check_losses,
  check_mixup,
  check_soft_targets,
)


@dataclasses.dataclass(frozen=True)
class Distill(CachedLogits, Mixed, Losses, Named):
  """Distil a teacher into students of equal size, one per activation and seed, and show what came of it."""

  temperature: float = 2.0
  """T, of the soft targets."""
  soft_weight: float = 0.7
  """The weight of the soft targets; the labels get the rest."""
  teacher_logits: Path | None = None
  """Train no teacher, take its logits from FILE.npy: floats [images, classes] of all training images in the order in
  which they are read, validation included, as another framework made them. They are of the images as they are."""


def defaults(data: str) -> Distill:
  """Default options for a data set."""
  return Distill(data=data, **spec(data).published)


def check(config: Distill) -> None:
  """Refuses what cannot be run, naming the option."""
  check_training(config)
  check_taught(config)
  check_soft_targets([config.temperature], [config.soft_weight])
  require(len(set(config.width)) == len(config.width), 'width', text(config.width), 'give each once')
  both = config.teacher_logits is not None and config.cached_logits is not None
  require(not both, 'cached_logits', config.cached_logits, 'the logits are in a file already; leave it out')
  check_cached_logits(config)
  check_mixup(config)
  check_losses(config)
  apart = config.mixup is not None and config.teacher_logits is not None
  require(not apart, 'mixup', config.mixup, '--teacher-logits are of the images as they are; leave one of them out')
