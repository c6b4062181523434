"""Options of quantize."""

import dataclasses
import math

from train.activations import ActivationName
from train.config import Named, check_taught, check_training
from train.data.specs import spec
from train.programs.quantize.methods import MethodName
from train.runtime.options import require, text
from train.teaching import (
  LOGITS,
  CachedLogits,
  Losses,
  Mixed,
  check_cached_logits,
  check_losses,
  check_mixup,
  check_soft_targets,
)

SOFT_TARGETS = {1: (1.0, 0.95), 2: (1.0, 0.3), 3: (2.0, 0.3), 4: (2.0, 0.95), 8: (2.0, 0.3), 32: (2.0, 0.95)}
"""Bits -> the temperature and the weight of the soft targets that were best in results/quantize-grid."""


@dataclasses.dataclass(frozen=True)
class Quantize(CachedLogits, Mixed, Losses, Named):
  """Train students whose weights are quantized, pack each into a file, and score what is read back from it."""

  activations: tuple[ActivationName, ...] = ('relu', 'lma')
  """The students' activations; identity is a control."""
  width: tuple[int, ...] = (16,)
  """The students' widths: hidden units for digits (16) and the MNISTs (64), else as in distill."""
  bits: tuple[int, ...] = (2, 4, 8)
  """Of every convolution and dense kernel, 1 to 8; the other parameters stay as they are."""
  methods: tuple[MethodName, ...] = ('post-training', 'uniform')
  """uniform: quantized at every training step; post-training: only afterwards; noise: a random part at every step;
  points: the levels of a trained student are trained; product: its blocks become rows of codebooks, layer by layer, and
  the codebooks are trained; product-noise: the same after training with blocks left out at random."""
  bucket_size: int = 256
  """Weights that share a least value and a range."""
  activation_bits: int | None = None
  """Besides, students of method uniform whose activations have so many bits."""
  centroids: tuple[int, ...] = (256, 16)
  """Rows of a codebook of the product methods."""
  block_size: int = 8
  """Weights of a filter that one of these rows stands for."""
  entropy: bool = False
  """Code the integers in the files by Huffman where that is shorter; bits a weight are counted before it."""
  noise_rate: float = 0.5
  """The part of the weights that method noise quantizes at a step."""
  product_noise_rate: float = 0.1
  """The part of the blocks that method product-noise leaves out at a step."""
  finetune_epochs: int = 10
  """Epochs of points, and of each layer of the product methods."""
  finetune_learning_rate: float = 0.03
  """Of the product methods."""
  points_learning_rate: float = 3e-4
  """Of points."""
  temperature: tuple[float, ...] = ()
  """T, of the soft targets, one student for each; by default one that was chosen for each number of bits."""
  soft_weight: tuple[float, ...] = ()
  """The weight of the soft targets, one student for each; by default chosen as the temperature."""


def defaults(data: str) -> Quantize:
  """Default options for a data set."""
  own = {'width': (64,)} if spec(data).size == 'gray' else {}
  return Quantize(data=data, **{**spec(data).published, **own})


def check(config: Quantize) -> None:
  """Refuses what cannot be run, naming the option."""
  check_training(config)
  check_taught(config)
  check_cached_logits(config)
  check_mixup(config)
  check_losses(config)
  for name in config.loss if 'points' in config.methods else ():
    require(
      name in LOGITS, 'loss', name, f'method points shares its levels out by losses of logits; give {text(LOGITS)}'
    )
  check_soft_targets(config.temperature, config.soft_weight)
  for name in ('width', 'bits', 'methods', 'centroids', 'temperature', 'soft_weight'):
    values = getattr(config, name)
    require(len(set(values)) == len(values), name, text(values), 'give each once')
  for name, least, most in (('bits', 1, 8), ('centroids', 2, 256)):
    for value in getattr(config, name):
      require(least <= value <= most, name, value, f'give {least} to {most}')
  for name in ('bits', 'methods', 'centroids'):
    require(bool(getattr(config, name)), name, 'empty', 'give at least one')
  bits = config.activation_bits
  require(bits is None or 1 <= bits <= 8, 'activation_bits', bits, 'give 1 to 8')
  for name in ('bucket_size', 'block_size', 'finetune_epochs', 'finetune_learning_rate', 'points_learning_rate'):
    value = getattr(config, name)
    require(0 < value < math.inf, name, value, 'give a positive number')
  for name in ('noise_rate', 'product_noise_rate'):
    require(0 <= getattr(config, name) <= 1, name, getattr(config, name), 'give a number between 0 and 1')


def soft_targets(bits: int) -> tuple[float, float]:
  """Returns the soft targets' temperature and weight chosen for so many bits, or for the next higher number tried."""
  return SOFT_TARGETS[min(known for known in SOFT_TARGETS if known >= bits)]
