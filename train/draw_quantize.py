"""The picture of quantized students: accuracy against bits a weight, and against bytes in the file."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from train.draw import COLORS, save
from train.report import TEACHER
from train.report_quantize import Row

matplotlib.use('agg')
_STYLES = {
  'post-training': (':', 'v'), 'uniform': ('-', 'o'), 'noise': ('--', 's'), 'points': ('-.', '^'),
  'product': ('-', 'D'), 'product-noise': ('--', 'd'),
}  # fmt: skip


def accuracy(path: Path, rows: Sequence[Row]) -> None:
  """Draws a line for each activation and method, with the spread over the seeds; what is not quantized is a level."""
  figure = Figure(figsize=(10, 4), layout='constrained')
  students = [row for row in rows if row.method in _STYLES]
  for axis, column in zip(figure.subplots(1, 2, sharey=True), ('bits', 'bytes'), strict=True):
    for name in dict.fromkeys(map(_line, students)):
      _draw(axis, [row for row in students if _line(row) == name], column, name)
    for row in rows:
      if row.method == 'float':
        teacher = row.name == TEACHER
        label = 'teacher' if teacher else f'{row.label}, width {row.width}, float32'
        style = {'color': '#bbbbbb' if teacher else COLORS[row.activation], 'linewidth': 0.8}
        axis.axhline(_mean(row), label=label, **style)
    axis.set_xlabel('bits a weight, codes alone' if column == 'bits' else 'bytes of the file')
  axes = figure.axes
  axes[0].set_xscale('log', base=2)
  axes[0].set_xticks(ticks := sorted({round(row.bits, 2) for row in students}), [f'{tick:g}' for tick in ticks])
  axes[0].set_ylabel('accuracy of the file, %')
  axes[1].legend(fontsize=6, loc='center left', bbox_to_anchor=(1, 0.5))
  save(figure, path)


def _line(row: Row) -> str:
  bits = f', {row.activation_bits}-bit activations' if row.activation_bits else ''
  return f'{row.label}, width {row.width}, {row.method}{bits}'


def _mean(row: Row) -> float:
  return 100 * float(np.mean(row.accuracy))


def _draw(axis: Axes, line: Sequence[Row], column: str, name: str) -> None:
  line = sorted(line, key=lambda row: getattr(row, column))
  style, marker = _STYLES[line[0].method]
  spreads = [100 * float(np.std(row.accuracy, ddof=1)) if len(row.accuracy) > 1 else 0.0 for row in line]
  axis.errorbar(
    [getattr(row, column) for row in line], [_mean(row) for row in line], spreads, label=name,
    color=COLORS[line[0].activation], linestyle=style, marker=marker, markersize=4, linewidth=1, capsize=2,
    fillstyle='none' if line[0].activation_bits else 'full',
  )  # fmt: skip
