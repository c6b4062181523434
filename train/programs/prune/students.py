"""Lists the pruned students of a configuration, and cuts: which weights stay, and where the rest of them starts."""

import zlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lmajax import tree
from lmajax.compress import (
  Split,
  from_stream,
  identity,
  keep,
  kernels,
  lamp,
  layerwise,
  magnitude,
  masked,
  normalized,
  sparse,
  to_stream,
  uniform,
)
from lmajax.types import Reparam
from train.activations import chosen, labelled
from train.programs.prune.config import Prune

DENSE, UNIFORM = 'dense', 'uniform'
SCORES: dict[str, Callable[[Any], Any]] = {
  'magnitude': magnitude,
  'layerwise': layerwise,
  'lamp': lamp,
  'l1': partial(normalized, norm='l1'),
  'l2': partial(normalized, norm='l2'),
  'surp': magnitude,
}


class Arm(NamedTuple):
  """One row of the table: a kind of student, over all seeds."""

  activation: str
  segments: int | None
  method: str
  sparsity: float | None = None
  cut: str | None = None
  bits: int | None = None  # of uniform

  label = labelled

  @property
  def name(self) -> str:
    if self.sparsity is None:
      return f'{self.label}-{self.method}' + ('' if self.bits is None else f'-{self.bits}')
    return f'{self.label}-{self.method}-{100 * self.sparsity:g}-{self.cut}'


def arms(config: Prune) -> Iterator[Arm]:
  """Yields every kind of student that a configuration asks for, those before the cut first."""
  for kind in chosen(config):
    yield Arm(*kind, DENSE)
    for bits in config.uniform_bits:
      yield Arm(*kind, UNIFORM, bits=bits)
    for cut in config.cuts:
      for method in config.methods:
        for sparsity in config.sparsity:
          yield Arm(*kind, method, sparsity, cut)


def reparam(config: Prune, arm: Arm) -> Reparam:
  """Returns what the weights of an arm are made from."""
  if arm.method == DENSE:
    return identity()
  return masked(uniform(arm.bits)) if arm.bits else masked(sparse(bits=config.bits))


def cut(config: Prune, params: Any, method: str, sparsity: float) -> tuple[Split, Split]:
  """Cuts the weights of one student: theta and code of its reparameterization.

  One that has diverged keeps what is not finite, and loses any of the rest, so that its training ends at once again.
  """
  selected, rest = tree.partition(jax.tree.map(np.asarray, params), kernels)
  mask = keep(SCORES[method](jax.tree.map(jnp.nan_to_num, selected)), 1 - sparsity)
  if method == 'surp' and all(np.isfinite(w).all() for w in jax.tree.leaves(selected)):
    stream = to_stream(jax.tree.map(_kept, selected, mask), step=config.step)
    selected = like(selected, from_stream(stream))
  return Split(selected, rest), Split(jax.tree.map(np.asarray, mask), ())


def like(selected: Any, nested: Any) -> Any:
  """Gives the leaves of a stream the tree that they came from."""
  found = tree.by_path(nested)
  return tree.map_with_path(lambda path, leaf: found[path], selected)


def _kept(w: np.ndarray, mask: Any) -> np.ndarray:
  return np.where(np.asarray(mask), w, np.zeros_like(w))


def zipped(selected: Any, dtype: Any) -> int:
  """Counts the bytes of what one would do without this library: a bitmap and the values that are left, by zlib.

  int8 values are steps of a tensor's largest over 127, which is kept as float32.
  """
  total = 0
  for w in map(np.asarray, jax.tree.leaves(selected)):
    kept = w[w != 0]
    if dtype == np.int8:
      top = np.abs(kept).max(initial=0) or 1
      values = np.float32(top).tobytes() + np.round(127 * kept / top).astype(np.int8).tobytes()
    else:
      values = kept.astype(dtype).tobytes()
    total += len(zlib.compress(np.packbits(w != 0).tobytes() + values, 9))
  return total
