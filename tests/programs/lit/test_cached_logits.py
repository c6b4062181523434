"""Shallow students on their teacher's cached logits, where these are all they take of it."""

from dataclasses import replace

import chex
import jax
import numpy as np
import pytest

from tests.support.told import Stopping, assert_losses_are_near
from tests.support.trees import random_variables
from train.engine.fit import fit
from train.programs.lit import run as lit
from train.programs.lit.config import Lit
from train.programs.lit.texts import LitText
from train.runtime.run import Run, Stopped

CONFIG = Lit(
  methods=('hard', 'kd', 'hint', 'lit'), teacher='resnet-14', width=(2, 3, 4), seeds=1, epochs=1, finetune_epochs=1,
  save_every=1, train_images=100, batch_size=32,
)  # fmt: skip
TEXTS = LitText(
  methods=('kd', 'lit'), width=(2, 3, 3, 4), units=(5,), length=64, seeds=1, epochs=1, finetune_epochs=1,
  train_texts=64, batch_size=16,
)  # fmt: skip
KEPT = ('whole', 'finetune')


@pytest.fixture(scope='module')
def plan():
  return lit.experiment(CONFIG)


def teacher_of(plan):
  (pair,) = plan.pairs.values()
  return random_variables(pair.teacher, 5, plan.data.batches.blank)


def fit_of(plan, phase):
  return next(each for each in plan.fits if each.name.endswith(phase))


def asking(plan, logits):
  return plan._replace(config=replace(plan.config, cached_logits=logits))


@pytest.mark.parametrize(
  'methods, heard',
  [
    (('hard', 'kd', 'hint', 'lit'), {'whole', 'finetune'}),
    (('hint', 'born-again'), {'whole', 'stages'}),
    (('hard', 'lit-merging'), {'finetune'}),
    (('kd', 'lit-only', 'lit-beta-1'), {'finetune'}),
  ],
)
def test_the_teacher_is_run_where_a_student_takes_its_representations_or_none_its_logits(methods, heard):
  fits = lit.experiment(replace(CONFIG, methods=methods, epochs=3, cached_logits=0)).fits
  assert {each.name.removeprefix('relu-') for each in fits if each.heard} == heard


@pytest.mark.parametrize('config', [CONFIG, TEXTS], ids=['images', 'texts'])
def test_a_batch_comes_with_what_the_teacher_says_of_it(config, tmp_path):
  plan = lit.experiment(replace(config, cached_logits=0))
  teacher, live = teacher_of(plan), plan.data.batches
  with Run(tmp_path) as run:
    for each in plan.fits:
      cohort, data, shared = lit.under(plan, run, each, teacher)
      assert cohort.groups is each.cohort.groups
      if each.name.removeprefix('relu-') not in KEPT:
        assert (cohort, data, shared) == (each.cohort, plan.data, teacher)
        continue
      assert shared is None
      said, told = jax.jit(each.cohort.share), jax.jit(cohort.share)
      for step in range(each.epochs * live.steps_per_epoch):
        true = jax.nn.log_softmax(said(teacher, live[step]).logits)
        np.testing.assert_allclose(told(None, data.batches[step]).logits, true, rtol=1e-3, atol=1e-4)
  assert [path.name for path in tmp_path.glob('*-logits')] == ['relu-teacher-logits']


def ends(plan, folder, logits=None):
  """What the students of the first phase end with."""
  folder.mkdir(exist_ok=True)
  asked, each = asking(plan, logits), fit_of(plan, 'whole')
  with Run(folder) as run:
    cohort, data, shared = lit.under(asked, run, each, teacher_of(plan))
    return {name: progress.end for name, progress in fit(run, each.name, cohort, data, shared).items()}


@pytest.mark.slow
def test_they_follow_those_under_the_teacher_and_stopped_end_with_the_same_bits(plan, tmp_path):
  found, expected = (ends(plan, tmp_path / name, logits) for name, logits in (('told', 0), ('live', None)))
  assert_losses_are_near(tmp_path / 'told', tmp_path / 'live', rtol=2e-3)
  chex.assert_trees_all_close(found, expected, atol=2e-3)
  chex.assert_trees_all_equal(found['relu-hard-whole'], expected['relu-hard-whole'])
  (tmp_path / 'stopped').mkdir()
  with Run(tmp_path / 'stopped') as run:
    lit.under(asking(plan, 0), run, fit_of(plan, 'whole'), teacher_of(plan))
  stopping = Stopping(plan.data.batches, plan.data.batches.steps_per_epoch)
  with pytest.raises(Stopped):
    ends(plan._replace(data=plan.data._replace(batches=stopping)), tmp_path / 'stopped', 0)
  chex.assert_trees_all_equal(ends(plan, tmp_path / 'stopped', 0), found)
