"""Runs lit, shallow students of images or texts trained stage by stage on what their teacher is given, and its rivals.

Every method has as many steps, on the same batches in the same order, and starts a seed's stages from the same weights.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from lmajax import models, tree
from lmajax.training import Start, as_it_is, teach
from train import build
from train.activations import chosen, label
from train.build import of_network
from train.config import TEACHER
from train.data import Dataset
from train.data.texts.text import VOCABULARY
from train.deploy import given
from train.deploy import model_file as shipped
from train.deploy.given import Given
from train.deploy.score import timed
from train.engine.cohort import Cohort, between_ends, going_on, weights
from train.engine.evaluate import member, scores
from train.engine.fit import fit, saved
from train.engine.logits_cache import Lesson, remembered
from train.engine.walk import Data
from train.programs.lit import plot as draw_lit
from train.programs.lit.config import Lit, Shallow, check
from train.programs.lit.methods import TRANSPLANTED, UNTAUGHT, Pair, Phase, arms, end_to_end, group, named, pair, phases
from train.programs.lit.networks import read
from train.programs.lit.table import Arm, Row, text
from train.programs.lit.texts import LitText, check_texts
from train.results.rows import write_results
from train.runtime.distributed import first
from train.runtime.files import noted
from train.runtime.options import require
from train.runtime.run import Run
from train.teaching import check_cached_logits

LEFT = 'results.json, results.md, accuracy.png, errors.png'


class Fit(NamedTuple):
  """Students of one teacher that go through a phase together."""

  name: str
  epochs: int
  teacher: Arm
  arms: dict[str, Arm]  # by the name of the group in the cohort
  cohort: Cohort
  heard: bool
  """Whether some students look at the teacher's logits and none at more of it."""


class Experiment(NamedTuple):
  """Data, networks of each activation and all fits in order, built from a configuration."""

  config: Lit | LitText
  dataset: Dataset
  data: Data
  test: list
  pairs: dict[Arm, Pair]  # by the teacher
  fits: list[Fit]
  given: dict[Arm, list[Given]]  # the teachers, where they are not trained

  @property
  def trained(self) -> list[Fit]:
    """The fits to run: all but those of given teachers."""
    return [each for each in self.fits if not (self.given and each.teacher in each.arms.values())]


def experiment(config: Lit | LitText) -> Experiment:
  """Checks the options, reads the data and builds every model, before anything is trained or written."""
  check(config)
  if isinstance(config, LitText):
    check_texts(config)
  dataset = read(config)
  check_cached_logits(config, classes=dataset.num_classes)
  config, found = teachers(config, dataset)
  data, test = build.data(config, dataset)
  every = dict.fromkeys(arm.teacher for arm in arms(config))
  pairs = {arm: pair(config, arm, dataset.num_classes, data.batches.blank) for arm in every}
  fits = [one(config, arm, pairs[arm], phase) for arm in pairs for phase in phases(config, pairs[arm].stages)]
  asked = config.cached_logits is None or any(each.heard for each in fits)
  mend = 'no phase of these --methods is trained on the logits of a teacher alone; leave it out'
  require(asked, 'cached_logits', config.cached_logits, mend)
  known = {arm: [each for each in found if each.label == arm.label] for arm in pairs if found}
  return Experiment(config, dataset, data, test, pairs, fits, known)


def teachers(config: Any, dataset: Dataset) -> tuple[Any, list[Given]]:
  """Reads the given teachers, one per activation; returns the configuration with their network, and the teachers."""
  if isinstance(config, LitText):
    config, found = given.teachers(config, several=True, read=shipped.opened)
    given.check_same(found, of_texts(config, dataset), 'this run')
  else:
    config, found = given.teachers(config, several=True)
    given.check_images(found, config, dataset, thinned=None, coupled=False)
    if found:
      config = replace(config, teacher=given.same(found, 'network'), width=tuple(given.same(found, 'width')))
  given.check_one_each(found, [label(*kind) for kind in chosen(config)])
  return config, found


def of_texts(config: LitText, dataset: Dataset) -> dict[str, Any]:
  """Returns what the file of a teacher of texts must say, except its activation."""
  names = ('data', 'teacher', 'width', 'units', 'length', 'columns', 'dtype')
  own = {name: getattr(config, name) for name in names}
  own = {name: list(value) if isinstance(value, tuple) else value for name, value in own.items()}
  return {'recipe': 'lit-text', **own, 'num_classes': dataset.num_classes, 'vocabulary': VOCABULARY}


def described(plan: 'Experiment', teacher: Arm) -> dict[str, Any]:
  """Returns the description for a teacher's file."""
  if isinstance(plan.config, LitText):
    return {**of_texts(plan.config, plan.dataset), 'activation': teacher.activation, 'segments': teacher.segments}
  network, act = (plan.config.teacher, plan.config.width), (teacher.activation, teacher.segments)
  return of_network(plan.config, plan.dataset, *network, *act)


def one(config: Shallow, teacher: Arm, networks: Pair, phase: Phase) -> Fit:
  """Builds a teacher's fit of a phase; its group names are its own, or each fit would cut back the last one's lines."""
  of_phase = [arm for arm in arms(config) if arm.teacher == teacher and arm.method in phase.methods]
  by_name = {f'{arm.name}-{phase.name}': arm for arm in of_phase}
  groups = {name: group(config, arm, phase.name, networks) for name, arm in by_name.items()}
  share = as_it_is if phase.name == TEACHER else teach(networks.teacher)
  heard = all(end_to_end(arm, phase.name) for arm in of_phase) and any(arm.method not in UNTAUGHT for arm in of_phase)
  return Fit(f'{teacher.label}-{phase.name}', phase.epochs, teacher, by_name, Cohort(groups, phase.plan, share), heard)


def run(plan: Experiment, to: Run) -> list[Row]:
  """Runs all fits, reads the test set once, and writes the table and the pictures."""
  to.bar.total = sum(each.epochs for each in plan.trained) * plan.data.batches.steps_per_epoch
  trained: dict[Arm, Any] = {arm: given.variables(found) for arm, found in plan.given.items()}
  for each in plan.trained:
    teacher = member(trained[each.teacher], 0) if each.teacher in trained else None
    cohort, data, shared = under(plan, to, each, teacher)
    progress = fit(to, each.name, cohort, data, shared, starts(plan, each, trained, teacher))
    ended = by_arm(each, weights(each.cohort)(progress))
    if each.teacher in ended:
      given.keep(to.folder, each.teacher.name, [0], ended[each.teacher], described(plan, each.teacher))
    trained |= ended
  rows = evaluated(plan, trained, to.folder)
  if first():
    write_results(to.folder, plan.config, rows, text(rows))
    draw_lit.accuracy(to.folder / 'accuracy.png', rows)
    draw_lit.errors(to.folder, {name: arm for each in plan.fits for name, arm in each.arms.items()})
  return rows


def under(plan: Experiment, to: Run, each: Fit, teacher: Any) -> tuple[Cohort, Data, Any]:
  """Returns the students of a fit, their data, and their teacher, or None where its cached logits are all they take."""
  if not each.heard:
    return each.cohort, plan.data, teacher
  epochs = max(other.epochs for other in plan.fits if other.heard and other.teacher == each.teacher)
  live, folder = Lesson(plan.data, each.cohort.share, teacher), f'{each.teacher.name}-logits'
  lesson = remembered(to, live, plan.dataset, plan.config.cached_logits, epochs, folder=folder)
  return each.cohort._replace(share=lesson.share), lesson.data, lesson.teacher


def by_arm(each: Fit, variables: dict[str, Any]) -> dict[Arm, Any]:
  """Maps a fit's arms to the variables of their groups."""
  return {arm: variables[name] for name, arm in each.arms.items()}


def starts(plan: Experiment, each: Fit, trained: dict[Arm, Any], teacher: Any) -> dict[str, Start]:
  """Returns starts other than new weights: the last fit's end, or new stages between the teacher's stem and head."""
  found = {name: going_on(trained[arm]) for name, arm in each.arms.items() if arm in trained}
  new = {name for name, arm in each.arms.items() if name not in found and arm.method in TRANSPLANTED}
  groups = {name: each.cohort.groups[name] for name in sorted(new)}
  model, blank = plan.pairs[each.teacher].teacher, plan.data.batches.blank
  return found | between_ends(each.cohort._replace(groups=groups), blank, model, teacher)


def restored(plan: Experiment, folder: Path) -> dict[Arm, Any]:
  """Reads the variables of all networks of a finished run from its checkpoints."""
  trained: dict[Arm, Any] = {arm: given.variables(found) for arm, found in plan.given.items()}
  for each in plan.trained:
    trained |= by_arm(each, weights(each.cohort)(saved(folder, each.name, each.cohort, plan.data)))
  return trained


def again(plan: Experiment, folder: Path) -> list[Row]:
  """Computes the rows of a finished run from its checkpoints."""
  return evaluated(plan, restored(plan, folder), folder)


def evaluated(plan: Experiment, trained: dict[Arm, Any], folder: Path) -> list[Row]:
  """Computes the rows of the table; nothing before this reads the test set."""
  groups = {arm: each.cohort.groups[name] for each in plan.fits for name, arm in each.arms.items()}
  programs: dict[Any, Callable] = {}

  def right(arm: Arm, batches: Any) -> list[float]:
    measure = programs.setdefault(groups[arm].model, scores({'': groups[arm]}))
    return measure({'': trained[arm]}, batches)[''].tolist()

  def row(arm: Arm) -> Row:
    model, network = groups[arm].model, named(plan.config, arm)
    one = member(trained[arm], 0)
    time = partial(timed, model, one, plan.test[0][0].inputs)
    return Row(
      arm.name, arm.method, network, arm.activation, arm.segments, int(network.rpartition('-')[2]),
      right(arm, plan.test), right(arm, plan.data.validation), tree.size(one['params']), tree.nbytes(one),
      models.macs(model, plan.data.batches.blank), noted(folder / 'milliseconds.json', f'{arm.label}-{network}', time),
    )  # fmt: skip

  return [row(arm) for arm in arms(plan.config)]
