"""Pairs of VDCNNs by the recipe of lit: what the options refuse, which networks and numbers they mean, whole runs."""

import csv
import shutil
from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest

from tests.programs.lit.cases import NARROW
from tests.support.processes import metrics, train
from tests.support.runs import refused
from train.config import load
from train.data.texts import text
from train.programs.lit import run as lit
from train.programs.lit import table as report_lit
from train.programs.lit.networks import read
from train.programs.lit.texts import LitText
from train.results.rows import read_rows


class TestOptions:
  @pytest.mark.parametrize(
    'command, option', [('lit', '--columns'), ('lit', '--units'), ('lit-text', '--train-images')]
  )
  def test_texts_have_no_options_of_images_nor_the_other_way_round(self, capsys, command, option):
    line = refused(capsys, command, option, '3')
    assert line.startswith('Unrecognized or misplaced options: ') and line.count(option) == 1

  def test_images_have_no_networks_of_texts(self, capsys, tmp_path):
    options = ['--workdir', tmp_path / 'run', '--teacher', 'vdcnn-17']
    assert refused(capsys, 'lit', *options).startswith('--teacher is vdcnn-17: give resnet or resnext and a depth')


class TestPlan:
  def test_the_networks_are_those_of_the_options(self):
    config = LitText(teacher='vdcnn-29', width=(2, 3, 3, 4), units=(7,), length=80, train_texts=96)
    plan = lit.experiment(config)
    (pair,) = plan.pairs.values()
    for network, depth in ((pair.teacher, 29), (pair.student, 9)):
      assert (network.depth, network.channels, network.units, network.k) == (depth, (2, 3, 3, 4), (7,), 8)
      assert (network.vocabulary, network.num_classes) == (text.VOCABULARY, 6)
    assert (pair.stages, pair.middle, pair.stem) == (4, 1, ('embed', 'first'))

  def test_a_batch_is_the_numbers_of_characters(self):
    config = replace(LitText(), width=(2, 3, 3, 4), train_texts=96, batch_size=8)
    plan, data = lit.experiment(config), text.load('descriptions', train_examples=96)
    batch = plan.data.batches[0]
    assert (batch.inputs.dtype, batch.inputs.shape) == (jnp.int32, (8, 128))
    rows = [np.flatnonzero((data.train.inputs == one).all(1)) for one in np.asarray(batch.inputs)]
    assert [data.train.labels[row[0]] for row in rows] == batch.labels.tolist()


@pytest.fixture(scope='module')
def whole(whole_run):
  return whole_run('lit-text')


@pytest.mark.slow
class TestRun:
  def test_its_rows_are_those_of_the_pair(self, whole):
    rows = read_rows(whole, 'lit-text', report_lit.Row)
    assert [(row.name, row.network, row.depth) for row in rows] == [
      ('relu-teacher', 'vdcnn-17', 17), ('relu-hard', 'vdcnn-9', 9), ('relu-lit', 'vdcnn-9', 9)
    ]  # fmt: skip
    assert rows[0].parameters > rows[1].parameters == rows[2].parameters
    assert rows[0].macs > rows[1].macs
    line = next(line for line in metrics(whole) if line['phase'] == 'relu-lit-stages')
    assert {f'train_error_{i}' for i in range(4)} <= line.keys()
    assert all((whole / f'{name}.png').stat().st_size > 5000 for name in ('accuracy', 'errors'))

  def test_export_and_predict_take_no_such_run(self, whole, capsys):
    for student in ([], ['--student', 'relu-lit']):
      assert refused(capsys, 'export', whole, *student) == (
        f'{whole} is a run of lit-text: '
        'export takes runs of distill, quantize, prune, hash, compress and datafree alone'
      )
    assert 'is no model file' in refused(capsys, 'predict', whole, whole / 'accuracy.png')
    assert not (whole / 'exports').exists()

  def test_options_of_another_command_are_refused(self, whole, tmp_path, capsys):
    folder = shutil.copytree(whole, tmp_path / 'run')
    found = refused(capsys, 'lit', '--workdir', folder, '--resume')
    assert found == f'{folder / "config.json"} is not the configuration of a lit run'


@pytest.fixture(scope='module')
def table(tmp_path_factory):
  """A folder with a train.csv and a test.csv of a number and a text."""
  folder, draw = tmp_path_factory.mktemp('table'), np.random.default_rng(0)
  words = [['red', 'rose', 'petal'], ['blue', 'wave', 'shore']]
  for part, count in (('train', 40), ('test', 10)):
    with (folder / f'{part}.csv').open('w', newline='') as file:
      csv.writer(file).writerows([i % 2 + 1, f'Nr. {i}', ' '.join(draw.choice(words[i % 2], 9))] for i in range(count))
  return folder


def test_a_table_of_ones_own_is_cut_as_the_options_say(table):
  found = read(LitText(data='csv', data_dir=table, train_texts=20, length=30, columns=(2, 1)))
  expected = text.load('csv', data_dir=table, train_examples=20, length=30, columns=(2, 1))
  for part, other in zip(found[1:4], expected[1:4], strict=True):
    np.testing.assert_array_equal(part.inputs, other.inputs)
  assert (len(found.train.labels), found.train.inputs.shape[1]) == (18, 30)


@pytest.mark.slow
def test_a_table_of_ones_own_is_run(table, tmp_path):
  options = ['--data', 'csv', '--data-dir', table, '--columns', '-1', *NARROW, '--teacher', 'vdcnn-9']
  few = ['--methods', 'hard', '--seeds', '1', '--epochs', '1', '--finetune-epochs', '1']
  done = train('lit-text', '--workdir', tmp_path / 'run', *options, *few)
  assert done.returncode == 0, done.stderr
  rows = read_rows(tmp_path / 'run', 'lit-text', report_lit.Row)
  assert [row.method for row in rows] == ['teacher', 'hard']
  assert load(LitText, tmp_path / 'run').columns == (-1,)
