"""Draws a run's trained activations and saves pictures."""

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from train.activations import ACTIVATIONS, COLORS, factory, label
from train.engine.evaluate import member

matplotlib.use('agg')


def curves(path: Path, trained: dict[Any, Any]) -> None:
  """Draws the first seed's distilled activations, site by site; where channels differ, one line each."""
  arms = {arm: sites(member(variables, 0)) for arm, variables in trained.items() if not arm.hard_label}
  rows = [(width, site) for width in sorted({arm.width for arm in arms}) for site in _rows(arms, width)]
  kinds = list(dict.fromkeys((arm.activation, arm.segments) for arm in arms))
  figure = Figure(figsize=(2.2 * len(kinds) + 0.6, 1.9 * len(rows) + 0.5), layout='constrained')
  axes = figure.subplots(len(rows), len(kinds), squeeze=False)
  for arm, found in arms.items():
    for (width, site), row in zip(rows, axes, strict=True):
      if width == arm.width:
        column = row[kinds.index((arm.activation, arm.segments))]
        if site in found or not _parameters(arm.activation, arm.segments):
          _curve(column, arm, *found.get(site, ({}, {})))
  for (width, site), row in zip(rows, axes, strict=True):
    row[0].set_ylabel(f'width {width}\n{site}' if width else site, fontsize=8)
  for kind, axis in zip(kinds, axes[0], strict=True):
    axis.set_title(label(*kind), fontsize=9)
  save(figure, path)


@cache
def _parameters(activation: str, segments: int | None) -> frozenset[str]:
  """Returns the names of what an activation trains."""
  act = factory(activation, segments)()
  shapes = jax.eval_shape(lambda: act.init(jax.random.key(0), jnp.zeros((1, 1)), train=False))
  return frozenset(shapes.get('params', {}))


def _rows(arms: dict[Any, dict[str, Any]], width: int) -> list[str]:
  """Returns a width's sites in the network's order; one row for all if no activation has a parameter."""
  found = {site for arm, sites in arms.items() if arm.width == width for site in sites}
  return sorted(found, key=lambda site: (not site.startswith('stages_'), site)) or ['every site']


def sites(variables: Any) -> dict[str, tuple[Any, Any]]:
  """Maps the path of each site whose activation has parameters to these and its statistics.

  A site is known by the names of its parameters: in a user's own network it may have any name.
  """
  known = {_parameters(name, 4 if kind.segmented else None) for name, kind in ACTIVATIONS.items()}
  found = {}

  def walk(params: Any, stats: Any, path: tuple[str, ...]) -> None:
    own = {name: leaf for name, leaf in params.items() if not isinstance(leaf, Mapping) and name != 'range_deltas'}
    if own and frozenset(own) in known:
      while len(path) > 1 and path[-1] == 'act':  # also within that which quantizes its output
        path = path[:-1]
      found['/'.join(path)] = own, stats
    for name in params.keys() - own.keys() - {'range_deltas'}:
      walk(params[name], stats.get(name, {}), (*path, name))

  walk(variables['params'], variables.get('batch_stats', {}), ())
  return found


def _curve(axis: Axes, arm: Any, params: Any, stats: Any) -> None:
  x = np.linspace(-3.2, 3.2, 1281, dtype=np.float32)
  channels = max((leaf.shape[-1] for leaf in jax.tree.leaves(params) if leaf.ndim and 'weight' not in stats), default=1)
  act = factory(arm.activation, arm.segments)()
  grid = jnp.asarray(np.repeat(x[:, None], channels, axis=1))
  y = np.array(act.apply({'params': params, 'batch_stats': stats}, grid, train=False))
  if 'weight' in stats:  # a jump is no line
    y[:-1][np.abs(np.diff(y, axis=0)) > 20 * (x[1] - x[0])] = np.nan
  axis.plot(x, np.maximum(x, 0), color='#bbbbbb', linewidth=0.8)
  axis.plot(x, y, color=COLORS[arm.activation], linewidth=1.2, alpha=1 if channels == 1 else 0.6)
  axis.tick_params(labelsize=6)


def save(figure: Figure, path: Path) -> None:
  """Writes a picture atomically."""
  part = path.with_name(f'.{path.name}')
  figure.savefig(part, dpi=110)
  part.replace(path)
