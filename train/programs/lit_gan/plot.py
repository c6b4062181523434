"""Draws the sheet of pictures: test images, their true styles, and each generator's translations."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from train.programs.lit_gan.styles import STYLES
from train.results.plots import save

matplotlib.use('agg')
SHOWN = 6  # test images, so that each source is seen twice
_GAP = 0.12  # between images, in images


def sheet(path: Path, columns: Mapping[str, Any]) -> None:
  """Draws a panel per target style: a row per image, and a column per named array, [styles, images, h, w, 1]."""
  figure = Figure(figsize=(11, 11.6), layout='constrained')
  for i, (style, axis) in enumerate(zip(STYLES, figure.subplots(2, 2).flat, strict=True)):
    _panel(axis, {name: np.asarray(images[i]) for name, images in columns.items()})
    axis.set_title(f'to {style}', fontsize=11)
  save(figure, path)


def _panel(axis: Axes, columns: Mapping[str, np.ndarray]) -> None:
  for x, images in enumerate(columns.values()):
    for y, image in enumerate(images):
      extent = (x, x + 1 - _GAP, y + 1 - _GAP, y)
      axis.imshow(image[..., 0], cmap='gray', vmin=-1, vmax=1, extent=extent, interpolation='nearest')
  axis.set_xlim(0, len(columns) - _GAP)
  axis.set_ylim(len(next(iter(columns.values()))) - _GAP, 0)
  axis.set_facecolor('#88aacc')  # neither black nor white, so that the borders of images are seen
  axis.set_xticks([x + (1 - _GAP) / 2 for x in range(len(columns))], list(columns), fontsize=9)
  axis.set_yticks([])
