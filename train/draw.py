"""Pictures of a run."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from train import build, report
from train.report import Row

if TYPE_CHECKING:
  from train.recipes.distill import Experiment

matplotlib.use('agg')
_COLORS = {
  'relu': '#555555',
  'identity': '#0072b2',
  'prelu': '#e69f00',
  'swish': '#56b4e9',
  'aplu': '#009e73',
  'lma': '#d55e00',
  'lma-joined': '#cc79a7',
}


def curves(path: Path, plan: 'Experiment', trained: dict[str, Any]) -> None:
  """Draws the first seed's distilled activations, layer by layer; where channels differ, one line each."""
  arms = [arm for arm in plan.students if not arm.hard_label]
  widths = sorted({arm.width for arm in arms})
  kinds = list(dict.fromkeys((arm.activation, arm.segments) for arm in arms))
  layers = {arm: sites(trained[arm.name]) for arm in arms}
  rows = [(width, i) for width in widths for i in range(max(len(layers[arm]) for arm in arms if arm.width == width))]
  figure = Figure(figsize=(2.2 * len(kinds) + 0.6, 1.9 * len(rows) + 0.5), layout='constrained')
  axes = figure.subplots(len(rows), len(kinds), squeeze=False)
  for arm in arms:
    column = kinds.index((arm.activation, arm.segments))
    for i, (params, stats) in enumerate(layers[arm]):
      axis = axes[rows.index((arm.width, i)), column]
      _curve(axis, arm, params, stats)
  for (width, i), row in zip(rows, axes, strict=True):
    row[0].set_ylabel(f'width {width}\nlayer {i + 1}', fontsize=8)
  for (activation, segments), axis in zip(kinds, axes[0], strict=True):
    axis.set_title(activation if segments is None else f'{activation}-{segments}', fontsize=9)
  _save(figure, path)


def sites(variables: Any) -> list[tuple[Any, Any]]:
  """(parameters, statistics) of the first seed's activation in every stage."""
  first = jax.tree.map(lambda leaf: leaf[0], variables)
  stages = sorted((name for name in first['params'] if name.startswith('stages_')), key=lambda name: int(name[7:]))
  return [_site(first, stage) for stage in stages]


def _site(variables: Any, stage: str) -> tuple[Any, Any]:
  stats = variables.get('batch_stats', {}).get(stage, {})
  return variables['params'][stage].get('act', {}), stats.get('act', {})


def _curve(axis: Axes, arm: build.Arm, params: Any, stats: Any) -> None:
  x = np.linspace(-3.2, 3.2, 1281, dtype=np.float32)
  channels = max((leaf.shape[-1] for leaf in jax.tree.leaves(params) if leaf.ndim and 'weight' not in stats), default=1)
  grid = jnp.asarray(np.repeat(x[:, None], channels, axis=1))
  act = build.activation(arm.activation, arm.segments)()
  y = np.array(act.apply({'params': params, 'batch_stats': stats}, grid, train=False))
  if 'weight' in stats:  # a jump is no line
    y[:-1][np.abs(np.diff(y, axis=0)) > 20 * (x[1] - x[0])] = np.nan
  axis.plot(x, np.maximum(x, 0), color='#bbbbbb', linewidth=0.8)
  axis.plot(x, y, color=_COLORS.get(arm.activation), linewidth=1.2, alpha=1 if channels == 1 else 0.6)
  axis.tick_params(labelsize=6)


def against(path: Path, rows: Sequence[Row], column: str) -> None:
  """Draws each activation minus ReLU, with its interval, against a column: width or segments."""
  figure = Figure(figsize=(8, 3.4), layout='constrained')
  axes = figure.subplots(1, 2, sharey=True)
  for axis, hard_label in zip(axes, (False, True), strict=True):
    students = [row for row in rows if row.hard_label == hard_label and report.minus_relu(row, rows)]
    names = list(dict.fromkeys(_line_name(row, column) for row in students if getattr(row, column) is not None))
    values = sorted({getattr(row, column) for row in students if getattr(row, column) is not None})
    for i, name in enumerate(names):
      line = sorted((r for r in students if _line_name(r, column) == name), key=lambda r: getattr(r, column))
      differences = [d for row in line if (d := report.minus_relu(row, rows))]
      axis.errorbar(
        [values.index(getattr(row, column)) + 0.1 * (i - len(names) / 2) for row in line],
        [100 * d.mean for d in differences],
        [100 * (d.half_width or 0) for d in differences],
        label=name, color=_COLORS.get(line[0].activation), marker='o', markersize=4, capsize=2, linewidth=1,
      )  # fmt: skip
    axis.axhline(0, color=_COLORS['relu'], linewidth=0.8)
    axis.set_xticks(range(len(values)), values)
    axis.set_xlabel(column)
    axis.set_title('hard labels' if hard_label else 'distilled', fontsize=10)
  axes[0].set_ylabel('accuracy − ReLU, points')
  axes[0].legend(fontsize=7)
  _save(figure, path)


def _line_name(row: Row, column: str) -> str:
  other = f' width {row.width}' if column == 'segments' else ''
  return (row.activation if column == 'segments' else row.label) + other


def _save(figure: Figure, path: Path) -> None:
  figure.savefig(path, dpi=110)


def comparisons(folder: Path, rows: Sequence[Row]) -> list[Path]:
  """Draws what the rows allow: against width, against segments."""
  drawn = []
  for column in ('width', 'segments'):
    if len({getattr(row, column) for row in rows if row.name != report.TEACHER} - {None}) > 1:
      drawn.append(folder / f'against_{column}.png')
      against(drawn[-1], rows, column)
  return drawn
