"""Objectives: (params, stats, frozen, batch, key) -> (loss, (stats, metrics)). Compose them; add no flags."""

from typing import Any

import flax.linen as nn
import jax
import optax

from lmajax.losses import distillation
from lmajax.types import Array, Key, ModelStats, Params, Reparam, Theta
from train.data.batches import Batch
from train.step import Frozen, Objective, Share

_NOISE = 0x4015E  # keeps the weights' noise apart from the dropout's


def forward(model: nn.Module, params: Params, stats: ModelStats, images: Array, key: Key) -> tuple[Array, Any]:
  """The logits in training mode, and the statistics as they are moved."""
  variables = {'params': params, **stats}
  (logits, _), moved = model.apply(variables, images, train=True, mutable=list(stats), rngs={'dropout': key})
  return logits, moved


def supervised(model: nn.Module) -> Objective:
  """Cross-entropy with the labels; ``frozen`` is not looked at."""

  def objective(params: Params, stats: ModelStats, frozen: Frozen, batch: Batch, key: Key):
    del frozen
    logits, stats = forward(model, params, stats, batch.images, key)
    logits = logits.astype('float32')
    loss = optax.losses.softmax_cross_entropy_with_integer_labels(logits, batch.labels).mean()
    return loss, (stats, {})

  return objective


def distill(student: nn.Module, *, temperature: float, soft_weight: float) -> Objective:
  """The paper's mix of soft targets and labels; ``frozen`` is the teacher's logits of the batch."""

  def objective(params: Params, stats: ModelStats, frozen: Frozen, batch: Batch, key: Key):
    logits, stats = forward(student, params, stats, batch.images, key)
    loss = distillation(logits, frozen, batch.labels, temperature=temperature, soft_weight=soft_weight).mean()
    return loss, (stats, {})

  return objective


def reparameterized(objective: Objective, reparam: Reparam) -> Objective:
  """The objective of weights made from less: ``frozen`` is its own and the code."""

  def of_theta(theta: Theta, stats: ModelStats, frozen: Frozen, batch: Batch, key: Key):
    shared, code = frozen
    return objective(reparam.apply(theta, code, jax.random.fold_in(key, _NOISE)), stats, shared, batch, key)

  return of_theta


def teach(teacher: nn.Module) -> Share:
  """From the teacher's variables to its logits of a batch, in evaluation mode: what all students under it share."""

  def share(frozen: Frozen, batch: Batch) -> Array:
    logits, _ = teacher.apply(frozen, batch.images, train=False)
    return jax.lax.stop_gradient(logits)

  return share
