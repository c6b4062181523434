"""Finds students whose loss or score is not finite, reports them and sets their parameters to NaN."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lmajax.types import Array
from train.engine.cohort import Group
from train.runtime.errors import UserError

Lost = Mapping[str, np.ndarray]
"""Of a group, of a seed: whether it has diverged."""


def lost(losses: Mapping[str, Array], scores: Mapping[str, np.ndarray]) -> Lost:
  """Returns, by group and seed, whether the loss or the score is not finite."""
  return {name: ~np.isfinite(jax.device_get(losses[name]) + score) for name, score in scores.items()}


def errors_of(scores: np.ndarray) -> list[float | None]:
  """Returns the validation errors, None for a student that has diverged."""
  return [1 - score if np.isfinite(score) else None for score in scores.tolist()]


def tell(
  note: Callable[[str], None], phase: str, groups: Mapping[str, Group], rates: Any, errors: list[Any], lost: Lost
) -> None:
  """Reports each diverged student once, with seed, epoch and learning rate.

  Raises:
    UserError: all students of the cohort have diverged.
  """
  epoch = len(errors) + 1
  if all(each.all() for each in lost.values()):
    raise UserError(
      f'{phase}: no loss is finite after epoch {epoch}; give a smaller learning rate (what was saved before is whole)'
    )
  for name, each in lost.items():
    for i in np.flatnonzero(each).tolist():
      if not errors or errors[-1][name][i] is not None:
        who, when = f'{name}, seed {groups[name].seeds[i]}', f'epoch {epoch}, at a learning rate of {rates[name][i]:g}'
        note(f'{who}: its loss is not finite in {when}; it is given up, and the others go on')


def spoilt(progress: Any, lost: np.ndarray) -> Any:
  """Sets all parameters of the diverged students to NaN, which marks them as diverged everywhere."""

  def one(leaf: Array) -> Array:
    gone = lost.reshape(-1, *(1,) * (leaf.ndim - 1))
    return jnp.where(gone, jnp.full_like(leaf, jnp.nan), leaf) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf

  params = jax.jit(lambda params: jax.tree.map(one, params))(progress.state.params)
  return progress._replace(state=progress.state._replace(params=params))
