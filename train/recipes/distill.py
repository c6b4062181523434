"""The paper's experiment: one teacher, then students of equal size under it, per activation, width and seed."""

from pathlib import Path
from typing import Any, NamedTuple

from lmajax import tree
from train import build, draw, report
from train.build import Arm
from train.config import Distill, check
from train.data import Dataset, load
from train.loop import Cohort, Data, accuracy, fit, member, saved_variables
from train.objectives import distill, supervised
from train.report import TEACHER, Row
from train.run import Run
from train.step import make_eval_step, unrolled


class Experiment(NamedTuple):
  """A configuration made real: the data, and a cohort for every row of the table."""

  config: Distill
  dataset: Dataset
  data: Data
  test: list
  teacher: Cohort
  students: dict[Arm, Cohort]


def experiment(config: Distill) -> Experiment:
  """Checks the options, reads the data and builds every model, before anything is trained or written."""
  check(config)
  dataset = load(config.data, data_dir=config.data_dir, train_images=config.train_images)
  data, test = build.data(config, dataset)
  model = build.teacher(config, dataset.num_classes)
  plan = build.plan(config, config.teacher_epochs or config.epochs)
  teacher = Cohort(model, supervised(model), (0,), unrolled, plan)

  def cohort(arm: Arm) -> Cohort:
    model = build.student(config, arm, dataset.num_classes)
    soft = distill(model, teacher.model, temperature=config.temperature, soft_weight=config.soft_weight)
    objective = supervised(model) if arm.hard_label else soft
    return Cohort(model, objective, range(config.seeds), build.over(model), build.plan(config, config.epochs))

  students = {arm: cohort(arm) for arm in build.arms(config)}
  return Experiment(config, dataset, data, test, teacher, students)


def run(plan: Experiment, to: Run) -> list[Row]:
  """Trains the teacher and every cohort, reads the test set once, and writes the table and the pictures."""
  config = plan.config
  epochs = (config.teacher_epochs or config.epochs) + len(plan.students) * config.epochs
  to.bar.total = epochs * plan.data.batches.steps_per_epoch
  trained = {TEACHER: fit(to, TEACHER, plan.teacher, plan.data)}
  for arm, cohort in plan.students.items():
    frozen = None if arm.hard_label else member(trained[TEACHER], 0)
    trained[arm.name] = fit(to, arm.name, cohort, plan.data, frozen)
  rows = evaluated(plan, trained)
  report.write(to.folder, config, [row._asdict() for row in rows], report.table(rows))
  draw.curves(to.folder / 'curves.png', {arm: trained[arm.name] for arm in plan.students})
  draw.comparisons(to.folder, rows)
  return rows


def restored(plan: Experiment, folder: Path) -> dict[str, Any]:
  """The variables of every phase of a finished run, from its checkpoints."""
  phases = {TEACHER: plan.teacher, **{arm.name: cohort for arm, cohort in plan.students.items()}}
  return {name: saved_variables(folder, name, cohort, plan.data) for name, cohort in phases.items()}


def evaluated(plan: Experiment, trained: dict[str, Any]) -> list[Row]:
  """The rows of the table: this, and nothing before it, reads the test set."""

  def row(name: str, activation: str, width: int, segments: int | None, hard_label: bool, cohort: Cohort) -> Row:
    variables = trained[name]
    right = accuracy(make_eval_step(cohort.model, over=cohort.over), variables, plan.test)
    one = member(variables, 0)
    return Row(
      name, activation, width, segments, hard_label, right.tolist(), tree.size(one['params']), tree.nbytes(one)
    )

  rows = [row(TEACHER, 'relu', build.width(plan.teacher.model), None, True, plan.teacher)]
  for arm, cohort in plan.students.items():
    rows.append(row(arm.name, arm.activation, arm.width, arm.segments, arm.hard_label, cohort))
  return rows
