"""A whole run of hash: which networks it trains and at which rates, and that its files hold what it scored."""

from dataclasses import replace

import jax
import numpy as np
import pytest

from lmajax import tree
from tests.programs.hash.cases import METHODS
from train.__main__ import main
from train.config import TEACHER, load
from train.deploy import model_file as shipped
from train.deploy.model_file import file_name
from train.engine import fit
from train.engine.evaluate import member
from train.programs.hash import run as hashing
from train.programs.hash.config import Hash
from train.programs.hash.students import Arm, Students, arms
from train.programs.hash.table import Row, counterpart, text
from train.results.rows import read_rows
from train.runtime.errors import UserError

NAMES = ['dense', 'multi-hash-0.5', 'fixed-scale-0.5', 'pools-2-0.5', 'signed-pools-2-0.5', 'narrower-0.5']


@pytest.fixture(scope='module')
def whole(whole_run):
  return whole_run('hash')


@pytest.fixture(scope='module')
def rows(whole):
  return {row.name: row for row in read_rows(whole, 'hash', Row)}


@pytest.fixture(scope='module')
def plan(whole):
  return hashing.experiment(load(Hash, whole))


@pytest.mark.slow
class TestRun:
  def test_every_kind_of_student_has_its_row_and_its_files(self, whole, rows):
    assert list(rows) == [TEACHER, *(f'lma-4-{name}' for name in NAMES)]
    for name, row in rows.items():
      seeds = 1 if name == TEACHER else 2
      assert len(row.accuracy) == len(row.validation_accuracy) == seeds
      assert row.bytes == (whole / row.file).stat().st_size
      assert np.argmax(row.tried) == [0.02, 0.2].index(row.learning_rate) if row.tried else name == TEACHER
    assert (whole / 'accuracy.png').stat().st_size > 5000

  def test_the_files_hold_the_students_of_the_chosen_rate(self, whole, rows, plan):
    progress = fit.saved(whole, 'students', plan.students, plan.data)
    for name, group in plan.students.groups.items():
      at = 2 * plan.config.learning_rates.index(rows[name].learning_rate)
      for seed in (0, 1):
        end = member(jax.device_get(progress[name].end), at + seed)
        file = shipped.read(whole / file_name(name, seed))
        trained = group.reparam.stored(end.theta, end.code).decode()
        jax.tree.map(np.testing.assert_array_equal, file.packed.decode(), trained)

  def test_a_file_has_what_was_trained_and_is_that_much_smaller(self, whole, rows, plan):
    dense = rows['lma-4-dense'].bytes
    for arm in arms(plan.config):
      row = rows[arm.name]
      file = shipped.read(whole / row.file)
      numbers = file.packed.bits() // 32
      assert numbers - 3 * (arm.method == 'fixed-scale') == row.parameters == plan.networks.trained(arm)
      assert tree.size(file.packed.decode()) == (
        numbers if arm.method == 'narrower' else rows['lma-4-dense'].parameters
      )
      assert arm.method == 'dense' or row.bytes < dense

  def test_a_finished_run_is_scored_again_from_its_files(self, whole, rows, capsys):
    assert main(['evaluate', str(whole)]) == 0
    assert capsys.readouterr().out.strip().splitlines()[2:] == text([*rows.values()]).splitlines()[2:]
    assert [*hashing.again(hashing.experiment(load(Hash, whole)), whole)] == [*rows.values()]

  def test_names_results_that_do_not_fit_its_configuration(self, whole, plan):
    fewer = plan._replace(config=replace(plan.config, methods=('pools',)))
    with pytest.raises(UserError, match=r'has lma-4-multi-hash-0\.5, which is not among the students'):
      hashing.again(fewer, whole)


@pytest.fixture(scope='module')
def digits():
  return hashing.experiment(Hash(activations=('relu', 'lma'), ratio=(0.25, 0.1, 0.05, 0.02), methods=METHODS, seeds=1))


class TestStudents:
  def test_all_of_one_ratio_train_equally_many_numbers(self, digits):
    for arm in arms(digits.config):
      if arm.ratio:
        most = digits.networks.trained(arm._replace(method='multi-hash', hashes=None))
        least = 0.9 * most if arm.method == 'narrower' else most - 1 - (arm.method == 'fixed-scale') * 3
        assert least <= digits.networks.trained(arm) <= most, arm

  def test_networks(self, digits):
    students = digits.networks
    assert students.dense() == ('mlp', (128, 128))
    widths = [students.network(Arm('relu', None, 'narrower', ratio)).width for ratio in (0.25, 0.1, 0.05, 0.02)]
    assert widths == [(53, 53), (30, 30), (20, 20), (11, 11)]
    of_gray = Students(replace(digits.config, data='fashion-mnist', width=(300, 100)), digits.dataset, None)
    assert of_gray.dense() == ('mlp', (300, 100))
    of_color = Students(replace(digits.config, data='cifar10', student='resnet-20'), digits.dataset, None)
    assert of_color.dense() == ('resnet-20', (16, 32, 64))

  def test_each_has_all_seeds_at_every_rate(self):
    config = Hash(activations=('relu',), ratio=(0.1,), methods=('pools',))
    plan = hashing.experiment(replace(config, learning_rates=(0.02, 0.05, 0.1), seeds=2, first_seed=3, epochs=30))
    group = plan.students.groups['relu-pools-1-0.1']
    assert group.seeds == (3, 4) * 3
    name, students = 'relu-pools-1-0.1', plan.students
    assert students.rates([])[name] == [0.02, 0.02, 0.05, 0.05, 0.1, 0.1]
    epoch = {each: [0.5] * 6 for each in students.groups}
    np.testing.assert_allclose(students.rates([epoch] * 15)[name], [0.01, 0.01, 0.025, 0.025, 0.05, 0.05])
    assert students.rates([epoch] * 30) == {}


def row(method, ratio, accuracy, hashes=None, activation='relu', segments=None):
  name = Arm(activation, segments, method, ratio, hashes).name
  return Row(name, activation, segments, method, hashes, ratio, [8], 100, 0.1, [0.5], accuracy, accuracy, 1000, 'f')


def test_the_table_compares_with_relu_and_with_multi_hash_of_the_same_ratio():
  rows = [
    row('dense', None, [0.9, 0.92]), row('multi-hash', 0.1, [0.8, 0.82]), row('pools', 0.1, [0.7, 0.71], hashes=1),
    row('pools', 0.1, [0.75, 0.77], hashes=2), row('multi-hash', 0.2, [0.85, 0.85]),
    row('multi-hash', 0.1, [0.83, 0.87], activation='lma', segments=8),
  ]  # fmt: skip
  assert counterpart(rows[2], rows, method='multi-hash', hashes=None) is rows[1]
  lines = [[cell.strip() for cell in line.split('|')[1:-1]] for line in text(rows).splitlines()[2:]]
  assert [line[1] for line in lines] == ['dense', 'multi-hash', '1 hash', '2 hashes', 'multi-hash', 'multi-hash']
  assert [line[10] for line in lines] == ['', '', '+10.50', '+5.00', '', '']
  assert [line[8] for line in lines] == ['', '', '', '', '', '+4.00']
