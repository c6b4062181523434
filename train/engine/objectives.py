"""Objectives: (params, stats, frozen, batch, key) -> (loss, (stats, metrics)). Compose them; add no flags."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from lmajax import tree
from lmajax.losses import distillation, representation_error
from lmajax.types import Array, Key, ModelStats, Params, Reparam, Tap, Theta
from train.data.batches import Batch
from train.engine.optimizers import Where
from train.engine.step import Frozen, Objective, Share

_NOISE = 0x4015E  # keeps the weights' noise apart from the dropout's
_FED = 0xFED  # and that of the representations


class Taught(NamedTuple):
  """What the teacher says of a batch, in evaluation mode."""

  logits: Array
  taps: tuple[Tap, ...]


class Kept(NamedTuple):
  """Parameters and statistics with which parts of a model run, one after another."""

  params: Params
  stats: ModelStats
  key: Key

  def run(self, model: Any, part: str, *args: Any, train: bool) -> tuple[Any, 'Kept']:
    """The output of ``stem``, ``stage`` or ``head``, and the statistics as that part moves them in training."""
    variables, dropout = {'params': self.params, **self.stats}, {'dropout': self.key}
    options = {'method': part, 'train': train, 'rngs': dropout, 'mutable': list(self.stats)}
    output, moved = model.apply(variables, *args, **options)
    return output, self._replace(stats=moved if train else self.stats)

  def through(self, model: Any, stem: Tap, stages: int) -> tuple[tuple[Tap, ...], 'Kept']:
    """The taps from that of the stem on, each stage in training mode on what the one before it gave."""
    taps, kept = [stem], self
    for i in range(stages):
      tap, kept = kept.run(model, 'stage', i, taps[-1], train=True)
      taps.append(tap)
    return tuple(taps), kept


def forward(model: nn.Module, params: Params, stats: ModelStats, inputs: Array, key: Key) -> tuple[Array, Any]:
  """The logits in training mode, and the statistics as they are moved."""
  variables = {'params': params, **stats}
  (logits, _), moved = model.apply(variables, inputs, train=True, mutable=list(stats), rngs={'dropout': key})
  return logits, moved


def supervised(model: nn.Module, *, label_smoothing: float = 0.0) -> Objective:
  """Cross-entropy with the labels, a part of each spread evenly over all classes; ``frozen`` is not looked at."""

  def objective(params: Params, stats: ModelStats, frozen: Frozen, batch: Batch, key: Key):
    del frozen
    logits, stats = forward(model, params, stats, batch.inputs, key)
    logits = logits.astype('float32')
    if label_smoothing:
      labels = optax.losses.smooth_labels(jax.nn.one_hot(batch.labels, logits.shape[-1]), label_smoothing)
      return optax.losses.softmax_cross_entropy(logits, labels).mean(), (stats, {})
    return optax.losses.softmax_cross_entropy_with_integer_labels(logits, batch.labels).mean(), (stats, {})

  return objective


def penalized(objective: Objective, where: Where, weight: float) -> Objective:
  """The objective, and L1 on the parameters that ``where`` selects: network slimming's, on batch norms' scales."""

  def with_penalty(params: Params, stats: ModelStats, frozen: Frozen, batch: Batch, key: Key):
    loss, kept = objective(params, stats, frozen, batch, key)
    selected, _ = tree.partition(params, where)
    return loss + weight * sum(jnp.abs(leaf).sum() for leaf in jax.tree.leaves(selected)), kept

  return with_penalty


EndToEnd = Callable[[Array, Taught, Batch], Array]
"""A loss of a student's own logits, under what its teacher says."""


def mixed(*, temperature: float, soft_weight: float) -> EndToEnd:
  """The paper's mix of soft targets and labels."""

  def loss(logits: Array, taught: Taught, batch: Batch) -> Array:
    each = distillation(logits, taught.logits, batch.labels, temperature=temperature, soft_weight=soft_weight)
    return each.mean()

  return loss


def distill(student: nn.Module, end_to_end: EndToEnd) -> Objective:
  """A loss of the student's logits under its teacher's."""

  def objective(params: Params, stats: ModelStats, frozen: Taught, batch: Batch, key: Key):
    logits, stats = forward(student, params, stats, batch.inputs, key)
    return end_to_end(logits, frozen, batch), (stats, {})

  return objective


Distance = Callable[[Array, Array], Array]


def hint(student: Any, stage: int, *, distance: Distance = optax.losses.squared_error) -> Objective:
  """The first phase of FitNets: the output of one stage, on the student's own activations, against the teacher's."""

  def objective(params: Params, stats: ModelStats, frozen: Taught, batch: Batch, key: Key):
    stem, kept = Kept(params, stats, key).run(student, 'stem', batch.inputs, train=True)
    taps, kept = kept.through(student, stem, stage + 1)
    return representation_error(taps[-1], frozen.taps[stage + 1], distance=distance).mean(), (kept.stats, {})

  return objective


def blockwise(
  student: Any,
  end_to_end: EndToEnd,
  *,
  beta: float,
  fed: Sequence[int],
  compared: Sequence[int],
  distance: Distance = optax.losses.squared_error,
  noise: float = 0.0,
) -> Objective:
  """LIT: β times a loss of the student's own logits, and 1 − β times the errors of its stages.

  The ``fed`` stages take the teacher's output of the stage before (with Gaussian noise of that deviation); the others
  go on from what the stage before them gave, and those before the first that is fed are the student's own, from its
  inputs. The outputs of the ``compared`` ones are held against the teacher's; no stage runs for nothing. Stem and head
  run in evaluation mode: they are the teacher's, statistics and all. Statistics move first under the student's own
  activations, then stage by stage under the teacher's, as in the authors' CIFAR code.
  """
  fed_at = {i: max((f for f in fed if f <= i), default=-1) for i in compared} if beta < 1 else {}
  own = [i for i, f in fed_at.items() if f < 0]
  taught = sorted({i for last, f in fed_at.items() if f >= 0 for i in range(f, last + 1)})

  def objective(params: Params, stats: ModelStats, frozen: Taught, batch: Batch, key: Key):
    kept, loss, given = Kept(params, stats, key), jnp.zeros(()), {}
    if beta > 0 or own:
      stem, kept = kept.run(student, 'stem', batch.inputs, train=False)
      taps, kept = kept.through(student, stem, len(frozen.taps) - 1 if beta > 0 else max(own) + 1)
      given = {i: taps[i + 1] for i in own}
      if beta > 0:
        logits, kept = kept.run(student, 'head', taps[-1], train=False)
        loss += beta * end_to_end(logits, frozen, batch)
    for i in taught:
      tap = noisy(frozen.taps[i], noise, jax.random.fold_in(key, _FED + i)) if i in fed else given[i - 1]
      given[i], kept = kept.run(student, 'stage', i, tap, train=True)
    errors = [representation_error(given[i], frozen.taps[i + 1], distance=distance).mean() for i in fed_at]
    metrics = {f'error_{i}': error for i, error in zip(fed_at, errors, strict=True)}
    return loss + (1 - beta) * sum(errors), (kept.stats, metrics)

  return objective


def noisy(tap: Array, deviation: float, key: Key) -> Array:
  """A representation with Gaussian noise on it."""
  return tap + deviation * jax.random.normal(key, tap.shape, tap.dtype) if deviation else tap


def reparameterized(objective: Objective, reparam: Reparam) -> Objective:
  """The objective of weights made from less: ``frozen`` is its own and the code."""

  def of_theta(theta: Theta, stats: ModelStats, frozen: Frozen, batch: Batch, key: Key):
    shared, code = frozen
    return objective(reparam.apply(theta, code, jax.random.fold_in(key, _NOISE)), stats, shared, batch, key)

  return of_theta


def teach(teacher: Any) -> Share:
  """From the teacher's variables to what it says of a batch: what all students under it share."""

  def share(frozen: Frozen, batch: Batch) -> Taught:
    said: Any = teacher.apply(frozen, batch.inputs, train=False)
    return jax.lax.stop_gradient(Taught(*said))

  return share
