"""Defines groups of students trained together in one program: plan, initial state, step and learning rates."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from lmajax.compress import identity
from lmajax.training import (
  Progress,
  Start,
  TrainState,
  accompanied,
  as_it_is,
  begin,
  parted,
  reparameterized,
  sharing,
  shipped,
  summed,
  together,
  train_step,
  with_ends,
)
from lmajax.types import Array, Batch, Frozen, Key, Metrics, Objective, Params, Reparam, Share, Step, Where
from train.engine.metrics import ACCURACY, Score
from train.engine.optimizers import Optimizer, adjustable, only
from train.engine.schedules import Schedule
from train.runtime.errors import mendable


class Group(NamedTuple):
  """Students of one architecture, objective and kind of weights that differ only in their seeds."""

  model: nn.Module
  objective: Objective
  seeds: Sequence[int]
  over: Callable[[Callable], Callable]
  reparam: Reparam = identity()
  trained: Where | None = None  # which of the parameters; None: all
  metrics: tuple[str, ...] = ()  # of the objective, to be noted beside the loss
  score: Score = ACCURACY
  schedules: Sequence[Schedule] | None = None  # of each of the seeds; None: the plan's
  beside: Callable[[Key, Any], Params] | None = None  # draws what the objective trains beside the students


class Plan(NamedTuple):
  """Learning rate, optimizer, schedule (which also ends the training) and epochs between checkpoints."""

  learning_rate: float
  optimizer: Optimizer
  schedule: Schedule
  save_every: int


Errors = list[dict[str, list[float | None]]]
"""On the validation set: of an epoch, of a group, of a seed; None of a student that has diverged."""


class Cohort(NamedTuple):
  """Groups of students trained together on the same batches; ``share`` runs once a batch for all of them."""

  groups: dict[str, Group]
  plan: Plan
  share: Share = as_it_is

  def rates(self, errors: Errors) -> dict[str, list[float]]:
    """Returns the next epoch's learning rates: 0 for a student that has stopped or diverged, none when all have."""

    def factor(errors: list[Any], schedule: Schedule) -> float | None:
      return None if errors and errors[-1] is None else schedule(errors)

    def factors(name: str, group: Group) -> list[float | None]:
      schedules = group.schedules or [self.plan.schedule] * len(group.seeds)
      return [factor([epoch[name][i] for epoch in errors], schedule) for i, schedule in enumerate(schedules)]

    of_all = {name: factors(name, group) for name, group in self.groups.items()}
    if all(factor is None for group in of_all.values() for factor in group):
      return {}
    return {name: [self.plan.learning_rate * (factor or 0.0) for factor in group] for name, group in of_all.items()}


Starts = Mapping[str, Start]


def optimizer_of(group: Group, plan: Plan) -> optax.GradientTransformationExtraArgs:
  """Returns the plan's optimizer for the parameters that the group trains."""
  return adjustable(plan.optimizer if group.trained is None else only(group.trained, plan.optimizer))


def cohort_step(cohort: Cohort) -> Callable:
  """Returns the uncompiled step of all students: (progress by name, frozen, batch) -> progress by name."""

  def student(group: Group) -> Callable:
    tx = optimizer_of(group, cohort.plan)
    return summed(unless_stopped(train_step(reparameterized(group.objective, group.reparam), tx)))

  steps = {name: group.over(student(group)) for name, group in cohort.groups.items()}
  return sharing(together(steps), cohort.share)


def unless_stopped(step: Step) -> Step:
  """Wraps a step so that at learning rate 0 it changes only the step count: no weights and no statistics."""

  def guarded(state: TrainState, frozen: Frozen, batch: Batch) -> tuple[TrainState, Metrics]:
    moved, metrics = step(state, frozen, batch)
    moving = state.opt_state.hyperparams['learning_rate'] > 0
    kept = jax.tree.map(lambda new, old: jnp.where(moving, new, old), moved, state)
    return kept._replace(step=moved.step), metrics

  return guarded


def weights(cohort: Cohort) -> Callable[[dict[str, Progress]], dict[str, Any]]:
  """Compiles progress by name -> variables for ``model.apply`` by name, with the weights that would be shipped."""
  each = {name: group.over(partial(shipped, group.reparam)) for name, group in cohort.groups.items()}
  return jax.jit(together(each))


def fresh(cohort: Cohort, inputs: Array, starts: Starts | None = None) -> dict[str, Progress]:
  """Initializes all students, by name; a group without a start gets new weights."""

  def start(name: str, group: Group) -> Progress:
    tx = optimizer_of(group, cohort.plan)

    def one(seed: tuple[Array, Start | None]) -> Progress:
      key, given = seed
      new = begin(group.model, tx, group.reparam, key, inputs, start=given)
      if group.beside is not None:
        new = accompanied(new, tx, group.beside(key, inputs))
      return new._replace(sums={name: jnp.zeros(()) for name in ('loss', *group.metrics)})

    keys = jnp.stack([jax.random.key(seed) for seed in group.seeds])
    return group.over(one)((keys, (starts or {}).get(name)))

  return {name: start(name, group) for name, group in cohort.groups.items()}


def going_on(variables: dict[str, Any]) -> Start:
  """Makes a group's start from the variables that it ended with."""
  params, stats = parted(variables)
  return Start(params, (), stats)


def between_ends(cohort: Cohort, inputs: Any, teacher: Any, teacher_variables: Any) -> dict[str, Start]:
  """Initializes each group of a cohort with new weights between copies of the teacher's stem and head."""
  theirs = jax.device_get(teacher_variables)

  def starting(group: Group, begun: Start) -> Start:
    with mendable():
      return going_on(with_ends(group.model, {'params': begun.theta, **begun.stats}, teacher, theirs))

  begun = fresh(cohort, inputs)
  return {name: group.over(partial(starting, group))(begun[name].end) for name, group in cohort.groups.items()}
