"""Runs slim: thin networks by several rules at equal cost and from several starts, under originals of like schedule."""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lmajax import compress, models, tree
from lmajax.training import Start, distilled, mixed, penalized, supervised, teach
from lmajax.types import Widths
from train import build
from train.activations import chosen, factory, label, labelled
from train.build import of_thin
from train.data import Dataset
from train.deploy import given
from train.deploy.score import MEASURING, timed
from train.engine.cohort import Cohort, Group, going_on, weights
from train.engine.evaluate import measured_again, member, scores
from train.engine.fit import fit, saved
from train.engine.logits_cache import Lesson, remembered
from train.engine.walk import Data
from train.programs.slim import plot as draw_slim
from train.programs.slim.config import Slim, check
from train.programs.slim.table import ORIGINAL, Row, text
from train.programs.slim.widths import CRITERIA, Slimming, mean_scales, mean_spectra, share_of, sliced, slimmable
from train.results.rows import write_results
from train.runtime.distributed import first
from train.runtime.files import noted
from train.runtime.run import Run
from train.teaching import check_cached_logits

PENALIZED, AT_SHARE = 'penalized', '-at-share'
_HALF = 0.5  # of a layer's filters go when its sensitivity is measured
_NULL = 1000  # from this seed on, random weights of the same shapes
LEFT = 'results.json, results.md, accuracy.png, widths.png'


class Original(NamedTuple):
  """A kind of network to be slimmed: its activation, and whether its scales are trained with a penalty."""

  activation: str
  segments: int | None
  penalized: bool = False

  label = labelled

  @property
  def name(self) -> str:
    return f'{self.label}-{PENALIZED if self.penalized else ORIGINAL}'


class Arm(NamedTuple):
  """One row of the table: a thin network, over all seeds."""

  original: Original
  rate: float
  rule: str
  start: str

  @property
  def name(self) -> str:
    return f'{self.original.label}-{100 * self.rate:g}-{self.rule}-{self.start}'

  @property
  def widths(self) -> str:
    """Returns the key under which its widths are saved; all starts share them."""
    return f'{self.original.label}-{100 * self.rate:g}-{self.rule}'


class Experiment(NamedTuple):
  """Data and originals, with their channel graphs, built from a configuration."""

  config: Slim
  dataset: Dataset
  data: Data
  teacher_data: Data
  test: list
  slimmings: dict[str, Slimming]  # by the activation's label
  originals: dict[Original, Group]
  cohort: Cohort
  given: dict[str, Any]  # the originals' variables by name, where they are not trained

  @property
  def plains(self) -> list[Original]:
    """Returns the originals trained without a penalty on their scales, one for each activation."""
    return [each for each in self.originals if not each.penalized]


def experiment(config: Slim) -> Experiment:
  """Checks the options, reads the data and builds the originals, before anything is trained or written."""
  check(config)
  config, dataset = build.read(config)
  check_cached_logits(config, classes=dataset.num_classes)
  config, found = given.teachers(config, several=True)
  given.check_images(found, config, dataset)
  config = given.originals(config, found, [label(*kind) for kind in chosen(config)])
  data, test = build.data(config, dataset)
  slimmings, groups, known = {}, {}, {}
  for kind in chosen(config):
    plain = Original(*kind)
    of_kind = given.one_or_each(found, plain.label, config.seeds)
    if found:
      known[plain.name] = given.variables(of_kind)
    seeds = config.all_seeds[: len(of_kind)] if found else config.all_seeds
    model = slimmable(config, factory(*kind), num_classes=dataset.num_classes, inputs=data.batches.blank)
    slimmings[plain.label] = slimming = Slimming(config, model, data.batches.blank)
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape), slimming.shapes(model))  # the rule asks for widths alone
    rule = slimming.uniform(compress.spectra(zeros, slimming.graph))
    slimming.solved(rule, max(config.rate))  # a rate out of reach is refused before the training
    objective = supervised(model, label_smoothing=config.teacher_label_smoothing)
    groups[plain] = Group(model, objective, seeds, build.over(model))
    if 'norm-scale' in config.rules:
      scales = {path.partition('/')[2] for channels in slimming.graph for path in channels.scales}
      scale = penalized(objective, lambda path, leaf, scales=scales: path in scales, config.scale_penalty)
      groups[plain._replace(penalized=True)] = groups[plain]._replace(objective=scale)
  cohort = Cohort({each.name: group for each, group in groups.items()}, build.teacher_plan(config))
  return Experiment(
    config, dataset, data, build.teacher_data(config, dataset, data), test, slimmings, groups, cohort, known
  )


def _untrained(slimming: Slimming, seeds: Sequence[int]) -> list[Any]:
  """Initializes a network per seed and returns their variables on the host."""
  keys = jnp.stack([jax.random.key(seed) for seed in seeds])
  each = jax.jit(jax.vmap(lambda key: slimming.model.init(key, slimming.inputs, train=False)))(keys)
  return [member(jax.device_get(each), i) for i in range(len(seeds))]


def arms(config: Slim, plain: Original) -> Iterator[Arm]:
  """Yields every thin network of an activation."""
  for rate in config.rate:
    for rule in config.rules:
      for start in config.starts:
        yield Arm(plain._replace(penalized=rule == 'norm-scale'), rate, rule, start)


def run(plan: Experiment, to: Run) -> list[Row]:
  """Trains the originals, finds the widths, trains the thin networks, and reads the test set once."""
  config = plan.config
  own = 0 if plan.given else (config.teacher_epochs or config.epochs) * plan.teacher_data.batches.steps_per_epoch
  to.bar.total = own + len(plan.plains) * config.epochs * plan.data.batches.steps_per_epoch
  trained = plan.given or weights(plan.cohort)(fit(to, 'originals', plan.cohort, plan.teacher_data))
  for plain in [] if plan.given else plan.plains:
    about = of_thin(config, plan.dataset, plain.activation, plain.segments, None)
    given.keep(to.folder, plain.name, plan.originals[plain].seeds, trained[plain.name], about)
  found, students = widths(plan, trained, to.folder), {}
  for plain in plan.plains:
    cohort, data, teacher = under(plan, to, plain, thin(plan, plain, found), member(trained[plain.name], 0))
    begun = pruned(plan, plain, found, trained)
    students |= weights(cohort)(fit(to, f'{plain.label}-students', cohort, data, teacher, begun))
  rows = evaluated(plan, trained, students, found, to.folder)
  if first():
    write_results(to.folder, config, rows, text(rows))
    draw_slim.accuracy(to.folder / 'accuracy.png', rows)
    draw_slim.widths(to.folder / 'widths.png', rows)
  return rows


def again(plan: Experiment, folder: Path) -> list[Row]:
  """Returns the rows of a finished run, scored anew from its checkpoints."""
  trained = plan.given or weights(plan.cohort)(saved(folder, 'originals', plan.cohort, plan.teacher_data))
  found, students = widths(plan, trained, folder), {}
  for plain in plan.plains:
    cohort = thin(plan, plain, found)
    students |= weights(cohort)(saved(folder, f'{plain.label}-students', cohort, plan.data))
  return evaluated(plan, trained, students, found, folder)


def widths(plan: Experiment, trained: dict[str, Any], folder: Path) -> dict[str, Widths]:
  """Finds the widths of each rule and rate, saved in the folder so that a resume on another machine has the same."""
  found = {}
  for plain in plan.plains:
    slimming, host = plan.slimmings[plain.label], jax.device_get(trained)
    seeds = range(len(plan.originals[plain].seeds))
    spectra = mean_spectra([compress.spectra(member(host[plain.name], i), slimming.graph) for i in seeds])
    random = _untrained(slimming, [_NULL + i for i in seeds])
    null = mean_spectra([compress.spectra(variables, slimming.graph) for variables in random])
    rules = {
      'pca': slimming.of_variance(spectra),
      'null': slimming.of_variance(null),
      'uniform': slimming.uniform(spectra),
    }
    if 'norm-scale' in plan.config.rules:
      penalty = plain._replace(penalized=True).name
      rules['norm-scale'] = slimming.of_scales(
        spectra, mean_scales(slimming.graph, [member(host[penalty], i) for i in seeds])
      )
    for number, rate in enumerate(plan.config.rate):
      rules['random'] = slimming.random(spectra, number)
      for rule in dict.fromkeys([*plan.config.rules, 'pca', 'null']):
        name = Arm(plain, rate, rule, '').widths
        solve = partial(slimming.solved, rules[rule], rate)
        found[name] = tuple(noted(folder / 'widths.json', name, solve))
      share = share_of(spectra, found[Arm(plain, rate, 'pca', '').widths])
      at_share = partial(slimming.of_variance(null), share)
      name = Arm(plain, rate, f'null{AT_SHARE}', '').widths
      found[name] = tuple(noted(folder / 'widths.json', name, at_share))
  return found


def thin(plan: Experiment, plain: Original, found: dict[str, Widths]) -> Cohort:
  """Returns the thin networks of an activation as one cohort, which is trained together."""
  config = plan.config
  soft = mixed(temperature=config.temperature, soft_weight=config.soft_weight)
  slimming = plan.slimmings[plain.label]

  def group(arm: Arm) -> Group:
    own = _group(plan, slimming.model.thinned(found[arm.widths]))
    if arm.start == 'pruned':  # from one original all seeds would be one network
      return own._replace(seeds=plan.originals[arm.original].seeds)
    return own._replace(objective=distilled(own.model, soft)) if arm.start == 'distilled' else own

  groups = {arm.name: group(arm) for arm in arms(config, plain)}
  return Cohort(groups, build.plan(config, config.epochs), teach(slimming.model))


def under(plan: Experiment, to: Run, plain: Original, cohort: Cohort, teacher: Any) -> tuple[Cohort, Data, Any]:
  """Returns the thin networks of an activation, their data, and their original, or None where it is cached."""
  live, config = Lesson(plan.data, cohort.share, teacher), plan.config
  folder = f'{plain.name}-logits'
  lesson = remembered(to, live, plan.dataset, config.cached_logits, config.epochs, folder=folder)
  return cohort._replace(share=lesson.share), lesson.data, lesson.teacher


def pruned(plan: Experiment, plain: Original, found: dict[str, Widths], trained: dict[str, Any]) -> dict[str, Start]:
  """Returns the starts of the pruned students: each is sliced from the original of its seed."""
  slimming, begun = plan.slimmings[plain.label], {}
  for arm in arms(plan.config, plain):
    if arm.start == 'pruned':
      criterion = CRITERIA['norm-scale' if arm.rule == 'norm-scale' else plan.config.criterion]
      over = build.over(slimming.model)
      cut = sliced(slimming, found[arm.widths], criterion, over)(trained[arm.original.name])
      begun[arm.name] = going_on(cut)
  return begun


def sensitivities(plan: Experiment, plain: Original, variables: Any, folder: Path) -> list[float]:
  """Returns the mean loss of validation accuracy when one layer loses its less important half, layer by layer.

  Statistics are measured again; nothing is trained after.
  """
  slimming = plan.slimmings[plain.label]

  def right(widths: Widths) -> float:
    group = _group(plan, slimming.model.thinned(widths))
    cut = sliced(slimming, widths, CRITERIA[plan.config.criterion], group.over)(variables)
    batches = (plan.data.batches[i] for i in range(MEASURING))
    measured = measured_again({'': group})({'': cut}, batches)
    return float(scores({'': group})(measured, plan.data.validation)[''].mean())

  def losses() -> list[float]:
    halves = [max(1, round(_HALF * width)) for width in slimming.full]
    whole = right(slimming.full)
    return [whole - right((*slimming.full[:i], half, *slimming.full[i + 1 :])) for i, half in enumerate(halves)]

  return noted(folder / 'sensitivities.json', plain.label, losses)


def evaluated(
  plan: Experiment, trained: dict[str, Any], students: dict[str, Any], found: dict[str, Widths], folder: Path
) -> list[Row]:
  """Returns the rows of the table; nothing before this reads the test set."""
  inputs, programs = plan.test[0][0].inputs, {}

  def row(arm: Arm, variables: Any, widths: Widths) -> Row:
    slimming = plan.slimmings[arm.original.label]
    model = slimming.model.thinned(widths)
    measure = programs.setdefault(arm.widths, scores({'': _group(plan, model)}))
    accuracy, validation = (measure({'': variables}, part)[''].tolist() for part in (plan.test, plan.data.validation))
    one = member(variables, 0)
    milliseconds = noted(folder / 'milliseconds.json', arm.widths, partial(timed, model, one, inputs))
    return Row(
      arm.name, arm.original.activation, arm.original.segments, arm.rule, arm.start, arm.rate, slimming.rate(widths),
      list(widths), accuracy, validation, tree.size(one['params']), tree.nbytes(one),
      models.macs(model, plan.data.batches.blank), milliseconds,
    )  # fmt: skip

  rows = []
  for plain in plan.plains:
    full = plan.slimmings[plain.label].full
    for original in (each for each in plan.originals if each.label == plain.label):
      whole = row(Arm(original, 0.0, PENALIZED if original.penalized else ORIGINAL, ''), trained[original.name], full)
      losses = None if original.penalized else sensitivities(plan, plain, trained[plain.name], folder)
      rows.append(whole._replace(sensitivities=losses))
    for arm in arms(plan.config, plain):
      thin = row(arm, students[arm.name], found[arm.widths])
      nulls = {f'null{at}': list(found[arm._replace(rule=f'null{at}').widths]) for at in ('', AT_SHARE)}
      rows.append(thin._replace(null=nulls['null'], null_at_share=nulls[f'null{AT_SHARE}']))
  return rows


def _group(plan: Experiment, model: Any) -> Group:
  return Group(model, supervised(model), plan.config.all_seeds, build.over(model))
