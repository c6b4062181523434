"""Killed at any moment and resumed, a run ends with the bits of the run that was never killed."""

import json
import signal

import pytest
from orbax.checkpoint import v1 as ocp

from tests.programs import SMALL, metrics, train

STEPS_AN_EPOCH = 17
PHASES = 3
TOTAL = PHASES * 3 * STEPS_AN_EPOCH


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
  folder = tmp_path_factory.mktemp('whole') / 'run'
  dots = folder.parent / 'dots'
  done = train('distill', '--workdir', folder, *SMALL, counted=dots)
  assert done.returncode == 0, done.stderr
  assert dots.stat().st_size == TOTAL
  return folder


def digests(folder):
  """Phase -> the digests of its last checkpoint: parameters, statistics, optimizer, keys."""
  found = {}
  for phase in sorted((folder / 'checkpoints').iterdir()):
    with ocp.training.Checkpointer(str(phase)) as checkpoints:
      metadata = checkpoints.metadata(checkpoints.latest.step).custom_metadata
      found[phase.name] = checkpoints.latest.step, metadata
  return found


def results(folder):
  return {k: v for k, v in json.loads((folder / 'results.json').read_text()).items() if k != 'seconds_of_training'}


def assert_same_run(folder, whole):
  assert digests(folder) == digests(whole)
  assert metrics(folder) == metrics(whole)
  assert results(folder) == results(whole)


# In the teacher's first epoch, in the middle of a student, and on the last step of a phase.
@pytest.mark.parametrize('at', [5, 3 * STEPS_AN_EPOCH + 30, 2 * 3 * STEPS_AN_EPOCH])
def test_sigkill_then_resume_gives_the_same_bits(whole, tmp_path, at):
  folder, dots = tmp_path / 'run', tmp_path / 'dots'
  killed = train('distill', '--workdir', folder, *SMALL, counted=dots, at=at, signum=signal.SIGKILL)
  assert killed.returncode == -signal.SIGKILL
  before = dots.stat().st_size
  assert before == at
  resumed = train('distill', '--workdir', folder, '--resume', counted=dots)
  assert resumed.returncode == 0, resumed.stderr
  recomputed = dots.stat().st_size - TOTAL
  assert 0 < recomputed <= 2 * STEPS_AN_EPOCH  # at most one save interval, and no finished phase
  assert_same_run(folder, whole)


# After a checkpoint, after a line of metrics that no checkpoint holds yet, and at the very first file.
@pytest.mark.parametrize('kind, after, at', [('save', True, 3), ('line', True, 5), ('file', True, 1)])
def test_sigkill_between_the_files_is_survived_too(whole, tmp_path, kind, after, at):
  folder, dots = tmp_path / 'run', tmp_path / 'dots'
  moment = {'counted': dots, 'kind': kind, 'after': after, 'at': at, 'signum': signal.SIGKILL}
  assert train('distill', '--workdir', folder, *SMALL, **moment).returncode == -signal.SIGKILL
  resumed = train('distill', '--workdir', folder, '--resume')
  assert resumed.returncode == 0, resumed.stderr
  assert_same_run(folder, whole)


def test_an_unfinished_run_is_not_scored(tmp_path):
  folder, dots = tmp_path / 'run', tmp_path / 'dots'
  train('distill', '--workdir', folder, *SMALL, counted=dots, at=TOTAL - 5, signum=signal.SIGTERM)
  scored = train('evaluate', folder)
  assert scored.returncode == 2
  assert 'lma-8-w3-hard holds no whole checkpoint of its last step' in scored.stderr


def test_a_run_on_eight_devices_goes_on_on_one(whole, tmp_path):
  folder, dots = tmp_path / 'run', tmp_path / 'dots'
  stopped = train('distill', '--workdir', folder, *SMALL, counted=dots, at=60, signum=signal.SIGTERM, devices=8)
  assert stopped.returncode == 128 + signal.SIGTERM, stopped.stderr
  resumed = train('distill', '--workdir', folder, '--resume', counted=dots)
  assert resumed.returncode == 0, resumed.stderr
  assert dots.stat().st_size == TOTAL
  environments = json.loads((folder / 'environment.json').read_text())
  assert [machine['devices'] for machine in environments] == [8, 1]
  pairs = list(zip(metrics(folder), metrics(whole), strict=True))
  assert all(one['step'] == other['step'] for one, other in pairs)
  assert pairs[0][0]['train_loss'] == pytest.approx(pairs[0][1]['train_loss'], rel=1e-4)


def test_sigterm_saves_first_and_nothing_is_computed_twice(whole, tmp_path):
  folder, dots = tmp_path / 'run', tmp_path / 'dots'
  at = 3 * STEPS_AN_EPOCH + 8  # in the middle of an epoch of the first student
  stopped = train('distill', '--workdir', folder, *SMALL, counted=dots, at=at, signum=signal.SIGTERM)
  assert stopped.returncode == 128 + signal.SIGTERM
  assert stopped.stderr.splitlines()[-1] == 'stopped by SIGTERM; go on with --resume'
  resumed = train('distill', '--workdir', folder, '--resume', counted=dots)
  assert resumed.returncode == 0, resumed.stderr
  assert dots.stat().st_size == TOTAL
  assert_same_run(folder, whole)


def test_resuming_a_finished_run_computes_nothing_and_says_the_same(whole, tmp_path):
  dots = tmp_path / 'dots'
  before = (whole / 'results.json').read_bytes()
  again = train('distill', '--workdir', whole, '--resume', counted=dots)
  assert again.returncode == 0, again.stderr
  assert not dots.exists()
  assert (whole / 'results.json').read_bytes() == before


def test_evaluate_scores_the_checkpoints_as_the_run_did(whole):
  scored = train('evaluate', whole)
  assert scored.returncode == 0, scored.stderr
  assert scored.stdout.strip() == (whole / 'results.md').read_text().strip()


def test_a_run_on_another_seed_count_is_another_run(whole):
  refused = train('distill', '--workdir', whole, '--resume', '--seeds', '3')
  assert refused.returncode == 2
  assert '--seeds 3' in refused.stderr and 'has 2' in refused.stderr


def test_a_full_disk_ends_in_one_line_and_leaves_what_was_saved(whole, tmp_path):
  folder, dots = tmp_path / 'run', tmp_path / 'dots'
  train('distill', '--workdir', folder, *SMALL, counted=dots, at=3 * STEPS_AN_EPOCH + 20, signum=signal.SIGTERM)
  full = train('distill', '--workdir', folder, '--resume', limit=8)  # no file above 8 blocks of 1 KiB
  assert full.returncode == 2, full.stderr
  lines = [line for line in full.stderr.splitlines() if line.startswith('error: ')]
  assert len(lines) == 1
  assert 'Traceback' not in full.stderr
  resumed = train('distill', '--workdir', folder, '--resume')
  assert resumed.returncode == 0, resumed.stderr
  assert_same_run(folder, whole)
