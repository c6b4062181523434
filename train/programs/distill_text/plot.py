"""Plots of distill-text: BLEU and perplexity against file size, and activation curves."""

from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from train import build
from train.activations import COLORS
from train.config import TEACHER
from train.programs.distill_text.table import Arm, Row
from train.results import plots
from train.results.plots import save
from train.results.statistics import mean

_MARKERS = {'hard': 'o', 'kd': 's', 'sequence': '^'}
_OF_LOSSES = ('D', 'v', 'P', 'X', '<', '>')


def bleu(path: Path, rows: Sequence[Row]) -> None:
  """Draws BLEU and perplexity per word against file size, with the seeds as small dots around their means."""
  figure = Figure(figsize=(9, 3.8), layout='constrained')
  axes = figure.subplots(1, 2)
  others = dict.fromkeys(row.taught for row in rows if row.taught not in _MARKERS)
  markers = _MARKERS | dict(zip(others, cycle(_OF_LOSSES), strict=False))
  for axis, name in zip(axes, ('bleu', 'perplexity_per_word'), strict=True):
    for i, row in enumerate(rows):
      values, color, marker = getattr(row, name), COLORS.get(row.activation), markers[row.taught]
      label = 'teacher' if row.name == TEACHER else f'{row.label}, {row.taught}{f", {row.bits} bits" * bool(row.bits)}'
      apart = row.bytes * 1.015 ** (0 if row.name == TEACHER else i - len(rows) / 2)  # equal sizes side by side
      style = {'color': 'black', 'marker': '*'} if row.name == TEACHER else {'color': color, 'marker': marker}
      axis.plot([apart] * len(values), values, linestyle='', markersize=3, alpha=0.5, **style)
      axis.plot([apart], [mean(values)], linestyle='', markersize=8, label=label, **style)
    axis.set_xscale('log')
    axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.xaxis.set_major_formatter(lambda size, _: f'{size / 1000:,.6g}')
    axis.minorticks_off()
    axis.set_xlabel('kilobytes of the file')
  axes[0].set_ylabel('BLEU')
  axes[1].set_ylabel('perplexity of a word')
  figure.legend(*axes[0].get_legend_handles_labels(), loc='outside right upper', fontsize=8)
  save(figure, path)


def curves(path: Path, trained: Mapping[Arm, Any]) -> None:
  """Draws the first seed's activations, site by site."""
  arms = {build.Arm(arm.activation, arm.segments, arm.width, False): found for arm, found in trained.items()}
  if arms:
    plots.curves(path, arms)
