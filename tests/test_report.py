"""The table says what the numbers say, and the README what the committed results say."""

import json
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from train import draw, report
from train.errors import UserError
from train.report import Row

ROOT = Path(__file__).parent.parent


def row(name, accuracy, activation='lma', width=3, segments=8, hard_label=False):
  return Row(name, activation, width, segments, hard_label, list(accuracy), 10, 40)


TEACHER = row('teacher', [0.9], 'relu', 64, None, True)
RELU = row('relu', [0.6, 0.7, 0.65], 'relu', segments=None)
LMA = row('lma', [0.7, 0.72, 0.74])
LMA_HARD = row('lma-hard', [0.5, 0.6, 0.55], hard_label=True)
ROWS = [TEACHER, RELU, LMA, LMA_HARD]


def test_the_interval_is_that_of_a_paired_t_test():
  difference = report.paired(LMA, RELU)
  expected = stats.ttest_rel(LMA.accuracy, RELU.accuracy).confidence_interval(0.95)
  assert difference.mean - difference.half_width == pytest.approx(expected.low)
  assert difference.mean + difference.half_width == pytest.approx(expected.high)


def test_one_seed_has_no_interval():
  one = report.paired(row('a', [0.7]), row('b', [0.6]))
  assert one.half_width is None
  assert report.interval(one) == 'one seed'


def test_gap_closed_is_a_ratio_of_means():
  assert report.gap_closed(LMA, ROWS) == pytest.approx((0.72 - 0.55) / (0.9 - 0.55))
  assert report.gap_closed(LMA_HARD, ROWS) is None
  assert report.gap_closed(RELU, ROWS) is None  # has no hard-label counterpart here


def test_the_difference_is_from_relu_of_the_same_width_and_labels():
  assert report.minus_relu(LMA, ROWS).mean == pytest.approx(np.mean([0.1, 0.02, 0.09]))
  assert report.minus_relu(LMA._replace(width=4), ROWS) is None
  assert report.minus_relu(LMA_HARD, ROWS) is None
  assert report.minus_relu(RELU, ROWS) is None


def test_the_table_has_a_line_per_row_with_sample_deviation():
  lines = report.table(ROWS).splitlines()
  assert len(lines) == 2 + len(ROWS)
  assert '72.00 ± 2.00 | +7.00' in lines[4]
  assert lines[2].startswith('| teacher | 64 | hard | 90.00 |')


def test_results_survive_the_file(tmp_path):
  report.write(tmp_path, {'data': 'digits'}, ROWS)
  assert report.read(tmp_path) == ('digits', ROWS)
  written = json.loads((tmp_path / 'results.json').read_text())
  assert written['rows'][2]['hard_label'] is False
  assert (tmp_path / 'results.md').read_text().strip() == report.table(ROWS)


def test_runs_are_merged_only_where_they_agree():
  assert report.merged([('digits', [TEACHER, RELU]), ('digits', [TEACHER, LMA])]) == [TEACHER, RELU, LMA]
  with pytest.raises(UserError, match='lma stands in two'):
    report.merged([('digits', [LMA]), ('digits', [LMA._replace(accuracy=[0.1])])])
  with pytest.raises(UserError, match='different data'):
    report.merged([('digits', [LMA]), ('mnist', [LMA])])


def test_pictures_against_width_and_segments_are_drawn_where_they_vary(tmp_path):
  assert draw.comparisons(tmp_path, ROWS) == []
  wider = [r._replace(width=5) for r in ROWS[1:]]
  finer = [LMA._replace(segments=4)]
  drawn = draw.comparisons(tmp_path, ROWS + wider + finer)
  assert [path.name for path in drawn] == ['against_width.png', 'against_segments.png']
  assert all(path.stat().st_size > 5000 for path in drawn)


def test_the_readme_shows_the_committed_results():
  text = (ROOT / 'README.md').read_text()
  assert report.filled(text, ROOT) == text, 'run: python -m train readme'
  assert text.count('<!-- table of ') >= 3


def test_a_readme_that_differs_is_noticed():
  text = (ROOT / 'README.md').read_text()
  digit = text.index('| teacher |') + len('| teacher | ')
  assert report.filled(text[:digit] + '7' + text[digit:], ROOT) == text
