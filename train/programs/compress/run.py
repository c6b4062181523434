"""Runs compress: slims a network by PCA, distils it with another activation, quantizes it, and packs it into a file.

It is pruned before it is quantized, or hashed instead, where that is asked for.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lmajax import compress, tree
from lmajax.training import (
  Stages,
  Start,
  blockwise,
  check_boundaries,
  distilled,
  in_stages,
  mixed,
  supervised,
  teach,
  with_ends,
)
from lmajax.types import Widths
from train import build
from train.activations import chosen, factory
from train.build import of_thin
from train.data import Dataset
from train.deploy import given
from train.deploy.given import Given
from train.deploy.score import Scoring, Trained
from train.engine.cohort import Cohort, Group, fresh, going_on
from train.engine.evaluate import member
from train.engine.fit import fit
from train.engine.walk import Data
from train.programs.compress import plot as draw_compress
from train.programs.compress.config import Compress, check
from train.programs.compress.stages import Stage, alone, links, reparam
from train.programs.compress.table import DISTILLED, LIT, ORIGINAL, PACKED, QUANTIZED, SLIMMED, Row, text
from train.programs.slim.widths import CRITERIA, Slimming, mean_spectra, sliced, slimmable
from train.results.rows import read_rows, write_results
from train.runtime.distributed import first
from train.runtime.errors import UserError
from train.runtime.files import noted
from train.runtime.options import require
from train.runtime.run import Run

LEFT = 'results.json, results.md, accuracy.png, models'


class Experiment(NamedTuple):
  """Data, original and students' activations, built from a configuration."""

  config: Compress
  dataset: Dataset
  data: Data
  teacher_data: Data
  test: list
  slimming: Slimming
  kinds: list[tuple[str, int | None]]  # the students' activations
  given: list[Given]  # the original, a seed each, where it is not trained

  def whole(self, stage: Stage) -> Any:
    """Builds the network with the original's widths and the activation of a stage."""
    return network(self.config, self.dataset, self.data, stage)


def experiment(config: Compress) -> Experiment:
  """Checks the options, reads the data and builds every model, before anything is trained or written."""
  check(config)
  config, dataset = build.read(config)
  config, found = given.teachers(config, several=True)
  given.check_images(found, config, dataset)
  config = given.originals(config, found, ['relu'])
  config = replace(config, seeds=len(found)) if found else config
  data, test = build.data(config, dataset)
  slimming = Slimming(config, network(config, dataset, data, Stage(ORIGINAL)), data.batches.blank)
  init = slimming.model.init(jax.random.key(0), slimming.inputs, train=False)
  spectra = compress.spectra(jax.device_get(init), slimming.graph)
  widths = slimming.solved(slimming.of_variance(spectra), config.rate)  # what cannot be is refused before the training
  check_hash(config, slimming, widths)
  if config.lit:
    try:
      check_boundaries(slimming.model.thinned(widths), slimming.model, slimming.inputs)
    except ValueError as error:
      raise UserError(f'--lit takes a resnet without --coupled: {error}') from error
  teacher_data = build.teacher_data(config, dataset, data)
  return Experiment(config, dataset, data, teacher_data, test, slimming, list(chosen(config)), found)


def check_hash(config: Compress, slimming: Slimming, widths: Widths) -> None:
  """Raises UserError where a network of these widths has too few weights for --hash."""
  if config.hash is not None:
    least = compress.least_ratio(slimming.shapes(slimming.model.thinned(widths))['params'])
    require(config.hash >= least, 'hash', config.hash, f'the least that the slimmed network can have is {least:.4g}')


def network(config: Compress, dataset: Dataset, data: Data, stage: Stage) -> Any:
  act = factory(stage.activation, stage.segments)
  return slimmable(config, act, num_classes=dataset.num_classes, inputs=data.batches.blank)


def stages(plan: Experiment) -> list[Stage]:
  """Returns all stages, in the order of the rows."""
  chains = [Stage(stage, *kind) for kind in plan.kinds for stage in links(plan.config)]
  return [Stage(ORIGINAL), *alone(plan.config), *chains]


def run(plan: Experiment, to: Run) -> list[Row]:
  """Trains all stages of the chain, packs them, and scores the files on the test set, which is read once."""
  config = plan.config
  own = 0 if plan.given else config.epochs * plan.teacher_data.batches.steps_per_epoch
  trained = [stage for stage in links(config) if stage != PACKED]
  phases = len(alone(config)) + len(trained)
  to.bar.total = own + phases * config.finetune_epochs * plan.data.batches.steps_per_epoch
  groups = {Stage(ORIGINAL): group(plan, Stage(ORIGINAL), plan.slimming.full)}
  if plan.given:
    made = {stage: Trained(each, given.end(plan.given)) for stage, each in groups.items()}
  else:
    made = fitted(plan, to, ORIGINAL, groups, {}, None)
  whole = made[Stage(ORIGINAL)].variables()
  widths = thin_widths(plan, whole, to.folder)
  check_hash(config, plan.slimming, widths)
  teacher = member(whole, 0)
  chains = [
    *([stage] for stage in alone(config)),
    *([Stage(stage, *kind) for kind in plan.kinds] for stage in trained),
  ]
  for together in chains:
    phase, groups = together[0].stage, {stage: group(plan, stage, widths) for stage in together}
    starts = {stage: start(plan, each, stage, widths, made) for stage, each in groups.items()}
    made |= fitted(plan, to, phase, groups, starts, teacher)
  if PACKED in links(config):
    made |= {Stage(PACKED, *kind): made[Stage(QUANTIZED, *kind)] for kind in plan.kinds}
  scoring = Scoring(plan.data, plan.test, to.folder)
  rows = [row(plan, scoring, stage, made[stage], widths) for stage in stages(plan)]
  if first():
    write_results(to.folder, config, rows, text(rows))
    draw_compress.accuracy(to.folder / 'accuracy.png', rows)
  return rows


def again(plan: Experiment, folder: Path) -> list[Row]:
  """Returns the rows of a finished run, with the accuracies of its model files as they are now."""
  rows, known = read_rows(folder, 'compress', Row), {stage.name: stage for stage in stages(plan)}
  scoring = Scoring(plan.data, plan.test, folder)

  def scored(row: Row) -> list[float]:
    if row.name not in known:
      raise UserError(f'{folder / "results.json"} has {row.name}, which is not among the stages of its config.json')
    stage, widths = known[row.name], tuple(row.widths)
    return scoring.again(row.name, group(plan, stage, widths), about(plan, stage, widths), row.accuracy)

  return [each._replace(accuracy=scored(each)) for each in rows]


def thin_widths(plan: Experiment, whole: Any, folder: Path) -> Widths:
  """Finds the widths by PCA of all originals, saved in the folder so that a resume on another machine has the same."""
  host, slimming = jax.device_get(whole), plan.slimming

  def solved() -> Widths:
    each = [compress.spectra(member(host, seed), slimming.graph) for seed in range(plan.config.seeds)]
    return slimming.solved(slimming.of_variance(mean_spectra(each)), plan.config.rate)

  return tuple(noted(folder / 'widths.json', SLIMMED, solved))


def group(plan: Experiment, stage: Stage, widths: Widths) -> Group:
  """Returns a stage's training group: on labels, and after slimming also under the original of the first seed."""
  config, model = plan.config, plan.whole(stage).thinned(widths)
  soft = mixed(temperature=config.temperature, soft_weight=config.soft_weight)
  plain = Group(model, supervised(model), config.all_seeds, build.over(model), reparam(config, stage))
  if stage.stage == ORIGINAL:
    return plain._replace(objective=supervised(model, label_smoothing=config.teacher_label_smoothing))
  if stage.stage == SLIMMED:
    return plain
  if stage.stage == LIT:
    every = range(len(config.width))
    objective = blockwise(model, soft, Stages(config.beta, every, every))
    return plain._replace(objective=objective, trained=in_stages(model))
  return plain._replace(objective=distilled(model, soft))


def start(plan: Experiment, own: Group, stage: Stage, widths: Widths, made: dict[Stage, Trained]) -> Start:
  """Returns what a stage starts from: the end of the stage before it, seed by seed."""
  whole = made[Stage(ORIGINAL)].variables()
  if stage.stage == SLIMMED:
    return going_on(sliced(plan.slimming, widths, CRITERIA[plan.config.criterion], own.over)(whole))
  if stage.stage == LIT:
    theirs = jax.device_get(member(whole, 0))
    ends = own.over(lambda thin: with_ends(own.model, thin, plan.slimming.model, theirs))
    return going_on(ends(made[Stage(SLIMMED)].variables()))
  if stage.stage == DISTILLED:
    new = fresh(Cohort({'': own}, build.plan(plan.config, 1)), plan.data.batches.blank)[''].end
    return going_on(with_layers(made[alone(plan.config)[-1]].variables(), {'params': new.theta, **new.stats}))
  chain = links(plan.config)
  before = made[stage._replace(stage=chain[chain.index(stage.stage) - 1])]
  keys = jnp.stack([jax.random.key(seed) for seed in own.seeds])
  theta, code = jax.jit(own.over(lambda pair: own.reparam.init(*pair)))((before.params(), keys))
  return Start(theta, code, before.end.stats)


def with_layers(variables: Any, new: Any) -> Any:
  """Copies weights and norms of a trained network into one with other activations, which keep their initial values."""
  known = tree.by_path(variables)

  def one(path: str, leaf: Any) -> Any:
    return known[path] if path in known and known[path].shape == leaf.shape else leaf

  return tree.map_with_path(one, new)


def fitted(
  plan: Experiment, to: Run, phase: str, groups: dict[Stage, Group], starts: dict[Stage, Start], teacher: Any
) -> dict[Stage, Trained]:
  """Trains the stages of one phase of the chain together."""
  config = plan.config
  slow = replace(config, learning_rate=config.finetune_learning_rate)
  how = build.teacher_plan(config) if phase == ORIGINAL else build.plan(slow, config.finetune_epochs)
  data = plan.teacher_data if phase == ORIGINAL else plan.data
  taught = phase not in (ORIGINAL, SLIMMED)
  named = {stage.name: each for stage, each in groups.items()}
  cohort = Cohort(named, how, teach(plan.slimming.model)) if taught else Cohort(named, how)
  begun = {stage.name: each for stage, each in starts.items()}
  progress = fit(to, phase, cohort, data, teacher if taught else None, begun)
  return {stage: Trained(each, progress[stage.name].end) for stage, each in groups.items()}


def about(plan: Experiment, stage: Stage, widths: Sequence[int]) -> dict[str, Any]:
  thin = None if stage.stage == ORIGINAL else widths
  return of_thin(plan.config, plan.dataset, stage.activation, stage.segments, thin)


def row(plan: Experiment, scoring: Scoring, stage: Stage, trained: Trained, widths: Widths) -> Row:
  """Returns the row of a stage; packed repacks the quantized weights, with an entropy code where that is shorter."""
  widths = plan.slimming.full if stage.stage == ORIGINAL else widths
  scored = scoring.scored(stage.name, trained, about(plan, stage, widths), entropy=stage.stage == PACKED)
  milliseconds = scoring.milliseconds(stage.name.replace(PACKED, QUANTIZED), trained)
  size = tree.size(jax.eval_shape(trained.params)) // plan.config.seeds
  return Row(
    stage.name, stage.stage, stage.activation, stage.segments, list(widths), scored.accuracy,
    scored.validation_accuracy, size, scored.bytes, milliseconds, scored.file,
  )  # fmt: skip
