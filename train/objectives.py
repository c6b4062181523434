"""Objectives: (params, stats, frozen, batch, key) -> (loss, (stats, metrics)). Compose them; add no flags."""

from typing import Any

import flax.linen as nn
import jax
import optax

from lmajax.losses import distillation
from lmajax.types import Array, Key, ModelStats, Params
from train.data.batches import Batch
from train.step import Frozen, Objective, Share


def _forward(model: nn.Module, params: Params, stats: ModelStats, images: Array, key: Key) -> tuple[Array, Any]:
  variables = {'params': params, **stats}
  (logits, _), moved = model.apply(variables, images, train=True, mutable=list(stats), rngs={'dropout': key})
  return logits, moved


def supervised(model: nn.Module) -> Objective:
  """Cross-entropy with the labels; ``frozen`` is not looked at."""

  def objective(params: Params, stats: ModelStats, frozen: Frozen, batch: Batch, key: Key):
    del frozen
    logits, stats = _forward(model, params, stats, batch.images, key)
    logits = logits.astype('float32')
    loss = optax.losses.softmax_cross_entropy_with_integer_labels(logits, batch.labels).mean()
    return loss, (stats, {})

  return objective


def distill(student: nn.Module, *, temperature: float, soft_weight: float) -> Objective:
  """The paper's mix of soft targets and labels; ``frozen`` is the teacher's logits of the batch."""

  def objective(params: Params, stats: ModelStats, frozen: Frozen, batch: Batch, key: Key):
    logits, stats = _forward(student, params, stats, batch.images, key)
    loss = distillation(logits, frozen, batch.labels, temperature=temperature, soft_weight=soft_weight).mean()
    return loss, (stats, {})

  return objective


def teach(teacher: nn.Module) -> Share:
  """From the teacher's variables to its logits of a batch, in evaluation mode: what all students under it share."""

  def share(frozen: Frozen, batch: Batch) -> Array:
    logits, _ = teacher.apply(frozen, batch.images, train=False)
    return jax.lax.stop_gradient(logits)

  return share
