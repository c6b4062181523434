"""Options of hash."""

import dataclasses
import math
from typing import Literal

from train.activations import ActivationName
from train.data.specs import spec
from train.programs.prune.config import Shaped, check_shaped
from train.runtime.options import require, require_each_once

MethodName = Literal['multi-hash', 'fixed-scale', 'pools', 'signed-pools', 'narrower']


@dataclasses.dataclass(frozen=True)
class Hash(Shaped):
  """Train students whose weights are made from few shared numbers, pack each, and score what is read back."""

  activations: tuple[ActivationName, ...] = ('relu', 'lma')
  """The students' activations; identity is a control."""
  ratio: tuple[float, ...] = (0.25, 0.1, 0.02)
  """Shared numbers, as a part of the weights of all convolutions and dense layers; the other parameters stay."""
  methods: tuple[MethodName, ...] = ('multi-hash', 'pools', 'narrower')
  """multi-hash: all weights from one product of two thin factors, with a trained scale a layer; fixed-scale: the same
  with the scales that new weights have; pools: each weight the sum of as many entries of pools as --hashes says, at
  places that hashes give; signed-pools: with signs of their own; narrower: no hashing, but the same network with
  smaller widths, at most as many parameters in all."""
  hashes: tuple[int, ...] = (1, 2)
  """Pools that a weight has an entry in, one student for each."""
  learning_rate: float = 0.05
  """At the start, of the teacher."""
  learning_rates: tuple[float, ...] = (0.03, 0.1)
  """At the start, of the students: each kind is trained with every one, and the best on the validation set counts."""
  seeds: int = 3
  """How many paired seeds."""
  epochs: int = 15
  """Epochs of each student; by default 10 for the MNISTs and the paper's 200 for the CIFARs."""


def defaults(data: str) -> Hash:
  """Returns the default options for a data set."""
  found = spec(data)
  own = {'width': (), 'seeds': 3, **({'epochs': 10} if found.size == 'gray' else {})}
  return Hash(data=data, **{**found.published, **own})


def check(config: Hash) -> None:
  """Refuses what cannot be run, naming the option."""
  check_shaped(config)
  require_each_once(config, 'ratio', 'methods', 'hashes', 'learning_rates')
  for ratio in config.ratio:
    require(0 < ratio <= 1, 'ratio', ratio, 'give numbers above 0, at most 1')
  for hashes in config.hashes:
    require(1 <= hashes <= 16, 'hashes', hashes, 'give 1 to 16')
  for rate in config.learning_rates:
    require(0 < rate < math.inf, 'learning_rates', rate, 'give positive numbers')
