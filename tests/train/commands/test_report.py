"""The table says what the numbers say, and the README what the committed results say."""

import json
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from lmajax import models
from lmajax.activations import linen
from tests import ROOT
from train import build
from train.__main__ import main
from train.activations import ACTIVATIONS, factory
from train.commands.readme import filled
from train.commands.report import joined
from train.programs.distill.config import Distill
from train.programs.distill.plot import comparisons
from train.programs.distill.table import Row, gap_closed, minus_relu, text
from train.results import plots
from train.results.rows import read_rows, write_results
from train.results.statistics import interval, paired
from train.runtime.errors import UserError


def row(name, accuracy, activation='lma', width=3, segments=8, hard_label=False):
  return Row(name, activation, width, segments, hard_label, list(accuracy), 10, 40)


TEACHER = row('teacher', [0.9], 'relu', 64, None, True)
RELU = row('relu', [0.6, 0.7, 0.65], 'relu', segments=None)
LMA = row('lma', [0.7, 0.72, 0.74])
LMA_HARD = row('lma-hard', [0.5, 0.6, 0.55], hard_label=True)
ROWS = [TEACHER, RELU, LMA, LMA_HARD]


def test_the_interval_is_that_of_a_paired_t_test():
  difference = paired(LMA.accuracy, RELU.accuracy)
  expected = stats.ttest_rel(LMA.accuracy, RELU.accuracy).confidence_interval(0.95)
  assert difference.mean - difference.half_width == pytest.approx(expected.low)
  assert difference.mean + difference.half_width == pytest.approx(expected.high)


def test_one_seed_has_no_interval():
  one = paired([0.7], [0.6])
  assert one.half_width is None
  assert interval(one) == 'one seed'


def test_gap_closed_is_a_ratio_of_means():
  assert gap_closed(LMA, ROWS) == pytest.approx((0.72 - 0.55) / (0.9 - 0.55))
  assert gap_closed(LMA_HARD, ROWS) is None
  assert gap_closed(RELU, ROWS) is None  # has no hard-label counterpart here


def test_the_difference_is_from_relu_of_the_same_width_and_labels():
  assert minus_relu(LMA, ROWS).mean == pytest.approx(np.mean([0.1, 0.02, 0.09]))
  assert minus_relu(LMA._replace(width=4), ROWS) is None
  assert minus_relu(LMA_HARD, ROWS) is None
  assert minus_relu(RELU, ROWS) is None


def test_the_table_has_a_line_per_row_with_sample_deviation():
  lines = text(ROWS).splitlines()
  assert len(lines) == 2 + len(ROWS)
  assert '72.00 ± 2.00 | +7.00' in lines[4]
  assert lines[2].startswith('| teacher | 64 | hard | 90.00 |')


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


def test_pictures_against_width_and_segments_are_drawn_where_they_vary(tmp_path):
  assert comparisons(tmp_path, ROWS) == []
  wider = [r._replace(width=5) for r in ROWS[1:]]
  finer = [LMA._replace(segments=4)]
  drawn = comparisons(tmp_path, ROWS + wider + finer)
  assert [path.name for path in drawn] == ['against_width.png', 'against_segments.png']
  assert all(path.stat().st_size > 5000 for path in drawn)


def test_the_readme_shows_the_committed_results():
  text = (ROOT / 'README.md').read_text()
  assert filled(text, ROOT) == text, 'run: python -m train readme'
  assert text.count('<!-- table of ') >= 3


def test_a_readme_that_differs_is_noticed():
  text = (ROOT / 'README.md').read_text()
  digit = text.index('| teacher |') + len('| teacher | ')
  assert filled(text[:digit] + '7' + text[digit:], ROOT) == text


MODELS = {
  'CNN': lambda act: models.CNN(channels=(4,), units=(5,), num_classes=10, act=act, pool_after=(0,)),
  'MLP': lambda act: models.MLP((4, 3), 10, act),
  'WideResNet': lambda act: models.WideResNet(10, 1, 10, act),
}


@pytest.mark.parametrize('learned', [False, True])
def test_a_site_is_that_of_the_activation_within_its_quantization(learned):
  def sites(act):
    network = models.MLP((4, 3), 10, act)
    return plots.sites(jax.eval_shape(lambda: network.init(jax.random.key(0), jnp.zeros((1, 8)), train=False)))

  for act in (linen.LMA, linen.Swish, linen.ReLU):
    assert sites(partial(linen.Quantized, act=act, learned=learned)) == sites(act)
    assert bool(sites(act)) == (act is not linen.ReLU)


@pytest.mark.slow
@pytest.mark.parametrize('model', MODELS)
def test_the_curves_of_every_model_and_activation_can_be_drawn(tmp_path, model):
  def variables(name):
    network = MODELS[model](factory(name, 4))
    shapes = jax.eval_shape(lambda: network.init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)), train=False))
    return jax.tree.map(lambda leaf: jnp.ones((1, *leaf.shape), leaf.dtype), shapes)

  names = ['relu', 'identity', 'prelu', 'swish', 'aplu', 'lma', 'lma-joined']
  trained = {build.Arm(name, 4 if ACTIVATIONS[name].segmented else None, 1, False): variables(name) for name in names}
  found = {arm.activation: sorted(plots.sites(jax.tree.map(lambda leaf: leaf[0], v))) for arm, v in trained.items()}
  assert found['lma'] == found['prelu'] == found['swish'] and len(found['lma']) == {'WideResNet': 7}.get(model, 2)
  assert found['relu'] == found['identity'] == []
  plots.curves(tmp_path / 'curves.png', trained)
  assert [path.name for path in tmp_path.iterdir()] == ['curves.png']
