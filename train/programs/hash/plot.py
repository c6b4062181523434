"""Draws the accuracy of hashed students against the bytes of their files."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from train.programs.hash.students import DENSE
from train.programs.hash.table import Row
from train.results.plots import save
from train.results.statistics import percent

matplotlib.use('agg')
_STYLES = {
  'multi-hash': ('#d55e00', '-', 'o'),
  'fixed-scale': ('#e69f00', '--', 'o'),
  'narrower': ('#555555', '-', 's'),
  'pools': ('#0072b2', '-', '^'),
  'signed-pools': ('#009e73', '--', '^'),
}


def accuracy(path: Path, rows: Sequence[Row]) -> None:
  """Draws a panel for each activation: a line for each method with its spread over the seeds, dense as a level."""
  students = [row for row in rows if row.ratio]
  labels = list(dict.fromkeys(row.label for row in students))
  figure = Figure(figsize=(4.2 * len(labels) + 1.2, 3.6), layout='constrained')
  axes = figure.subplots(1, len(labels), sharey=True, squeeze=False)[0]
  for axis, label in zip(axes, labels, strict=True):
    _panel(axis, [row for row in students if row.label == label])
    dense = next(row for row in rows if (row.label, row.method) == (label, DENSE))
    axis.axhline(percent(dense.accuracy)[0], color='#bbbbbb', linewidth=0.8, label=f'dense, {dense.bytes:,} bytes')
    axis.set_title(label, fontsize=9)
    axis.set_xlabel('kilobytes of the file', fontsize=9)
    axis.legend(fontsize=7)
  axes[0].set_ylabel('test accuracy, % ± std', fontsize=9)
  save(figure, path)


def _panel(axis: Axes, rows: Sequence[Row]) -> None:
  for number, kind in enumerate(dict.fromkeys(row.kind for row in rows)):
    line = [row for row in rows if row.kind == kind]
    color, style, marker = _STYLES[line[0].method]
    means, deviations = zip(*(percent(row.accuracy) for row in line), strict=True)
    alpha = 1 if (line[0].hashes or 1) == 1 else 0.5
    axis.errorbar(
      [row.bytes / 1000 * (1 + 0.01 * number) for row in line], means, deviations, color=color, linestyle=style,
      marker=marker, markersize=4, linewidth=1, capsize=2, label=kind, alpha=alpha,
    )  # fmt: skip
  axis.set_xscale('log')
  ticks = sorted({float(f'{row.bytes / 1000:.2g}') for row in rows if row.method in ('multi-hash', rows[0].method)})
  axis.set_xticks(ticks, [f'{tick:g}' for tick in ticks], fontsize=8)
  axis.minorticks_off()
