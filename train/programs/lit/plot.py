"""Draws shallow students' accuracy against cost, and the errors of their stages in training."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator
from matplotlib.transforms import ScaledTranslation

from train.config import TEACHER
from train.programs.lit.table import Arm, Row
from train.results.plots import save
from train.results.statistics import mean, percent

matplotlib.use('agg')
_COLORS = {
  TEACHER: '#000000', 'hard': '#999999', 'kd': '#0072b2', 'hint': '#009e73', 'born-again': '#cc79a7',
  'lit': '#d55e00', 'lit-own-inputs': '#e69f00', 'lit-one-boundary': '#b8860b', 'lit-beta-0': '#8b4513',
  'lit-beta-1': '#56b4e9', 'lit-noise': '#c8b400', 'lit-merging': '#7f3fbf', 'lit-only': '#ff69b4',
}  # fmt: skip
_MARKERS, _STYLES = ('o', 's', '^', 'D', 'v', 'P', 'X'), ('-', '--', ':', '-.')
_COSTS: dict[str, Callable[[Row], float]] = {
  'depth': lambda row: row.depth,
  'thousand parameters': lambda row: row.parameters / 1e3,
  'million multiply-accumulates an example': lambda row: row.macs / 1e6,
  'µs an example': lambda row: 1e3 * row.milliseconds,
}


def accuracy(path: Path, rows: Sequence[Row]) -> None:
  """Draws a panel per cost; points of equal cost stand side by side, and a teacher is also drawn as a level."""
  figure = Figure(figsize=(9.5, 6.4), layout='constrained')
  axes = figure.subplots(2, 2, sharey=True)
  for axis, (name, cost) in zip(axes.flat, _COSTS.items(), strict=True):
    _panel(axis, rows, cost)
    axis.set_xlabel(name, fontsize=9)
  means, spreads = np.transpose([percent(row.accuracy) for row in rows])
  low, high = (means - spreads).min(), (means + spreads).max()
  axes[0, 0].set_ylim(low - 0.05 * (high - low) - 0.1, high + 0.05 * (high - low) + 0.1)
  for axis in axes[:, 0]:
    axis.set_ylabel('test accuracy, % ± std')
  handles, names = axes.flat[0].get_legend_handles_labels()
  figure.legend(handles, names, loc='outside right upper', fontsize=8)
  save(figure, path)


def _panel(axis: Axes, rows: Sequence[Row], cost: Callable[[Row], float]) -> None:
  costs = sorted({cost(row) for row in rows})
  axis.set_xscale('log')
  axis.set_xlim(costs[0] / 1.6, costs[-1] * 1.6)
  axis.minorticks_off()
  ticks = [each for i, each in enumerate(costs) if not i or each > 1.25 * costs[i - 1]]
  axis.set_xticks(ticks, [f'{float(f"{each:.3g}"):,g}' for each in ticks])
  labels = list(dict.fromkeys(row.label for row in rows))
  for row in rows:
    alike = [other for other in rows if other.network == row.network]
    aside = ScaledTranslation((alike.index(row) - (len(alike) - 1) / 2) / 9, 0, axis.figure.dpi_scale_trans)
    mean, deviation = percent(row.accuracy)
    axis.errorbar(
      cost(row), mean, deviation, color=_COLORS[row.method],
      marker=_MARKERS[labels.index(row.label) % len(_MARKERS)], markersize=5, linewidth=1, capsize=2, linestyle='none',
      label=_name(row, labels), transform=axis.transData + aside,
    )  # fmt: skip
    if row.method == TEACHER:
      axis.axhline(mean, color='#bbbbbb', linewidth=0.8, zorder=0)


def _name(row: Row | Arm, labels: Sequence[str]) -> str:
  return row.method if len(labels) == 1 else f'{row.method}, {row.label}'


def errors(folder: Path, arms: Mapping[str, Arm]) -> None:
  """Draws each stage's error over the epochs of the first phase, from the run's metrics, successive fits joined."""
  lines = [json.loads(line) for line in (folder / 'metrics.jsonl').read_text().splitlines()]
  names = sorted({name for line in lines for name in line if name.startswith('train_error_')})
  if not names:
    return
  figure = Figure(figsize=(3.4 * len(names) + 1.8, 3.4), layout='constrained')
  axes = figure.subplots(1, len(names), squeeze=False)[0]
  labels = list(dict.fromkeys(arm.label for arm in arms.values()))
  for axis, name in zip(axes, names, strict=True):
    for arm in dict.fromkeys(arms.values()):
      of_arm = [line for line in lines if arms.get(line['phase']) == arm]
      found = [(epoch, line[name]) for epoch, line in enumerate(of_arm, start=1) if name in line]
      curve = [(epoch, mean(np.array(values, float))) for epoch, values in found]
      style = _STYLES[labels.index(arm.label) % len(_STYLES)]
      if curve:
        axis.plot(*zip(*curve, strict=True), color=_COLORS[arm.method], linestyle=style, label=_name(arm, labels))
    axis.set_yscale('log')
    axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5, 7)))
    axis.yaxis.set_major_formatter('{x:g}')
    axis.minorticks_off()
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.set_xlabel('epoch')
    axis.set_title(f'stage {int(name.rpartition("_")[2]) + 1}', fontsize=10)
  axes[0].set_ylabel('representation error in training')
  handles = {name: handle for axis in axes for handle, name in zip(*axis.get_legend_handles_labels(), strict=True)}
  figure.legend(handles.values(), handles.keys(), loc='outside right upper', fontsize=8)
  save(figure, folder / 'errors.png')
