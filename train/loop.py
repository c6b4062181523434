"""Fitting a cohort: batches[step] -> step -> every epoch: log, evaluate, save."""

import functools
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from lmajax.types import Array
from train.checkpoint import Checkpoints
from train.data.batches import Batch, Batches
from train.errors import UserError
from train.run import Run
from train.schedules import Schedule
from train.step import Frozen, Objective, TrainState, init_state, make_eval_step, make_train_step, unless_stopped


class Plan(NamedTuple):
  """How fast and how long: the schedule ends the training."""

  learning_rate: float
  weight_decay: float
  schedule: Schedule
  save_every: int


class Cohort(NamedTuple):
  """Students of one architecture that differ in their seeds alone, trained together."""

  model: nn.Module
  objective: Objective
  seeds: Sequence[int]
  over: Callable[[Callable], Callable]
  plan: Plan

  def rates(self, errors: list[list[float]]) -> list[float]:
    """The learning rate of each seed in the next epoch: 0 for one that has stopped, none at all when all have."""
    factors = [self.plan.schedule([epoch[i] for epoch in errors]) for i in range(len(self.seeds))]
    if all(factor is None for factor in factors):
      return []
    return [self.plan.learning_rate * (factor or 0.0) for factor in factors]


class Data(NamedTuple):
  """What a phase reads: training batches by step, and the validation set as batches with masks."""

  batches: Batches
  validation: Sequence[tuple[Batch, Array]]
  sharding: jax.sharding.NamedSharding


class _Progress(NamedTuple):
  state: TrainState
  loss_sum: Array  # over the current epoch, so that a resume in its middle reports the same mean


def optimizer(weight_decay: float) -> optax.GradientTransformationExtraArgs:
  """The paper's SGD: Nesterov momentum 0.9 and L2 on all parameters; the rate is set epoch by epoch."""

  def sgd(learning_rate: Array) -> optax.GradientTransformation:
    return optax.chain(optax.add_decayed_weights(weight_decay), optax.sgd(learning_rate, momentum=0.9, nesterov=True))

  return optax.inject_hyperparams(sgd)(learning_rate=0.0)


def fit(run: Run, phase: str, cohort: Cohort, data: Data, frozen: Frozen = None) -> dict[str, Any]:
  """Trains a cohort to the end of its plan, from its last checkpoint if there is one; returns its variables."""
  tx = optimizer(cohort.plan.weight_decay)
  checkpoints = Checkpoints(folder_of(run.folder, phase))
  progress, errors = _start(run, phase, cohort, data, tx, checkpoints)
  train_step = make_train_step(cohort.objective, tx, over=lambda step: cohort.over(unless_stopped(step)))
  eval_step = make_eval_step(cohort.model, over=cohort.over)
  run.bar.set_description(phase)
  run.bar.update(_step(progress))

  saved = _step(progress)

  def save(score: float) -> None:
    nonlocal saved
    if _step(progress) != saved:
      checkpoints.save(_step(progress), progress, history={'errors': errors}, score=score)
      saved = _step(progress)

  if cohort.rates(errors):
    run.note_environment()
  while rates := cohort.rates(errors):
    began = time.perf_counter()
    progress = progress._replace(state=_with_rates(progress.state, rates))
    for step in range(_step(progress), (len(errors) + 1) * data.batches.steps_per_epoch):
      if run.stopping:
        save(score=-1.0)  # not scored yet: never the best
        run.stop()
      state, metrics = train_step(progress.state, frozen, data.batches[step])
      progress = _Progress(state, progress.loss_sum + metrics['loss'])
      _settle(progress)
      run.bar.update()
    errors.append([1 - float(a) for a in accuracy(eval_step, variables(progress.state), data.validation)])
    mean_loss = np.asarray(progress.loss_sum, np.float64) / data.batches.steps_per_epoch
    run.report(phase, _step(progress), _line(rates, mean_loss, errors, time.perf_counter() - began))
    progress = progress._replace(loss_sum=jnp.zeros_like(progress.loss_sum))
    if len(errors) % cohort.plan.save_every == 0 or not cohort.rates(errors):
      save(score=1 - float(np.mean(errors[-1])))
  checkpoints.close()
  return variables(progress.state)


def _settle(progress: _Progress) -> None:
  """Several CPU devices run one program at a time: programs in flight together starve each other's collectives."""
  if jax.default_backend() == 'cpu' and jax.device_count() > 1:
    jax.block_until_ready(progress)


def folder_of(run_folder: Path, phase: str) -> Path:
  """Where a phase keeps its checkpoints."""
  return run_folder / 'checkpoints' / phase


def saved_variables(run_folder: Path, phase: str, cohort: Cohort, data: Data) -> dict[str, Any]:
  """The variables of a finished phase, from its checkpoint."""
  folder = folder_of(run_folder, phase)
  restored = None
  if folder.exists():
    checkpoints = Checkpoints(folder, reading=True)
    restored = restore(checkpoints, cohort, data, optimizer(cohort.plan.weight_decay))
    checkpoints.close()
  if restored is None or cohort.rates(restored[1]):
    raise UserError(f'{folder} holds no whole checkpoint of its last step: finish the run by distill --resume')
  return variables(restored[0].state)


def variables(state: TrainState) -> dict[str, Any]:
  """What ``model.apply`` takes."""
  return {'params': state.params, **state.stats}


def member(variables: Any, seed: int) -> Any:
  """One student's variables out of a cohort's."""
  return jax.tree.map(lambda leaf: leaf[seed], variables)


def accuracy(eval_step: Callable, variables: dict[str, Any], batches: Sequence[tuple[Batch, Array]]) -> np.ndarray:
  """The share of right answers of each seed, in float64."""
  right = [np.asarray(eval_step(variables, batch, mask), np.int64) for batch, mask in batches]
  return np.sum(right, axis=0) / sum(int(mask.sum()) for _, mask in batches)


def restore(
  checkpoints: Checkpoints, cohort: Cohort, data: Data, tx: Any
) -> tuple[_Progress, list[list[float]]] | None:
  """The newest whole checkpoint of a cohort and the validation errors up to it, placed on today's devices."""

  def abstract() -> Any:
    shapes = jax.eval_shape(lambda images: _fresh(cohort, images, tx), data.batches[0].images)
    placed = functools.partial(jax.ShapeDtypeStruct, sharding=_replicated(data))
    return jax.tree.map(lambda leaf: placed(leaf.shape, leaf.dtype), shapes)

  restored = checkpoints.restore(abstract)
  return None if restored is None else (restored[0], restored[1]['errors'])


def _start(
  run: Run, phase: str, cohort: Cohort, data: Data, tx: Any, checkpoints: Checkpoints
) -> tuple[_Progress, list[list[float]]]:
  restored = restore(checkpoints, cohort, data, tx)
  if restored is None:
    fresh = _fresh(cohort, data.batches[0].images, tx)  # not compiled: that takes longer than what it saves
    restored = jax.device_put(fresh, _replicated(data)), []
  run.cut_back(phase, _step(restored[0]))
  return restored


def _fresh(cohort: Cohort, images: Array, tx: Any) -> _Progress:
  keys = jnp.stack([jax.random.key(seed) for seed in cohort.seeds])
  states = cohort.over(lambda key, images: init_state(cohort.model, tx, key, images))(keys, images)
  return _Progress(states, jnp.zeros(len(cohort.seeds)))


def _replicated(data: Data) -> jax.sharding.NamedSharding:
  return jax.sharding.NamedSharding(data.sharding.mesh, jax.sharding.PartitionSpec())


def _step(progress: _Progress) -> int:
  return int(progress.state.step[0])


def _with_rates(state: TrainState, rates: Sequence[float]) -> TrainState:
  old = state.opt_state.hyperparams['learning_rate']
  new = jax.device_put(np.asarray(rates, old.dtype), old.sharding)
  return state._replace(opt_state=state.opt_state._replace(hyperparams={'learning_rate': new}))


def _line(rates: Sequence[float], mean_loss: np.ndarray, errors: list[list[float]], seconds: float) -> dict[str, Any]:
  return {
    'epoch': len(errors),
    'learning_rate': list(rates),
    'train_loss': mean_loss.tolist(),
    'validation_accuracy': [1 - error for error in errors[-1]],
    'seconds': seconds,
  }
