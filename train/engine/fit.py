"""Fitting a cohort, all students in one program: batches[step] -> step -> every epoch: log, evaluate, save."""

import functools
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lmajax.types import Array, Code, ModelStats, Theta
from train.config import made_by
from train.data.batches import Batch, Steps
from train.engine import divergence
from train.engine.checkpoint import Checkpoints
from train.engine.evaluate import scores
from train.engine.objectives import reparameterized
from train.engine.optimizers import Optimizer, adjustable, only
from train.engine.schedules import Schedule
from train.engine.step import (
  Advance,
  Frozen,
  Group,
  Metrics,
  Share,
  TrainState,
  as_it_is,
  init_state,
  settle,
  sharing,
  stepped,
  together,
  train_step,
  unless_stopped,
)
from train.runtime.distributed import whole
from train.runtime.errors import UserError
from train.runtime.run import Run


class Plan(NamedTuple):
  """How fast and how long: the schedule ends the training."""

  learning_rate: float
  optimizer: Optimizer
  schedule: Schedule
  save_every: int


Errors = list[dict[str, list[float | None]]]
"""On the validation set: of an epoch, of a group, of a seed; None of a student that has diverged."""


class Cohort(NamedTuple):
  """Groups of students that are trained together: on the same batches, under what ``share`` makes of each."""

  groups: dict[str, Group]
  plan: Plan
  share: Share = as_it_is

  def rates(self, errors: Errors) -> dict[str, list[float]]:
    """The learning rates of the next epoch: 0 for a student that has stopped or diverged, none when all have."""

    def factor(errors: list[Any]) -> float | None:
      return None if errors and errors[-1] is None else self.plan.schedule(errors)

    def factors(name: str, group: Group) -> list[float | None]:
      return [factor([epoch[name][i] for epoch in errors]) for i in range(len(group.seeds))]

    of_all = {name: factors(name, group) for name, group in self.groups.items()}
    if all(factor is None for group in of_all.values() for factor in group):
      return {}
    return {name: [self.plan.learning_rate * (factor or 0.0) for factor in group] for name, group in of_all.items()}


class Data(NamedTuple):
  """What a phase reads: training batches by step, and the validation set as batches with masks."""

  batches: Steps
  validation: Sequence[tuple[Batch, Array]]
  sharding: jax.sharding.NamedSharding
  walk: Callable[[Callable, Any], Advance] = stepped


class Start(NamedTuple):
  """What a group goes on with, if not with new weights: every leaf has a leading axis of seeds."""

  theta: Theta
  code: Code
  stats: ModelStats


Starts = Mapping[str, Start]
_CODE = 0xC0DE  # keeps the codes' draws apart from the weights'


class Progress(NamedTuple):
  """A student on its way, or with a leading axis of seeds a group of them; its parameters are the reparam's theta."""

  state: TrainState
  sums: Metrics  # over the current epoch, so that a resume in its middle reports the same means
  code: Code = ()

  @property
  def end(self) -> Start:
    """What another fit can go on with."""
    return Start(self.state.params, self.code, self.state.stats)


def optimizer_of(group: Group, plan: Plan) -> optax.GradientTransformationExtraArgs:
  """The plan's, for the parameters that the group trains."""
  return adjustable(plan.optimizer if group.trained is None else only(group.trained, plan.optimizer))


def cohort_step(cohort: Cohort) -> Callable:
  """The step of all students, not yet compiled: (progress by name, frozen, batch) -> progress by name."""

  def student(group: Group) -> Callable:
    tx = optimizer_of(group, cohort.plan)
    step = unless_stopped(train_step(reparameterized(group.objective, group.reparam), tx))

    def summed(progress: Progress, shared: Any, batch: Batch) -> Progress:
      state, metrics = step(progress.state, (shared, progress.code), batch)
      return Progress(state, {name: total + metrics[name] for name, total in progress.sums.items()}, progress.code)

    return summed

  steps = {name: group.over(student(group)) for name, group in cohort.groups.items()}
  return sharing(together(steps), cohort.share)


def fit(
  run: Run, phase: str, cohort: Cohort, data: Data, frozen: Frozen = None, starts: Starts | None = None
) -> dict[str, Progress]:
  """Trains a cohort to the end of its plan, from its last checkpoint if there is one."""
  checkpoints = Checkpoints(folder_of(run.folder, phase), made_by(run.folder))
  progress, errors = _start(run, cohort, data, checkpoints, starts or {})
  advance = data.walk(cohort_step(cohort), data.batches)
  measure, shipped = scores(cohort.groups), weights(cohort)
  run.bar.set_description(phase)
  run.bar.update(_step(progress))
  saved = _step(progress)

  def save(score: float) -> None:
    nonlocal saved
    if _step(progress) != saved:
      checkpoints.save(_step(progress), progress, history={'errors': errors}, score=score)
      saved = _step(progress)
    run.unsaved = False

  if cohort.rates(errors):
    run.note_environment()
  while rates := cohort.rates(errors):
    began = time.perf_counter()
    progress = _with_rates(progress, rates)
    step, end = _step(progress), (len(errors) + 1) * data.batches.steps_per_epoch
    while step < end:
      if run.stopping():
        save(score=-1.0)  # not scored yet: never the best
        run.stop()
      before = step
      progress, step = advance(progress, frozen, before, end)
      settle(progress)
      run.unsaved = True  # and not before: the first step compiles, which nobody has to wait for
      run.bar.update(step - before)
    scored = measure(shipped(progress), data.validation)
    lost = divergence.lost({name: each.sums['loss'] for name, each in progress.items()}, scored)
    if any(each.any() for each in lost.values()):
      divergence.tell(run.note, phase, cohort.groups, rates, errors, lost)
      progress = {name: divergence.spoilt(each, lost[name]) for name, each in progress.items()}
      scored = {name: np.where(lost[name], np.nan, score) for name, score in scored.items()}
    errors.append({name: divergence.errors_of(score) for name, score in scored.items()})
    _report(run, cohort, progress, rates, errors, time.perf_counter() - began)
    progress = {name: p._replace(sums=jax.tree.map(jnp.zeros_like, p.sums)) for name, p in progress.items()}
    if len(errors) % cohort.plan.save_every == 0 or not cohort.rates(errors):
      save(score=float(np.nanmean(np.concatenate([*scored.values()]))))
  checkpoints.close()
  return progress


def folder_of(run_folder: Path, phase: str) -> Path:
  """Where a phase keeps its checkpoints."""
  return run_folder / 'checkpoints' / phase


def saved(run_folder: Path, phase: str, cohort: Cohort, data: Data) -> dict[str, Progress]:
  """A finished phase, from its checkpoint."""
  folder = folder_of(run_folder, phase)
  restored = restore(Checkpoints(folder, made_by(run_folder)), cohort, data, {})
  if restored is None or cohort.rates(restored[1]):
    raise UserError(f'{folder} holds no whole checkpoint of its last step: finish the run by --resume')
  return restored[0]


def weights(cohort: Cohort) -> Callable[[dict[str, Progress]], dict[str, Any]]:
  """Compiles progress by name -> what ``model.apply`` takes by name: the weights that would be shipped."""

  def one(group: Group) -> Callable:
    def decoded(progress: Progress) -> dict[str, Any]:
      return {'params': group.reparam.apply(progress.state.params, progress.code, None), **progress.state.stats}

    return group.over(decoded)

  return jax.jit(together({name: one(group) for name, group in cohort.groups.items()}))


def restore(
  checkpoints: Checkpoints, cohort: Cohort, data: Data, starts: Starts, *, restart: bool = False
) -> tuple[dict[str, Progress], Errors] | None:
  """The newest whole checkpoint of a cohort and the validation errors up to it, placed on today's devices."""

  def abstract() -> Any:
    shapes = jax.eval_shape(lambda: fresh(cohort, data.batches.blank, starts))
    placed = functools.partial(jax.ShapeDtypeStruct, sharding=_replicated(data))
    return jax.tree.map(lambda leaf: placed(leaf.shape, leaf.dtype), shapes)

  restored = checkpoints.restore(abstract, restart=restart)
  return None if restored is None else (restored[0], restored[1]['errors'])


def _start(
  run: Run, cohort: Cohort, data: Data, checkpoints: Checkpoints, starts: Starts
) -> tuple[dict[str, Progress], Errors]:
  restored = restore(checkpoints, cohort, data, starts, restart=run.restart)
  if restored is None:
    start = fresh(cohort, data.batches.blank, starts)  # not compiled: that takes longer than what it saves
    restored = jax.tree.map(functools.partial(_put, sharding=_replicated(data)), start), []
  run.cut_back(cohort.groups.keys(), _step(restored[0]))
  return restored


def fresh(cohort: Cohort, inputs: Array, starts: Starts | None = None) -> dict[str, Progress]:
  """All students before their first step, by name; a group that has no start gets new weights."""

  def start(name: str, group: Group) -> Progress:
    tx = optimizer_of(group, cohort.plan)

    def one(seed: tuple[Array, Start | None]) -> Progress:
      key, given = seed
      state = init_state(group.model, tx, key, inputs)
      given = given or Start(*group.reparam.init(state.params, jax.random.fold_in(key, _CODE)), state.stats)
      state = state._replace(params=given.theta, stats=given.stats, opt_state=tx.init(given.theta))
      return Progress(state, {name: jnp.zeros(()) for name in ('loss', *group.metrics)}, given.code)

    keys = jnp.stack([jax.random.key(seed) for seed in group.seeds])
    return group.over(one)((keys, (starts or {}).get(name)))

  return {name: start(name, group) for name, group in cohort.groups.items()}


def _put(leaf: Array, sharding: jax.sharding.NamedSharding) -> Array:
  if not jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
    return whole(np.asarray(leaf), sharding)
  return jax.random.wrap_key_data(_put(jax.random.key_data(leaf), sharding), impl=jax.random.key_impl(leaf))


def _replicated(data: Data) -> jax.sharding.NamedSharding:
  return jax.sharding.NamedSharding(data.sharding.mesh, jax.sharding.PartitionSpec())


def _step(progress: dict[str, Progress]) -> int:
  return int(next(iter(progress.values())).state.step[0])


def _with_rates(progress: dict[str, Progress], rates: dict[str, list[float]]) -> dict[str, Progress]:
  def one(progress: Progress, rates: list[float]) -> Progress:
    opt_state = progress.state.opt_state
    old = opt_state.hyperparams['learning_rate']
    new = whole(np.asarray(rates, old.dtype), old.sharding)
    opt_state = opt_state._replace(hyperparams={'learning_rate': new})
    return progress._replace(state=progress.state._replace(opt_state=opt_state))

  return {name: one(progress[name], rates[name]) for name in progress}


def _report(
  run: Run, cohort: Cohort, progress: dict[str, Progress], rates: Any, errors: Errors, seconds: float
) -> None:
  """A line for each group; each is given an equal share of the seconds, so that all lines together give the time."""
  step = _step(progress)
  steps_per_epoch = step // len(errors)
  for name, group in progress.items():
    means = {f'train_{what}': np.asarray(total, np.float64) / steps_per_epoch for what, total in group.sums.items()}
    values = {
      'epoch': len(errors),
      'learning_rate': rates[name],
      **{what: mean.tolist() for what, mean in means.items()},
      f'validation_{cohort.groups[name].score.name}': [None if e is None else 1 - e for e in errors[-1][name]],
      'seconds': seconds / len(progress),
    }
    run.report(name, step, values)
