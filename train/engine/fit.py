"""Trains a cohort, all students in one program: steps over batches, then each epoch evaluates, logs and saves."""

import functools
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lmajax.training import Checkpoints, Hooks, Progress, loop, replicated, settle, whole
from lmajax.types import Frozen
from train.config import made_by
from train.engine import divergence
from train.engine.checkpoint import mendable_checkpoints
from train.engine.cohort import Cohort, Errors, Starts, cohort_step, fresh, weights
from train.engine.evaluate import scores
from train.engine.walk import Data
from train.runtime.errors import UserError
from train.runtime.run import Run


def fit(
  run: Run, phase: str, cohort: Cohort, data: Data, frozen: Frozen = None, starts: Starts | None = None
) -> dict[str, Progress]:
  """Trains a cohort to the end of its plan, from its last checkpoint if there is one."""
  checkpoints = Checkpoints(folder_of(run.folder, phase), made_by(run.folder))
  progress, errors = _start(run, cohort, data, checkpoints, starts or {})
  walk = data.walk(cohort_step(cohort), data.batches)
  measure, shipped = scores(cohort.groups), weights(cohort)
  run.bar.set_description(phase)
  run.bar.update(_step(progress))
  saved, began, rates = _step(progress), 0.0, cohort.rates(errors)
  if rates:
    run.note_environment()

  def advance(progress: Any, step: int, end: int) -> tuple[Any, int]:
    progress, after = walk(progress, frozen, step, end)
    settle(progress)
    run.unsaved = True  # and not before: the first step compiles, which nobody has to wait for
    run.bar.update(after - step)
    return progress, after

  def save(progress: Any, step: int, errors: Errors, score: float) -> None:
    nonlocal saved
    if step != saved:
      with mendable_checkpoints():
        checkpoints.save(step, progress, history={'errors': errors}, score=score)
      saved = step
    run.unsaved = False

  def begin(progress: Any, errors: Errors) -> Any:
    nonlocal began, rates
    began, rates = time.perf_counter(), cohort.rates(errors)
    return _with_rates(progress, rates) if rates else None

  def between(progress: Any, step: int, errors: Errors) -> None:
    if run.stopping():
      save(progress, step, errors, score=-1.0)  # not scored yet: never the best
      run.stop()

  def end(progress: Any, step: int, errors: Errors) -> tuple[Any, Any]:
    scored = measure(shipped(progress), data.validation)
    lost = divergence.lost({name: each.sums['loss'] for name, each in progress.items()}, scored)
    if any(each.any() for each in lost.values()):
      divergence.tell(run.note, phase, cohort.groups, rates, errors, lost)
      progress = {name: divergence.spoilt(each, lost[name]) for name, each in progress.items()}
      scored = {name: np.where(lost[name], np.nan, score) for name, score in scored.items()}
    entry = {name: divergence.errors_of(score) for name, score in scored.items()}
    errors = [*errors, entry]
    _report(run, cohort, progress, rates, errors, time.perf_counter() - began)
    progress = {name: p._replace(sums=jax.tree.map(jnp.zeros_like, p.sums)) for name, p in progress.items()}
    if len(errors) % cohort.plan.save_every == 0 or not cohort.rates(errors):
      save(progress, step, errors, score=float(np.nanmean(np.concatenate([*scored.values()]))))
    return progress, entry

  hooks, at = Hooks(begin, between, end), (saved, errors)
  progress = loop(advance, progress, hooks, steps_per_epoch=data.batches.steps_per_epoch, history=at)
  checkpoints.close()
  return progress


def folder_of(run_folder: Path, phase: str) -> Path:
  """Returns the folder of a phase's checkpoints."""
  return run_folder / 'checkpoints' / phase


def saved(run_folder: Path, phase: str, cohort: Cohort, data: Data) -> dict[str, Progress]:
  """Restores a finished phase from its checkpoint."""
  folder = folder_of(run_folder, phase)
  restored = restore(Checkpoints(folder, made_by(run_folder)), cohort, data, {})
  if restored is None or cohort.rates(restored[1]):
    raise UserError(f'{folder} holds no whole checkpoint of its last step: finish the run by --resume')
  return restored[0]


def restore(
  checkpoints: Checkpoints, cohort: Cohort, data: Data, starts: Starts, *, restart: bool = False
) -> tuple[dict[str, Progress], Errors] | None:
  """Restores a cohort's newest undamaged checkpoint, on the current devices, and the validation errors up to it."""

  def abstract() -> Any:
    shapes = jax.eval_shape(lambda: fresh(cohort, data.batches.blank, starts))
    placed = functools.partial(jax.ShapeDtypeStruct, sharding=replicated(data.sharding))
    return jax.tree.map(lambda leaf: placed(leaf.shape, leaf.dtype), shapes)

  with mendable_checkpoints():
    restored = checkpoints.restore(abstract, restart=restart)
  return None if restored is None else (restored[0], restored[1]['errors'])


def _start(
  run: Run, cohort: Cohort, data: Data, checkpoints: Checkpoints, starts: Starts
) -> tuple[dict[str, Progress], Errors]:
  restored = restore(checkpoints, cohort, data, starts, restart=run.restart)
  if restored is None:
    start = fresh(cohort, data.batches.blank, starts)  # not compiled: that takes longer than what it saves
    restored = jax.tree.map(functools.partial(whole, sharding=replicated(data.sharding)), start), []
  run.cut_back(cohort.groups.keys(), _step(restored[0]))
  return restored


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
  """Reports one line per group; the epoch's seconds are split evenly, so that the lines add up to them."""
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
