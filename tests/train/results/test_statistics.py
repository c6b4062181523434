"""Intervals of paired seeds."""

import pytest
from scipy import stats

from tests.support.rows import LMA, LMA_HARD, RELU, ROWS
from train.programs.distill.table import gap_closed
from train.results.statistics import cells, interval, markdown, paired


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


def test_cells_of_a_table_are_found_again_whatever_they_hold():
  line = ['a | b', '', '|', '', 'c\\', '**d**']
  assert [cells(each) for each in markdown(line, [line]).split('\n')[::2]] == [line, line]
  assert len(markdown(['a'], [['b\nc']]).split('\n')) == 3
