"""Options of lit, for students shallower than their teacher."""

import dataclasses
import math
from typing import Any, Literal

from train.activations import ActivationName
from train.config import ScheduleName, Training, check_training
from train.data.specs import SPECS, DataName
from train.runtime.options import require, require_each_once, text
from train.teaching import KD, LOGITS, CachedLogits, LossName, check_cached_logits, check_soft_targets

Method = Literal[
  'hard', 'kd', 'hint', 'born-again', 'lit', 'lit-own-inputs', 'lit-one-boundary', 'lit-beta-0', 'lit-beta-1',
  'lit-noise', 'lit-merging', 'lit-only',
]  # fmt: skip


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shallow(CachedLogits, Training):
  """Options of students shallower than their teacher, whatever they classify."""

  seeds: int = 3
  """How many paired seeds."""
  teacher: str
  """A family and a depth."""
  student: str
  """Of the teacher's family, with fewer layers."""
  activations: tuple[ActivationName, ...] = ('relu',)
  """A teacher and its students for each: a student takes over its teacher's stem and head."""
  methods: tuple[Method, ...] = ('hard', 'kd', 'hint', 'born-again', 'lit')
  """All with as many steps. hard: labels alone; kd: soft targets too; hint: first the output of the middle stage, for
  the finetune epochs, then kd; born-again: kd of a network as deep as the teacher; lit: the stages on the teacher's
  representations, then kd. The others are lit but for one thing. lit-own-inputs: each stage goes on from the student's
  own; lit-one-boundary: only the middle stage is compared; lit-beta-0, lit-beta-1: without and with nothing but the
  soft targets and labels; lit-noise: Gaussian noise on what the stages are given; lit-merging: stages are merged
  one by one until the last is reached from the first; lit-only: no fine-tuning."""
  loss: LossName = KD
  """What students learn by where they look at the teacher's logits alone, in kd, born-again, hint and fine-tuning: kd,
  soft targets and labels; or as it was published, with weights of its own, jsd, reverse-kl, standardized, decoupled,
  dist, value or rank. In the first phase of lit, where --beta weighs them, soft targets and labels stay."""
  beta: float = 0.75
  """The weight of the soft targets and labels in the first phase of lit; the stages' errors get the rest, each."""
  error: Literal['squared', 'absolute', 'huber'] = 'squared'
  """Of the representations; its mean over all elements counts."""
  noise: float = 0.1
  """The deviation of lit-noise."""
  temperature: float = 6.0
  """T, of the soft targets."""
  soft_weight: float = 0.05
  """The weight of the soft targets, times T²; the labels get the rest."""
  epochs: int = 12
  """Of the first phase."""
  finetune_epochs: int = 4
  """Of the fine-tuning by kd."""
  teacher_epochs: int | None = None
  """Epochs of the teacher; by default those of both phases."""
  schedule: ScheduleName = 'cosine'
  """Of the learning rate in each phase; not plateau, which ends when it likes."""
  learning_rate: float = 0.05
  """At the start of all but fine-tuning."""
  finetune_learning_rate: float = 0.005
  """At the start of fine-tuning; by default a tenth of the other's default."""
  weight_decay: float = 1e-4
  """L2 on all parameters that are trained."""


@dataclasses.dataclass(frozen=True)
class Lit(Shallow):
  """Train students as wide as their teacher and shallower, stage by stage on what the teacher's stages are given."""

  data: DataName = 'digits'
  """The images; digits come with scikit-learn, the others from --data-dir or the internet."""
  train_images: int | None = None
  """Keep only so many of the training images, validation included; by default all, but 10000 for cifar10."""
  teacher: str = 'resnet-20'
  """A family, resnet or resnext, and a depth."""
  student: str = 'resnet-8'
  """Of the teacher's family, with fewer layers."""
  width: tuple[int, ...] = (2, 4, 8)
  """The channels of each stage, of teacher and student alike; by default 8 16 32 for all data but digits, where a
  student so wide is as good as its teacher."""
  batch_size: int = 64
  """Images a step, over all devices; by default 128 for all data but digits."""
  save_every: int = 20
  """Epochs between checkpoints; by default 1 for all data but digits."""


_LARGER: dict[str, Any] = {'width': (8, 16, 32), 'batch_size': 128, 'save_every': 1}


def defaults(data: DataName) -> Lit:
  """Default options for a data set."""
  fewer: dict[str, Any] = {'train_images': 10_000} if data == 'cifar10' else {}
  return Lit(data=data, **({} if SPECS[data].size == 'toy' else {**_LARGER, **fewer}))


def check(config: Shallow) -> None:
  """Refuses what cannot be run, naming the option."""
  check_training(config)
  check_cached_logits(config)
  check_soft_targets([config.temperature], [config.soft_weight])
  require_each_once(config, 'methods')
  mend = f'lit compares what leaves the stages itself; give {text(LOGITS)}'
  require(config.loss in LOGITS, 'loss', config.loss, mend)
  asked = config.loss == KD or not {*config.methods} <= {'hard', 'lit-only'}
  require(asked, 'loss', config.loss, 'no phase of these --methods is by logits alone; leave it out')
  require(config.schedule != 'plateau', 'schedule', 'plateau', 'give one that has as many steps for every method')
  require(0 <= config.beta <= 1, 'beta', config.beta, 'give a number between 0 and 1')
  require(0 <= config.noise < math.inf, 'noise', config.noise, 'give 0 or more')
  for name in ('finetune_epochs', 'finetune_learning_rate'):
    require(0 < getattr(config, name) < math.inf, name, getattr(config, name), 'give a positive number')
  merging = 'lit-merging' in config.methods
  stages = len(config.width)
  require(not merging or config.epochs >= stages, 'epochs', config.epochs, f'give lit-merging {stages} or more')
