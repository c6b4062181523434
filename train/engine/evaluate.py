"""Scores finished networks, and measures their running statistics again under their own weights."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from lmajax.training import forward, network_of, parted, settle, together
from lmajax.types import Array, Batch
from train.engine.cohort import Group


def member(variables: Any, seed: int) -> Any:
  """Selects one student from a group's variables, by its index."""
  return jax.tree.map(lambda leaf: leaf[seed], variables)


def scores(groups: Mapping[str, Group]) -> Callable[..., dict[str, np.ndarray]]:
  """Compiles (variables by name, batches) -> the mean score of each seed by name, in float64."""
  step = jax.jit(together({name: group.over(group.score.of(group.model)) for name, group in groups.items()}))

  def measure(variables: dict[str, Any], batches: Sequence[tuple[Batch, Array]]) -> dict[str, np.ndarray]:
    students = {name: variables[name] for name in groups}
    each = [jax.device_get(step(students, batch, mask)) for batch, mask in batches]
    total = sum(int(mask.sum()) for _, mask in batches)
    return {name: np.asarray([batch[name] for batch in each], np.float64).sum(axis=0) / total for name in groups}

  return measure


def measured_again(groups: Mapping[str, Group]) -> Callable[..., dict[str, Any]]:
  """Compiles (variables by name, training batches) -> the same with running statistics measured under these weights.

  Statistics start as a new network's and are updated by forward passes in training mode; no parameter changes.
  """

  def begun(group: Group) -> Callable:
    def on_variables(variables: dict[str, Any], batch: Batch) -> dict[str, Any]:
      fresh = network_of(group.model).variables(jax.random.key(0), batch.inputs)
      return {**fresh, 'params': variables['params']}

    return group.over(on_variables)

  def moved(group: Group) -> Callable:
    def on_variables(variables: dict[str, Any], batch: Batch) -> dict[str, Any]:
      params, stats = parted(variables)
      return {'params': params, **forward(group.model, params, stats, batch.inputs, jax.random.key(0))[1]}

    return group.over(on_variables)

  begin = jax.jit(together({name: begun(group) for name, group in groups.items()}))
  step = jax.jit(together({name: moved(group) for name, group in groups.items()}), donate_argnums=0)

  def measure(variables: dict[str, Any], batches: Iterable[Batch]) -> dict[str, Any]:
    found = None
    for batch in batches:
      found = begin(variables, batch) if found is None else found
      found = step(found, batch)
      settle(found)
    return found or variables

  return measure


def stacked(members: Sequence[Any]) -> Any:
  """Stacks trees of one structure along a new leading axis."""
  return jax.tree.map(lambda *leaves: np.stack(leaves), *members)
