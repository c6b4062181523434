"""Pairs of VDCNNs by the recipe of lit: what the options refuse, which networks and numbers they mean, whole runs."""

import csv
import shutil
import signal
from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest

from tests.support.processes import metrics, train
from tests.support.runs import assert_same_run, assert_teacher_is_taken, refused, results, saved_steps, whole_run
from train.__main__ import main
from train.commands.readme import filled
from train.config import check_training, load, recipe, save
from train.data.texts import text
from train.programs.lit import run as lit
from train.programs.lit import table as report_lit
from train.programs.lit.config import Lit
from train.programs.lit.networks import read
from train.programs.lit.texts import LitText, check_texts, defaults
from train.results.rows import read_rows

NARROW = ['--width', '2', '3', '3', '4', '--units', '5', '4', '--length', '64', '--batch-size', '16']
OPTIONS = [
  *NARROW, *('--teacher', 'vdcnn-17', '--methods', 'hard', 'lit', '--seeds', '2', '--train-texts', '64'),
  *('--epochs', '2', '--finetune-epochs', '2', '--save-every', '1', '--learning-rate', '0.02'),
]  # fmt: skip
STEPS_AN_EPOCH = 3
FITS = {'relu-teacher': 4, 'relu-whole': 4, 'relu-stages': 2, 'relu-finetune': 2}

WRONG = [
  (['--teacher', 'resnet-20'], '--teacher is resnet-20: give vdcnn and a depth, as in vdcnn-17'),
  (['--student', 'vdcnn'], '--student is vdcnn: give vdcnn and a depth, as in vdcnn-9'),
  (['--student', 'vdcnn-10'], '--student is vdcnn-10: depth is 10, and must be one of 9, 17'),
  (['--width', '4', '4', '4'], '--width is 4 4 4: give four numbers'),
  (['--width', '4', '4', '4', '0'], '--width is 0'),
  (['--units', '4', '0'], '--units is 4 0'),
  (['--length', '0'], '--length is 0'),
  (['--length', '50'], '--teacher is vdcnn-17: 7 places are left of the text, and k = 8'),
  (['--columns', '1'], '--columns is 1: descriptions have none'),
  (['--data-dir', '.'], '--data-dir is .: descriptions need none'),
  (['--train-texts', '1000'], '1000 training texts asked of descriptions; choose from 2 to 960'),
  (['--data', 'ag-news'], 'ag-news: is not downloaded; pass a folder'),
  (['--data', 'csv', '--data-dir', 'nowhere'], 'nowhere/train.csv: no such file'),
  (['--beta', '2'], '--beta is 2'),
]  # fmt: skip


class TestOptions:
  @pytest.mark.parametrize('options, expected', WRONG, ids=[' '.join(options) for options, _ in WRONG])
  def test_a_wrong_one_is_named_in_one_line(self, capsys, tmp_path, options, expected):
    assert refused(capsys, 'lit-text', '--workdir', tmp_path / 'run', *options).startswith(expected)
    assert not (tmp_path / 'run').exists()

  @pytest.mark.parametrize(
    'command, option', [('lit', '--columns'), ('lit', '--units'), ('lit-text', '--train-images')]
  )
  def test_texts_have_no_options_of_images_nor_the_other_way_round(self, capsys, command, option):
    line = refused(capsys, command, option, '3')
    assert line.startswith('Unrecognized or misplaced options: ') and line.count(option) == 1

  def test_images_have_no_networks_of_texts(self, capsys, tmp_path):
    options = ['--workdir', tmp_path / 'run', '--teacher', 'vdcnn-17']
    assert refused(capsys, 'lit', *options).startswith('--teacher is vdcnn-17: give resnet or resnext and a depth')

  @pytest.mark.parametrize('data', ['descriptions', 'ag-news', 'csv'])
  def test_every_default_may_be_run(self, data):
    check_training(defaults(data))
    check_texts(defaults(data))

  def test_a_saved_one_is_loaded_as_it_was(self, tmp_path):
    config = LitText(data='ag-news', columns=(1, -1), width=(4, 4, 8, 8), units=(), train_texts=50, workdir=tmp_path)
    save(config, tmp_path)
    assert load(LitText, tmp_path) == config
    assert (recipe(config), recipe(Lit())) == ('lit-text', 'lit')


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
def whole(tmp_path_factory):
  """On real text, the descriptions."""
  return whole_run(tmp_path_factory, 'lit-text', OPTIONS, STEPS_AN_EPOCH * sum(FITS.values()))


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

  def test_evaluate_prints_the_table_again_and_a_readme_holds_it(self, whole, capsys):
    table = (whole / 'results.md').read_text().strip()
    assert main(['evaluate', str(whole)]) == 0
    assert capsys.readouterr().out.strip() == table
    assert table in filled('<!-- table of run -->\n<!-- end of table -->', whole.parent)

  def test_export_and_predict_take_no_such_run(self, whole, capsys):
    for student in ([], ['--student', 'relu-lit']):
      assert refused(capsys, 'export', whole, *student) == (
        f'{whole} is a run of lit-text: export takes runs of distill, quantize and compress alone'
      )
    assert 'is no model file' in refused(capsys, 'predict', whole, whole / 'accuracy.png')
    assert not (whole / 'exports').exists()

  def test_killed_among_the_stages_it_ends_with_the_same_bits(self, whole, tmp_path):
    folder, at = tmp_path / 'run', 8 * STEPS_AN_EPOCH + 5
    killed = train('lit-text', '--workdir', folder, *OPTIONS, counted=tmp_path / 'dots', at=at, signum=signal.SIGKILL)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert saved_steps(folder) == 9 * STEPS_AN_EPOCH
    resumed = train('lit-text', '--workdir', folder, '--resume', counted=tmp_path / 'dots after')
    assert resumed.returncode == 0, resumed.stderr
    assert (tmp_path / 'dots after').stat().st_size == 3 * STEPS_AN_EPOCH
    assert_same_run(folder, whole)

  def test_it_takes_the_teacher_of_a_run(self, capsys, whole, tmp_path):
    file = whole / 'models' / 'relu-teacher-seed0.safetensors'
    folder = assert_teacher_is_taken(capsys, tmp_path, 'lit-text', OPTIONS, whole, file)
    assert results(folder)['rows'] == results(whole)['rows']

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
