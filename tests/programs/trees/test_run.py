"""The parts of a table, what each student learns from, and the rows that come of it."""

import numpy as np
import pytest
from sklearn.metrics import accuracy_score
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

from lmajax.compress import empirical_depth
from tests.support.runs import refused
from train.__main__ import main
from train.data import tables
from train.programs.trees import plot, teachers
from train.programs.trees import run as trees
from train.programs.trees.config import Trees
from train.programs.trees.students import ARMS, Part, grown
from train.programs.trees.table import Row, base, text
from train.results.rows import read_rows

WINE = tables.load('wine')
HOW = {'depth': 3, 'thresholds': 6, 'seed': 0}


def believed(seed=0):
  """Beliefs that are mostly right."""
  shares = np.random.default_rng(seed).dirichlet(np.ones(3), len(WINE.labels)) + 2 * np.eye(3)[WINE.labels]
  return shares / shares.sum(axis=1, keepdims=True)


def part(held=30):
  order = np.random.default_rng(1).permutation(len(WINE.labels))
  rest, kept = order[held:], order[:held]
  return Part(WINE.features[rest], WINE.labels[rest], believed()[rest], (WINE.features[kept], WINE.labels[kept]))


class TestParts:
  @pytest.mark.parametrize('folds', [2, 5])
  @pytest.mark.parametrize('repeat', [0, 3])
  def test_every_example_is_tested_once_or_in_no_fold(self, folds, repeat):
    found, outside = trees.parts(WINE.labels, folds, repeat)
    every = np.concatenate([outside, *(fold.test for fold in found)])
    assert sorted(every) == list(range(len(WINE.labels)))
    for fold in found:
      rest = np.concatenate([fold.train, fold.held])
      assert sorted([*rest, *fold.test, *outside]) == sorted(every)
      assert len(fold.held) == -(-len(rest) // 7)

  def test_every_part_has_its_share_of_each_class(self):
    found, outside = trees.parts(WINE.labels, 5, 1)
    shares = np.bincount(WINE.labels) / len(WINE.labels)
    for rows in (outside, *(each for fold in found for each in fold)):
      np.testing.assert_allclose(np.bincount(WINE.labels[rows], minlength=3), len(rows) * shares, atol=1.5)

  def test_repeats_differ_and_can_be_had_again(self):
    (one, *_), _ = trees.parts(WINE.labels, 5, 0)
    (same, *_), _ = trees.parts(WINE.labels, 5, 0)
    (other, *_), _ = trees.parts(WINE.labels, 5, 1)
    np.testing.assert_array_equal(one.test, same.test)
    assert set(one.test) != set(other.test)

  def test_what_is_missing_is_the_mean_of_the_training_examples(self):
    features = np.array([[1.0, np.nan, np.nan], [3.0, 5.0, np.nan], [np.nan, 7.0, np.nan], [9.0, np.nan, 4.0]])
    found = trees.imputed(features, np.array([0, 1, 2]))
    np.testing.assert_array_equal(found, [[1, 6, 0], [3, 5, 0], [2, 7, 0], [9, 6, 4]])


class TestAgreement:
  def test_is_the_mean_over_the_pairs(self):
    answers = [np.array([0, 1, 2, 2]), np.array([0, 1, 1, 2]), np.array([1, 1, 1, 2])]
    assert trees.agreement(answers) == pytest.approx((3 / 4 + 3 / 4 + 2 / 4) / 3)


class TestStudents:
  @pytest.mark.parametrize('balanced', [False, True])
  @pytest.mark.parametrize('arm', ARMS)
  def test_each_is_a_tree_of_the_depth_and_learns(self, arm, balanced):
    student = grown(arm, part(), balanced=balanced, **HOW)
    assert student.tree.get_depth() <= 3
    assert accuracy_score(WINE.labels, student.predicts(WINE.features)) > 0.85

  def test_labels_are_a_plain_tree_of_them(self):
    mine = grown('labels', part(), balanced=True, **HOW)
    plain = DecisionTreeClassifier(max_depth=3, class_weight='balanced', random_state=0)
    plain.fit(part().features, part().labels)
    np.testing.assert_array_equal(mine.predicts(WINE.features), plain.predict(WINE.features))

  def test_all_rows_are_those_that_choose_a_threshold_too(self):
    given = part()
    found = grown('labels, all rows', given, balanced=False, **HOW).tree
    assert found.tree_.n_node_samples[0] == len(WINE.labels)
    assert grown('labels', given, balanced=False, **HOW).tree.tree_.n_node_samples[0] == len(given.labels)

  def test_teachers_labels_are_learned_though_they_are_wrong(self):
    given = part()._replace(beliefs=np.roll(part().beliefs, 1, axis=1))
    found = grown("teacher's labels", given, balanced=False, **HOW)
    assert accuracy_score((WINE.labels + 1) % 3, found.predicts(WINE.features)) > 0.85

  def test_beliefs_are_regressed_with_the_weights_of_the_teachers_classes(self):
    given = part()
    labels = [int(np.argmax(row)) for row in given.beliefs]
    weights = [len(labels) / (3 * labels.count(label)) for label in labels]
    plain = DecisionTreeRegressor(max_depth=3, random_state=0).fit(given.features, given.beliefs, weights)
    found = grown('beliefs', given, balanced=True, **HOW)
    np.testing.assert_allclose(found.tree.predict(WINE.features), plain.predict(WINE.features))
    unweighted = grown('beliefs', given, balanced=False, **HOW)
    assert not np.allclose(unweighted.tree.predict(WINE.features), plain.predict(WINE.features))

  def test_memo_is_the_deepest_and_crembo_scores_no_less(self):
    given = part()
    memo, crembo = (grown(arm, given, balanced=False, **HOW) for arm in ('memo', 'crembo'))
    assert memo.median.depth == empirical_depth(given.beliefs, memo.predicts(given.features))
    assert memo.median.depth >= crembo.median.depth and crembo.median.threshold >= memo.median.depth
    scores = [accuracy_score(given.held[1], student.predicts(given.held[0])) for student in (memo, crembo)]
    assert scores[1] >= scores[0]

  def test_beliefs_of_one_class_alone_are_its_labels(self):
    given = part()._replace(beliefs=np.eye(3)[part().labels])
    found = grown('memo', given, balanced=False, **HOW)
    plain = grown('labels', given, balanced=False, **HOW)
    np.testing.assert_array_equal(found.predicts(WINE.features), plain.predicts(WINE.features))


class TestTeachers:
  def test_a_class_without_an_example_gets_no_belief(self):
    rows = WINE.labels < 2
    found = teachers.forest(WINE.features[rows], WINE.labels[rows], 3, seed=0)(WINE.features)
    np.testing.assert_allclose(found.sum(axis=1), 1)
    assert not found[:, 2].any() and (found[rows].argmax(axis=1) == WINE.labels[rows]).mean() > 0.95

  def test_networks_learn_and_know_nothing_of_what_is_padded(self):
    rows = np.arange(0, len(WINE.labels), 2)
    how = {'classes': 3, 'seed': 0, 'epochs': 12}
    one, padded = (
      teachers.networks(WINE.features[rows], WINE.labels[rows], **how, most=most)(WINE.features) for most in (0, 99)
    )
    np.testing.assert_allclose(one, padded, atol=1e-5)
    np.testing.assert_allclose(one.sum(axis=1), 1)
    assert (one.argmax(axis=1) == WINE.labels).mean() > 0.9


def row(arm, accuracy, teacher=None, weights='none'):
  return Row(
    'wine', arm, teacher, weights, accuracy, [0.9], [0.5] if arm == 'memo' else None, [0.25] if arm == 'memo' else None
  )


ROWS = [
  Row('wine', 'majority', None, None, [0.4, 0.4], [1.0]),
  row('labels', [0.8, 0.9]),
  row('labels', [0.7, 0.6], weights='balanced'),
  row('memo', [0.9, 0.9], 'forest'),
  row('memo', [0.9, 0.9], 'networks', 'balanced'),
]


class TestTable:
  def test_each_is_compared_with_the_labels_under_its_weights(self):
    assert [base(each, ROWS).accuracy for each in ROWS[3:]] == [[0.8, 0.9], [0.7, 0.6]]
    lines = [[cell.strip() for cell in line.split('|')[1:-1]] for line in text(ROWS).splitlines() if line[:1] == '|']
    assert [line[5] for line in lines[2:]] == ['', '', '', '+5.00', '+25.00']
    assert lines[5][:5] == ['wine', 'none', 'forest', 'memo', '90.00 ± 0.00'] and lines[5][7:] == [
      '90.00',
      '0.50',
      '0.25',
    ]

  def test_a_picture_is_drawn(self, tmp_path):
    plot.accuracy(tmp_path / 'a.png', ROWS)
    assert (tmp_path / 'a.png').stat().st_size > 5000


@pytest.mark.slow
class TestRun:
  def test_has_a_row_for_every_way(self, whole_run):
    folder = whole_run('trees')
    rows = read_rows(folder, 'trees', Row)
    assert [each.arm for each in rows] == ['majority', 'teacher', *ARMS]
    assert all(len(each.accuracy) == 6 and len(each.agreement) == 3 for each in rows)
    assert 'petal' in (folder / 'rules.txt').read_text()
    assert (folder / 'tree.png').stat().st_size > 5000

  def test_another_file_is_not_gone_on_with(self, tmp_path, capsys):
    path = tmp_path / 'a.csv'
    lines = ['x,y', *(f'{i % 7},{i % 2}' for i in range(60))]
    path.write_text('\n'.join(lines))
    options = ['--data', str(path), '--target', 'y', '--folds', '2', '--repeats', '1', '--teachers', 'forest']
    assert main(['trees', *options, '--workdir', str(tmp_path / 'run')]) == 0
    capsys.readouterr()
    path.write_text('\n'.join([*lines, '1,1']))
    said = refused(capsys, 'trees', '--resume', '--workdir', tmp_path / 'run')
    assert 'is not the file that the run began with' in said


def test_the_default_is_three_tables():
  assert [table.name for table in trees.experiment(Trees()).tables] == ['iris', 'wine', 'breast-cancer']
