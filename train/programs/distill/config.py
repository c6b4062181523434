"""Options of distill."""

import dataclasses
from pathlib import Path

from train.config import Named, check_soft_targets, check_taught, check_training, require, text
from train.data.specs import spec


@dataclasses.dataclass(frozen=True)
class Distill(Named):
  """Distil a teacher into students of equal size, one per activation and seed, and show what came of it."""

  temperature: float = 2.0
  """T, of the soft targets."""
  soft_weight: float = 0.7
  """The weight of the soft targets; the labels get the rest."""
  mixup: float | None = None
  """Mix each image with another of its batch, and their labels alike, by weights from Beta(ALPHA, ALPHA); 1 draws them
  evenly. The teacher sees what its students see; where it is trained first, then on images as they are."""
  teacher_logits: Path | None = None
  """Train no teacher, take its logits from FILE.npy: floats [images, classes] of all training images in the order in
  which they are read, validation included, as another framework made them. They are of the images as they are."""
  cached_logits: int | None = None
  """Keep so many of the teacher's largest logits of every example (0: all) in half precision in the run's folder, and
  train the students on them without running it again: 4 bytes each (0: 2), for the CIFARs, whose images are augmented,
  and with --mixup times the epochs."""


def defaults(data: str) -> Distill:
  """Default options for a data set."""
  return Distill(data=data, **spec(data).published)


def check(config: Distill) -> None:
  """Refuses what cannot be run, naming the option."""
  check_training(config)
  check_taught(config)
  check_soft_targets([config.temperature], [config.soft_weight], mixup=config.mixup)
  require(len(set(config.width)) == len(config.width), 'width', text(config.width), 'give each once')
  both = config.teacher_logits is not None and config.cached_logits is not None
  require(not both, 'cached_logits', config.cached_logits, 'the logits are in a file already; leave it out')
  apart = config.mixup is not None and config.teacher_logits is not None
  require(not apart, 'mixup', config.mixup, '--teacher-logits are of the images as they are; leave one of them out')
  require((config.cached_logits or 0) >= 0, 'cached_logits', config.cached_logits, 'give 0 or more')
