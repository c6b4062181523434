"""The stages of compress, in their order, and what the weights of each are made from."""

from typing import Any, NamedTuple

import jax

from lmajax import compress
from lmajax.types import Reparam
from train.activations import label
from train.programs.compress.config import Compress
from train.programs.compress.table import DISTILLED, HASHED, LIT, ORIGINAL, PACKED, PRUNED, QUANTIZED, SLIMMED


class Stage(NamedTuple):
  """One row of the table: a stage of the chain, over all seeds."""

  stage: str
  activation: str = 'relu'
  segments: int | None = None

  @property
  def name(self) -> str:
    return (
      self.stage if self.stage in (ORIGINAL, SLIMMED, LIT) else f'{label(self.activation, self.segments)}-{self.stage}'
    )


def alone(config: Compress) -> list[Stage]:
  """Returns the stages between the original and the chain of each activation."""
  return [Stage(SLIMMED), *([Stage(LIT)] if config.lit else [])]


def links(config: Compress) -> tuple[str, ...]:
  """Returns the stages of an activation's chain in their order; a hashed network's factors are written as they are."""
  if config.hash is not None:
    return DISTILLED, HASHED
  return (DISTILLED, *(() if config.prune is None else (PRUNED,)), QUANTIZED, PACKED)


def reparam(config: Compress, stage: Stage) -> Reparam:
  """Returns what a stage's weights are made from; of a pruned network only those that stay are quantized."""
  if stage.stage == PRUNED:
    assert config.prune is not None
    density = 1 - config.prune
    return compress.masked(compress.sparse(start=lambda params: compress.keep(compress.lamp(params), density)))
  if stage.stage == HASHED:
    assert config.hash is not None
    return compress.masked(compress.multi_hash(config.hash))
  if stage.stage not in (QUANTIZED, PACKED):
    return compress.identity()
  if config.prune is None:
    return compress.masked(compress.uniform(config.bits, bucket_size=config.bucket_size))
  return compress.masked(compress.sparse(bits=config.bits, bucket_size=config.bucket_size, start=_left))


def _left(params: Any) -> Any:
  """Masks the weights that an earlier cut has left."""
  return jax.tree.map(lambda w: w != 0, params)
