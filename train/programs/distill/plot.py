"""Draws pictures that compare students, against width and against segments."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from train.activations import COLORS
from train.config import TEACHER
from train.programs.distill.table import Row, minus_relu
from train.results.plots import save
from train.teaching import KD

_DASHES = ('-', '--', ':', '-.')  # of the losses


def against(path: Path, rows: Sequence[Row], column: str) -> None:
  """Draws each activation's accuracy minus ReLU's, with its interval, against a column: width or segments."""
  figure = Figure(figsize=(8, 3.4), layout='constrained')
  axes = figure.subplots(1, 2, sharey=True)
  losses = list(dict.fromkeys(row.loss for row in rows))
  for axis, hard_label in zip(axes, (False, True), strict=True):
    students = [row for row in rows if row.hard_label == hard_label and minus_relu(row, rows)]
    names = list(dict.fromkeys(_line_name(row, column) for row in students if getattr(row, column) is not None))
    values = sorted({getattr(row, column) for row in students if getattr(row, column) is not None})
    for i, name in enumerate(names):
      line = sorted((r for r in students if _line_name(r, column) == name), key=lambda r: getattr(r, column))
      differences = [d for row in line if (d := minus_relu(row, rows))]
      axis.errorbar(
        [values.index(getattr(row, column)) + 0.1 * (i - len(names) / 2) for row in line],
        [100 * d.mean for d in differences],
        [100 * (d.half_width or 0) for d in differences],
        label=name, color=COLORS[line[0].activation], linestyle=_DASHES[losses.index(line[0].loss) % len(_DASHES)],
        marker='o', markersize=4, capsize=2, linewidth=1,
      )  # fmt: skip
    axis.axhline(0, color=COLORS['relu'], linewidth=0.8)
    axis.set_xticks(range(len(values)), values)
    axis.set_xlabel(column)
    axis.set_title('hard labels' if hard_label else 'distilled', fontsize=10)
  axes[0].set_ylabel('accuracy − ReLU, points')
  axes[0].legend(fontsize=7)
  save(figure, path)


def _line_name(row: Row, column: str) -> str:
  width = f' width {row.width}' if column == 'segments' else ''
  loss = '' if row.loss == KD or row.hard_label else f', {row.loss}'
  return f'{row.activation if column == "segments" else row.label}{width}{loss}'


def comparisons(folder: Path, rows: Sequence[Row]) -> list[Path]:
  """Draws the pictures against width and segments, each where the rows have several values; returns their paths."""
  drawn = []
  for column in ('width', 'segments'):
    if len({getattr(row, column) for row in rows if row.name != TEACHER} - {None}) > 1:
      drawn.append(folder / f'against_{column}.png')
      against(drawn[-1], rows, column)
  return drawn
