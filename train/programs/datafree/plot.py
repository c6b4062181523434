"""Draws the accuracy of students by the source of their inputs, and the inputs themselves."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from train.data import Dataset
from train.programs.datafree.table import ORIGINAL, Row
from train.results.plots import save
from train.results.statistics import percent

matplotlib.use('agg')
_COLORS = {
  'real': '#555555', 'bns': '#d55e00', 'mixed': '#e69f00', 'class': '#0072b2', 'gaussian': '#cc79a7',
  'squared': '#009e73', 'slack': '#56b4e9',
}  # fmt: skip
_SHOWN = 10


def accuracy(path: Path, rows: Sequence[Row]) -> None:
  """Draws a panel for each network: bits across, a point for each source; hollow ones are calibrated alone."""
  students = [row for row in rows if row.divergence is None and row.source != ORIGINAL]
  labels, kinds, sources = (
    list(dict.fromkeys(getattr(row, name) for row in students)) for name in ('label', 'bits', 'source')
  )
  figure = Figure(figsize=((0.9 * len(kinds) + 1.2) * len(labels) + 1.4, 3.4), layout='constrained')
  axes = figure.subplots(1, len(labels), sharey=True, squeeze=False)[0]
  for axis, label in zip(axes, labels, strict=True):
    own = next(row for row in rows if (row.label, row.source) == (label, ORIGINAL))
    axis.axhline(percent(own.accuracy)[0], color='#bbbbbb', linewidth=0.8, label='32 bits')
    for i, source in enumerate(sources):
      for row in (each for each in students if (each.label, each.source) == (label, source)):
        at = kinds.index(row.bits) + (i - (len(sources) - 1) / 2) * 0.7 / len(sources)
        _point(axis, at, row.accuracy, _COLORS[source], 'full')
        if row.calibrated is not None:
          _point(axis, at, row.calibrated, _COLORS[source], 'none')
      axis.plot([], [], 'o', color=_COLORS[source], markersize=4, label=source)
    axis.set_xticks(range(len(kinds)), kinds, fontsize=8)
    axis.set_title(label, fontsize=9)
  axes[0].set_ylabel('test accuracy, % ± std', fontsize=9)
  axes[-1].legend(fontsize=7, loc='center left', bbox_to_anchor=(1, 0.5), title='hollow: calibrated', title_fontsize=7)
  save(figure, path)


def _point(axis: Axes, at: float, accuracy: Sequence[float], color: str, fill: Any) -> None:
  level, deviation = percent(accuracy)
  axis.errorbar(at, level, deviation, color=color, marker='o', markersize=4, fillstyle=fill, linewidth=0.8)


def samples(path: Path, inputs: Mapping[str, Any], dataset: Dataset) -> None:
  """Draws the first inputs of each source, a row each, as pixels of the data would be shown."""
  figure = Figure(figsize=(0.62 * _SHOWN + 1.3, 0.62 * len(inputs) + 0.2), layout='constrained')
  axes = figure.subplots(len(inputs), _SHOWN, squeeze=False)
  for (name, images), row in zip(inputs.items(), axes, strict=True):
    pixels = images[:_SHOWN] * np.asarray(dataset.pixel_std) + np.asarray(dataset.pixel_mean)
    shown = np.clip(pixels / dataset.brightest, 0, 1)
    for axis, image in zip(row, [*shown, *[None] * (_SHOWN - len(shown))], strict=True):
      if image is not None:
        axis.imshow(image if image.shape[-1] == 3 else image[..., 0], cmap='gray', vmin=0, vmax=1)
      axis.set_xticks([])
      axis.set_yticks([])
    row[0].set_ylabel(name, fontsize=7, rotation=0, ha='right', va='center')
  save(figure, path)
