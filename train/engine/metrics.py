"""Defines the score that networks are judged by; accuracy is the default."""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp

from lmajax.training import forward, parted
from lmajax.types import Array, Batch


def right_answers(model: nn.Module) -> Callable:
  """Returns (variables, batch, mask) -> number of right answers where the mask is set; NaN if logits are not finite."""

  def count(variables: dict[str, Any], batch: Batch, mask: Array) -> Array:
    logits, _ = forward(model, *parted(variables), batch.inputs, None)
    right = (logits.argmax(-1) == batch.labels).astype(jnp.float32)
    return jnp.sum(jnp.where(mask, jnp.where(jnp.isfinite(logits).all(-1), right, jnp.nan), 0.0))

  return count


class Score(NamedTuple):
  """Score of a network: a number from 0 to 1 for each example, summed over those that the mask keeps."""

  name: str
  of: Callable[[nn.Module], Callable]


ACCURACY = Score('accuracy', right_answers)
