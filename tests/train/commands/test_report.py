"""Runs are joined where they agree, seed by seed."""

import json

import pytest

from tests.support.rows import LMA, LMA_HARD, RELU, ROWS, TEACHER
from train.__main__ import main
from train.commands.report import joined
from train.programs.distill.config import Distill
from train.programs.distill.table import Row, text
from train.results.rows import read_rows, write_results
from train.results.statistics import paired
from train.runtime.errors import UserError


def written(folder, rows, **changes):
  folder.mkdir(exist_ok=True)
  (folder / 'metrics.jsonl').write_text('{"seconds": 1.25}\n{"seconds": 2.5}\n')
  (folder / 'environment.json').write_text('[{"cores": 2}]')
  write_results(folder, Distill(**changes), rows, text(rows))
  return folder


def test_results_survive_the_file(tmp_path):
  written(tmp_path, ROWS)
  assert read_rows(tmp_path, 'distill', Row) == ROWS
  results = json.loads((tmp_path / 'results.json').read_text())
  assert results['rows'][2]['hard_label'] is False
  assert (results['recipe'], results['seconds_of_training']) == ('distill', 3.8)
  assert results['environments'] == [{'cores': 2}]
  assert (tmp_path / 'results.md').read_text().strip() == text(ROWS)


def test_runs_are_joined_only_where_they_agree(tmp_path):
  one = written(tmp_path / 'one', [TEACHER, RELU], activations=('relu',))
  two = written(tmp_path / 'two', [TEACHER, LMA], activations=('lma',))
  assert joined([one, two]).rows == [TEACHER, RELU, LMA]
  other = written(tmp_path / 'other', [TEACHER, LMA._replace(accuracy=[0.1])])
  with pytest.raises(UserError, match='lma in'):
    joined([two, other])
  longer = written(tmp_path / 'longer', [LMA_HARD], epochs=61)
  with pytest.raises(UserError, match='epochs 61'):
    joined([one, longer])
  mnist = written(tmp_path / 'mnist', [LMA_HARD], data='mnist')
  with pytest.raises(UserError, match='data mnist'):
    joined([one, mnist])


LATER = [TEACHER, RELU._replace(accuracy=[0.1, 0.2]), LMA._replace(accuracy=[0.3, 0.4])]


class TestSeeds:
  def test_of_several_runs_stand_in_one_row_in_their_order(self, tmp_path):
    first = written(tmp_path / 'first', [TEACHER, RELU, LMA], seeds=3)
    later = written(tmp_path / 'later', LATER, seeds=2, first_seed=3)
    for folders in ([first, later], [later, first]):
      teacher, relu, lma = joined(folders).rows
      assert teacher == TEACHER
      assert relu.accuracy == [*RELU.accuracy, 0.1, 0.2]
      assert lma.accuracy == [*LMA.accuracy, 0.3, 0.4]

  def test_that_are_in_both_runs_are_refused_unless_they_are_the_same(self, tmp_path):
    first = written(tmp_path / 'first', [TEACHER, RELU, LMA], seeds=3)
    later = written(tmp_path / 'later', LATER, seeds=2, first_seed=2)
    assert joined([first, first]).rows == [TEACHER, RELU, LMA]
    with pytest.raises(UserError, match=r'relu in .*later differs'):
      joined([first, later])

  def test_count_each_where_all_figures_are_alike(self, tmp_path):
    runs = [written(tmp_path / f'{i}', [TEACHER, RELU._replace(accuracy=[0.6])], seeds=1, first_seed=i) for i in (0, 1)]
    teacher, relu = joined(runs).rows
    assert (teacher, relu.accuracy) == (TEACHER, [0.6, 0.6])

  def test_make_no_row_of_networks_that_differ(self, tmp_path):
    first = written(tmp_path / 'first', [RELU], seeds=3)
    later = written(tmp_path / 'later', [LATER[1]._replace(parameters=11)], seeds=2, first_seed=3)
    with pytest.raises(UserError, match=r'relu in .*later differs'):
      joined([first, later])

  def test_are_told_in_the_joined_results(self, tmp_path, capsys):
    first = written(tmp_path / 'first', [TEACHER, RELU, LMA], seeds=3)
    later = written(tmp_path / 'later', LATER, seeds=2, first_seed=3)
    assert main(['report', str(first), str(later), '--out', str(tmp_path / 'both')]) == 0
    table = (tmp_path / 'both' / 'results.md').read_text()
    assert table in capsys.readouterr().out
    results = json.loads((tmp_path / 'both' / 'results.json').read_text())
    assert (results['config']['seeds'], results['config']['first_seed']) == (5, 0)
    assert (results['seconds_of_training'], results['environments']) == (7.6, [{'cores': 2}])
    assert read_rows(tmp_path / 'both', 'distill', Row) == joined([first, later]).rows

  def test_a_difference_of_unequal_numbers_has_no_interval(self):
    found = paired([0.7, 0.8], [0.5])
    assert (found.mean, found.half_width) == (pytest.approx(0.25), None)
