"""Runs the paper's experiment: one teacher, then students of equal size under it, per activation, width and seed."""

from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lmajax import tree
from lmajax.training import supervised, teach
from train import build
from train.build import Arm
from train.config import TEACHER
from train.data import Dataset
from train.deploy import given
from train.deploy.given import Given
from train.engine.cohort import Cohort, Group, weights
from train.engine.evaluate import member, scores
from train.engine.fit import fit, saved
from train.engine.logits_cache import Cached, Lesson, digest, heard, remembered
from train.engine.walk import Data, stepped
from train.programs.distill.config import Distill, check
from train.programs.distill.plot import comparisons
from train.programs.distill.table import Row, text
from train.results import plots
from train.results.rows import write_results
from train.runtime.distributed import first
from train.runtime.errors import UserError
from train.runtime.run import Run
from train.teaching import KD, check_cached_logits, named, teaching

STUDENTS = 'students'
LEFT = 'results.json, results.md, curves.png'


class Experiment(NamedTuple):
  """Data, teacher and one group of students per other row of the table, built from a configuration."""

  config: Distill
  dataset: Dataset
  data: Data
  teacher_data: Data
  test: list
  teacher: Cohort
  students: Cohort
  arms: tuple[Arm, ...]
  given: list[Given]  # the teacher, where it is not trained
  said: np.ndarray | None  # a teacher that is not here: its logits of the training images


def experiment(config: Distill) -> Experiment:
  """Checks the options, reads the data and builds every model, before anything is trained or written."""
  check(config)
  config, dataset = build.read(config)
  check_cached_logits(config, classes=dataset.num_classes)
  data, test = build.data(config, dataset)
  teacher_data = build.teacher_data(config, dataset, data)
  data = build.students_data(config, dataset, data, alpha=config.mixup)
  said = None
  if config.teacher_logits is not None:
    config, said = logits_of(config, dataset)
    teacher, found = Cohort({}, build.teacher_plan(config)), []
  else:
    config, teacher, found = given.of_images(config, dataset, data.batches.blank)

  def group(arm: Arm) -> Group:
    model = build.student(config, arm, dataset, data.batches.blank)
    how = {'temperature': config.temperature, 'soft_weight': config.soft_weight}
    soft = teaching(arm.loss, model, of_teacher, data.batches.blank, **how)
    objective, beside = (supervised(model), None) if arm.hard_label else soft
    return Group(model, objective, config.all_seeds, build.over(model), beside=beside)

  of_teacher = teacher.groups[TEACHER].model if teacher.groups else None
  arms = tuple(build.arms(config))
  share = heard(dataset.num_classes) if said is not None else teach(of_teacher)
  students = Cohort({arm.name: group(arm) for arm in arms}, build.plan(config, config.epochs), share)
  return Experiment(config, dataset, data, teacher_data, test, teacher, students, arms, found, said)


def logits_of(config: Distill, dataset: Dataset) -> tuple[Distill, np.ndarray]:
  """Reads the logits of ``--teacher-logits``, in the order of the training images."""
  path: Any = config.teacher_logits
  try:
    said = np.load(path, mmap_mode='r', allow_pickle=False)
    shape = dataset.read, dataset.num_classes
    if not isinstance(said, np.ndarray) or said.shape != shape or said.dtype.kind != 'f':
      found = f'{said.dtype}{list(said.shape)}' if isinstance(said, np.ndarray) else 'a file of several arrays'
      raise ValueError(f'it is {found}, and the data have floats {list(shape)}')
    own = np.asarray(said[dataset.rows], np.float32)
    if not np.isfinite(own).all():
      raise ValueError('it has numbers that are not finite')
  except (OSError, ValueError, EOFError) as error:
    reason = getattr(error, 'strerror', None) or ' '.join(str(error).split())[:200]
    mend = 'give a row of logits for each training image, written by numpy.save'
    raise UserError(f'--teacher-logits is {path}: {reason}; {mend}') from error
  return given.noted(config, [path], (digest(own),)), own


def run(plan: Experiment, to: Run) -> list[Row]:
  """Trains the teacher, then all students, reads the test set once, and writes the table and the pictures."""
  config = plan.config
  epochs = 0 if plan.given or plan.said is not None else config.teacher_epochs or config.epochs
  own = epochs * plan.teacher_data.batches.steps_per_epoch
  to.bar.total = own + config.epochs * plan.data.batches.steps_per_epoch
  trained = taught(plan, to)
  teacher = member(trained[TEACHER], 0) if trained else None
  students, data, shared = under(plan, to, teacher)
  trained |= weights(students)(fit(to, STUDENTS, students, data, shared))
  rows = evaluated(plan, trained)
  if first():
    write_results(to.folder, config, rows, text(rows))
    own = jax.tree.map(jnp.asarray, jax.device_get(trained))  # what one process computes alone must lie with it alone
    shown = {arm: own[arm.name] for arm in plan.arms if arm.loss == named(config)[0]}
    plots.curves(to.folder / 'curves.png', shown)
    comparisons(to.folder, rows)
  return rows


def taught(plan: Experiment, to: Run) -> dict[str, Any]:
  """Returns the teacher's variables: given ones, or trained ones, which it keeps as a model file."""
  if plan.said is not None:
    return {}
  if plan.given:
    return {TEACHER: given.variables(plan.given)}
  trained = weights(plan.teacher)(fit(to, TEACHER, plan.teacher, plan.teacher_data))
  given.keep(to.folder, TEACHER, [0], trained[TEACHER], given.description(plan))
  return trained


def under(plan: Experiment, to: Run, teacher: Any) -> tuple[Cohort, Data, Any]:
  """Returns the students, their data, and what they share: the teacher, or None where its logits come with the data."""
  config, dataset, data = plan.config, plan.dataset, plan.data
  if plan.said is not None:
    return plan.students, data._replace(batches=Cached(data, False, [plan.said]), walk=stepped), None
  live = Lesson(data, plan.students.share, teacher)
  lesson = remembered(to, live, dataset, config.cached_logits, config.epochs, mixup=config.mixup)
  return plan.students._replace(share=lesson.share), lesson.data, lesson.teacher


def restored(plan: Experiment, folder: Path) -> dict[str, Any]:
  """Reads the variables of the teacher and of all students of a finished run from its checkpoints."""
  phases = {TEACHER: (plan.teacher, plan.teacher_data)} if plan.teacher.groups else {}
  phases |= {STUDENTS: (plan.students, plan.data)}
  found = {TEACHER: given.variables(plan.given)} if plan.given else {}
  for phase, (cohort, data) in phases.items():
    if phase not in found:
      found |= weights(cohort)(saved(folder, phase, cohort, data))
  return found


def again(plan: Experiment, folder: Path) -> list[Row]:
  """Computes the rows of a finished run from its checkpoints."""
  return evaluated(plan, restored(plan, folder))


def evaluated(plan: Experiment, trained: dict[str, Any]) -> list[Row]:
  """Computes the rows of the table; nothing before this reads the test set."""
  right = scores({**plan.teacher.groups, **plan.students.groups})(trained, plan.test)

  def row(name: str, activation: str, width: int, segments: int | None, hard_label: bool, loss: str = KD) -> Row:
    one = member(trained[name], 0)
    accuracy, size = right[name].tolist(), tree.size(one['params'])
    return Row(name, activation, width, segments, hard_label, accuracy, size, tree.nbytes(one), loss)

  of_teacher = [row(TEACHER, 'relu', build.width(each.model), None, True) for each in plan.teacher.groups.values()]
  return [
    *of_teacher,
    *(row(arm.name, arm.activation, arm.width, arm.segments, arm.hard_label, arm.loss) for arm in plan.arms),
  ]
