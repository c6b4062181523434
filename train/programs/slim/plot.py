"""Plots of slim: accuracy against the cost that is left, and the widths layer by layer."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from train.programs.slim.table import ORIGINAL, Row
from train.results.plots import save
from train.results.statistics import percent

matplotlib.use('agg')
_COLORS = {'pca': '#d55e00', 'null': '#999999', 'uniform': '#0072b2', 'random': '#009e73', 'norm-scale': '#cc79a7'}
_STYLES: dict[str, Any] = {'pca': '-', 'null': '--', 'uniform': ':', 'random': '-.', 'norm-scale': (0, (5, 1))}


def accuracy(path: Path, rows: Sequence[Row]) -> None:
  """Draws accuracy against cost: a panel per start and activation, a line per rule, the original as a level."""
  thin = [row for row in rows if row.rate]
  starts, labels = (list(dict.fromkeys(map(of, thin))) for of in (lambda row: row.start, lambda row: row.label))
  figure = Figure(figsize=(3.3 * len(starts) + 1.4, 2.9 * len(labels)), layout='constrained')
  axes = figure.subplots(len(labels), len(starts), sharex=True, sharey=True, squeeze=False)
  for line, label in zip(axes, labels, strict=True):
    for axis, start in zip(line, starts, strict=True):
      _panel(axis, [row for row in thin if (row.label, row.start) == (label, start)], rows, label)
      axis.set_title(f'{label}, {start}', fontsize=9)
    line[0].set_ylabel('test accuracy, % ± std', fontsize=9)
  for axis in axes[-1]:
    axis.set_xlabel('% of the cost that is left', fontsize=9)
  handles, names = axes.flat[0].get_legend_handles_labels()
  figure.legend(handles, names, loc='outside right upper', fontsize=8)
  save(figure, path)


def _panel(axis: Axes, of_panel: Sequence[Row], rows: Sequence[Row], label: str) -> None:
  original = next(row for row in rows if (row.label, row.rule) == (label, ORIGINAL))
  axis.axhline(percent(original.accuracy)[0], color='#bbbbbb', linewidth=0.8, label=ORIGINAL)
  rules = list(dict.fromkeys(row.rule for row in of_panel))
  for number, rule in enumerate(rules):
    line = [row for row in of_panel if row.rule == rule]
    means, deviations = zip(*(percent(row.accuracy) for row in line), strict=True)
    aside = 1 + 0.03 * (number - (len(rules) - 1) / 2)  # or the bars would hide each other
    axis.errorbar(
      [100 * (1 - row.reached) * aside for row in line], means, deviations, color=_COLORS[rule],
      linestyle=_STYLES[rule], marker='o', markersize=3.5, linewidth=1, capsize=2, label=rule,
    )  # fmt: skip
  axis.set_xscale('log')
  ticks = sorted({round(100 * (1 - row.rate), 6) for row in of_panel})
  axis.set_xticks(ticks, [f'{tick:g}' for tick in ticks])
  axis.minorticks_off()


def widths(path: Path, rows: Sequence[Row]) -> None:
  """Draws each layer's kept part, a panel per rate, a line per rule; last the accuracy lost without half a layer."""
  labels = list(dict.fromkeys(row.label for row in rows))
  rates = list(dict.fromkeys(row.rate for row in rows if row.rate))
  columns = len(rates) + 1
  figure = Figure(figsize=(2.9 * columns + 1.4, 2.6 * len(labels)), layout='constrained')
  axes = figure.subplots(len(labels), columns, squeeze=False, sharex=True)
  for line, label in zip(axes, labels, strict=True):
    original = next(row for row in rows if (row.label, row.rule) == (label, ORIGINAL))
    numbers = np.arange(1, len(original.widths) + 1)
    for axis, rate in zip(line, rates, strict=False):
      for row in {row.rule: row for row in rows if (row.label, row.rate) == (label, rate)}.values():
        kept = 100 * np.divide(row.widths, original.widths)
        style = {'color': _COLORS[row.rule], 'linestyle': _STYLES[row.rule]}
        axis.plot(numbers, kept, marker='o', markersize=3, linewidth=1, label=row.rule, **style)
      axis.set_ylim(0, 103)
      axis.set_title(f'{label}, rate {100 * rate:g} %', fontsize=9)
    line[0].set_ylabel('% of the filters kept', fontsize=9)
    line[-1].bar(numbers, 100 * np.asarray(original.sensitivities or []), color='#777777')
    line[-1].set_title(f'{label}, without half of the layer', fontsize=9)
    line[-1].set_ylabel('points of accuracy lost', fontsize=9)
  for axis in axes[-1]:
    axis.set_xlabel('layer', fontsize=9)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
  handles, names = axes.flat[0].get_legend_handles_labels()
  figure.legend(handles, names, loc='outside right upper', fontsize=8)
  save(figure, path)
