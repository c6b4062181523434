"""Several processes train as one: the same numbers, one voice, one stop, and one end when one of them is gone."""

import json
import re
import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor

import jax
import numpy as np
import pytest

from tests.support.processes import counting, finished, metrics, start, train
from train.config import load
from train.programs.distill import run as distill
from train.programs.distill.config import Distill
from train.runtime.distributed import join
from train.runtime.errors import UserError

SMALL = ['--activations', 'relu', '--width', '3', '--seeds', '1', '--save-every', '1']
TEN_STEPS = ['--activations', 'lma', '--epochs', '1', '--batch-size', '104']  # of 1,097 images
STEPS_AN_EPOCH = 17

# Notes the rows that each batch takes of the images, and every file of the run that this process opens to write.
_WATCHED = """
import json, sys
from train.__main__ import program
from train.data.batches import Batches
from train.data import Examples

notes, folder, *arguments = sys.argv[1:]
taken, steps, written = [], [], []
take, getitem = Examples.take, Batches.__getitem__

def taking(images, rows):
  taken.extend(map(int, rows))
  return take(images, rows)

def getting(batches, step):
  taken.clear()
  batch = getitem(batches, step)
  steps.append(list(taken))
  return batch

def opening(event, arguments):
  if event == 'open' and str(arguments[0]).startswith(folder) and set(arguments[1] or '') & set('wax+'):
    written.append(str(arguments[0]))

Examples.take, Batches.__getitem__ = taking, getting
sys.addaudithook(opening)
code = program(arguments)
with open(notes, 'w') as file:
  json.dump({'steps': steps, 'written': written}, file)
sys.exit(code)
"""


def free_port():
  with socket.socket() as probe:
    probe.bind(('localhost', 0))
    return probe.getsockname()[1]


def pair(*commands, devices, clusters=None):
  """Two commands as the processes of one cluster, each with when it ended; ``clusters`` replaces the three options."""
  options = ['--coordinator-address', f'localhost:{free_port()}', '--num-processes', 2, '--process-id']
  started = [
    start(*command, *(() if clusters else (*options, i)), devices=devices, **(clusters[i] if clusters else {}))
    for i, command in enumerate(commands)
  ]
  with ThreadPoolExecutor() as pool:
    return list(pool.map(lambda process: (finished(process), time.monotonic()), started))


def distilled(folder, *options):
  return ['distill', '--workdir', folder, *SMALL, *options]


def errors(done):
  return [line for line in done.stderr.splitlines() if line.startswith('error: ')]


@pytest.fixture(scope='module')
def ten_steps(tmp_path_factory):
  """Ten steps of teacher and students by two processes of four devices: the folder, what each said and noted."""
  folder = tmp_path_factory.mktemp('pair')
  notes = [folder / 'notes0', folder / 'notes1']
  run = folder / 'run'
  commands = [['-c', _WATCHED, path, run, *distilled(run, *TEN_STEPS)] for path in notes]
  (one, _), (two, _) = pair(*commands, devices=4)
  assert one.returncode == two.returncode == 0, one.stderr + two.stderr
  return run, (one, two), [json.loads(path.read_text()) for path in notes]


@pytest.mark.slow
def test_two_processes_give_the_numbers_of_one(ten_steps, tmp_path):
  run, _, _ = ten_steps
  done = train(*distilled(tmp_path / 'one', *TEN_STEPS), devices=8)
  assert done.returncode == 0, done.stderr
  plan = distill.experiment(load(Distill, run))
  apart, alone = (distill.restored(plan, folder) for folder in (run, tmp_path / 'one'))
  assert jax.tree.structure(apart) == jax.tree.structure(alone)
  for ours, theirs in zip(jax.tree.leaves(apart), jax.tree.leaves(alone), strict=True):
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)
  losses = [[line['train_loss'] for line in metrics(folder)] for folder in (run, tmp_path / 'one')]
  assert len(losses[0]) == 3
  for ours, theirs in zip(*losses, strict=True):
    np.testing.assert_allclose(ours, theirs, rtol=1e-5)


@pytest.mark.slow
def test_each_process_reads_its_own_rows_alone(ten_steps):
  _, _, (one, two) = ten_steps
  assert len(one['steps']) == len(two['steps']) == 20
  order = np.random.default_rng((0, 0)).permutation(1097)
  for step, (ours, theirs) in enumerate(zip(one['steps'], two['steps'], strict=True)):
    batch = order[step % 10 * 104 :][:104].tolist()
    assert [*ours, *theirs] == batch
    assert len(ours) == len(theirs) == 52


@pytest.mark.slow
def test_one_process_speaks_and_writes_for_both(ten_steps):
  run, (one, two), (first, second) = ten_steps
  names = {path.removeprefix(f'{run}/').split('/')[0] for path in first['written']}
  assert {'config.json.part', 'metrics.jsonl', 'results.json.part', 'environment.json.part'} <= names
  assert all('/checkpoints/' in path for path in second['written'])  # Orbax's: each writes its part of one
  assert (run / 'results.md').read_text() in one.stdout and '100%' in one.stderr
  assert not [line for line in two.stdout.splitlines() if 'Gloo' not in line and 'peer ranks' not in line]
  assert two.stderr == ''
  assert [machine['devices'] for machine in json.loads((run / 'environment.json').read_text())] == [8]


def left_by(victim, folder, killed, *, devices):
  """What the other process says when the victim's program has killed itself."""
  commands = [['-m', 'train'], ['-m', 'train']]
  commands[victim] = killed
  options = ['--teacher-epochs', 1, '--epochs', 2]
  ended = pair(*([*command, *distilled(folder, *options)] for command in commands), devices=devices)
  (dead, died), (left, gone) = ended[victim], ended[1 - victim]
  assert dead.returncode == -signal.SIGKILL
  assert left.returncode not in (0, None)
  assert gone - died < 60
  return errors(left)


@pytest.mark.slow
def test_a_process_that_dies_ends_the_other(tmp_path):
  """Here in the middle of a save that both have a part in."""
  killed = counting(tmp_path / 'dots', kind='save', at=2, signum=signal.SIGKILL)
  (line,) = left_by(1, tmp_path / 'run', killed, devices=2)
  assert re.match('error: process 0 of 2 is cut off: .* start all again with --resume', line)


@pytest.mark.slow
def test_the_coordinator_dies_and_one_process_goes_on(tmp_path):
  folder = tmp_path / 'run'
  killed = counting(tmp_path / 'dots', at=STEPS_AN_EPOCH + 5, signum=signal.SIGKILL)
  (line,) = left_by(0, folder, killed, devices=1)
  assert re.match('error: process 1 of 2 is cut off: .* start all again with --resume', line)
  resumed = train('distill', '--workdir', folder, '--resume')
  assert resumed.returncode == 0, resumed.stderr
  assert [line['step'] // STEPS_AN_EPOCH for line in metrics(folder)] == [1, 1, 1, 2, 2]
  assert (folder / 'results.json').exists()


@pytest.mark.slow
def test_sigterm_to_one_stops_both_at_the_same_step_and_saves(tmp_path):
  """And the cluster is detected: Slurm's variables stand in for the options."""
  folder, dots = tmp_path / 'run', [tmp_path / 'dots0', tmp_path / 'dots1']
  shared = {'SLURM_JOB_ID': str(free_port()), 'SLURM_STEP_NODELIST': 'localhost', 'SLURM_NTASKS': '2'}
  clusters = [{**shared, 'SLURM_PROCID': str(i), 'SLURM_LOCALID': str(i)} for i in range(2)]
  signals = [counting(dots[0]), counting(dots[1], at=20, signum=signal.SIGTERM)]
  commands = [[*command, *distilled(folder, '--epochs', 4)] for command in signals]
  ended = [done for done, _ in pair(*commands, devices=1, clusters=clusters)]
  assert [done.returncode for done in ended] == [128 + signal.SIGTERM] * 2, ended[0].stderr
  assert ended[0].stderr.splitlines()[-1] == f'stopped by SIGTERM; go on with --resume --workdir {folder}'
  assert not errors(ended[0]) and not errors(ended[1])
  steps = dots[0].stat().st_size
  assert dots[1].stat().st_size == steps and 20 <= steps < 4 * STEPS_AN_EPOCH
  saved = [int(path.name) for path in (folder / 'checkpoints' / 'teacher').iterdir()]
  assert max(saved) == steps


@pytest.mark.slow
def test_what_can_be_mended_in_one_process_ends_both(tmp_path):
  """While process 0 waits for the other one, which has nothing to close but its heartbeats."""
  commands = [['-m', 'train', *distilled(tmp_path / 'run', *more)] for more in ([], ['--train-images', '100000'])]
  (waiting, end), (wrong, began) = pair(*commands, devices=1)
  assert wrong.returncode == 2 and '100000 training images' in errors(wrong)[0]
  assert waiting.returncode not in (0, None) and end - began < 60
  assert len(errors(wrong)) == len(errors(waiting)) == 1
  assert 'process 0 of 2 is cut off' in errors(waiting)[0]


HALF_GIVEN = [
  ((None, 2, None), 'go together'),
  (('localhost:1', None, 0), 'go together'),
  (('localhost', 2, 0), 'localhost is no HOST:PORT'),
]


@pytest.mark.parametrize('given, expected', HALF_GIVEN, ids=[str(given) for given, _ in HALF_GIVEN])
def test_a_place_that_is_half_given_is_refused(given, expected):
  with pytest.raises(UserError, match=expected):
    join(*given)


def test_a_wrong_place_is_one_line(tmp_path):
  place = ['--coordinator-address', 'localhost:1', '--num-processes', '2', '--process-id', '2']
  done = train(*distilled(tmp_path / 'run', *place))
  assert done.returncode == 2
  assert done.stderr == 'error: --num-processes 2 --process-id 2: give an index from 0\n'
  assert not (tmp_path / 'run').exists()
