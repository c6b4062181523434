"""Runs trees: teachers believe, small trees learn from labels or beliefs, over folds that are drawn anew.

The beliefs are those on the examples that the teacher was trained on, as a compression has them. What chooses a
threshold was in no teacher's training.
"""

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from sklearn.impute import SimpleImputer
from sklearn.tree import export_text

from train.config import TEACHER
from train.data import tables
from train.data.tables import Table
from train.engine.logits_cache import digest
from train.programs.trees import plot as draw_trees
from train.programs.trees import teachers
from train.programs.trees.config import TABLES, Trees, check
from train.programs.trees.students import ARMS, MAJORITY, Part, Student, grown
from train.programs.trees.table import Row, text
from train.results.rows import write_results
from train.runtime.errors import UserError
from train.runtime.files import noted, write_atomically
from train.runtime.run import Run

LEFT = 'results.json, results.md, accuracy.png, tree.png, rules.txt'
_HELD = 7  # one of so many examples chooses the threshold, one of so many is in no fold


class Experiment(NamedTuple):
  """The tables and the options, built from a configuration."""

  config: Trees
  tables: list[Table]


class Fold(NamedTuple):
  """Numbers of the examples to train on, to choose a threshold by, and to test on."""

  train: np.ndarray
  held: np.ndarray
  test: np.ndarray


Key = tuple[str, str | None, str | None]
"""An arm, its teacher and its weights."""


def experiment(config: Trees) -> Experiment:
  """Checks the options and reads the tables."""
  check(config)
  if config.data == 'tables':
    found = [tables.load(name) for name in TABLES]
  elif config.data in tables.KNOWN:
    found = [tables.load(config.data)]
  elif Path(config.data).suffix == '.csv':
    own = tables.read(Path(config.data), config.target)
    known = digest([own.features, own.labels, np.array(own.classes)])
    if config.data_digest not in ('', known):
      raise UserError(f'{config.data} is not the file that the run began with; give its own, or begin a new run')
    config, found = replace(config, data_digest=known), [own]
  else:
    names = ', '.join(('tables', *tables.KNOWN))
    raise UserError(f'--data is {config.data}: give one of {names}, or FILE.csv')
  least = 2 * _HELD * config.folds
  for table in found:
    if len(table.labels) < least:
      raise UserError(f'--folds is {config.folds}: {table.name} has {len(table.labels)} examples, and needs {least}')
  return Experiment(config, found)


def run(plan: Experiment, to: Run) -> list[Row]:
  """Trains and scores every fold of every repeat; a repeat that was finished before is not done again."""
  config = plan.config
  to.note_environment()
  to.bar.unit = 'fold'
  to.bar.total = len(plan.tables) * config.repeats * config.folds
  rows: list[Row] = []
  for table in plan.tables:
    done = [_known(plan, table, repeat, to) for repeat in range(config.repeats)]
    for number, (arm, teacher, weights) in enumerate(_keys(config)):
      each = [repeat[number] for repeat in done]
      accuracy, depth, threshold = (
        [value for one in each for value in one[name]] for name in ('accuracy', 'depth', 'threshold')
      )
      agreement = [one['agreement'] for one in each]
      rows.append(Row(table.name, arm, teacher, weights, accuracy, agreement, depth or None, threshold or None))
  write_results(to.folder, config, rows, text(rows))
  draw_trees.accuracy(to.folder / 'accuracy.png', rows)
  _show(plan, to.folder)
  return rows


def _known(plan: Experiment, table: Table, repeat: int, to: Run) -> list[dict[str, Any]]:
  """Returns the scores of a repeat, which are made only once."""
  before = to.bar.n

  def made() -> list[dict[str, Any]]:
    to.cut_back([table.name], repeat)  # what was reported, and not noted
    began = time.perf_counter()
    found = _repeat(plan, table, repeat, to)
    names = [' '.join(filter(None, key)) for key in _keys(plan.config)]
    accuracies = {name: float(np.mean(one['accuracy'])) for name, one in zip(names, found, strict=True)}
    to.report(table.name, repeat + 1, {'seconds': time.perf_counter() - began, **accuracies})
    return found

  found = noted(to.folder / 'repeats.json', f'{table.name} {repeat}', made)
  to.bar.update(before + plan.config.folds - to.bar.n)
  if to.stopping():
    to.stop()
  return found


def _keys(config: Trees) -> Iterator[Key]:
  """What is scored, in the order of the rows: what needs no teacher first."""
  yield MAJORITY, None, None
  for teacher in config.teachers:
    yield TEACHER, teacher, None
  for weights in config.weights:
    for arm in ARMS:
      for teacher in config.teachers if ARMS.index(arm) > 1 else (None,):
        yield arm, teacher, weights


def _repeat(plan: Experiment, table: Table, repeat: int, to: Run) -> list[dict[str, Any]]:
  """Scores one drawing of the parts: of each key the accuracies of its folds, and how far their trees agree."""
  folds, outside = parts(table.labels, plan.config.folds, repeat)
  keys = list(_keys(plan.config))
  scores: dict[Key, dict[str, Any]] = {key: {'accuracy': [], 'depth': [], 'threshold': []} for key in keys}
  answers: dict[Key, list[np.ndarray]] = {key: [] for key in keys}
  for number, fold in enumerate(folds):
    features = imputed(table.features, fold.train)
    for key, student in _students(plan.config, table._replace(features=features), folds, number, repeat):
      found = scores[key]
      right = student.predicts(features[fold.test]) == table.labels[fold.test]
      found['accuracy'].append(float(np.mean(right)))
      answers[key].append(student.predicts(features[outside]))
      if student.median is not None:
        found['depth'].append(student.median.depth)
        found['threshold'].append(student.median.threshold)
    to.bar.update()
  return [{**scores[key], 'agreement': agreement(answers[key])} for key in keys]


def _students(
  config: Trees, table: Table, folds: list[Fold], number: int, repeat: int
) -> Iterator[tuple[Key, Student]]:
  """Yields everything that a fold trains, on a table of which nothing is missing."""
  features, labels, classes = table.features, table.labels, len(table.classes)
  fold, seed, most = folds[number], repeat * config.folds + number, max(len(each.train) for each in folds)
  often = int(np.bincount(labels[fold.train]).argmax())
  yield (MAJORITY, None, None), Student(lambda given: np.full(len(given), often), None)
  held = features[fold.held], labels[fold.held]
  nobody = np.eye(classes)[labels[fold.train]]
  taught: dict[str | None, Part] = {None: Part(features[fold.train], labels[fold.train], nobody, held)}
  for name in config.teachers:
    how: Any = {'seed': seed} | ({'epochs': config.epochs, 'most': most} if name == 'networks' else {})
    believes = getattr(teachers, name)(features[fold.train], labels[fold.train], classes, **how)
    taught[name] = taught[None]._replace(beliefs=believes(features[fold.train]))
    yield (TEACHER, name, None), Student(lambda given, believes=believes: believes(given).argmax(axis=1), None)
  for arm, teacher, weights in _keys(config):
    if weights is not None:
      how = {'depth': config.depth, 'balanced': weights == 'balanced', 'thresholds': config.thresholds, 'seed': seed}
      yield (arm, teacher, weights), grown(arm, taught[teacher], **how)


def parts(labels: np.ndarray, folds: int, repeat: int) -> tuple[list[Fold], np.ndarray]:
  """Draws the folds, every part with its share of each class, and the examples that are in none of them.

  Classes of fewer examples than folds are dealt out, too; scikit-learn's StratifiedKFold warns of them.
  """
  rng = np.random.default_rng(repeat)
  order = _by_class(labels, rng.permutation(len(labels)))
  outside, inside = order[::_HELD], np.delete(order, np.s_[::_HELD])
  found = []
  for i in range(folds):
    rest = _by_class(labels, rng.permutation(np.delete(inside, np.s_[i::folds])))
    found.append(Fold(np.delete(rest, np.s_[::_HELD]), rest[::_HELD], inside[i::folds]))
  return found, outside


def _by_class(labels: np.ndarray, rows: np.ndarray) -> np.ndarray:
  return rows[np.argsort(labels[rows], kind='stable')]


def imputed(features: np.ndarray, train: np.ndarray) -> np.ndarray:
  """Fills what is missing with the mean over the training examples, or with 0 where these have none."""
  return np.asarray(SimpleImputer(keep_empty_features=True).fit(features[train]).transform(features))


def agreement(answers: list[np.ndarray]) -> float:
  """Returns the mean share of equal answers over all pairs of folds."""
  pairs = [np.mean(a == b) for i, a in enumerate(answers) for b in answers[:i]]
  return float(np.mean(pairs))


def _show(plan: Experiment, folder: Path) -> None:
  """Draws and writes out the first fold's CREMBO tree of the first table, teacher and kind of weights."""
  config, table = plan.config, plan.tables[0]
  config = replace(config, teachers=config.teachers[:1], weights=config.weights[:1])  # the rest is trained for nothing
  folds, _ = parts(table.labels, config.folds, 0)
  whole = table._replace(features=imputed(table.features, folds[0].train))
  found = next(student.tree for key, student in _students(config, whole, folds, 0, 0) if key[0] == 'crembo')
  draw_trees.tree(folder / 'tree.png', found, table.columns, table.classes)
  names = [table.classes[number] for number in np.asarray(found.classes_, int)]
  write_atomically(folder / 'rules.txt', export_text(found, feature_names=table.columns, class_names=names))
