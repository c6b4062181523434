"""Trains students under one teacher, prunes and trains them again, packs them and scores the files read back."""

from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lmajax import tree
from lmajax.compress import PackedTree, from_stream, kernels, to_stream
from lmajax.training import Start, distilled, mixed, parted, teach
from train import build
from train.activations import chosen, factory, label
from train.build import of_network
from train.config import TEACHER
from train.data import Dataset
from train.deploy import given
from train.deploy import model_file as shipped
from train.deploy.given import Given
from train.deploy.score import Files, Scored, Scoring, Trained
from train.engine.cohort import Cohort, Group, Plan
from train.engine.evaluate import member, stacked
from train.engine.fit import fit
from train.engine.optimizers import sgd
from train.engine.schedules import cosine
from train.engine.walk import Data
from train.programs.prune import plot as draw_prune
from train.programs.prune.config import Prune, check
from train.programs.prune.students import DENSE, UNIFORM, Arm, arms, cut, like, reparam, zipped
from train.programs.prune.table import Row, text
from train.results.rows import read_rows, write_results
from train.runtime.distributed import first
from train.runtime.options import require
from train.runtime.run import Run

LEFT = 'results.json, results.md, accuracy.png, models'


class Experiment(NamedTuple):
  """Data, teacher and the students before the cut, built from a configuration."""

  config: Prune
  dataset: Dataset
  data: Data
  teacher_data: Data
  test: list
  teacher: Cohort
  students: Cohort  # by the labels of their activations
  given: list[Given]  # the teacher, where it is not trained


def experiment(config: Prune) -> Experiment:
  """Checks the options, reads the data and builds every model, before anything is trained or written."""
  check(config)
  config, dataset = build.read(config)
  data, test = build.data(config, dataset)
  teacher_data = build.teacher_data(config, dataset, data)
  config, teacher, found = given.of_images(config, dataset, data.batches.blank)
  config = _of_itself(config, found[0]) if config.itself else config
  network = build.shaped_network(config)

  def group(activation: str, segments: int | None) -> Group:
    act, classes = factory(activation, segments), dataset.num_classes
    model = build.networks.tried(
      'student',
      network.name,
      lambda: network.built(act, classes, config.dtype),
      data.batches.blank,
      num_classes=classes,
    )
    soft = distilled(model, mixed(temperature=config.temperature, soft_weight=config.soft_weight))
    return Group(model, soft, config.all_seeds, build.over(model))

  students = Cohort(
    {label(*kind): group(*kind) for kind in chosen(config)},
    build.plan(config, config.epochs),
    teach(teacher.groups[TEACHER].model),
  )
  return Experiment(config, dataset, data, teacher_data, test, teacher, students, found)


def _of_itself(config: Prune, own: Given) -> Prune:
  """Sets the students' network to the given one."""
  about = own.description
  for name in ('thinned', 'coupled', 'activation_bits'):
    require(not about[name], 'itself', own.path, f'it has {name}; give a network that nothing was done to')
  segments = {} if about['segments'] is None else {'segments': (about['segments'],)}
  return replace(
    config, student=about['network'], width=tuple(about['width']), activations=(about['activation'],), **segments
  )


def themselves(plan: Experiment) -> dict[str, Trained]:
  """The given network once for every seed."""
  count = len(plan.config.all_seeds)
  end = jax.tree.map(lambda leaf: jnp.repeat(leaf, count, axis=0), given.end(plan.given))
  return {name: Trained(group, end) for name, group in plan.students.groups.items()}


def run(plan: Experiment, to: Run) -> list[Row]:
  """Trains the teacher and the students, prunes them in all ways, and reads the test set once."""
  config, steps = plan.config, plan.data.batches.steps_per_epoch
  own = 0 if plan.given else config.teacher_epochs or config.epochs
  cuts = len(config.cuts) * len(config.sparsity) * config.finetune_epochs
  before = 0 if config.itself else config.epochs
  to.bar.total = own * plan.teacher_data.batches.steps_per_epoch + (before + cuts) * steps
  teacher = given.end(plan.given) if plan.given else fit(to, TEACHER, plan.teacher, plan.teacher_data)[TEACHER].end
  taught = Trained(plan.teacher.groups[TEACHER], teacher)
  frozen = member(taught.variables(), 0)
  ends = themselves(plan) if config.itself else fit(to, 'students', plan.students, plan.data, frozen)
  trained = {arm: _before(plan, arm, ends[arm.label].end) for arm in arms(config) if arm.sparsity is None}
  if 'one-shot' in config.cuts:
    trained |= one_shot(plan, to, frozen, trained)
  if 'iterative' in config.cuts:
    trained |= iterative(plan, to, frozen, trained)
  scoring = Scoring(plan.data, plan.test, to.folder)
  rows = [_teacher_row(plan, scoring, taught)]
  rows += [_row(plan, scoring, arm, trained[arm], to.folder) for arm in arms(config)]
  if first():
    write_results(to.folder, config, rows, text(rows))
    draw_prune.accuracy(to.folder / 'accuracy.png', rows)
  return rows


def again(plan: Experiment, folder: Path) -> list[Row]:
  """Returns the rows of a finished run, with the accuracies of its files as they are now."""
  rows = read_rows(folder, 'prune', Row)
  known = {TEACHER: (plan.teacher.groups[TEACHER], given.description(plan))}
  known |= {arm.name: (plan.students.groups[arm.label], _described(plan, arm)) for arm in arms(plan.config)}
  return Scoring(plan.data, plan.test, folder).rows_again(rows, known)


def one_shot(plan: Experiment, to: Run, frozen: Any, trained: dict[Arm, Trained]) -> dict[Arm, Trained]:
  """Cuts once to each sparsity and trains what is left, as long as iterative does to come there."""
  config = plan.config
  found = [arm for arm in arms(config) if arm.cut == 'one-shot']
  origins = {arm: trained[Arm(arm.activation, arm.segments, DENSE)] for arm in found}
  epochs = {arm: config.finetune_epochs * (1 + config.sparsity.index(_sparsity(arm))) for arm in found}
  return _tuned(plan, to, 'one-shot', epochs, frozen, origins)


def iterative(plan: Experiment, to: Run, frozen: Any, trained: dict[Arm, Trained]) -> dict[Arm, Trained]:
  """Cuts to one sparsity after another, and trains what is left after each."""
  config = plan.config
  every = [arm for arm in arms(config) if arm.cut == 'iterative']
  found: dict[Arm, Trained] = {}
  for i, sparsity in enumerate(config.sparsity):
    now = [arm for arm in every if arm.sparsity == sparsity]
    origins = {
      arm: found[arm._replace(sparsity=config.sparsity[i - 1])] if i else trained[Arm(*arm[:2], DENSE)] for arm in now
    }
    epochs = dict.fromkeys(now, config.finetune_epochs)
    found |= _tuned(plan, to, f'iterative-{100 * sparsity:g}', epochs, frozen, origins)
  return found


def _tuned(
  plan: Experiment, to: Run, phase: str, epochs: dict[Arm, int], frozen: Any, origins: dict[Arm, Trained]
) -> dict[Arm, Trained]:
  """Cuts and trains; arms of one activation differ in their masks alone, and are one group with their seeds."""
  config, files, groups, starts = plan.config, Files(plan.data, to.folder), {}, {}
  for name, whole in plan.students.groups.items():
    own = [arm for arm in epochs if arm.label == name]
    schedules = [cosine(epochs[arm]) for arm in own for _ in config.all_seeds]
    seeds = [seed for _ in own for seed in config.all_seeds]
    groups[name] = whole._replace(seeds=seeds, schedules=schedules, reparam=reparam(config, own[0]))
    starts[name] = _started(plan, files, groups[name], [(arm, origins[arm]) for arm in own])
  longest = cosine(max(epochs.values()))
  how = Plan(config.finetune_learning_rate, sgd(config.weight_decay), longest, config.save_every)
  progress = fit(to, phase, Cohort(groups, how, plan.students.share), plan.data, frozen, starts)
  found, count = {}, len(config.all_seeds)
  for name, group in groups.items():
    for i, arm in enumerate(arm for arm in epochs if arm.label == name):
      end = jax.tree.map(lambda leaf, at=i * count: leaf[at : at + count], progress[name].end)
      found[arm] = Trained(_one_arm(plan, group), end)
  return found


def _started(plan: Experiment, files: Files, group: Group, origins: list[tuple[Arm, Trained]]) -> Start:
  """Cuts every origin, and measures the statistics of what is left."""
  each = []
  for arm, origin in origins:
    params, stats = jax.device_get((origin.params(), origin.end.stats))
    for i in range(len(plan.config.all_seeds)):
      theta, code = cut(plan.config, member(params, i), arm.method, _sparsity(arm))
      each.append(Start(theta, code, member(stats, i)))
  start = jax.tree.map(jnp.asarray, stacked(each))
  _, stats = parted(files.measured(group, Trained(group, start).variables()))
  return start._replace(stats=stats)


def _before(plan: Experiment, arm: Arm, end: Start) -> Trained:
  """A student before the cut, with its weights as they are or quantized afterwards."""
  group = plan.students.groups[arm.label]
  if arm.method != UNIFORM:
    return Trained(group, end)
  quantized = group._replace(reparam=reparam(plan.config, arm))
  theta, code = jax.jit(group.over(lambda params: quantized.reparam.init(params, jax.random.key(0))))(end.theta)
  return Trained(quantized, Start(theta, code, end.stats))


def _one_arm(plan: Experiment, group: Group) -> Group:
  return group._replace(seeds=plan.config.all_seeds, schedules=None)


def _sparsity(arm: Arm) -> float:
  assert arm.sparsity is not None
  return arm.sparsity


def _described(plan: Experiment, arm: Arm) -> dict[str, Any]:
  network = build.shaped_network(plan.config)
  return of_network(plan.config, plan.dataset, *network, arm.activation, arm.segments)


def _teacher_row(plan: Experiment, scoring: Scoring, trained: Trained) -> Row:
  scored = scoring.scored(TEACHER, trained, given.description(plan))
  return _made(Arm('relu', None, TEACHER), TEACHER, scored, {})


def _row(plan: Experiment, scoring: Scoring, arm: Arm, trained: Trained, folder: Path) -> Row:
  scored = scoring.scored(arm.name, trained, _described(plan, arm))
  parts: dict[str, Any] = {}
  if scored.file:
    tensors = shipped.read(folder / scored.file).packed.tensors
    parts['kernel_bytes'] = PackedTree(tree.partition(tensors, kernels)[0]).bits() // 8
  if arm.sparsity is not None:
    parts |= _coded(plan, scoring, trained)
  return _made(arm, arm.name, scored, parts)


def _coded(plan: Experiment, scoring: Scoring, trained: Trained) -> dict[str, Any]:
  """Codes the kernels as a stream, and scores what it says; sizes are means over the seeds."""
  params = jax.device_get(trained.params())
  sizes, decoded, zips = [], [], {'zlib_float16': [], 'zlib_int8': []}
  for i in range(len(plan.config.all_seeds)):
    selected, rest = tree.partition(member(params, i), kernels)
    if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(selected)):
      return {}  # diverged: it has no file either
    stream = to_stream(selected, step=plan.config.step)
    sizes.append(len(stream))
    decoded.append(tree.combine(like(selected, from_stream(stream)), rest))
    for name, dtype in (('zlib_float16', np.float16), ('zlib_int8', np.int8)):
      zips[name].append(zipped(selected, dtype))
  found = {'stream_bytes': round(float(np.mean(sizes))), **{name: round(float(np.mean(z))) for name, z in zips.items()}}
  return {**found, 'stream_accuracy': scoring.with_params(trained, stacked(decoded))}


def _made(arm: Arm, name: str, scored: Scored, parts: dict[str, Any]) -> Row:
  return Row(
    name, arm.activation, arm.segments, arm.method, arm.cut, arm.sparsity, arm.bits, scored.accuracy,
    scored.validation_accuracy, scored.bytes, scored.file, **parts,
  )  # fmt: skip
