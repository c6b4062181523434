"""Small runs of programs that keep their teacher's logits: killed among the students they end with the same bits."""

import signal

import pytest

from tests.support.processes import train
from tests.support.runs import assert_same_run

pytestmark = pytest.mark.slow

SMALL = ['--seeds', '1', '--train-images', '100', '--batch-size', '32', '--save-every', '1', '--cached-logits', '4']
RUNS = {
  'quantize': (
    [
      *('--activations', 'relu', '--width', '3', '--epochs', '1', '--finetune-epochs', '2', '--bits', '4'),
      *('--methods', 'uniform', 'points', 'product', '--centroids', '4'),
    ],
    ['teacher-logits'],
  ),
  'lit': (
    [
      *('--teacher', 'resnet-14', '--width', '2', '3', '4', '--epochs', '2', '--finetune-epochs', '2'),
      *('--methods', 'kd', 'lit'),
    ],
    ['relu-teacher-logits'],
  ),
  'slim': (
    [
      *('--activations', 'relu', 'prelu', '--width', '6', '5', '--rate', '0.3', '--rules', 'uniform'),
      *('--starts', 'pruned', 'distilled', '--epochs', '2'),
    ],
    ['prelu-original-logits', 'relu-original-logits'],
  ),
}
LEFT = 3
"""Steps before the end: two make an epoch, and the last fit has two of these."""


@pytest.mark.parametrize('command', RUNS)
def test_killed_in_the_last_fit_it_ends_with_the_same_bits(command, tmp_path):
  (options, folders), whole, folder = RUNS[command], tmp_path / 'whole', tmp_path / 'run'
  dots = tmp_path / 'all'
  done = train(command, '--workdir', whole, *SMALL, *options, counted=dots)
  assert done.returncode == 0, done.stderr
  assert sorted(path.name for path in whole.glob('*-logits')) == folders
  kill = {'signum': signal.SIGKILL, 'counted': tmp_path / 'dots', 'at': dots.stat().st_size - LEFT}
  killed = train(command, '--workdir', folder, *SMALL, *options, **kill)
  assert killed.returncode == -signal.SIGKILL, killed.stderr
  before = {name: (folder / name / 'about.json').stat().st_mtime_ns for name in folders}
  resumed = train(command, '--workdir', folder, '--resume')
  assert resumed.returncode == 0, resumed.stderr
  assert {name: (folder / name / 'about.json').stat().st_mtime_ns for name in folders} == before
  assert_same_run(folder, whole)
