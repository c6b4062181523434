"""Draws the accuracy of quantized students against bits a weight, method by method, and of all against bytes."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from train.activations import COLORS
from train.config import TEACHER
from train.programs.quantize.methods import METHODS
from train.programs.quantize.table import Row, wide
from train.results.plots import save
from train.results.statistics import deviation, mean

matplotlib.use('agg')
_STYLES = ('-', '--', ':', '-.')
_COLUMNS = 4


def accuracy(path: Path, rows: Sequence[Row]) -> None:
  """Draws a panel per method, with a line per activation and its spread over the seeds, and float32 as a level."""
  students = [row for row in rows if row.method in METHODS and METHODS[row.method].marker]
  methods = list(dict.fromkeys(map(_method, students)))
  lines, names = -(-(len(methods) + 1) // _COLUMNS), len(set(map(wide, students)))
  columns = min(len(methods) + 1, _COLUMNS)
  figure = Figure(figsize=(3.1 * columns, 2.9 * lines + 0.5 + 0.17 * (names / columns)), layout='constrained')
  axes = figure.subplots(lines, columns, sharey=True, squeeze=False)
  for axis, method in zip(axes.flat, methods, strict=False):
    _panel(axis, [row for row in students if _method(row) == method], rows)
    axis.set_title(method, fontsize=9)
  _against_bytes(axes.flat[len(methods)], students, rows)
  for axis in axes.flat[len(methods) + 1 :]:
    axis.set_axis_off()
  for axis in axes[:, 0]:
    axis.set_ylabel('accuracy of the file, % ± std')
  known = {name: line for axis in axes.flat for line, name in zip(*axis.get_legend_handles_labels(), strict=True)}
  figure.legend(known.values(), known, loc='outside lower center', ncols=columns, fontsize=7)
  save(figure, path)


def _method(row: Row) -> str:
  return f'{row.method}, {row.activation_bits}-bit activations' if row.activation_bits else row.method


def _panel(axis: Axes, rows: Sequence[Row], of_run: Sequence[Row]) -> None:
  _levels(axis, of_run)
  for name in dict.fromkeys(map(wide, rows)):
    line = sorted((row for row in rows if wide(row) == name), key=lambda row: row.bits)
    alike = list(dict.fromkeys(wide(row) for row in rows if row.activation == line[0].activation))
    axis.errorbar(
      [row.bits for row in line], [_mean(row) for row in line], [_spread(row) for row in line], label=name,
      color=COLORS[line[0].activation], marker=METHODS[line[0].method].marker, markersize=4, linewidth=1, capsize=2,
      linestyle=_STYLES[alike.index(name) % len(_STYLES)],
    )  # fmt: skip
  ticks = sorted({round(row.bits, 2) for row in rows})
  axis.set_xscale('log', base=2)
  axis.set_xticks(ticks, [f'{tick:g}' for tick in ticks], fontsize=8)
  axis.minorticks_off()
  axis.set_xlabel('bits a weight, codes alone', fontsize=8)


def _against_bytes(axis: Axes, students: Sequence[Row], rows: Sequence[Row]) -> None:
  _levels(axis, rows)
  for row in students:
    fill = 'none' if row.activation_bits else 'full'
    color, marker = COLORS[row.activation], METHODS[row.method].marker
    axis.plot(row.bytes, _mean(row), marker=marker, markersize=5, color=color, fillstyle=fill)
  axis.set_title('all, marked as in their panels', fontsize=9)
  axis.set_xlabel('bytes of the file', fontsize=8)
  axis.tick_params(labelsize=8)


def _levels(axis: Axes, rows: Sequence[Row]) -> None:
  for row in rows:
    if row.method == 'float':
      axis.axhline(_mean(row), color='#bbbbbb' if row.name == TEACHER else COLORS[row.activation], linewidth=0.7)


def _mean(row: Row) -> float:
  return 100 * mean(row.accuracy)


def _spread(row: Row) -> float:
  return 100 * deviation(row.accuracy)
