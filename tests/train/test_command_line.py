"""What a person can mend in what was typed ends in one clear line and exit code 2; what standard output cannot take."""

import json
import signal

import jax
import pytest

from tests.support.processes import LONGEST, finished, start
from tests.support.rows import RESULTS
from tests.support.runs import refused
from train import __main__ as program
from train.config import command as command_of
from train.config import save
from train.programs.distill.config import Distill
from train.programs.regions.config import Regions
from train.programs.trees.config import Trees
from train.runtime import distributed
from train.runtime.errors import UserError

SYNTAX = [
  (['distill', '--activations', 'gelu'], "invalid choice 'gelu' for argument '--activations'. Expected one of"),
  (['distill', '--seeds', 'ten'], "Error parsing --seeds: invalid literal for int() with base 10: 'ten'; see"),
  (['distill', '--sedes', '3'], 'Unrecognized options: --sedes, 3, perhaps --seeds INT was meant; see'),
  (['predict'], 'Missing from python -m train predict: PATH'),
  ([], 'Expected one of {distill, quantize'),
]


@pytest.mark.parametrize('arguments, expected', SYNTAX, ids=[' '.join(arguments) for arguments, _ in SYNTAX])
def test_what_tyro_says_of_options_is_one_line_too(capsys, arguments, expected):
  line = refused(capsys, *arguments)
  assert line.startswith(expected) and line.endswith('see python -m train --help')


MOST = [
  ('distill', 'segments', 1_000_000_000, 4096),
  ('distill', 'width', 10**9, 65_536),
  ('distill', 'seeds', 10**7, 4096),
  ('lit-text', 'length', 10**9, 65_536),
  ('regions', 'grid', 10**6, 2000),
  ('distill-text', 'buckets', 10**6, 256),
  ('distill-text', 'beams', 10**6, 256),
]


@pytest.mark.parametrize('command, name, value, bound', MOST)
def test_what_would_ask_for_all_memory_is_told_its_bound(capsys, tmp_path, command, name, value, bound):
  line = refused(capsys, command, '--workdir', tmp_path / 'run', f'--{name}', value)
  assert line == f'--{name} is {value}: give {bound} or less'


def test_what_standard_output_cannot_show_is_said(tmp_path):
  (tmp_path / 'results.json').write_text(json.dumps(RESULTS))
  done = finished(start('-m', 'train', 'report', tmp_path, PYTHONIOENCODING='latin-1'))
  assert (done.returncode, done.stderr) == (
    2, "error: standard output is latin-1 and cannot show '\\u2212': set PYTHONIOENCODING=utf-8\n"
  )  # fmt: skip


def test_whoever_has_read_enough_may_leave(tmp_path):
  (tmp_path / 'results.json').write_text(json.dumps(RESULTS))
  process = start('-m', 'train', 'report', tmp_path, PYTHONUNBUFFERED='')
  process.stdout.close()
  said = process.stderr.read()
  process.stderr.close()
  assert (process.wait(LONGEST), said) == (128 + signal.SIGPIPE, '')


def test_a_width_that_is_no_student_of_the_paper_is_named(capsys, tmp_path):
  folder = tmp_path / 'cifar-10-batches-bin'
  folder.mkdir()
  record = bytes(range(10))
  for name in [*(f'data_batch_{i}.bin' for i in range(1, 6)), 'test_batch.bin']:
    (folder / name).write_bytes(b''.join(bytes([label]) + bytes(3072) for label in record * 7))
  options = ['--data', 'cifar10', '--data-dir', tmp_path, '--width', '30', '--workdir', tmp_path / 'run']
  assert '--width 30' in refused(capsys, 'distill', *options)


@pytest.mark.parametrize('config', [{}, {'seeds': 3, 'width': 8}], ids=str)
@pytest.mark.parametrize('command', ['regions', 'trees', 'bench', 'unknown'])
def test_report_takes_no_run_without_seeds(capsys, tmp_path, command, config):
  (tmp_path / 'results.json').write_text(json.dumps({**RESULTS, 'recipe': command, 'config': config}))
  assert f'{tmp_path} holds no finished run of seeds' in refused(capsys, 'report', str(tmp_path))


@pytest.mark.parametrize('command', ['regions', 'trees', 'unknown'])
def test_evaluate_takes_no_run_without_networks(capsys, tmp_path, command):
  (tmp_path / 'config.json').write_text(json.dumps({'recipe': command}))
  assert refused(capsys, 'evaluate', str(tmp_path)).startswith(f'{tmp_path} is of {command}, which leaves no networks')


@pytest.mark.parametrize('options', [Regions(), Trees()], ids=['regions', 'trees'])
def test_what_runs_in_one_process_is_not_started_in_several(monkeypatch, options):
  left = []
  monkeypatch.setattr(distributed, 'join', lambda: None)
  monkeypatch.setattr(distributed, 'several', lambda: True)
  monkeypatch.setattr(jax.distributed, 'shutdown', lambda: left.append(True))
  with pytest.raises(UserError, match=f'{command_of(type(options))} runs in one process: start it in one'):
    program._join(options)
  assert left == [True]


@pytest.mark.parametrize('name, joins', [('distill', True), ('regions', True), ('trees', True), ('bench rate', False)])
def test_every_program_joins_its_cluster(monkeypatch, name, joins):
  asked = []
  monkeypatch.setattr(distributed, 'as_one', lambda join, work: asked.append('joined') or 0)
  monkeypatch.setattr(program, 'main', lambda arguments: asked.append('alone') or 0)
  assert program.program(name.split()) == 0
  assert asked == ['joined' if joins else 'alone']


def test_an_unfinished_run_is_not_evaluated(capsys, tmp_path):
  save(Distill(seeds=2, activations=('relu',), width=(3,)), tmp_path)
  assert 'holds no whole checkpoint' in refused(capsys, 'evaluate', tmp_path)
  assert not (tmp_path / 'checkpoints').exists()
