"""Runs distill-text, the paper's second experiment: a translation Transformer distilled into narrow students."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from lmajax import tree
from lmajax.training import Start, as_it_is, digests, teach
from lmajax.types import Share
from train.config import TEACHER
from train.data.corpora import parallel
from train.data.corpora.buckets import Text, Tokens, numbers
from train.deploy import given
from train.deploy.given import Given
from train.deploy.model_file import file_name
from train.deploy.score import Files, Trained, Written
from train.engine.cohort import Cohort, Group
from train.engine.evaluate import member, stacked
from train.engine.fit import fit
from train.engine.logits_cache import Kept, cached, digest, heard
from train.engine.walk import Data
from train.programs.distill_text import build as build_text
from train.programs.distill_text import model_file as shipped_text
from train.programs.distill_text import plot as draw_text
from train.programs.distill_text.config import DistillText, check
from train.programs.distill_text.decode import Lines, Search, signatures, translated, translator
from train.programs.distill_text.score import Scoring
from train.programs.distill_text.table import Arm, Row, text
from train.results.rows import read_rows, write_results
from train.runtime.distributed import first, wait
from train.runtime.errors import UserError
from train.runtime.files import write_atomically
from train.runtime.options import require
from train.runtime.outside import read_json
from train.runtime.run import Run
from train.teaching import KD, named

STUDENTS, SEQUENCE = 'students', 'sequence'
LEFT = 'results.json, results.md, bleu.png, curves.png, translations, models'


class Experiment(NamedTuple):
  """Data and training groups built from a configuration; the teacher's group is under None."""

  config: DistillText
  text: Text
  data: Data
  groups: dict[Arm | None, Group]
  given: list[Given]  # the teacher, where it is not trained

  @property
  def search(self) -> Search:
    return Search(self.config.beams, self.config.length_penalty, self.config.max_length)

  @property
  def teacher(self) -> Cohort:
    epochs = self.config.teacher_epochs or self.config.epochs
    return Cohort({TEACHER: self.groups[None]}, build_text.plan(self.config, epochs))

  def of(self, *methods: str) -> list[Arm]:
    """Returns the kinds of students trained by any of the methods."""
    return [arm for arm in self.groups if arm is not None and arm.method in methods]


def experiment(config: DistillText) -> Experiment:
  """Checks the options, reads the sentences and builds every model, before anything is trained or written."""
  check(config)
  signatures()  # what is missing is said now, not after the training
  languages = {'source': config.source, 'target': config.target}
  how = {'data_dir': config.data_dir, 'train_sentences': config.train_sentences, **languages}
  found = build_text.read(config, parallel.load(config.data, **how))
  config, teachers = given.teachers(config, read=shipped_text.of_bytes)
  given.check_same(teachers, build_text.description(config, found, None), 'this run')
  for each in teachers:
    shipped_text.fitting(each.shipped, each.path)
  size = found.sizes[1]
  enough = (config.cached_logits or 0) <= size
  require(enough, 'cached_logits', config.cached_logits, f'the vocabulary has {size}; give no more, or 0')
  networks: dict[Any, Any] = {}  # arms of one architecture share their programs

  def group(arm: Arm | None) -> Group:
    key = arm and arm._replace(method='', bits=None, loss=KD)
    network = networks.setdefault(key, build_text.network(config, found, arm))
    return build_text.group(config, arm, network)

  arms = (None, *build_text.arms(config))
  data = build_text.data(config, found, found.train)
  return Experiment(config, found, data, {arm: group(arm) for arm in arms}, teachers)


def run(plan: Experiment, to: Run) -> list[Row]:
  """Trains the teacher and all students, packs them, and scores the files on the test set, which is read once."""
  if first():
    build_text.save_vocabularies(plan.text.vocabularies, to.folder)
  wait('the vocabularies are written')
  to.bar.total = total_steps(plan)
  trained: dict[Arm | None, Trained] = {None: Trained(plan.groups[None], teacher_end(plan, to))}
  teacher = member(trained[None].variables(), 0)
  trained |= fitted(plan, to, STUDENTS, plan.of('hard', 'kd'), plan.data, teacher)
  if plan.of(SEQUENCE):
    said = build_text.data(plan.config, plan.text, said_by_teacher(plan, to.folder, teacher))
    trained |= fitted(plan, to, SEQUENCE, plan.of(SEQUENCE), said, None)
  files = Files(plan.data, to.folder, shipped_text.read)
  rows = evaluated(plan, to.folder, lambda arm, about: files.written(name_of(arm), trained[arm], about))
  if first():
    write_results(to.folder, plan.config, rows, text(rows))
    draw_text.bleu(to.folder / 'bleu.png', rows)
    shown = [arm for arm in plan.of('kd') if arm.loss == named(plan.config)[0]] + plan.of(SEQUENCE)
    own = {arm: jax.device_get(trained[arm].variables()) for arm in shown if arm.bits is None}
    draw_text.curves(to.folder / 'curves.png', own)
  return rows


def teacher_end(plan: Experiment, to: Run) -> Start:
  """Returns the trained teacher, trained here or read from the given file."""
  if plan.given:
    return given.end(plan.given)
  return fit(to, TEACHER, plan.teacher, plan.data)[TEACHER].end


def name_of(arm: Arm | None) -> str:
  """Returns the name of an arm's row; None is the teacher."""
  return TEACHER if arm is None else arm.name


def total_steps(plan: Experiment) -> int:
  """Estimates the steps of all fits: those on the teacher's sentences are about as long as the others."""
  config, fits = plan.config, bool(plan.of('hard', 'kd')) + bool(plan.of(SEQUENCE))
  own = 0 if plan.given else config.teacher_epochs or config.epochs
  return (own + config.epochs * fits) * plan.data.batches.steps_per_epoch


def fitted(plan: Experiment, to: Run, phase: str, arms: list[Arm], data: Data, teacher: Any) -> dict[Arm, Trained]:
  """Trains the students of some arms together, under the teacher where one is given."""
  if not arms:
    return {}
  groups = {arm.name: plan.groups[arm] for arm in arms}
  share = as_it_is if teacher is None else teach(plan.groups[None].model)
  if teacher is not None and plan.config.cached_logits is not None:
    data, share, teacher = told(plan, to, share, data, teacher), heard(plan.text.sizes[1]), None
  cohort = Cohort(groups, build_text.plan(plan.config, plan.config.epochs), share)
  progress = fit(to, phase, cohort, data, teacher)
  return {arm: Trained(plan.groups[arm], progress[arm.name].end) for arm in arms}


def told(plan: Experiment, to: Run, share: Share, data: Data, teacher: Any) -> Data:
  """Returns the data with the teacher's cached logits for every token."""
  found, config = plan.text, plan.config
  lengths = [np.array([len(line) for line in side]) for side in found.train]
  sentences = digest([*map(np.concatenate, found.train), *lengths])
  of = {'teacher': digest(teacher), 'data': sentences, 'vocabulary': build_text.digest(found.vocabularies)}
  return cached(to, share, teacher, data, Kept(config.cached_logits or 0, config.epochs, augmented=False, of=of))


def said_by_teacher(plan: Experiment, folder: Path, teacher: Any) -> Tokens:
  """Returns the training sources with the teacher's translations, made once and kept with the teacher's digest."""
  path, found = folder / 'teacher-sentences.json', plan.text
  made_by = [digests(teacher), plan.search, build_text.digest(found.vocabularies), len(found.train.source)]
  key = hashlib.sha256(json.dumps(made_by).encode()).hexdigest()
  if not path.exists():
    translate = translator(plan.groups[None].model, plan.search, plan.data.batches.everywhere)
    lines = Lines(found.train.source, plan.config.batch_size, found.lengths, plan.data.sharding)
    said = translated(translate, teacher, lines, found.vocabularies.target)
    if first():
      write_atomically(path, json.dumps({'teacher': key, 'sentences': said}, indent=0) + '\n')
    wait('the sentences of the teacher are written')
  known = read_json(path)
  if not isinstance(known, dict) or known.get('teacher') != key:
    raise UserError(f'{path} is of another teacher, search or vocabulary: delete it, then --resume')
  targets = [numbers(line, found.vocabularies.target, plan.config.max_length) for line in known['sentences']]
  return Tokens(found.train.source, targets)


def again(plan: Experiment, folder: Path) -> list[Row]:
  """Returns the rows of a finished run, scored anew from its model files as they are now."""
  rows = {row.name: row for row in read_rows(folder, 'distill-text', Row)}
  files = Files(plan.data, folder, shipped_text.read)

  def read(arm: Arm | None, about: dict[str, Any]) -> Written:
    row = rows.get(name_of(arm))
    if row is None:
      raise UserError(f'{folder / "results.json"} lacks {name_of(arm)}, which its config.json asks for')
    seeds = plan.groups[arm].seeds
    kept = [i for i, value in enumerate(row.perplexity) if np.isfinite(value)]
    found = dict(zip(kept, files.read(about, [folder / file_name(row.name, seeds[i]) for i in kept]), strict=True))
    lost = jax.tree.map(lambda leaf: np.full_like(leaf, np.nan), next(iter(found.values()), None))  # it has no file
    variables = stacked([found.get(i, lost) for i in range(len(seeds))])
    return Written(None, variables, row.mean_bits, row.bytes, row.file)

  return evaluated(plan, folder, read)


def evaluated(plan: Experiment, folder: Path, packed: Callable[[Arm | None, dict[str, Any]], Written]) -> list[Row]:
  """Returns the rows of the table and writes the translations; nothing before this reads the test set."""
  scoring, known = Scoring(plan.text, plan.data, plan.search, plan.config.batch_size), signatures()

  def row(arm: Arm | None, group: Group) -> Row:
    about = build_text.description(plan.config, plan.text, arm)
    written = packed(arm, about)
    figures, said = scoring.scored(group, written.read)
    for seed, lines in zip(group.seeds, said, strict=True):
      _write(folder / 'translations' / f'{name_of(arm)}-seed{seed}.txt', lines)
    size = tree.size(member(written.read['params'], 0))
    method, bits, loss = ('hard', None, KD) if arm is None else (arm.method, arm.bits, arm.loss)
    return Row(
      name_of(arm), method, about['activation'], about['segments'], about['width'], bits, *figures, size,
      written.bits, written.bytes, written.file, plan.text.cut, known, loss,
    )  # fmt: skip

  return [row(arm, group) for arm, group in plan.groups.items()]


def _write(path: Path, lines: list[str]) -> None:
  if first():
    path.parent.mkdir(exist_ok=True)
    write_atomically(path, ''.join(f'{line}\n' for line in lines))
