"""Options of datafree."""

import dataclasses
import math
import re
from typing import Any, Literal

from train.activations import ActivationName
from train.config import Taught, check_taught, check_training
from train.data.specs import spec
from train.runtime.options import require, require_at_least, require_each_once
from train.teaching import check_soft_targets

REAL, GAUSSIAN = 'real', 'gaussian'
_MOST = 100_000  # samples
EPOCH = 50  # steps that make inputs, between two checkpoints
SourceName = Literal['real', 'gaussian', 'bns', 'class', 'mixed', 'squared', 'slack']


@dataclasses.dataclass(frozen=True)
class Datafree(Taught):
  """Quantize weights and activations of trained networks by inputs that are made from the networks alone."""

  network: str = 'mlp'
  """The network: mlp, cnn, vgg-16, or resnet-8 and others of its depths, with a --width for each stage; by default a
  cnn for the MNISTs and CIFARs."""
  width: tuple[int, ...] = (64, 64)
  """Its units or channels; by default 16 32 32 64 for the MNISTs."""
  activations: tuple[ActivationName, ...] = ('relu', 'lma')
  """Of the networks, each trained on the labels for every seed."""
  sources: tuple[SourceName, ...] = ('real', 'bns', 'mixed', 'class', 'gaussian')
  """Inputs to quantize by. real: of the training set; gaussian: noise; bns: noise moved until every batch norm is given
  the means and deviations that it has stored, by their divergence; squared: the same by squared differences; slack: the
  same, where what lies as near as noise does costs nothing; class: noise moved until it is smooth and the network is
  sure of a class; mixed: bns with --class-weight of class."""
  bits: tuple[str, ...] = ('W4A4', 'W3A3', 'W2A4', 'W2A2')
  """Of weights and activations, 1 to 8 each; weights have a range for each channel."""
  samples: int = 256
  """Inputs of each source."""
  synthesis_steps: int = 250
  """Steps that move the noise, by Adam."""
  synthesis_learning_rate: float = 0.05
  """Of these."""
  class_weight: float = 0.1
  """Of class in mixed."""
  smoothness: float = 0.05
  """The weight of the differences of neighbouring pixels in class and mixed."""
  finetune_epochs: int = 60
  """Passes over the inputs of a source, with norms, LMA and ranges still, under the soft targets of the network."""
  finetune_learning_rate: float = 0.003
  """At the start of these; it falls by a cosine."""
  temperature: float = 2.0
  """T, of the soft targets."""
  student: str | None = None
  """Besides, a network named as --network is, with ReLU and float weights, trained from new weights on the inputs of
  each source, under the soft targets."""
  student_width: tuple[int, ...] = ()
  """Its units or channels, where its name does not say them; by default the published ones."""
  student_epochs: int = 200
  """Passes over the inputs of a source."""
  student_learning_rate: float = 0.05
  """At the start of these."""
  seeds: int = 3
  """How many paired seeds, each with a network and inputs of its own."""
  epochs: int = 30
  """Of the networks; by default 6 for the MNISTs and 20 for the CIFARs."""


def defaults(data: str) -> Datafree:
  """Returns the default options for a data set."""
  size: Any = spec(data).size
  gray: dict[str, Any] = {'network': 'cnn', 'width': (16, 32, 32, 64), 'epochs': 6, 'batch_size': 128, 'save_every': 2}
  color = {**gray, 'width': (24, 64, 64, 112), 'epochs': 20}
  return Datafree(data=data, **{'toy': {}, 'gray': gray, 'color': color}[size])


def check(config: Datafree) -> None:
  """Raises UserError for what cannot be run, naming the option."""
  check_training(config)
  check_taught(config)
  check_soft_targets([config.temperature], [])
  require_each_once(config, 'sources', 'bits')
  for each in config.bits:
    require(bool(re.fullmatch('W[1-8]A[1-8]', each)), 'bits', each, 'give W4A4 and the like, 1 to 8 each')
  require_at_least(config, samples=2, synthesis_steps=1, finetune_epochs=1, student_epochs=1)
  require(config.samples <= _MOST, 'samples', config.samples, f'give at most {_MOST}')
  steps = config.synthesis_steps
  require(steps < EPOCH or steps % EPOCH == 0, 'synthesis_steps', steps, f'give a multiple of {EPOCH}, or fewer')
  for name in ('synthesis_learning_rate', 'finetune_learning_rate', 'student_learning_rate'):
    require(0 < getattr(config, name) < math.inf, name, getattr(config, name), 'give a positive number')
  for name in ('class_weight', 'smoothness'):
    require(0 <= getattr(config, name) < math.inf, name, getattr(config, name), 'give 0 or more')
  require(
    config.batch_size <= config.samples, 'batch_size', config.batch_size, f'give at most --samples {config.samples}'
  )
  least = min(config.student_width, default=1)
  require(least >= 1, 'student_width', least, 'give positive numbers')
  require(bool(config.student) or not config.student_width, 'student_width', 'given', 'it goes with --student')


def split(bits: str) -> tuple[int, int]:
  """Returns the bits of weights and those of activations.

  >>> split('W4A2')
  (4, 2)
  """
  return int(bits[1]), int(bits[3])
