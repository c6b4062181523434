"""Runs of distill under kept logits: what belongs to which run, and killed they end with the same bits."""

import dataclasses
import filecmp
import json
import re
import shutil
import signal

import jax
import numpy as np
import pytest

from tests.support.processes import train
from tests.support.runs import assert_same_run, refused, run_whole
from train.__main__ import main
from train.data import load
from train.engine.logits_cache import FOLDER
from train.programs.distill import run as recipe
from train.programs.distill.config import Distill
from train.runtime.errors import UserError
from train.runtime.run import Run

CHANGES = (('seeds', 1), ('cached_logits', 3), ('train_images', 210), ('batch_size', 32), ('mixup', 1.0))


def test_a_run_of_distill_knows_its_teacher_its_data_and_its_batches(tmp_path):
  config = Distill(activations=('relu',), width=(3,), seeds=1, epochs=1, train_images=200, cached_logits=2)
  plans = {change: recipe.experiment(dataclasses.replace(config, **{change: value})) for change, value in CHANGES}
  plan = plans['seeds']
  blank = plan.data.batches.blank
  first, other = (plan.teacher.groups['teacher'].model.init(jax.random.key(i), blank, train=False) for i in (0, 1))

  def named(plan, teacher):
    with pytest.raises(UserError) as caught, Run(tmp_path) as run:
      recipe.under(plan, run, teacher)
    return re.search('differs in: (.*);', str(caught.value)).group(1)

  with Run(tmp_path) as run:
    recipe.under(plan, run, first)
    students, data, shared = recipe.under(plan, run, first)
  assert shared is None and data.batches[0].said.classes.shape == (64, 2)
  assert students.groups is plan.students.groups
  assert named(plan, other) == 'teacher'
  assert named(plans['cached_logits'], first) == 'logits'
  assert named(plans['train_images'], first) == 'data, batches'
  assert named(plans['batch_size'], first) == named(plans['mixup'], first) == 'batches'


def test_a_number_of_logits_that_cannot_be_is_named(capsys, tmp_path):
  at = ['distill', '--workdir', tmp_path / 'run', '--cached-logits']
  assert refused(capsys, *at, -1) == '--cached-logits is -1: give 0 or more'
  assert refused(capsys, *at, 16) == '--cached-logits is 16: there are 10 classes; give no more, or 0'
  assert not (tmp_path / 'run').exists()


TINY = ['--activations', 'relu', '--width', '3', '--seeds', '1', '--epochs', '2', '--save-every', '1']
PHASE = 2 * 17


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
  return run_whole(tmp_path_factory.mktemp('whole') / 'run', 'distill', [*TINY, '--cached-logits', '4'], 2 * PHASE)


def test_a_run_keeps_what_its_options_ask_for(whole):
  about = json.loads((whole / FOLDER / 'about.json').read_text())
  assert about['of'].keys() == {'teacher', 'data', 'batches', 'logits', 'epochs'} and about['of']['logits'] == '4'
  assert not (whole / f'{FOLDER}.part').exists()
  classes, labels = np.load(whole / FOLDER / 'classes.npy'), load('digits').train.labels
  assert (classes.shape, classes.dtype) == ((len(labels), 4), np.uint16)
  log_p = np.load(whole / FOLDER / 'log-probabilities.npy')
  assert log_p.dtype == np.float16 and np.all(np.diff(log_p.astype(float)) <= 0)
  assert np.mean(classes[:, 0] == labels) > 0.9


@pytest.mark.slow
def test_killed_while_it_writes_and_while_students_train_a_run_ends_with_the_same_bits(whole, tmp_path):
  folder, part = tmp_path / 'run', tmp_path / 'run' / f'{FOLDER}.part'
  kill = {'signum': signal.SIGKILL, 'counted': tmp_path / 'files', 'kind': 'file', 'at': 4}  # about.json
  killed = train('distill', '--workdir', folder, *TINY, '--cached-logits', '4', **kill)
  assert killed.returncode == -signal.SIGKILL, killed.stderr
  assert part.is_dir() and not (folder / FOLDER).exists()
  kill = {'signum': signal.SIGKILL, 'counted': tmp_path / 'steps', 'at': 25}
  killed = train('distill', '--workdir', folder, '--resume', **kill)
  assert killed.returncode == -signal.SIGKILL, killed.stderr
  assert (folder / FOLDER).is_dir() and not part.exists()
  before = (folder / FOLDER / 'about.json').stat().st_mtime_ns
  resumed = train('distill', '--workdir', folder, '--resume', counted=tmp_path / 'dots')
  assert resumed.returncode == 0, resumed.stderr
  assert (tmp_path / 'dots').stat().st_size == 17
  assert (folder / FOLDER / 'about.json').stat().st_mtime_ns == before
  assert_same_run(folder, whole)
  assert filecmp.cmpfiles(folder / FOLDER, whole / FOLDER, ['about.json', 'classes.npy'], shallow=False)[0]


def test_a_stale_cache_ends_a_resumed_run_in_one_line(whole, tmp_path, capsys):
  folder = shutil.copytree(whole, tmp_path / 'run')
  path = folder / FOLDER / 'about.json'
  about = json.loads(path.read_text())
  path.write_text(json.dumps({**about, 'of': {**about['of'], 'teacher': 64 * '0'}}))
  assert main(['distill', '--workdir', str(folder), '--resume']) == 2
  line = capsys.readouterr().err.splitlines()[-1]
  assert line == f'error: {folder / FOLDER} is of another run, which differs in: teacher; delete it, then --resume'
