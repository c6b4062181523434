"""Lists the quantized students of a configuration: names, kinds of weights, and the students they start from."""

import re
from collections.abc import Iterator
from functools import reduce
from typing import Any, NamedTuple

import jax
import numpy as np

from lmajax import compress, tree
from lmajax.types import Array, Reparam
from train import build
from train.programs.quantize.config import Quantize, soft_targets
from train.programs.quantize.methods import FLOAT, METHODS
from train.teaching import KD


class Arm(NamedTuple):
  """One row of the table: a kind of student, over all seeds."""

  student: build.Arm
  method: str
  size: int | None  # bits a weight, or rows of a codebook
  temperature: float
  soft_weight: float
  chosen: tuple[str, ...]  # which of the last two are those that were chosen for so many bits

  @property
  def name(self) -> str:
    size = '' if self.size is None else f'-{self.size}'
    activation_bits = f'-a{self.student.activation_bits}' if self.student.activation_bits else ''
    loss = '' if self.student.loss == KD else f'-{self.student.loss}'
    grid = '' if len(self.chosen) == 2 else f'-t{self.temperature:g}-s{self.soft_weight:g}'
    width = f'-w{self.student.width}' if self.student.width else ''
    return f'{self.student.label}{width}-{self.method}{size}{activation_bits}{loss}{grid}'

  @property
  def origin(self) -> 'Arm':
    """The student that this one starts from."""
    begun = self._replace(method=METHODS[self.method].origin, size=None)
    return begun._replace(**{name: _soft_targets(begun.method, None)[name] for name in self.chosen})


def arms(config: Quantize) -> Iterator[Arm]:
  """Yields every kind of student that a configuration asks for, and those that they start from."""
  for student in (arm for arm in build.arms(config) if not arm.hard_label):
    for method, size, activation_bits in _kinds(config):
      chosen = _soft_targets(method, size)
      asked = {name: getattr(config, name) if student.loss == KD else () for name in chosen}  # others have their own
      for t in asked['temperature'] or (chosen['temperature'],):
        for s in asked['soft_weight'] or (chosen['soft_weight'],):
          quantized = student._replace(activation_bits=activation_bits)
          yield Arm(quantized, method, size, t, s, tuple(name for name in chosen if not asked[name]))


def _soft_targets(method: str, size: int | None) -> dict[str, float]:
  """Returns the soft targets chosen for the trained bits: for float32 where weights are quantized only afterwards."""
  bits = size if METHODS[method].trained_at_bits else None
  return dict(zip(('temperature', 'soft_weight'), soft_targets(bits or 32), strict=True))


def _kinds(config: Quantize) -> Iterator[tuple[str, int | None, int | None]]:
  """Yields methods, those that others start from first, with their sizes and the bits of the activations."""
  origins = {METHODS[method].origin for method in config.methods}
  yield from (
    (name, None, None) for name, method in METHODS.items() if name == FLOAT or (not method.size and name in origins)
  )
  for method in config.methods:
    option = METHODS[method].size
    yield from ((method, size, None) for size in (getattr(config, option) if option else (None,)))
  if config.activation_bits:
    yield from (('uniform', size, config.activation_bits) for size in config.bits)


def reparam(config: Quantize, arm: Arm, *, layers: tuple[str, ...] = (), shares: Any = None) -> Reparam:
  """Returns the reparameterization of a student's weights; ``layers`` are those coded by codebooks so far."""
  made = METHODS[arm.method].weights
  if made is not None:
    return made(config, arm.size, shares)
  return reduce(lambda rest, layer: coded(config, arm, layer, rest), reversed(layers), compress.identity())


def coded(config: Quantize, arm: Arm, layer: str, rest: Reparam) -> Reparam:
  """Codes one layer by a codebook, and the others by ``rest``."""
  assert arm.size is not None
  inner = compress.product_codebook(arm.size, config.block_size)
  return compress.masked(inner, where=lambda path, leaf: path == layer, otherwise=rest)


def layers(params: Any) -> tuple[str, ...]:
  """Lists the paths of all convolution and dense weights, from the input to the output."""
  selected, _ = tree.partition(params, compress.kernels)
  paths = jax.tree.leaves(tree.map_with_path(lambda path, leaf: path, selected))
  return tuple(sorted(paths, key=_depth))


def _depth(path: str) -> list[Any]:
  """Returns a sort key: a wide residual network's first convolution, the stages, then the rest; numbers by value."""
  words = re.split(r'(\d+)', path)
  part = 0 if path.startswith('first/') else 1 if path.startswith('stages_') else 2
  return [part, *(int(word) if word.isdigit() else word for word in words)]


def norms(gradients: Any) -> dict[str, float]:
  """Maps each path to the norm of its gradient, averaged over a leading axis of seeds."""
  found = {}

  def note(path: str, gradient: Array) -> None:
    rows = np.asarray(gradient, np.float64).reshape(len(gradient), -1)
    found[path] = float(np.sqrt(np.square(rows).sum(axis=-1)).mean())

  tree.map_with_path(note, gradients)
  return found
