"""Runs regions: counts the linear regions of small networks of equal size, before and after training.

Every kind of network has the same widths and seeds, and is measured on the same segments between test images and the
same plane through three of them. Along a segment every region is counted; on the plane a grid finds only those that one
of its points meets, so that the number there is a lower bound. Trained networks keep their statistics from training.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np

from lmajax import models, tree
from lmajax.training import supervised, vmapped
from lmajax.types import Batch
from train import build
from train.activations import chosen, factory, label
from train.config import Named
from train.data import load
from train.data.specs import SPECS
from train.engine.cohort import Cohort, Group, fresh, weights
from train.engine.evaluate import measured_again, member, scores
from train.engine.fit import fit
from train.engine.walk import Data
from train.programs.regions import count as regions
from train.programs.regions import plot as draw_regions
from train.programs.regions.config import Regions, check
from train.programs.regions.count import Plane
from train.programs.regions.pieces import differentiated
from train.programs.regions.plot import Panel
from train.programs.regions.table import Row, text
from train.results.rows import write_results
from train.runtime.run import Run

LEFT = 'results.json, results.md, regions.png'
_MEASURING = 64  # training batches for an untrained network's statistics; batch norm's start fades to 0.9⁶⁴ = 0.1 %
_BLOCK = 4096  # points of the plane at a time: they fit into the cache, five times faster than all at once


class Inputs(NamedTuple):
  """Inputs on which all networks are measured: segments between test images, [lines, d] each, and a plane."""

  starts: np.ndarray
  ends: np.ndarray
  plane: Plane

  @property
  def hull(self) -> np.ndarray:
    """Returns points whose convex hull holds all segments and the square of the plane."""
    return np.concatenate([self.starts, self.ends, self.plane.corners])


class Experiment(NamedTuple):
  """Data, inputs to measure on, and a group of seeds per kind of network, built from a configuration."""

  config: Regions
  data: Data
  test: list[tuple[Batch, Any]]
  inputs: Inputs
  networks: Cohort
  kinds: dict[str, tuple[str, int | None]]


def experiment(asked: Regions) -> Experiment:
  """Checks the options, reads the data and builds every network, before anything is trained or written."""
  check(asked)
  students = Named(data=asked.data, **SPECS[asked.data].published)
  dataset = load(asked.data, data_dir=asked.data_dir)
  data, test = build.data(students, dataset)

  def group(activation: str, segments: int | None) -> Group:
    units = (asked.width,) * asked.depth
    model = models.MLP(units, dataset.num_classes, factory(activation, segments))
    return Group(model, supervised(model), range(asked.seeds), vmapped)

  kinds = {label(*kind): kind for kind in chosen(asked)}
  networks = Cohort({name: group(*kind) for name, kind in kinds.items()}, build.plan(students, asked.epochs))
  return Experiment(asked, data, test, _inputs(asked, test), networks, kinds)


def _inputs(asked: Regions, test: list[tuple[Batch, Any]]) -> Inputs:
  images = np.concatenate([np.asarray(batch.inputs)[np.asarray(mask)] for batch, mask in test]).astype(np.float64)
  labels = np.concatenate([np.asarray(batch.labels)[np.asarray(mask)] for batch, mask in test])
  images = images.reshape(len(images), -1)
  rng = np.random.default_rng(0)
  pairs = np.stack([rng.choice(len(images), 2, replace=False) for _ in range(asked.lines)])
  classes = rng.choice(np.unique(labels), 3, replace=False)
  corners = [rng.choice(np.flatnonzero(labels == one)) for one in classes]
  plane = regions.plane_through(images[corners], labels[corners], asked.grid)
  return Inputs(images[pairs[:, 0]], images[pairs[:, 1]], plane)


def run(plan: Experiment, to: Run) -> list[Row]:
  """Trains all networks, counts before and after, and writes the table and the picture."""
  to.bar.total = plan.config.epochs * plan.data.batches.steps_per_epoch
  trained = weights(plan.networks)(fit(to, 'networks', plan.networks, plan.data))
  before = untrained(plan.networks, plan.data)
  rows, panels = [], []
  for name, (activation, segments) in plan.kinds.items():
    count = _counter(plan, name)
    for variables in (before, trained):
      columns, panel = count(variables[name])
      rows.append(Row(activation, segments, variables is trained, plan.config.width, plan.config.depth, *columns))
      panels.append(panel)
  values = [{**row._asdict(), 'regions_per_parameter': row.regions_per_parameter} for row in rows]
  write_results(to.folder, plan.config, values, text(rows))
  draw_regions.planes(to.folder / 'regions.png', plan.inputs.plane, rows, panels)
  return rows


def untrained(networks: Cohort, data: Data) -> dict[str, Any]:
  """Returns the networks as ``fit`` starts from them, but with measured running statistics.

  Fresh statistics would put batch norm at mean 0 and variance 1 and all of LMA's cuts at 0. These are measured by
  forward passes in training mode over the first training batches, which change no parameter.
  """
  start = weights(networks)(fresh(networks, data.batches[0].inputs))
  return measured_again(networks.groups)(start, (data.batches[i] for i in range(_MEASURING)))


def _counter(plan: Experiment, name: str) -> Callable[[dict[str, Any]], tuple[tuple, Panel]]:
  """Returns a function from a group's variables to the last columns of its row and a panel of its first seed."""
  group = plan.networks.groups[name]
  act, seeds = group.model.act(), range(len(group.seeds))
  measure = differentiated(lambda site, z: act.apply(site, z, train=False))
  score = scores({name: group})

  def count(variables: dict[str, Any]) -> tuple[tuple, Panel]:
    right = score({name: variables}, plan.test)[name].tolist()
    members = [member(variables, i) for i in seeds]
    networks = [regions.fold(one, measure, plan.inputs.hull) for one in members]
    cut = [network for network in networks if network is not None]
    lines = [on_lines(network, plan.inputs) for network in cut] or None
    panels = [on_plane(network, plan.inputs.plane) for network in cut]
    distinct = [panel.distinct for panel in panels] or None
    panels = panels or [Panel(None, decisions(group.model, members[0], plan.inputs.plane))]
    return (tree.size(members[0]['params']), lines, distinct, right), panels[0]

  return count


def on_lines(network: regions.Network, inputs: Inputs) -> float:
  """Returns the mean number of regions that a segment meets."""
  pairs = zip(inputs.starts, inputs.ends, strict=True)
  return float(np.mean([len(regions.breaks(network, start, end)) + 1 for start, end in pairs]))


def on_plane(network: regions.Network, plane: Plane) -> Panel:
  """Returns the region and the class of every point of the plane's grid."""
  network = regions.restricted(network, plane.origin, plane.directions)
  x, shape = plane.coordinates, (len(plane.ticks), len(plane.ticks))
  parts = [regions.patterns(network, x[i : i + _BLOCK]) for i in range(0, len(x), _BLOCK)]
  numbers, classes = (np.concatenate(part) for part in zip(*((regions.hashed(p), c) for p, c in parts), strict=True))
  return Panel(numbers.reshape(shape), classes.reshape(shape))


def decisions(model: nn.Module, variables: Any, plane: Plane) -> np.ndarray:
  """Returns the class of every point of the grid, row by row, for smooth networks, which have no pieces."""
  row = jax.jit(lambda images: model.apply(variables, images, train=False)[0].argmax(-1))
  across = plane.origin + plane.ticks[:, None] * plane.directions[0]
  return np.stack([row((across + v * plane.directions[1]).astype(np.float32)) for v in plane.ticks])
