"""Whole runs of slim and compress: what is scored is what was thinned, and killed they end with the same bits."""

import shutil
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.support.processes import train
from tests.support.runs import assert_same_run, refused, saved_steps, whole_run
from train.__main__ import main
from train.data import load
from train.deploy import model_file as shipped
from train.deploy.model_file import file_name
from train.programs.compress import table as report_compress
from train.programs.slim import table as report_slim
from train.results.rows import read_rows

pytestmark = pytest.mark.slow

SMALL = [
  *('--seeds', '2', '--train-images', '400', '--batch-size', '64', '--segments', '4', '--save-every', '1'),
  *('--activations', 'lma', '--epochs', '2'),
]
SLIM = [*SMALL, '--width', '6', '5', '7', '--rate', '0.3', '--rules', 'pca', 'norm-scale']
CHAIN = [*SMALL, '--width', '24', '24', '--rate', '0.5', '--finetune-epochs', '1']
STEPS_AN_EPOCH = 5


def killed_and_resumed(command, options, whole, folder, at):
  """A run that is killed before its step of that number and goes on."""
  killed = train(command, '--workdir', folder, *options, counted=folder.parent / 'dots', at=at, signum=signal.SIGKILL)
  assert killed.returncode == -signal.SIGKILL, killed.stderr
  assert 0 < saved_steps(folder) < at
  resumed = train(command, '--workdir', folder, '--resume')
  assert resumed.returncode == 0, resumed.stderr
  assert_same_run(folder, whole)


@pytest.fixture(scope='module')
def thin(tmp_path_factory):
  return whole_run(tmp_path_factory, 'slim', SLIM, 2 * 2 * STEPS_AN_EPOCH)


@pytest.fixture(scope='module')
def chain(tmp_path_factory):
  return whole_run(tmp_path_factory, 'compress', CHAIN, 5 * STEPS_AN_EPOCH)


@pytest.fixture(scope='module')
def rows(chain):
  return read_rows(chain, 'compress', report_compress.Row)


class TestSlim:
  def test_its_rows_are_the_originals_and_every_start_of_every_rule(self, thin):
    rows = read_rows(thin, 'slim', report_slim.Row)
    starts = ('pruned', 'distilled', 'scratch')
    kinds = [(rule, start) for rule in ('pca', 'norm-scale') for start in starts]
    assert [(row.rule, row.start) for row in rows] == [('original', ''), ('penalized', ''), *kinds]
    for row in rows:
      assert len(row.accuracy) == len(row.validation_accuracy) == 2
      assert (row.sensitivities is not None) == (row.rule == 'original')
    assert all(row.reached >= 0.3 and row.parameters <= 0.7 * rows[0].parameters for row in rows[2:])
    assert len(rows[0].sensitivities) == len(rows[0].widths) == 3

  def test_it_leaves_its_pictures(self, thin):
    assert all((thin / f'{name}.png').stat().st_size > 5000 for name in ('accuracy', 'widths'))

  def test_evaluate_says_the_same_from_the_checkpoints(self, thin, capsys):
    assert main(['evaluate', str(thin)]) == 0
    assert capsys.readouterr().out == (thin / 'results.md').read_text()

  def test_killed_among_the_students_it_ends_with_the_same_bits(self, thin, tmp_path):
    killed_and_resumed('slim', SLIM, thin, tmp_path / 'run', at=3 * STEPS_AN_EPOCH + 3)


class TestCompress:
  def test_its_rows_are_the_stages(self, rows):
    stages = ['original', 'slimmed', 'distilled', 'quantized', 'packed']
    assert [row.stage for row in rows] == stages
    assert rows[1].parameters <= rows[0].parameters / 2
    assert rows[3].accuracy == rows[4].accuracy and rows[3].bytes >= rows[4].bytes
    assert rows[0].bytes > rows[1].bytes > rows[3].bytes

  def test_a_file_gives_exactly_the_accuracy_that_was_printed(self, chain, rows):
    test = load('digits').test
    for row in rows:
      for seed, accuracy in enumerate(row.accuracy):
        found = shipped.read(chain / file_name(row.name, seed))
        logits = shipped.logits(found.description, found.variables(), jnp.asarray(test.inputs))
        assert float(np.mean(np.asarray(jax.device_get(logits)).argmax(-1) == test.labels)) == accuracy
      assert row.bytes == (chain / row.file).stat().st_size

  def test_evaluate_says_the_same_from_the_files(self, chain, capsys):
    assert main(['evaluate', str(chain)]) == 0
    assert capsys.readouterr().out == (chain / 'results.md').read_text()

  def test_an_exchanged_file_is_refused(self, chain, rows, tmp_path, capsys):
    copy = shutil.copytree(chain, tmp_path / 'run')
    shutil.copy(copy / file_name(rows[1].name, 0), copy / file_name(rows[0].name, 0))
    assert 'holds another network than its name says' in refused(capsys, 'evaluate', copy)

  def test_its_packed_student_is_exported_and_loaded_again(self, chain, rows, tmp_path, capsys):
    out = tmp_path / 'a.safetensors'
    options = ['--student', rows[4].name, '--format', 'safetensors', '--out', str(out)]
    assert main(['export', str(chain), *options]) == 0
    assert out.read_bytes() == (chain / rows[4].file).read_bytes()

  def test_killed_while_it_quantizes_it_ends_with_the_same_bits(self, chain, tmp_path):
    folder = tmp_path / 'run'
    killed_and_resumed('compress', CHAIN, chain, folder, at=4 * STEPS_AN_EPOCH + 3)
    for file in sorted((chain / 'models').iterdir()):
      assert file.read_bytes() == (folder / 'models' / file.name).read_bytes()
