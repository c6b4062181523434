"""Runs datafree: trains networks, makes inputs from them alone, and tunes the same networks with few bits by these."""

from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from lmajax.training import Start, over_all_devices, supervised
from lmajax.types import Batch, Reparam
from train import build, networks
from train.activations import factory
from train.build import Network, of_network
from train.data import Dataset
from train.deploy import given
from train.deploy.score import Scoring, Trained
from train.engine import schedules
from train.engine.cohort import Cohort, Group, Plan, fresh, going_on, weights
from train.engine.evaluate import scores
from train.engine.fit import fit
from train.engine.optimizers import sgd
from train.engine.walk import Data
from train.programs.datafree import likeness, samples, students
from train.programs.datafree import plot as draw_datafree
from train.programs.datafree.config import GAUSSIAN, REAL, Datafree, check, split
from train.programs.datafree.students import FLOAT, Arm, Frozen, Original
from train.programs.datafree.table import ORIGINAL, Row, text
from train.results.rows import read_rows, write_results
from train.runtime.distributed import first
from train.runtime.options import require
from train.runtime.run import Run

LEFT = 'results.json, results.md, accuracy.png, samples.png, models'
_NOISE = 0x5A3  # keeps the draws of inputs apart from those of weights


class Experiment(NamedTuple):
  """Networks and data, built from a configuration."""

  config: Datafree
  dataset: Dataset
  data: Data | None  # the real data: none where no network is to be trained and no source asks for them
  teacher_data: Data | None
  blank: Any
  cohort: Cohort  # the networks that are to have few bits
  models: dict[Original, nn.Module]
  quantized: dict[tuple[Original, int], nn.Module]  # by the bits of their activations
  student: nn.Module | None
  about: dict[Original, dict[str, Any]]
  given: dict[str, Any]  # the networks' variables by name, where they are not trained


def experiment(config: Datafree) -> Experiment:
  """Checks the options, reads the data and builds every model, before anything is trained or written."""
  check(config)
  config, dataset = build.read(config)
  config, found = given.teachers(config, several=True)
  given.check_images(found, config, dataset, coupled=False)
  kinds = students.originals(config)
  config = given.originals(config, found, [each.label for each in kinds])
  blank = jnp.zeros((1, *dataset.test.inputs.shape[1:]))
  data = None if found and REAL not in config.sources else build.data(config, dataset)[0]
  if data is not None and REAL in config.sources:
    most = len(dataset.train.labels)
    require(
      config.samples <= most, 'samples', config.samples, f'the training set has {most}: leave real out of --sources'
    )
  teacher_data = None if data is None else build.teacher_data(config, dataset, data)
  own, classes = Network(config.network, config.width), dataset.num_classes

  def built(act: Any, of: Network = own, what: str = 'network') -> nn.Module:
    return networks.tried(what, of.name, lambda: of.built(act, classes, config.dtype), blank, num_classes=classes)

  models, quantized, groups, known, about = {}, {}, {}, {}, {}
  for kind in kinds:
    if found:
      variables = given.variables(given.one_or_each(found, kind.label, config.seeds))
      known[kind.name] = jax.tree.map(lambda leaf: np.repeat(leaf, config.seeds // len(leaf), axis=0), variables)
    model = models[kind] = built(factory(*kind))
    about[kind] = of_network(config, dataset, *own, *kind)
    for bits in config.bits:
      key = kind, split(bits)[1]
      quantized[key] = quantized.get(key) or built(factory(*kind, bits=key[1]))
    objective = supervised(model, label_smoothing=config.teacher_label_smoothing)
    groups[kind.name] = Group(model, objective, config.all_seeds, build.over(model))
  other = None
  if config.student:
    other = built(factory('relu', None), Network(config.student, config.student_width), 'student')
  cohort = Cohort(groups, build.teacher_plan(config))
  return Experiment(config, dataset, data, teacher_data, blank, cohort, models, quantized, other, about, known)


def run(plan: Experiment, to: Run) -> list[Row]:
  """Trains networks, makes inputs, tunes students; what is real is looked at after that, where it is no source."""
  config = plan.config
  to.bar.total = _steps(plan)
  trained = plan.given or originals(plan, to)
  inputs = sampled(plan, to, trained)
  frozen = Frozen(inputs, said(plan, trained, inputs))
  begun = calibrations(plan, trained, inputs)
  ends = tuned(plan, to, 'students', begun, frozen)
  ends |= tuned(plan, to, 'from-nothing', new(plan), frozen)
  rows = scored(plan, to.folder, trained, inputs, begun, ends)
  if first():
    write_results(to.folder, config, rows, text(rows))
    draw_datafree.accuracy(to.folder / 'accuracy.png', rows)
    shown = {name: np.asarray(leaf[0]) for name, leaf in inputs.items()}
    draw_datafree.samples(to.folder / 'samples.png', shown, plan.dataset)
  return rows


def originals(plan: Experiment, to: Run) -> dict[str, Any]:
  """Trains the networks that are to have few bits."""
  assert plan.teacher_data is not None
  trained = weights(plan.cohort)(fit(to, 'originals', plan.cohort, plan.teacher_data))
  for kind, about in plan.about.items():
    given.keep(to.folder, kind.name, plan.config.all_seeds, trained[kind.name], about)
  return trained


def sampled(plan: Experiment, to: Run, trained: dict[str, Any]) -> dict[str, Any]:
  """Returns the inputs by network and source, each with a leading axis of seeds."""
  config, found = plan.config, {}
  noise = jax.jit(jax.vmap(samples.noise(config.samples, plan.blank)))
  start = noise(jnp.stack([jax.random.fold_in(jax.random.key(seed), _NOISE) for seed in config.all_seeds]))
  cohort = samples.made(config, plan.models, plan.dataset.num_classes)
  starts, same = {}, {GAUSSIAN: start}  # for all kinds of networks
  if REAL in config.sources:
    same[REAL] = jnp.stack([_real(plan, i) for i in range(config.seeds)])
  for kind, model in plan.models.items():
    variables = jax.tree.map(jnp.asarray, trained[kind.name])
    for source in config.sources:
      name = f'{kind.label}-{source}'
      if source in same:
        found[name] = same[source]
      else:
        of = partial(samples.statistics, source, model)
        still = cohort.groups[name].over(lambda pair, of=of: of(*pair))
        starts[name] = Start(start, (), jax.jit(still)((variables, start)))
  if starts:
    rows = samples.Rows(1, 1, plan.blank, steps_per_epoch=samples.epoch(config))
    progress = fit(to, 'samples', cohort, samples.data(rows, over_all_devices()), None, starts)
    found |= {name: each.state.params for name, each in progress.items()}
  names = [f'{kind.label}-{source}' for kind in plan.models for source in config.sources]
  return {name: jnp.asarray(jax.device_get(found[name])) for name in names}


def _real(plan: Experiment, number: int) -> Any:
  """Takes so many inputs of the training set, other ones for each seed as long as there are any."""
  assert plan.data is not None
  batches, size = plan.data.batches, plan.config.samples
  per_batch = len(batches[0].labels)
  need = -(-size // per_batch)
  each = [jax.device_get(batches[number * need + i].inputs) for i in range(need)]
  return jnp.concatenate([jnp.asarray(part) for part in each])[:size]


def said(plan: Experiment, trained: dict[str, Any], inputs: dict[str, Any]) -> dict[str, Any]:
  """Returns what the networks say of all inputs, by network and source."""
  found = {}
  for kind, model in plan.models.items():

    def one(pair: tuple[Any, Any], model: nn.Module = model) -> Any:
      return model.apply(pair[0], pair[1], train=False)[0]

    say = jax.jit(build.over(model)(one))
    for source in plan.config.sources:
      name = f'{kind.label}-{source}'
      found[name] = say((trained[kind.name], inputs[name]))
  return found


def calibrations(plan: Experiment, trained: dict[str, Any], inputs: dict[str, Any]) -> dict[Arm, Trained]:
  """Quantizes the networks and measures the ranges of their activations, for every source and all bits."""
  programs, found = {}, {}
  keys = jnp.stack([jax.random.key(seed) for seed in plan.config.all_seeds])
  for arm in students.arms(plan.config, plan.config.bits):
    group = _alone(plan, arm)
    if (arm.original, arm.bits) not in programs:  # of one kind of network and bits, the inputs alone differ
      model, reparam = group.model, group.reparam

      def one(given: tuple[Any, Any, Any], model: nn.Module = model, reparam: Reparam = reparam) -> Start:
        return students.begun(model, plan.blank, given[0], reparam, given[1:])

      programs[arm.original, arm.bits] = jax.jit(group.over(one))
    variables = jax.tree.map(jnp.asarray, trained[arm.original.name])
    found[arm] = Trained(group, programs[arm.original, arm.bits]((variables, inputs[arm.inputs], keys)))
  return found


def new(plan: Experiment) -> dict[Arm, Trained]:
  """Initializes the students of another architecture."""
  if plan.student is None:
    return {}
  found = {arm: _alone(plan, arm) for arm in students.arms(plan.config, (FLOAT,))}
  cohort = Cohort({arm.name: group for arm, group in found.items()}, _tuning(plan.config, FLOAT))
  begun = fresh(cohort, plan.blank)
  return {arm: Trained(group, begun[arm.name].end) for arm, group in found.items()}


def _tuning(config: Datafree, bits: str) -> Plan:
  """The recipe of students of some bits."""
  if bits == FLOAT:
    decayed, epochs = sgd(config.weight_decay), schedules.cosine(config.student_epochs)
    return Plan(config.student_learning_rate, decayed, epochs, config.save_every)
  return Plan(config.finetune_learning_rate, sgd(0.0), schedules.cosine(config.finetune_epochs), config.save_every)


def tuned(plan: Experiment, to: Run, phase: str, begun: dict[Arm, Trained], frozen: Frozen) -> dict[Arm, Trained]:
  """Tunes students on the inputs of their sources; all of them in one program."""
  if not begun:
    return {}
  config, number = plan.config, jnp.arange(plan.config.seeds)
  groups = {arm.name: students.group(config, arm, each.group.model) for arm, each in begun.items()}
  cohort = Cohort(groups, _tuning(config, next(iter(begun)).bits))
  rows = samples.Rows(config.samples, config.batch_size, plan.blank)
  judged = [(Batch(frozen, None), jnp.ones(config.samples, bool))]
  starts = {
    arm.name: each.end._replace(stats=students.with_member(each.end.stats, number)) for arm, each in begun.items()
  }
  progress = fit(to, phase, cohort, Data(rows, judged, over_all_devices()), frozen, starts)

  def alone(end: Start) -> Start:
    return end._replace(stats=students.without_member(end.stats)[0])

  return {arm: each._replace(end=alone(progress[arm.name].end)) for arm, each in begun.items()}


def _alone(plan: Experiment, arm: Arm) -> Group:
  """The group of a student as it is scored: on the images that all share."""
  model = plan.student if arm.bits == FLOAT else plan.quantized[arm.original, split(arm.bits)[1]]
  assert model is not None
  return Group(model, supervised(model), plan.config.all_seeds, build.over(model), students.reparam(arm))


def scored(
  plan: Experiment,
  folder: Path,
  trained: dict[str, Any],
  inputs: dict[str, Any],
  begun: dict[Arm, Trained],
  ends: dict[Arm, Trained],
) -> list[Row]:
  """Returns the rows of the table; nothing before this reads the test set."""
  test = build.test(plan.config, plan.dataset)
  scoring, programs, rows = Scoring(None, test, folder), {}, []
  parts = likeness.parts(plan.dataset, with_train=plan.data is not None)
  for kind, model in plan.models.items():
    own = Trained(plan.cohort.groups[kind.name], going_on(trained[kind.name]))
    found = scoring.scored(kind.name, own, plan.about[kind])
    rows.append(Row(kind.name, *kind, ORIGINAL, '', None, found.accuracy, found.bytes, found.file, None, None))
    made = {source: inputs[f'{kind.label}-{source}'] for source in plan.config.sources}
    rows += likeness.rows(kind, model, trained[kind.name], parts, made)
  for arm, end in ends.items():
    found = scoring.scored(arm.name, end, _described(plan, arm))
    before = None
    if arm in begun:
      measure = programs.setdefault(id(end.group.model), scores({'': end.group}))
      before = measure({'': begun[arm].variables()}, test)[''].tolist()
    rows.append(
      Row(arm.name, *arm.original, arm.source, arm.bits, before, found.accuracy, found.bytes, found.file, None, None)
    )
  return rows


def again(plan: Experiment, folder: Path) -> list[Row]:
  """Returns the rows of a finished run, with the accuracies of its files as they are now."""
  rows = read_rows(folder, 'datafree', Row)
  known = {kind.name: (plan.cohort.groups[kind.name], plan.about[kind]) for kind in plan.models}
  bits = (*plan.config.bits, *((FLOAT,) if plan.student else ()))
  known |= {arm.name: (_alone(plan, arm), _described(plan, arm)) for arm in students.arms(plan.config, bits)}
  found = iter(
    Scoring(None, build.test(plan.config, plan.dataset), folder).rows_again(
      [row for row in rows if row.divergence is None], known
    )
  )
  return [row if row.divergence is not None else next(found) for row in rows]


def _described(plan: Experiment, arm: Arm) -> dict[str, Any]:
  if arm.bits == FLOAT:
    return of_network(plan.config, plan.dataset, plan.config.student or '', plan.config.student_width, 'relu', None)
  return {**plan.about[arm.original], 'activation_bits': split(arm.bits)[1]}


def _steps(plan: Experiment) -> int:
  """Counts the steps of all phases."""
  config = plan.config
  own = 0 if plan.given or plan.teacher_data is None else plan.teacher_data.batches.steps_per_epoch
  made = len(set(config.sources) - {REAL, GAUSSIAN}) > 0
  per_epoch = config.samples // config.batch_size
  tuned = config.finetune_epochs + (config.student_epochs if plan.student is not None else 0)
  return own * (config.teacher_epochs or config.epochs) + made * config.synthesis_steps + tuned * per_epoch
