"""The table of distill, its counterparts and its pictures."""

import numpy as np
import pytest

from tests.support.rows import LMA, LMA_HARD, RELU, ROWS
from train.programs.distill import plot
from train.programs.distill.plot import comparisons
from train.programs.distill.table import minus_relu, text


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


def test_pictures_against_width_and_segments_are_drawn_where_they_vary(tmp_path):
  assert comparisons(tmp_path, ROWS) == []
  wider = [r._replace(width=5) for r in ROWS[1:]]
  finer = [LMA._replace(segments=4)]
  drawn = comparisons(tmp_path, ROWS + wider + finer)
  assert [path.name for path in drawn] == ['against_width.png', 'against_segments.png']
  assert all(path.stat().st_size > 5000 for path in drawn)


def test_a_line_is_of_one_loss(tmp_path, monkeypatch):
  drawn = []
  monkeypatch.setattr(plot, 'save', lambda figure, path: drawn.append(figure))
  wider = [row._replace(width=5) for row in ROWS[1:]]
  other = [row._replace(loss='dist') for row in [*ROWS[1:], *wider] if not row.hard_label]
  plot.against(tmp_path / 'x.png', [*ROWS, *wider, *other], 'width')
  labels = [text.get_text() for text in drawn[0].axes[0].get_legend().get_texts()]
  assert len(labels) == len(set(labels)) and {label.endswith(', dist') for label in labels} == {True, False}
