"""Quantized students on a teacher's cached logits: they follow those under the teacher, and stopped ones go on."""

import json
from dataclasses import replace

import chex
import pytest

from tests.support.told import Stopping, assert_losses_are_near
from tests.support.trees import random_variables
from train.config import TEACHER
from train.engine.logits_cache import FOLDER
from train.programs.quantize import run as quantize
from train.programs.quantize.config import Quantize
from train.runtime.run import Run, Stopped

CONFIG = Quantize(
  activations=('relu',), width=(3,), bits=(4,), methods=('points',), seeds=2, epochs=1, finetune_epochs=2,
  save_every=1, train_images=100, batch_size=32,
)  # fmt: skip


@pytest.fixture(scope='module')
def plan():
  return quantize.experiment(CONFIG)


def teacher_of(plan):
  return random_variables(plan.teacher.groups[TEACHER].model, 5)


def ends(plan, folder, logits=None):
  """What students of both kinds of fits end with."""
  folder.mkdir(exist_ok=True)
  asked = plan._replace(config=replace(CONFIG, cached_logits=logits))
  with Run(folder) as run:
    lesson = quantize.under(asked, run, teacher_of(plan))
    assert (lesson.teacher is None) == (logits is not None)
    trained = quantize.from_scratch(asked, run, lesson)
    trained |= quantize.with_points(asked, run, lesson, trained)
  return {arm.name: each.end for arm, each in trained.items()}


@pytest.fixture(scope='module')
def told(plan, tmp_path_factory):
  folder = tmp_path_factory.mktemp('told') / 'run'
  return folder, ends(plan, folder, 0)


def test_they_follow_those_under_the_teacher(plan, told, tmp_path):
  folder, found = told
  expected = ends(plan, tmp_path / 'live')
  assert_losses_are_near(folder, tmp_path / 'live', rtol=2e-3)
  chex.assert_trees_all_close(found['relu-w3-float'].theta, expected['relu-w3-float'].theta, atol=2e-3)
  assert not (tmp_path / 'live' / FOLDER).exists()


def test_the_cache_is_of_the_epochs_of_the_longest_fit(told):
  folder, _ = told
  assert json.loads((folder / FOLDER / 'about.json').read_text())['of']['epochs'] == '2'


def test_stopped_among_the_points_they_end_with_the_same_bits(plan, told, tmp_path):
  """Theirs is the only fit that has a second epoch."""
  folder, whole = told
  with Run(tmp_path) as run:
    asked = plan._replace(config=replace(CONFIG, cached_logits=0))
    quantize.under(asked, run, teacher_of(plan))
  stopping = Stopping(plan.data.batches, plan.data.batches.steps_per_epoch)
  with pytest.raises(Stopped):
    ends(plan._replace(data=plan.data._replace(batches=stopping)), tmp_path, 0)
  chex.assert_trees_all_equal(ends(plan, tmp_path, 0), whole)
  name = 'log-probabilities.npy'
  assert (tmp_path / FOLDER / name).read_bytes() == (folder / FOLDER / name).read_bytes()
