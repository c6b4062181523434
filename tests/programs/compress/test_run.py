"""A whole run of compress: its files are the stages, and give the accuracies that are printed."""

import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.support.runs import refused
from train.__main__ import main
from train.data import load
from train.deploy import model_file as shipped
from train.deploy.model_file import file_name
from train.programs.compress import table as report_compress
from train.results.rows import read_rows

pytestmark = pytest.mark.slow


@pytest.fixture(scope='module')
def chain(whole_run):
  return whole_run('compress')


@pytest.fixture(scope='module')
def rows(chain):
  return read_rows(chain, 'compress', report_compress.Row)


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

  def test_an_exchanged_file_is_refused(self, chain, rows, tmp_path, capsys):
    copy = shutil.copytree(chain, tmp_path / 'run')
    shutil.copy(copy / file_name(rows[1].name, 0), copy / file_name(rows[0].name, 0))
    assert 'holds another network than its name says' in refused(capsys, 'evaluate', copy)

  def test_its_packed_student_is_exported_and_loaded_again(self, chain, rows, tmp_path, capsys):
    out = tmp_path / 'a.safetensors'
    options = ['--student', rows[4].name, '--format', 'safetensors', '--out', str(out)]
    assert main(['export', str(chain), *options]) == 0
    assert out.read_bytes() == (chain / rows[4].file).read_bytes()
