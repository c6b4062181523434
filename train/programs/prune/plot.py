"""Draws the accuracy of pruned students against their sparsity, and against the bytes of their kernels."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, StrMethodFormatter

from train.programs.prune.students import DENSE, UNIFORM
from train.programs.prune.table import Row
from train.results.plots import save
from train.results.statistics import percent

matplotlib.use('agg')
_COLORS = {
  'magnitude': '#555555', 'layerwise': '#56b4e9', 'lamp': '#d55e00', 'l1': '#cc79a7', 'l2': '#009e73',
  'surp': '#0072b2',
}  # fmt: skip


def accuracy(path: Path, rows: Sequence[Row]) -> None:
  """Draws a row of panels for each activation: one for each kind of cut, a line per score, and one against bytes."""
  pruned = [row for row in rows if row.sparsity is not None]
  labels, cuts = (list(dict.fromkeys(map(of, pruned))) for of in (lambda row: row.label, lambda row: row.cut))
  figure = Figure(figsize=(3.6 * (len(cuts) + 1) + 1, 3.1 * len(labels)), layout='constrained')
  axes = figure.subplots(len(labels), len(cuts) + 1, sharey=True, squeeze=False)
  for line, label in zip(axes, labels, strict=True):
    own = [row for row in rows if row.label == label]
    for axis, cut in zip(line[:-1], cuts, strict=True):
      _against_sparsity(axis, [row for row in own if row.cut == cut])
      axis.set_title(f'{label}, {cut}', fontsize=9)
      axis.set_xlabel('% of the weights that are left', fontsize=8)
    _against_bytes(line[-1], own, cuts[0])
    line[-1].set_title(f'{label}, {cuts[0]}', fontsize=9)
    line[-1].set_xlabel('bytes of the kernels', fontsize=8)
    for axis in line:
      dense = next(row for row in own if row.method == DENSE)
      axis.axhline(percent(dense.accuracy)[0], color='#bbbbbb', linewidth=0.8)
    line[0].set_ylabel('test accuracy, % ± std', fontsize=9)
    line[0].legend(fontsize=7)
    line[-1].legend(fontsize=7)
  save(figure, path)


def _against_sparsity(axis: Axes, rows: Sequence[Row]) -> None:
  methods = list(dict.fromkeys(row.method for row in rows))
  for number, method in enumerate(methods):
    line = [row for row in rows if row.method == method]
    means, deviations = zip(*(percent(row.accuracy) for row in line), strict=True)
    aside = 1 + 0.03 * (number - (len(methods) - 1) / 2)  # or the bars would hide each other
    axis.errorbar(
      [100 * (1 - (row.sparsity or 0)) * aside for row in line], means, deviations, color=_COLORS[method], marker='o',
      markersize=3, linewidth=1, capsize=2, label=method,
    )  # fmt: skip
  axis.set_xscale('log')
  ticks = sorted({round(100 * (1 - (row.sparsity or 0)), 6) for row in rows})
  axis.set_xticks(ticks, [f'{tick:g}' for tick in ticks], fontsize=8)
  axis.minorticks_off()


def _against_bytes(axis: Axes, rows: Sequence[Row], cut: str) -> None:
  for method in dict.fromkeys(row.method for row in rows if row.stream_bytes and row.method in ('lamp', 'surp')):
    line = [row for row in rows if row.method == method and row.cut == cut and row.stream_bytes]
    for size, found, style, what in (
      ('stream_bytes', 'stream_accuracy', '-', 'stream'), ('kernel_bytes', 'accuracy', '--', 'file'),
    ):  # fmt: skip
      means = [percent(getattr(row, found))[0] for row in line]
      sizes = [getattr(row, size) for row in line]
      label = f'{method}, {what}'
      axis.plot(sizes, means, style, color=_COLORS[method], marker='o', markersize=3, linewidth=1, label=label)
  quantized = [(row.kernel_bytes or 0, percent(row.accuracy)[0]) for row in rows if row.method == UNIFORM]
  sizes, means = zip(*quantized, strict=True) if quantized else ((), ())
  axis.plot(sizes, means, ':s', color='#e69f00', markersize=3, label='uniform, bits of all')
  axis.set_xscale('log')
  axis.xaxis.set_major_locator(LogLocator(subs=(1, 3)))  # labels that are two at least, and lie side by side
  axis.xaxis.set_major_formatter(StrMethodFormatter('{x:,.0f}'))
  axis.minorticks_off()
  axis.tick_params(labelsize=8)
