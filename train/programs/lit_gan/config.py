"""Options of lit-gan, for a generator shallower than its teacher."""

import dataclasses
import math
from typing import Any

from train.activations import ActivationName
from train.config import Images, ScheduleName, check_training
from train.data.specs import SPECS, DataName
from train.runtime.options import require, text


@dataclasses.dataclass(frozen=True)
class LitGan(Images):
  """Train a generator that takes images from style to style, then one of fewer blocks on its representations."""

  data: DataName = 'digits'
  """The images; digits come with scikit-learn, the others from --data-dir or the internet."""
  seeds: int = 3
  """How many paired seeds."""
  teacher_blocks: int = 6
  """Residual blocks of the teacher's generator."""
  student_blocks: int = 2
  """Residual blocks of the students' generators."""
  width: tuple[int, ...] = (8,)
  """One number: the channels of the first convolution of generators and discriminators; the blocks have four times as
  many."""
  activations: tuple[ActivationName, ...] = ('relu',)
  """Of the generators; a teacher and its students for each: a student takes over its teacher's ends."""
  epochs: int = 10
  """Of the first phase, on the representations; by default 2 for the MNISTs."""
  finetune_epochs: int = 20
  """Of the second, against the discriminator; by default 3 for the MNISTs."""
  teacher_epochs: int | None = None
  """Epochs of the teacher; by default those of both phases, which are those of the students from scratch too, but 80
  for digits."""
  classifier_epochs: int = 10
  """Epochs of the classifier whose features are compared; by default 2 for the MNISTs."""
  critic_steps: int = 1
  """Steps of the discriminator for each of the generator, in the first phase too; the paper's are 5, for which runs as
  short as these are too short."""
  domain_weight: float = 1.0
  """Of the style's cross-entropy, in both losses."""
  reconstruction_weight: float = 10.0
  """Of the way there and back, in the generator's loss."""
  penalty_weight: float = 10.0
  """Of the critic's gradient penalty."""
  schedule: ScheduleName = 'constant'
  """Of the learning rate in each phase; not plateau, which ends when it likes."""
  learning_rate: float = 3e-3
  """Adam's, at the start of each phase."""
  weight_decay: float = 0.0
  """L2 on all parameters that are trained."""
  batch_size: int = 32
  """Images a step, over all devices."""


_MNIST: dict[str, Any] = {'epochs': 2, 'finetune_epochs': 3, 'classifier_epochs': 2, 'save_every': 1}


def defaults(data: DataName) -> LitGan:
  """Default options for a data set."""
  return LitGan(data=data, teacher_epochs=80) if SPECS[data].size == 'toy' else LitGan(data=data, **_MNIST)


def check(config: LitGan) -> None:
  """Refuses what cannot be run, naming the option."""
  check_training(config)
  require(SPECS[config.data].size != 'color', 'data', config.data, 'the styles are of gray images; give such a set')
  require(len(config.width) == 1, 'width', text(config.width), 'give one number')
  require(config.schedule != 'plateau', 'schedule', 'plateau', 'give one that has as many steps for every method')
  for name in ('teacher_blocks', 'student_blocks', 'finetune_epochs', 'classifier_epochs', 'critic_steps'):
    require(getattr(config, name) > 0, name, getattr(config, name), 'give a positive number')
  for name in ('domain_weight', 'reconstruction_weight', 'penalty_weight'):
    require(0 <= getattr(config, name) < math.inf, name, getattr(config, name), 'give 0 or more')
