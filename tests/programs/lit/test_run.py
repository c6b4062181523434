"""A whole run of lit, through every kind of fit: what is frozen and scored, and killed it ends with the same bits."""

from functools import partial

import jax
import numpy as np
import pytest

from tests.programs.lit.cases import FITS, METHODS, STEPS_AN_EPOCH
from tests.support.processes import metrics
from train.config import TEACHER, load
from train.engine.cohort import fresh
from train.engine.evaluate import member
from train.engine.fit import saved
from train.programs.lit import run as lit
from train.programs.lit import table as report_lit
from train.programs.lit.config import Lit
from train.programs.lit.table import Arm
from train.results.rows import read_rows

pytestmark = pytest.mark.slow

NAMES = [f'relu-{method}' for method in (TEACHER, *METHODS)]


@pytest.fixture(scope='module')
def whole(whole_run):
  return whole_run('lit')


@pytest.fixture(scope='module')
def rows(whole):
  return {row.name: row for row in read_rows(whole, 'lit', report_lit.Row)}


@pytest.fixture(scope='module')
def plan(whole):
  return lit.experiment(load(Lit, whole))


@pytest.fixture(scope='module')
def ends(whole, plan):
  """What each group of each fit ended with: params, statistics."""
  found = {each.name: saved(whole, each.name, each.cohort, plan.data) for each in plan.fits}
  return {name: jax.device_get(progress.end) for fit in found.values() for name, progress in fit.items()}


def parts(end, *, stages):
  """The leaves of the stages, or of stem and head, parameters and statistics, by path."""
  flat, _ = jax.tree_util.tree_flatten_with_path({'params': end.theta, **end.stats})
  named = {jax.tree_util.keystr(path): leaf for path, leaf in flat}
  return {path: leaf for path, leaf in named.items() if ('stages_' in path) == stages}


def moved(end, other, **which):
  one, two = parts(end, **which), parts(other, **which)
  assert one.keys() == two.keys() and one
  return {path for path in one if not np.array_equal(one[path], two[path])}


class TestTraining:
  def test_every_method_takes_as_many_steps(self, whole):
    lines = metrics(whole)
    for method in METHODS:
      names = {f'relu-{method}-{phase.removeprefix("relu-")}' for phase in FITS}
      ends = {line['phase']: line['step'] for line in lines if line['phase'] in names}
      assert sum(ends.values()) == 5 * STEPS_AN_EPOCH

  @pytest.mark.parametrize('method', ['lit', 'lit-merging'])
  def test_stem_and_head_stay_the_teachers_until_fine_tuning(self, ends, method):
    last = 'merging-3' if method == 'lit-merging' else 'stages'
    end, teacher = ends[f'relu-{method}-{last}'], ends['relu-teacher-teacher']
    theirs = parts(teacher, stages=False)
    for path, leaf in parts(end, stages=False).items():
      np.testing.assert_array_equal(leaf, np.broadcast_to(theirs[path], leaf.shape))
    assert any('mean' in path for path in theirs)
    tuned = ends[f'relu-{method}-finetune']
    assert moved(end, tuned, stages=False) == {*theirs}

  def test_a_hint_trains_what_lies_below_it_alone(self, plan, ends):
    hints = next(each for each in plan.fits if each.name == 'relu-hints')
    begun = fresh(hints.cohort, plan.data.batches.blank)['relu-hint-hints'].end
    end = ends['relu-hint-hints']
    params = partial(jax.tree.map, lambda a, b: np.array_equal(a, b))
    same = params(begun.theta, end.theta)
    for name, part in same.items():
      assert set(jax.tree.leaves(part)) == {name in ('stages_2', 'logits')}, name

  def test_the_errors_of_compared_stages_are_noted(self, whole):
    found = {}
    for line in metrics(whole):
      found.setdefault(line['phase'], set()).update(name for name in line if name.startswith('train_error_'))
    assert found['relu-lit-stages'] == {f'train_error_{i}' for i in range(3)}
    assert found['relu-lit-merging-merging-2'] == {'train_error_0', 'train_error_2'}
    assert found['relu-lit-finetune'] == found['relu-kd-whole'] == set()


class TestScores:
  def test_there_is_a_row_for_each_method_and_the_teacher(self, rows):
    assert list(rows) == NAMES
    for name, row in rows.items():
      seeds = 1 if name.endswith(TEACHER) else 2
      assert len(row.accuracy) == len(row.validation_accuracy) == seeds
      assert (row.network, row.depth) == (('resnet-14', 14) if row.method == TEACHER else ('resnet-8', 8))
    big, small = rows['relu-teacher'], rows['relu-lit']
    for cost in ('parameters', 'bytes', 'macs'):
      assert getattr(big, cost) > getattr(small, cost) == getattr(rows['relu-kd'], cost) > 0
    assert small.milliseconds > 0

  def test_the_accuracies_are_those_of_the_last_checkpoints(self, rows, plan, ends):
    last = {'lit': 'finetune', 'kd': 'whole', 'hint': 'stages', 'lit-merging': 'finetune'}
    for method, phase in last.items():
      model, end = plan.pairs[Arm(TEACHER, 'relu', None)].student, ends[f'relu-{method}-{phase}']
      for seed in (0, 1):
        variables = member({'params': end.theta, **end.stats}, seed)
        right = [
          (np.asarray(model.apply(variables, batch.inputs, train=False)[0]).argmax(-1) == batch.labels)[mask]
          for batch, mask in plan.test
        ]
        assert np.concatenate(right).mean() == pytest.approx(rows[f'relu-{method}'].accuracy[seed])

  def test_pictures_are_there(self, whole):
    assert all((whole / f'{name}.png').stat().st_size > 5000 for name in ('accuracy', 'errors'))
