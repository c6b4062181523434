"""Options of compress, the chain that slims, distils, quantizes and packs a network."""

import dataclasses
import math
from typing import Any

from train.activations import ActivationName
from train.data.specs import spec
from train.programs.slim.config import CIFAR, Slimmed, check_rate, check_slimmed
from train.runtime.options import require


@dataclasses.dataclass(frozen=True)
class Compress(Slimmed):
  """Make a network small in a chain, slim it by PCA, distil it with LMA, quantize it, pack it, and score each stage.

  --prune and --hash add a link to the chain.
  """

  network: str = 'mlp'
  """The original: mlp, cnn (convolutions, a pooling after every second), vgg-16, or resnet and a depth; mlp by default
  for digits, cnn for the MNISTs and vgg-16 for the CIFARs."""
  width: tuple[int, ...] = (256, 256)
  """The original's widths: the hidden units of an mlp, the channels of a cnn's convolutions, of vgg-16's thirteen, or
  of a resnet's stages; by default 16 16 32 32 for the MNISTs, and a quarter of VGG-16's own for the CIFARs."""
  rate: float = 0.5
  """The part of the original's cost that slimming takes."""
  lit: bool = False
  """After slimming, train the stages block by block on what those of the original are given; of a resnet, whose trunk
  slimming has left as it is."""
  beta: float = 0.75
  """The weight of the soft targets and labels in that; the stages' errors get the rest, each."""
  prune: float | None = None
  """After distilling, the part of all convolution and dense kernels' weights that LAMP makes zero, at once; trained on
  under the original."""
  hash: float | None = None
  """After distilling, make all convolution and dense kernels from two factors of this part as many numbers, trained
  anew under the original; the rest goes on. The chain ends with this: nothing is quantized, and it is not with
  --prune."""
  bits: int = 4
  """Of every convolution and dense kernel, 1 to 8; the other parameters stay as they are."""
  bucket_size: int = 256
  """Weights that share a least value and a range."""
  activations: tuple[ActivationName, ...] = ('lma',)
  """Of the distilled students, one chain for each; the original has ReLU."""
  seeds: int = 5
  """How many paired seeds, each a chain of its own; 3 by default where the data are not digits."""
  epochs: int = 30
  """Of the original; by default 6 for the MNISTs and 20 for the CIFARs."""
  finetune_epochs: int = 20
  """Of each stage after it; by default 4 for the MNISTs and 10 for the CIFARs."""
  finetune_learning_rate: float = 0.02
  """At the start of each of these; by default 0.005 for all data but digits: convolutions with LMA diverge at 0.02."""


_MNIST: dict[str, Any] = {
  'network': 'cnn', 'width': (16, 16, 32, 32), 'seeds': 3, 'epochs': 6, 'finetune_epochs': 4, 'batch_size': 128,
  'finetune_learning_rate': 0.005, 'save_every': 1,
}  # fmt: skip
_CIFAR: dict[str, Any] = {**CIFAR, 'finetune_epochs': 10, 'finetune_learning_rate': 0.005}


def defaults(data: str) -> Compress:
  """Returns the default options for a data set."""
  by_size: dict[str, dict[str, Any]] = {'toy': {}, 'gray': _MNIST, 'color': _CIFAR}
  return Compress(data=data, **by_size[spec(data).size])


def check(config: Compress) -> None:
  """Raises UserError for what cannot be run, naming the option."""
  check_slimmed(config)
  require(config.teacher_epochs is None, 'teacher_epochs', config.teacher_epochs, 'the original has --epochs here')
  check_rate(config.rate)
  require(1 <= config.bits <= 8, 'bits', config.bits, 'give 1 to 8')
  require(0 <= config.beta <= 1, 'beta', config.beta, 'give a number between 0 and 1')
  for name, part in (('prune', config.prune), ('hash', config.hash)):
    require(part is None or 0 < part < 1, name, part, 'give a part between 0 and 1')
  require(config.prune is None or config.hash is None, 'hash', config.hash, 'not together with --prune')
  for name in ('bucket_size', 'finetune_epochs', 'finetune_learning_rate'):
    require(0 < getattr(config, name) < math.inf, name, getattr(config, name), 'give a positive number')
