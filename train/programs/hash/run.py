"""Trains hashed students under one teacher at several learning rates, packs the best and scores the files read back."""

from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from lmajax.training import distilled, mixed, teach
from train import build
from train.build import of_network
from train.config import TEACHER
from train.data import Dataset
from train.deploy import given
from train.deploy.given import Given
from train.deploy.score import Scoring, Trained
from train.engine.cohort import Cohort, Group, weights
from train.engine.evaluate import member, scores
from train.engine.fit import fit
from train.engine.schedules import scaled
from train.engine.walk import Data
from train.programs.hash import plot as draw_hash
from train.programs.hash.config import Hash, check
from train.programs.hash.students import Arm, Students, arms
from train.programs.hash.table import Row, text
from train.results.rows import read_rows, write_results
from train.runtime.distributed import first
from train.runtime.run import Run

LEFT = 'results.json, results.md, accuracy.png, models'


class Experiment(NamedTuple):
  """Data, teacher and the students, built from a configuration; each arm's group has all seeds at every rate."""

  config: Hash
  dataset: Dataset
  data: Data
  teacher_data: Data
  test: list
  teacher: Cohort
  networks: Students
  students: Cohort
  given: list[Given]  # the teacher, where it is not trained


def experiment(config: Hash) -> Experiment:
  """Checks the options, reads the data and builds every model, before anything is trained or written."""
  check(config)
  config, dataset = build.read(config)
  data, test = build.data(config, dataset)
  teacher_data = build.teacher_data(config, dataset, data)
  config, teacher, found = given.of_images(config, dataset, data.batches.blank)
  networks = Students(config, dataset, data.batches.blank)

  def group(arm: Arm) -> Group:
    model = networks.module(arm)
    soft = distilled(model, mixed(temperature=config.temperature, soft_weight=config.soft_weight))
    tries = [(seed, scaled(own.schedule, rate)) for rate in config.learning_rates for seed in config.all_seeds]
    seeds, schedules = zip(*tries, strict=True)
    return Group(model, soft, seeds, build.over(model), networks.reparam(arm), schedules=schedules)

  own = build.plan(config, config.epochs)._replace(learning_rate=1.0)
  share = teach(teacher.groups[TEACHER].model)
  students = Cohort({arm.name: group(arm) for arm in arms(config)}, own, share)
  return Experiment(config, dataset, data, teacher_data, test, teacher, networks, students, found)


def run(plan: Experiment, to: Run) -> list[Row]:
  """Trains the teacher and all students, chooses rates on the validation set, and reads the test set once."""
  config = plan.config
  own = 0 if plan.given else config.teacher_epochs or config.epochs
  to.bar.total = own * plan.teacher_data.batches.steps_per_epoch + config.epochs * plan.data.batches.steps_per_epoch
  teacher = given.end(plan.given) if plan.given else fit(to, TEACHER, plan.teacher, plan.teacher_data)[TEACHER].end
  taught = Trained(plan.teacher.groups[TEACHER], teacher)
  progress = fit(to, 'students', plan.students, plan.data, member(taught.variables(), 0))
  validation = scores(plan.students.groups)(weights(plan.students)(progress), plan.data.validation)
  scoring = Scoring(plan.data, plan.test, to.folder)
  rows = [_teacher_row(plan, scoring, taught)]
  for arm in arms(config):
    tried = np.asarray(validation[arm.name]).reshape(len(config.learning_rates), -1).mean(axis=1)
    best = int(np.argmax(np.nan_to_num(tried)))  # a rate at which one seed diverged comes last
    rows.append(_row(plan, scoring, arm, _at(plan, arm, progress[arm.name].end, best), best, tried.tolist()))
  if first():
    write_results(to.folder, config, rows, text(rows))
    draw_hash.accuracy(to.folder / 'accuracy.png', rows)
  return rows


def again(plan: Experiment, folder: Path) -> list[Row]:
  """Returns the rows of a finished run, with the accuracies of its files as they are now."""
  rows = read_rows(folder, 'hash', Row)
  known = {TEACHER: (plan.teacher.groups[TEACHER], given.description(plan))}
  known |= {arm.name: (_seeds_of(plan, arm), _described(plan, arm)) for arm in arms(plan.config)}
  return Scoring(plan.data, plan.test, folder).rows_again(rows, known)


def _seeds_of(plan: Experiment, arm: Arm) -> Group:
  """The group of an arm at one rate."""
  return plan.students.groups[arm.name]._replace(seeds=plan.config.all_seeds, schedules=None)


def _at(plan: Experiment, arm: Arm, end: Any, number: int) -> Trained:
  """Takes the students of one learning rate out of those of all."""
  seeds = len(plan.config.all_seeds)
  own = jax.tree.map(lambda leaf: leaf[number * seeds : (number + 1) * seeds], end)
  return Trained(_seeds_of(plan, arm), own)


def _described(plan: Experiment, arm: Arm) -> dict[str, Any]:
  network = plan.networks.network(arm)
  return of_network(plan.config, plan.dataset, *network, arm.activation, arm.segments)


def _teacher_row(plan: Experiment, scoring: Scoring, trained: Trained) -> Row:
  scored = scoring.scored(TEACHER, trained, given.description(plan))
  numbers, width = _numbers(trained), build.width(trained.group.model)
  return Row(
    TEACHER, 'relu', None, TEACHER, None, None, [width] if width else [], numbers, None, [], scored.accuracy,
    scored.validation_accuracy, scored.bytes, scored.file,
  )  # fmt: skip


def _row(plan: Experiment, scoring: Scoring, arm: Arm, trained: Trained, best: int, tried: list[float]) -> Row:
  scored = scoring.scored(arm.name, trained, _described(plan, arm))
  return Row(
    arm.name, arm.activation, arm.segments, arm.method, arm.hashes, arm.ratio, list(plan.networks.network(arm).width),
    plan.networks.trained(arm), plan.config.learning_rates[best], tried, scored.accuracy, scored.validation_accuracy,
    scored.bytes, scored.file,
  )  # fmt: skip


def _numbers(trained: Trained) -> int:
  """Counts what one of the seeds trains."""
  theta = trained.end.theta
  return sum(leaf[0].size for leaf in jax.tree.leaves(theta))
