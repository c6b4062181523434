"""Thin networks on the cached logits of their original: one cache an activation; they follow those under it."""

from dataclasses import replace

import chex
import numpy as np
import pytest

from tests.support.told import Stopping, assert_losses_are_near
from tests.support.trees import random_variables
from train.engine.fit import fit
from train.programs.slim import run as slim
from train.programs.slim.config import Slim
from train.runtime.errors import UserError
from train.runtime.run import Run, Stopped

CONFIG = Slim(
  width=(6, 5), rate=(0.4,), rules=('uniform',), starts=('distilled', 'scratch'), seeds=2, activations=('relu', 'lma'),
  epochs=2, save_every=1, train_images=100, batch_size=32,
)  # fmt: skip
FOUND = {f'{label}-40-uniform': (4, 3) for label in ('relu', 'lma-8')}


@pytest.fixture(scope='module')
def plan():
  return slim.experiment(CONFIG)


def original_of(plan, plain):
  return random_variables(plan.slimmings[plain.label].model, 5)


def under(plan, run, plain):
  return slim.under(plan, run, plain, slim.thin(plan, plain, FOUND), original_of(plan, plain))


def ends(plan, folder, logits=None):
  """What the students of ReLU end with."""
  folder.mkdir(exist_ok=True)
  asked, plain = plan._replace(config=replace(CONFIG, cached_logits=logits)), plan.plains[0]
  with Run(folder) as run:
    cohort, data, teacher = under(asked, run, plain)
    assert (teacher is None) == (logits is not None)
    return {name: each.end for name, each in fit(run, 'students', cohort, data, teacher).items()}


@pytest.fixture(scope='module')
def told(plan, tmp_path_factory):
  folder = tmp_path_factory.mktemp('told') / 'run'
  return folder, ends(plan, folder, 0)


def test_they_follow_those_under_the_original(plan, told, tmp_path):
  folder, found = told
  expected = ends(plan, tmp_path / 'live')
  assert_losses_are_near(folder, tmp_path / 'live', rtol=2e-3)
  chex.assert_trees_all_close(found, expected, atol=2e-3)
  chex.assert_trees_all_equal(found['relu-40-uniform-scratch'], expected['relu-40-uniform-scratch'])
  assert not list((tmp_path / 'live').glob('*-logits'))


def test_stopped_in_the_second_epoch_they_end_with_the_same_bits(plan, told, tmp_path):
  _, whole = told
  asked = plan._replace(config=replace(CONFIG, cached_logits=0))
  with Run(tmp_path) as run:
    under(asked, run, plan.plains[0])
  stopping = Stopping(plan.data.batches, plan.data.batches.steps_per_epoch)
  with pytest.raises(Stopped):
    ends(plan._replace(data=plan.data._replace(batches=stopping)), tmp_path, 0)
  chex.assert_trees_all_equal(ends(plan, tmp_path, 0), whole)


def test_every_original_has_a_cache_of_its_own(plan, tmp_path):
  asked = plan._replace(config=replace(CONFIG, cached_logits=3))
  with Run(tmp_path) as run:
    for plain in plan.plains:
      under(asked, run, plain)
      kept = np.load(tmp_path / f'{plain.name}-logits' / 'classes.npy')
      assert kept.shape == (plan.data.batches.size, 3)
    other = slim.thin(plan, plan.plains[0], FOUND)
    with pytest.raises(UserError, match='relu-original-logits is of another run, which differs in: teacher'):
      slim.under(asked, run, plan.plains[0], other, random_variables(plan.slimmings['relu'].model, 6))
  assert {path.name for path in tmp_path.glob('*-logits')} == {'relu-original-logits', 'lma-8-original-logits'}
