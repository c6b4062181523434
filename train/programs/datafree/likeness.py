"""Measures how like the training data other inputs are, as the networks see them."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from lmajax import LMA, losses
from lmajax.training import lma_statistics, norm_statistics, parted
from train import build
from train.activations import factory
from train.data import Dataset
from train.data.batches import normalized
from train.programs.datafree.students import Original
from train.programs.datafree.table import Row

_LIKE = 1000  # examples of a part of the data
_DRAWS = 0x5A3


def rows(kind: Original, model: nn.Module, variables: Any, parts: dict[str, Any], made: dict[str, Any]) -> list[Row]:
  """Measures data that all seeds share and the inputs of each source, of which each seed has its own."""
  of = _measure(model, isinstance(factory(*kind)(), LMA))
  shared, own = (jax.jit(build.over(model)(each)) for each in (of, lambda pair: of(*pair)))
  found = {name: shared(variables, images) for name, images in parts.items()}
  found |= {source: own((variables, inputs)) for source, inputs in made.items()}
  return [_like(kind, name, each) for name, each in found.items()]


def _like(kind: Original, name: str, found: Any) -> Row:
  norms, lma = (None if each is None else np.asarray(each, np.float64).tolist() for each in found)
  return Row(f'{kind.label}-like-{name}', *kind, name, '', None, [], 0, '', norms, lma)


def parts(dataset: Dataset, *, with_train: bool) -> dict[str, Any]:
  """Returns the data and what resembles them: turned by 90°, with dark for bright, and noise of pixels."""
  brightest, raw = dataset.brightest, dataset.test.inputs[:_LIKE]
  drawn = np.random.default_rng(_DRAWS).integers(0, brightest + 1, raw.shape).astype(np.uint8)
  found = {'train': dataset.train.inputs[:_LIKE]} if with_train else {}
  found |= {'test': raw, 'rotated': np.rot90(raw, axes=(1, 2)), 'negated': brightest - raw, 'noise': drawn}
  if raw.shape[1] != raw.shape[2]:
    del found['rotated']
  mean, std = dataset.pixel_mean, dataset.pixel_std
  return {name: normalized(jnp.asarray(images), mean, std) for name, images in found.items()}


def _measure(model: nn.Module, with_lma: bool) -> Callable[[Any, Any], tuple[Any, Any | None]]:
  """Returns (variables, inputs) -> the divergence by batch norms, and that by LMA's own statistics where it has one."""

  def of(variables: Any, inputs: Any) -> tuple[Any, Any | None]:
    params, stats = parted(variables)
    own = losses.divergence(lma_statistics(model, params, stats, inputs)) if with_lma else None
    return losses.divergence(norm_statistics(model, params, stats, inputs)), own

  return of
