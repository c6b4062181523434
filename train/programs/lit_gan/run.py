"""Runs LIT for a generator: trains its fewer blocks on the teacher's representations, then all with a discriminator.

Compares it with the same generator trained against a discriminator from the start, with as many steps and as many
updates of the generator.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lmajax import models, tree
from lmajax.activations.linen import ReLU
from lmajax.training import Stages, Start, blockwise, in_stages
from train import build
from train.activations import chosen, factory
from train.config import TEACHER
from train.data import Dataset, Examples
from train.data.batches import normalized
from train.deploy import given
from train.deploy import model_file as shipped
from train.deploy.score import timed
from train.engine.cohort import Cohort, Group, between_ends, going_on, weights
from train.engine.evaluate import member, scores
from train.engine.fit import fit, saved
from train.engine.optimizers import adam, adversarial
from train.engine.walk import Data
from train.programs.lit import plot as draw_lit
from train.programs.lit.table import Arm
from train.programs.lit_gan import plot as draw_lit_gan
from train.programs.lit_gan.config import LitGan, check
from train.programs.lit_gan.metrics import (
  AGREEMENT,
  Make,
  answered,
  apart,
  asked,
  frechet,
  in_every_style,
  maker,
  told_apart,
)
from train.programs.lit_gan.objective import (
  TRANSLATED,
  Adversaries,
  Weights,
  generator_of,
  one_hot,
  representing,
  translate,
)
from train.programs.lit_gan.styles import STYLES
from train.programs.lit_gan.table import LIT, ONLY, SCRATCH, Row, text
from train.results.rows import write_results
from train.runtime.distributed import first
from train.runtime.files import noted
from train.runtime.run import Run

CLASSIFIER = Arm('classifier', 'relu', None)
_CLASSIFIER_RATE = 3e-3
LEFT = 'results.json, results.md, errors.png, sheet-*.png'


class Fit(NamedTuple):
  """Networks of one arm, trained together."""

  epochs: int
  group: Group
  cohort: Cohort


class Experiment(NamedTuple):
  """Data and all fits in order, built from a configuration."""

  config: LitGan
  dataset: Dataset
  data: Data
  test: list
  fits: dict[Arm, Fit]
  given: dict[Arm, Any]  # the teachers' variables, where they are not trained


def experiment(config: LitGan) -> Experiment:
  """Checks the options, reads the data and builds every model, before anything is trained or written."""
  check(config)
  config, dataset = build.read(config)
  dataset = readied(dataset)
  config, found = given.teachers(config, several=True, read=shipped.opened)
  given.check_same(found, of_generators(config, dataset), 'this run')
  data, test = build.data(config, dataset)
  fits = {CLASSIFIER: classifier(config, dataset.num_classes)}
  for activation, segments in chosen(config):
    fits |= generators(config, Arm(TEACHER, activation, segments), data.batches.blank.shape)
  teachers = [arm for arm in fits if arm.method == TEACHER]
  given.check_one_each(found, [arm.label for arm in teachers])
  known = {arm: given.variables([each for each in found if each.label == arm.label]) for arm in teachers if found}
  return Experiment(config, dataset, data, test, fits, known)


def of_generators(config: LitGan, dataset: Dataset) -> dict[str, Any]:
  """Returns what the file of a teacher must say, except its activation."""
  names = ('data', 'teacher_blocks', 'dtype')
  own = {**{name: getattr(config, name) for name in names}, 'width': list(config.width), 'styles': len(STYLES)}
  image = {'image_shape': list(dataset.test.inputs.shape[1:]), 'pixel_mean': list(dataset.pixel_mean)}
  return {'recipe': 'lit-gan', **own, **image, 'pixel_std': list(dataset.pixel_std)}


def readied(dataset: Dataset) -> Dataset:
  """Scales images to -1 … 1; a digit's pixels become 2 × 2, or the blocks' norms would see only 2 × 2 positions."""
  if dataset.name != 'digits':
    return dataset._replace(pixel_mean=(127.5,), pixel_std=(127.5,))
  parts = {
    name: Examples(np.repeat(np.repeat(part.inputs, 2, axis=1), 2, axis=2), part.labels)
    for name, part in (('train', dataset.train), ('validation', dataset.validation), ('test', dataset.test))
  }
  return dataset._replace(pixel_mean=(8.0,), pixel_std=(8.0,), **parts)


def classifier(config: LitGan, num_classes: int) -> Fit:
  """Builds a small network that classifies style and class together, so that its features are of both."""
  model = models.ResNet(8, len(STYLES) * num_classes, ReLU, channels=(8, 16, 32))
  group = Group(
    model, told_apart(model, num_classes), (0,), build.over(model), score=in_every_style(num_classes)
  )  # fmt: skip
  epochs = config.classifier_epochs
  plan = build.plan(config, epochs)._replace(learning_rate=_CLASSIFIER_RATE, optimizer=adam(0.9, 0.999, 0.0))
  return _alone(CLASSIFIER, epochs, group, plan)


def generators(config: LitGan, arm: Arm, shape: tuple[int, ...]) -> dict[Arm, Fit]:
  """Builds the fits of one activation, in their order."""
  teacher, student = (players(config, arm, b, shape) for b in (config.teacher_blocks, config.student_blocks))
  long, short, seeds = config.epochs, config.finetune_epochs, config.all_seeds
  own = config.teacher_epochs or long + short
  terms = Weights(config.domain_weight, config.reconstruction_weight, config.penalty_weight)
  moved = adam(0.5, 0.999, config.weight_decay)

  def adversaries(method: str, model: Adversaries, seeds: Any, epochs: int) -> Fit:
    group = Group(model, translate(model, terms), seeds, build.over(model), metrics=TRANSLATED, score=AGREEMENT)
    plan = build.plan(config, epochs)._replace(optimizer=adversarial(moved, config.critic_steps))
    return _alone(arm._replace(method=method), epochs, group, plan)

  stages = blockwise(student, lambda *_: jnp.zeros(()), Stages(0.0, (0,), (0,)))
  group = Group(
    student, representing(stages, teacher), seeds, build.over(student), trained=in_stages(student),
    metrics=('error_0',), score=AGREEMENT,
  )  # fmt: skip
  plan = build.plan(config, long)._replace(optimizer=adversarial(moved, config.critic_steps))
  return {
    arm: adversaries(TEACHER, teacher, (0,), own),
    arm._replace(method=ONLY): _alone(arm._replace(method=ONLY), long, group, plan),
    arm._replace(method=LIT): adversaries(LIT, student, seeds, short),
    arm._replace(method=SCRATCH): adversaries(SCRATCH, student, seeds, long + short),
  }


def players(config: LitGan, arm: Arm, blocks: int, shape: tuple[int, ...]) -> Adversaries:
  """Builds a generator of ``blocks`` blocks, and a discriminator that halves images as often as the paper's does."""
  channels, dtype = config.width[0], jnp.dtype(config.dtype)
  act = factory(arm.activation, arm.segments)
  generator = models.Generator(channels, blocks, shape[-1], act, dtype)
  layers = shape[1].bit_length() - 2  # 6 for 128, as in the paper
  return Adversaries(generator, models.Discriminator(channels, layers, len(STYLES), dtype))


def _alone(arm: Arm, epochs: int, group: Group, plan: Any) -> Fit:
  return Fit(epochs, group, Cohort({arm.name: group}, plan))


def run(plan: Experiment, to: Run) -> list[Row]:
  """Runs all fits, reads the test set once, and writes the table and the pictures."""
  fits = {arm: each for arm, each in plan.fits.items() if arm not in plan.given}
  to.bar.total = sum(each.epochs for each in fits.values()) * plan.data.batches.steps_per_epoch
  trained: dict[Arm, Any] = dict(plan.given)
  for arm, each in fits.items():
    teacher = member(trained[arm.teacher], 0) if arm.method == ONLY else None
    progress = fit(to, arm.name, each.cohort, plan.data, teacher, starts(plan, arm, trained, teacher))
    trained[arm] = weights(each.cohort)(progress)[arm.name]
    if arm.method == TEACHER:
      about = {**of_generators(plan.config, plan.dataset), 'activation': arm.activation, 'segments': arm.segments}
      given.keep(to.folder, arm.name, [0], trained[arm], about)
  rows = evaluated(plan, trained, to.folder)
  if first():
    write_results(to.folder, plan.config, rows, text(rows))
    draw_lit.errors(to.folder, {arm.name: arm for arm in plan.fits if arm.method == ONLY})
    sheets(plan, jax.device_get(trained), to.folder)  # what one process computes alone must lie with it alone
  return rows


def starts(plan: Experiment, arm: Arm, trained: dict[Arm, Any], teacher: Any) -> dict[str, Start]:
  """Returns what an arm starts from, if not from new weights."""
  if arm.method == LIT:
    return {arm.name: going_on(trained[arm._replace(method=ONLY)])}
  if arm.method == ONLY:
    model = plan.fits[arm.teacher].group.model
    return between_ends(plan.fits[arm].cohort, plan.data.batches.blank, model, teacher)
  return {}


def restored(plan: Experiment, folder: Path) -> dict[Arm, Any]:
  """Reads the variables of all networks of a finished run from its checkpoints."""
  return {
    arm: plan.given[arm]
    if arm in plan.given
    else weights(each.cohort)(saved(folder, arm.name, each.cohort, plan.data))[arm.name]
    for arm, each in plan.fits.items()
  }


def again(plan: Experiment, folder: Path) -> list[Row]:
  """Computes the rows of a finished run from its checkpoints."""
  return evaluated(plan, restored(plan, folder), folder)


def evaluated(plan: Experiment, trained: dict[Arm, Any], folder: Path) -> list[Row]:
  """Computes the rows of the table; nothing before this reads the test set."""
  make, programs = _maker(plan, trained), {}
  real = make(None, {})

  def validation(arm: Arm) -> list[float]:
    group = plan.fits[arm].group
    measure = programs.setdefault(group.model, scores({'': group}))
    return (1 - measure({'': trained[arm]}, plan.data.validation)['']).tolist()

  def rows(teacher: Arm) -> Iterator[Row]:
    taught = make(plan.fits[teacher].group.model, member(trained[teacher], 0))
    for arm in (arm for arm in plan.fits if arm.teacher == teacher and arm != CLASSIFIER):
      group = plan.fits[arm].group
      made = [make(group.model, member(trained[arm], i)) for i in range(len(group.seeds))]
      yield Row(
        arm.name, arm.method, arm.activation, arm.segments, group.model.generator.blocks,
        [frechet(each, real) for each in made], [apart(each, real) for each in made],
        [apart(each, taught) for each in made], validation(arm), *_costs(plan, arm, trained[arm], folder),
      )  # fmt: skip

  return [row for arm in plan.fits if arm.method == TEACHER for row in rows(arm)]


def _maker(plan: Experiment, trained: dict[Arm, Any]) -> Make:
  known = plan.fits[CLASSIFIER].group.model, member(trained[CLASSIFIER], 0)
  return maker(*known, plan.test, len(plan.dataset.test.labels), plan.data.batches.everywhere)


def _costs(plan: Experiment, arm: Arm, variables: Any, folder: Path) -> tuple[int, int, int, float]:
  """Returns costs of the generator, which alone is shipped: parameters, bytes, MACs, milliseconds an image."""
  model, mine = plan.fits[arm].group.model.generator, generator_of(member(variables, 0))
  images, blank = plan.test[0][0].inputs, plan.data.batches.blank
  inputs, one = ((each, one_hot(jnp.zeros(len(each), jnp.int32))) for each in (images, blank))
  name = f'{arm.label}-{model.blocks}'
  milliseconds = noted(folder / 'milliseconds.json', name, partial(timed, model, mine, inputs))
  return tree.size(mine['params']), tree.nbytes(mine), models.macs(model, one), milliseconds


def sheets(plan: Experiment, trained: dict[Arm, Any], folder: Path) -> None:
  """Draws a sheet of pictures for each activation, of first seeds and the first test images."""
  raw = plan.dataset.test.inputs[: draw_lit_gan.SHOWN]
  images = normalized(jnp.asarray(raw), plan.dataset.pixel_mean, plan.dataset.pixel_std)
  question, program = asked(images), jax.jit(answered, static_argnums=0)
  for teacher in (arm for arm in plan.fits if arm.method == TEACHER):
    columns = {'source': question.images, 'true style': question.answers}
    for method in (TEACHER, LIT, SCRATCH):
      arm = teacher._replace(method=method)
      columns[method] = program(plan.fits[arm].group.model, member(trained[arm], 0), images)
    draw_lit_gan.sheet(folder / f'sheet-{teacher.label}.png', columns)
