"""Pictures of trees: accuracy beside that of the labels' trees, and one tree."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from sklearn.tree import plot_tree

from train.programs.trees.students import LABELS
from train.programs.trees.table import Row, base
from train.results.plots import save
from train.results.statistics import paired

_COLORS = {None: '#555555', 'forest': '#009e73', 'networks': '#d55e00'}


def accuracy(path: Path, rows: Sequence[Row]) -> None:
  """Draws the difference to a tree of the labels, with its interval; a panel for each table and kind of weights."""
  compared = [row for row in rows if row.weights is not None and row.arm != LABELS]
  tables, weights = (list(dict.fromkeys(getattr(row, name) for row in compared)) for name in ('table', 'weights'))
  arms = list(dict.fromkeys(row.arm for row in compared))
  figure = Figure(figsize=(3.2 * len(tables) + 1.8, 0.33 * len(arms) * len(weights) + 1.6), layout='constrained')
  axes = figure.subplots(len(weights), len(tables), squeeze=False, sharey=True, sharex='col')
  for axis, (weight, table) in zip(axes.flat, [(w, t) for w in weights for t in tables], strict=True):
    axis.axvline(0, color='#999999', linewidth=0.8)
    for row in compared:
      if (row.table, row.weights) == (table, weight):
        found = paired(row.accuracy, base(row, rows).accuracy)
        place = arms.index(row.arm) + (0.12 if row.teacher == 'networks' else -0.12)
        axis.errorbar(
          100 * found.mean, place, xerr=100 * (found.half_width or 0.0), color=_COLORS[row.teacher], marker='o',
          markersize=4, capsize=2, linewidth=1, label=row.teacher or 'none',
        )  # fmt: skip
    axis.set_title(f'{table}, weights {weight}', fontsize=9)
    axis.set_yticks(range(len(arms)), arms, fontsize=8)
    axis.grid(axis='x', alpha=0.3)
  axes[0][0].invert_yaxis()
  for axis in axes[-1]:
    axis.set_xlabel('accuracy − that of the labels’ tree, points', fontsize=8)
  handles = {name: handle for axis in axes.flat for handle, name in zip(*axis.get_legend_handles_labels(), strict=True)}
  figure.legend(handles.values(), handles, loc='outside right upper', fontsize=8, title='teacher')
  save(figure, path)


def tree(path: Path, found: Any, columns: Sequence[str], classes: Sequence[str]) -> None:
  """Draws a tree of classes with its questions."""
  leaves = found.get_n_leaves()
  figure = Figure(figsize=(1.5 * leaves + 2, 1.5 * found.get_depth() + 1.5), layout='constrained')
  FigureCanvasAgg(figure)  # by which plot_tree measures its texts
  axis = figure.subplots()
  names = [classes[number] for number in np.asarray(found.classes_, int)]
  plot_tree(
    found, ax=axis, feature_names=list(columns), class_names=names, impurity=False, filled=True, rounded=True,
    precision=2, fontsize=8,
  )  # fmt: skip
  save(figure, path)
