"""Plot of compress: accuracy against bytes and against time, stage by stage."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from train.activations import COLORS
from train.programs.compress.table import Row, before
from train.results.plots import save
from train.results.statistics import deviation, mean

matplotlib.use('agg')
_MARKERS = {
  'original': 'o', 'slimmed': 's', 'lit': 'D', 'distilled': '^', 'pruned': 'X', 'hashed': 'P', 'quantized': 'v',
  'packed': '*',
}  # fmt: skip


def accuracy(path: Path, rows: Sequence[Row]) -> None:
  """Draws accuracy against file size and time, a panel each; lines lead from a stage to those that continue it."""
  figure = Figure(figsize=(9, 3.6), layout='constrained')
  left, right = figure.subplots(1, 2, sharey=True)
  _panel(left, rows, {row.name: row.bytes / 1000 for row in rows}, 'thousand bytes of the file')
  _panel(right, rows, {row.name: 1000 * row.milliseconds for row in rows}, 'µs an example')
  left.set_ylabel('accuracy of the file, % ± std', fontsize=9)
  handles, names = left.get_legend_handles_labels()
  figure.legend(handles, names, loc='outside right upper', fontsize=8)
  save(figure, path)


def _panel(axis: Axes, rows: Sequence[Row], costs: dict[str, float], name: str) -> None:
  for row in rows:
    color = COLORS[row.activation]
    base = before(row, rows)
    if base is not None:
      ends = [costs[each.name] for each in (base, row)], [_mean(each) for each in (base, row)]
      axis.plot(*ends, color=color, linewidth=0.8, zorder=1)
    error = 100 * deviation(row.accuracy)
    axis.errorbar(
      costs[row.name], _mean(row), error, color=color, marker=_MARKERS[row.stage], markersize=7, capsize=2,
      linestyle='none', linewidth=1, label=f'{row.stage}, {row.label}',
    )  # fmt: skip
  axis.set_xscale('log')
  least, most = min(costs.values()), max(costs.values())
  marks = (1, 2, 5) if most > 5 * least else (1, 1.5, 2, 3, 4, 5, 7)
  ticks = [round(mark * 10.0**power, 6) for power in range(-3, 7) for mark in marks]
  ticks = [tick for tick in ticks if 0.9 * least <= tick <= 1.1 * most]
  axis.set_xticks(ticks, [f'{tick:g}' for tick in ticks])
  axis.minorticks_off()
  axis.set_xlabel(name, fontsize=9)


def _mean(row: Row) -> float:
  return 100 * mean(row.accuracy)
