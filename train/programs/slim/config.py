"""Options of slim, and those that compress shares with it."""

import dataclasses
import math
from typing import Any, Literal

from train.activations import ActivationName
from train.config import Taught, check_taught, check_training
from train.data.specs import spec
from train.runtime.options import require, require_each_once
from train.teaching import CachedLogits, check_cached_logits, check_soft_targets

RuleName = Literal['pca', 'null', 'uniform', 'random', 'norm-scale']
Start = Literal['pruned', 'distilled', 'scratch']
CriterionName = Literal['l1', 'l2', 'median', 'norm-scale', 'random']


@dataclasses.dataclass(frozen=True)
class Slimmed(Taught):
  """Options of every program that removes channels from a network: slim and compress."""

  network: str = 'mlp'
  """The original: mlp, cnn (convolutions, a pooling after every second), vgg-16, or resnet and a depth; or
  MODULE:FACTORY, a function of yours that takes act and num_classes and gives a module of flax.linen with graph() and
  thinned(widths). By default mlp, but vgg-16 for colour images."""
  width: tuple[int, ...] = (48, 96, 64, 96, 48, 32)
  """Its widths: the hidden units of an mlp, the channels of a cnn's convolutions, of vgg-16's thirteen, or of a
  resnet's stages; by default 256 128 128 64 for the MNISTs, and a quarter of VGG-16's own for the CIFARs."""
  coupled: bool = False
  """Of a resnet, slim the stages' channels too, all that are added to each other alike; its shortcuts have weights
  then. Without it a block's inner channels alone."""
  cost: Literal['parameters', 'macs', 'filters'] = 'parameters'
  """What a rate is a part of."""
  criterion: CriterionName = 'l1'
  """By which the channels are chosen, once their number is known."""
  minimum_width: int = 2
  """Channels that a layer keeps at least."""
  multiple: int = 1
  """Widths are rounded up to a multiple of this."""
  temperature: float = 2.0
  """T, of the soft targets of distilled students."""
  soft_weight: float = 0.7
  """The weight of the soft targets; the labels get the rest."""


@dataclasses.dataclass(frozen=True)
class Slim(CachedLogits, Slimmed):
  """Find thin networks by five rules at equal cost, train each from three starts, and compare."""

  rate: tuple[float, ...] = (0.5, 0.7, 0.9)
  """The part of the original's cost that is to go."""
  rules: tuple[RuleName, ...] = ('pca', 'null', 'uniform', 'random', 'norm-scale')
  """pca: each layer keeps the same share of its filters' variance; null: the same on random weights; uniform: the same
  share of its filters; random: any; norm-scale: the filters with the largest batch norm scales of all layers, in an
  original trained with a penalty on them (network slimming)."""
  starts: tuple[Start, ...] = ('pruned', 'distilled', 'scratch')
  """pruned: with the filters of the original that are left; distilled: from new weights, under the original of the
  first seed; scratch: from new weights, on the labels alone."""
  scale_penalty: float = 1e-4
  """L1 on the batch norm scales of norm-scale's original."""
  seeds: int = 5
  """How many paired seeds, each with an original of its own; 3 by default where the data are not digits."""
  activations: tuple[ActivationName, ...] = ('relu', 'lma')
  """Of originals and students."""
  epochs: int = 30
  """Of each student, from whatever start; by default 6 for the MNISTs and 20 for the CIFARs."""
  teacher_epochs: int | None = None
  """Of the originals; by default those of the students."""


_MNIST: dict[str, Any] = {
  'width': (256, 128, 128, 64), 'seeds': 3, 'epochs': 6, 'batch_size': 128, 'save_every': 1,
}  # fmt: skip
CIFAR: dict[str, Any] = {
  'network': 'vgg-16', 'width': (16, 16, 32, 32, 64, 64, 64, 128, 128, 128, 128, 128, 128), 'seeds': 3, 'epochs': 20,
  'batch_size': 128, 'save_every': 1,
}  # fmt: skip
_BY_SIZE: dict[str, dict[str, Any]] = {'toy': {}, 'gray': _MNIST, 'color': CIFAR}
"""What differs from the digits' defaults."""


def defaults(data: str) -> Slim:
  """Returns the default options for a data set."""
  return Slim(data=data, **_BY_SIZE[spec(data).size])


def check(config: Slim) -> None:
  """Raises UserError for what cannot be run, naming the option."""
  check_slimmed(config)
  require_each_once(config, 'rate', 'rules', 'starts')
  for rate in config.rate:
    check_rate(rate)
  check_cached_logits(config)
  taught = config.cached_logits is None or 'distilled' in config.starts
  require(taught, 'cached_logits', config.cached_logits, 'it goes with --starts distilled')
  require(0 <= config.scale_penalty < math.inf, 'scale_penalty', config.scale_penalty, 'give 0 or more')


def check_rate(rate: float) -> None:
  require(0 < rate < 1, 'rate', rate, 'give numbers between 0 and 1')


def check_slimmed(config: Slimmed) -> None:
  check_training(config)
  check_taught(config)
  check_soft_targets([config.temperature], [config.soft_weight])
  for name in ('minimum_width', 'multiple'):
    require(getattr(config, name) >= 1, name, getattr(config, name), 'give 1 or more')
  require(config.schedule != 'plateau', 'schedule', 'plateau', 'give one that has as many steps for every student')
  resnet = config.network.startswith('resnet')
  require(resnet or not config.coupled, 'coupled', config.coupled, 'only a resnet has stages that are added up')
