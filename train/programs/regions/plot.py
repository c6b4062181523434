"""Plot of regions: the linear regions on a plane through three images."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from train.programs.regions.count import Plane
from train.programs.regions.table import Row

matplotlib.use('agg')
_CLASSES = (
  '#8fb8de', '#f4b183', '#a3d39c', '#e79a9a', '#c3b1e1', '#c9b09b', '#f2b8d8', '#bdbdbd', '#d9d67a', '#8ed6d6'
)  # fmt: skip
_COLUMNS = 6


class Panel(NamedTuple):
  """A network on the plane's grid [grid, grid]: the region's number at each point, or None if smooth, and the class."""

  regions: np.ndarray | None
  classes: np.ndarray

  @property
  def distinct(self) -> int:
    """Counts the different regions that the grid meets."""
    return 0 if self.regions is None else len(np.unique(self.regions))


def planes(path: Path, plane: Plane, rows: Sequence[Row], panels: Sequence[Panel]) -> None:
  """Draws each kind of network, the untrained above the trained: colours are classes, shades and lines regions."""
  kinds = len(panels) // 2
  columns = min(_COLUMNS, kinds)
  bands = -(-kinds // columns)
  figure = Figure(figsize=(2.2 * columns, 4.65 * bands + 0.5), layout='constrained')
  axes = figure.subplots(2 * bands, columns, squeeze=False)
  for axis in axes.flat:
    axis.axis('off')
  for i, (row, panel) in enumerate(zip(rows, panels, strict=True)):
    band, column = divmod(i // 2, columns)
    _draw(axes[2 * band + i % 2, column], plane, row, panel)
  figure.suptitle('the plane through three test images (circles, in the colour of their class)', fontsize=9)
  classes = sorted({int(i) for panel in panels for i in np.unique(panel.classes)} | {int(i) for i in plane.labels})
  handles = [Patch(color=_CLASSES[i % len(_CLASSES)], label=str(i)) for i in classes]
  figure.legend(
    handles=handles,
    loc='outside lower center',
    ncols=len(handles),
    title='class that the network decides on',
    fontsize=8,
    title_fontsize=8,
  )
  figure.savefig(path, dpi=160)


def _draw(axis: Axes, plane: Plane, row: Row, panel: Panel) -> None:
  reach = plane.ticks[-1]
  axis.imshow(_colors(panel), extent=(-reach, reach, -reach, reach), origin='lower', interpolation='antialiased')
  true = [_CLASSES[i % len(_CLASSES)] for i in plane.labels]
  axis.scatter(*plane.marks.T, s=34, color=true, edgecolors='black', linewidths=1.4)
  count = 'smooth' if panel.regions is None else f'{panel.distinct:,} regions'
  axis.set_title(f'{row.label}, {"trained" if row.trained else "untrained"}: {count}', fontsize=7.5)


def _colors(panel: Panel) -> np.ndarray:
  """Colours the grid: hue by class, shade by the region's number, and dark lines between regions."""
  hues = np.array([to_rgb(_CLASSES[i % len(_CLASSES)]) for i in range(panel.classes.max() + 1)])
  image = hues[panel.classes]
  if panel.regions is None:
    return image
  shade = (panel.regions >> np.uint64(40)).astype(float) / 2**24
  image = image * (0.78 + 0.3 * shade[..., None])
  edge = np.zeros(panel.regions.shape, bool)
  edge[1:] |= panel.regions[1:] != panel.regions[:-1]
  edge[:, 1:] |= panel.regions[:, 1:] != panel.regions[:, :-1]
  ink = 0.35 + 0.5 * min(1, 2 * edge.mean())  # lighter where lines would cover everything
  return np.clip(np.where(edge[..., None], ink * image, image), 0, 1)
