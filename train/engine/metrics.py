"""What networks are judged by."""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp

from lmajax.training import logits_of
from lmajax.types import Array, Batch


def right_answers(model: nn.Module) -> Callable:
  """A function (variables, batch, mask) -> the right answers that the mask keeps; NaN if one has no finite logits."""

  def count(variables: dict[str, Any], batch: Batch, mask: Array) -> Array:
    logits = logits_of(model.apply(variables, batch.inputs, train=False))
    right = (logits.argmax(-1) == batch.labels).astype(jnp.float32)
    return jnp.sum(jnp.where(mask, jnp.where(jnp.isfinite(logits).all(-1), right, jnp.nan), 0.0))

  return count


class Score(NamedTuple):
  """What a network is judged by: a number from 0 to 1 for each example, summed over those that the mask keeps."""

  name: str
  of: Callable[[nn.Module], Callable]


ACCURACY = Score('accuracy', right_answers)
