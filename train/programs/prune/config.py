"""Options of prune, and those that hash shares with it."""

import dataclasses
import math
from typing import Literal

from train.activations import ActivationName
from train.config import Named, check_taught, check_training
from train.data.specs import spec
from train.runtime.options import require, require_each_once, text
from train.teaching import check_soft_targets

MethodName = Literal['magnitude', 'layerwise', 'lamp', 'l1', 'l2', 'surp']
CutName = Literal['one-shot', 'iterative']


@dataclasses.dataclass(frozen=True)
class Shaped(Named):
  """Options of prune and hash, whose students all come from one network; --width gives every layer of it."""

  student: str | None = None
  """The students' network, named as a teacher is; by default an mlp, or a cnn for the CIFARs and your own images."""
  width: tuple[int, ...] = ()
  """The widths of its layers or stages, all in one network; by default 128 128 of an mlp, 300 100 for the MNISTs, and
  the published ones of other networks."""
  temperature: float = 2.0
  """T, of the soft targets."""
  soft_weight: float = 0.7
  """The weight of the soft targets; the labels get the rest."""


@dataclasses.dataclass(frozen=True)
class Prune(Shaped):
  """Train students, take most of their weights away, train what is left, and pack it with its zeros."""

  itself: bool = False
  """Prune the network of --teacher-from itself, under itself, in place of students that are trained before the cut: it
  says what their network, width and activation are."""
  activations: tuple[ActivationName, ...] = ('relu', 'lma')
  """The students' activations; identity is a control."""
  sparsity: tuple[float, ...] = (0.8, 0.9, 0.95, 0.98, 0.99)
  """Parts of the weights of all convolutions and dense layers that become zero, each larger than the one before."""
  methods: tuple[MethodName, ...] = ('magnitude', 'layerwise', 'lamp', 'l2', 'surp')
  """What ranks the weights: their magnitude; the same layer by layer; lamp, the square over the sum of all squares that
  are as large in its layer; l1 and l2, the magnitude over the norm of its layer; surp: the magnitude, and the weights
  that are left start from what a stream of them says, coded by rate and distortion."""
  cuts: tuple[CutName, ...] = ('one-shot', 'iterative')
  """one-shot: a student for each sparsity, cut once; iterative: one student is cut to one sparsity after another."""
  bits: int | None = 16
  """Of each weight that is left, in the file and in training: 16, or 1 to 8 in buckets of 256; None: as they are."""
  step: float = 0.7
  """d, the ratio of two thresholds of a stream: the values in it are coarser where it is smaller."""
  uniform_bits: tuple[int, ...] = (2, 4, 8)
  """Besides, the students before the cut with all weights quantized to so many bits afterwards."""
  finetune_epochs: int = 6
  """Epochs after each cut of iterative; a one-shot student has as many in all as iterative has had at its sparsity."""
  finetune_learning_rate: float = 0.05
  """At the start of each; it falls by a cosine."""
  seeds: int = 3
  """How many paired seeds."""
  epochs: int = 20
  """Epochs of each student before the cut; by default 10 for the MNISTs and the paper's 200 for the CIFARs."""


def defaults(data: str) -> Prune:
  """Returns the default options for a data set."""
  found = spec(data)
  own = {'width': (), 'seeds': 3, **({'epochs': 10} if found.size == 'gray' else {})}
  return Prune(data=data, **{**found.published, **own})


def check(config: Prune) -> None:
  """Refuses what cannot be run, naming the option."""
  check_shaped(config)
  require_each_once(config, 'sparsity', 'methods', 'cuts')
  require(bool(config.teacher_from) or not config.itself, 'itself', True, 'give the network by --teacher-from')
  for sparsity in config.sparsity:
    require(0 < sparsity < 1, 'sparsity', sparsity, 'give numbers between 0 and 1')
  require(tuple(sorted(config.sparsity)) == config.sparsity, 'sparsity', text(config.sparsity), 'give the least first')
  require(config.bits in (None, 16) or 1 <= config.bits <= 8, 'bits', config.bits, 'give 1 to 8, 16 or None')
  require(0.3 <= config.step <= 0.99, 'step', config.step, 'give 0.3 to 0.99')
  for bits in config.uniform_bits:
    require(1 <= bits <= 8, 'uniform_bits', bits, 'give 1 to 8')
  for name in ('finetune_epochs', 'finetune_learning_rate'):
    require(0 < getattr(config, name) < math.inf, name, getattr(config, name), 'give a positive number')


def check_shaped(config: Shaped) -> None:
  """Refuses what neither of the two can run."""
  check_training(dataclasses.replace(config, width=config.width or (1,)))
  check_taught(config)
  check_soft_targets((config.temperature,), (config.soft_weight,))
  own = ':' in (config.student or '')
  require(
    not own, 'student', config.student, 'give the name of a network; an own one is trained by lmajax.training.fit'
  )
