"""Whole runs of distill: on other devices, under signals, on a full disk, and with damaged or changed files."""

import json
import re
import shutil
import signal
import time

import pytest

from tests.programs.distill.cases import PHASE, STEPS_AN_EPOCH
from tests.support.processes import SMALL, finished, metrics, start, train
from tests.support.runs import assert_same_run, digests, results
from train.__main__ import main


@pytest.fixture(scope='module')
def whole(whole_run):
  folder = whole_run('distill')
  arms = (['teacher'], ['lma-8-w3-distilled', 'lma-8-w3-hard'])
  epochs = [(phase, STEPS_AN_EPOCH * epoch) for together in arms for epoch in (1, 2, 3) for phase in together]
  assert [(line['phase'], line['step']) for line in metrics(folder)] == epochs
  return folder


@pytest.fixture(scope='module')
def stopped(tmp_path_factory):
  """A run that SIGTERM stopped in the middle of an epoch of the students, and its count of steps."""
  folder = tmp_path_factory.mktemp('stopped') / 'run'
  dots = folder.parent / 'dots'
  done = train('distill', '--workdir', folder, *SMALL, counted=dots, at=PHASE + 8, signum=signal.SIGTERM)
  assert done.returncode == 128 + signal.SIGTERM
  assert done.stderr.splitlines()[-1] == f'stopped by SIGTERM; go on with --resume --workdir {folder}'
  return folder, dots


def test_an_unfinished_run_is_not_scored(stopped, capsys):
  assert main(['evaluate', str(stopped[0])]) == 2
  assert 'students holds no whole checkpoint of its last step' in capsys.readouterr().err


def test_a_run_on_eight_devices_goes_on_on_one(whole, tmp_path):
  folder, dots = tmp_path / 'run', tmp_path / 'dots'
  stopped = train('distill', '--workdir', folder, *SMALL, counted=dots, at=PHASE + 9, signum=signal.SIGTERM, devices=8)
  assert stopped.returncode == 128 + signal.SIGTERM, stopped.stderr
  resumed = train('distill', '--workdir', folder, '--resume', counted=dots)
  assert resumed.returncode == 0, resumed.stderr
  assert dots.stat().st_size == 2 * PHASE
  environments = json.loads((folder / 'environment.json').read_text())
  assert [machine['devices'] for machine in environments] == [8, 1]
  pairs = list(zip(metrics(folder), metrics(whole), strict=True))
  assert all(one['step'] == other['step'] for one, other in pairs)
  assert pairs[0][0]['train_loss'] == pytest.approx(pairs[0][1]['train_loss'], rel=1e-4)


def test_sigterm_saves_first_and_nothing_is_computed_twice(whole, stopped, tmp_path):
  folder, dots = (shutil.copytree(stopped[0], tmp_path / 'run'), shutil.copy(stopped[1], tmp_path / 'dots'))
  resumed = train('distill', '--workdir', folder, '--resume', counted=dots)
  assert resumed.returncode == 0, resumed.stderr
  assert dots.stat().st_size == 2 * PHASE
  assert_same_run(folder, whole)


def test_a_full_disk_ends_in_one_line_and_leaves_what_was_saved(whole, stopped, tmp_path):
  folder = shutil.copytree(stopped[0], tmp_path / 'run')
  full = train('distill', '--workdir', folder, '--resume', limit=8)  # no file above 8 blocks of 1 KiB
  assert full.returncode == 2, full.stderr
  lines = [line for line in full.stderr.splitlines() if line.startswith('error: ')]
  assert len(lines) == 1
  assert 'Traceback' not in full.stderr
  resumed = train('distill', '--workdir', folder, '--resume')
  assert resumed.returncode == 0, resumed.stderr
  assert_same_run(folder, whole)


AT_WORK = """
import os, signal, sys, time
from pathlib import Path
from train.__main__ import _ended
from train.runtime.run import Run

def work():
  with Run(Path(sys.argv[1])) as run:
    run.unsaved = sys.argv[2] == 'unsaved'
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(4)  # a compilation, or scores
    print('saved', flush=True)
    run.unsaved = False
    time.sleep(60)

sys.exit(_ended(work))
"""


@pytest.mark.parametrize('state, said', [('saved', ''), ('unsaved', 'saved\n')])
def test_a_signal_that_no_loop_heeds_ends_what_has_nothing_to_save(tmp_path, state, said):
  folder = tmp_path / 'a run'
  folder.mkdir()
  began = time.monotonic()
  done = finished(start('-c', AT_WORK, folder, state))
  assert (done.returncode, done.stdout) == (128 + signal.SIGTERM, said)
  assert done.stderr.splitlines()[-1] == f"stopped by SIGTERM; go on with --resume --workdir '{folder}'"
  assert 'Traceback' not in done.stderr and time.monotonic() - began < 40


@pytest.mark.parametrize('moment', [0.1, 0.5, 1.0])
def test_an_interrupt_of_the_imports_prints_no_trace(tmp_path, moment):
  process = start('-m', 'train', 'distill', '--workdir', tmp_path / 'run')
  time.sleep(moment)
  process.send_signal(signal.SIGINT)
  done = finished(process)
  assert done.returncode in (-signal.SIGINT, 128 + signal.SIGINT, 1)  # 1: Python itself had not begun
  assert 'train' not in done.stderr or 'stopped by' in done.stderr, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize('name', ['environment.json', 'milliseconds.json', None])
def test_what_can_be_made_again_stops_no_finished_run(whole, tmp_path, name):
  folder = shutil.copytree(whole, tmp_path / 'run')
  if name is None:
    (folder / 'environment.json').unlink()
  else:
    (folder / name).write_text('{"torn')
  resumed = train('distill', '--workdir', folder, '--resume')
  assert resumed.returncode == 0, resumed.stderr
  assert results(folder)['rows'] == results(whole)['rows']


def test_another_learning_rate_in_the_configuration_is_no_other_run(whole, tmp_path):
  folder = shutil.copytree(whole, tmp_path / 'run')
  config = json.loads((folder / 'config.json').read_text())
  (folder / 'config.json').write_text(json.dumps({**config, 'learning_rate': 0.01}))
  for arguments in (['evaluate', folder], ['distill', '--resume', '--workdir', folder]):
    done = train(*arguments)
    assert done.returncode == 2
    line = done.stderr.splitlines()[-1]
    assert 'was made with learning_rate 0.05, not 0.01: restore config.json, or ' in line


@pytest.mark.slow
def test_checkpoints_of_other_types_are_not_trained_over(whole, tmp_path):
  folder = shutil.copytree(whole, tmp_path / 'run')
  before = digests(folder)
  done = finished(start('-m', 'train', 'distill', '--workdir', folder, '--resume', JAX_ENABLE_X64='1'))
  assert done.returncode == 2 and re.search(r'does not fit: .* is float32.* there and float64', done.stderr), (
    done.stderr
  )
  assert digests(folder) == before


@pytest.mark.slow
def test_damaged_checkpoints_are_trained_anew_when_it_is_asked_for(whole, tmp_path):
  folder = shutil.copytree(whole, tmp_path / 'run')
  for phase in (folder / 'checkpoints').iterdir():
    for step in phase.iterdir():
      shutil.rmtree(step / 'state')
  resumed = train('distill', '--workdir', folder, '--resume')
  assert resumed.returncode == 2
  line = resumed.stderr.splitlines()[-1]
  assert line.endswith('none of its checkpoints can be read; restore one, or train anew by --resume --restart')
  anew = train('distill', '--workdir', folder, '--resume', '--restart')
  assert anew.returncode == 0, anew.stderr
  assert_same_run(folder, whole)
