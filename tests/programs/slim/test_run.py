"""A whole run of slim: its rows and pictures."""

import pytest

from train.programs.slim import table as report_slim
from train.results.rows import read_rows

pytestmark = pytest.mark.slow


@pytest.fixture(scope='module')
def thin(whole_run):
  return whole_run('slim')


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
