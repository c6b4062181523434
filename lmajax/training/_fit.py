"""The loop: steps over batches that are numbered by step, and after each epoch a callback and a checkpoint."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np

from lmajax._arguments import check_count, shown
from lmajax.training._checkpoint import Checkpoints, UnfitError
from lmajax.training._step import TrainState
from lmajax.types import Metrics


@runtime_checkable
class Steps(Protocol):
  """Batches by the number of the step: the same batch for the same number, whenever it is asked for.

  >>> class Same:
  ...   steps_per_epoch = 3
  ...   def __getitem__(self, step): return Batch(jnp.ones((2, 4)), jnp.array([0, 1]))
  >>> Same().steps_per_epoch
  3

  Source: not in the paper.
  """

  steps_per_epoch: int

  def __getitem__(self, step: int, /) -> Any: ...


class Hooks(NamedTuple):
  """Functions that a loop calls before, in and after each epoch.

  Attributes:
    begin: (states, history) -> the states of the next epoch, or None to end. History has an entry for each epoch.
    between: (states, step, history) -> nothing, before each call of steps; it may save, and raise to stop.
    end: (states, step, history) -> (states, entry), after an epoch; the entry is appended to the history.

  >>> Hooks._fields
  ('begin', 'between', 'end')
  """

  begin: Callable[[Any, list], Any]
  between: Callable[[Any, int, list], None]
  end: Callable[[Any, int, list], tuple[Any, Any]]


def loop(advance: Callable, states: Any, hooks: Hooks, *, steps_per_epoch: int, history: tuple[int, list]) -> Any:
  """Runs epochs until ``hooks.begin`` ends them.

  Args:
    advance: (states, step, end) -> (states, next step): makes one step or several, and none beyond the end.
    states: those of one student or of many.
    hooks: what is asked and told.
    steps_per_epoch: how many.
    history: the step to go on with, and the list of the epochs before, to which the entries are appended.

  Returns:
    The states.

  >>> one_more = lambda states, step, end: (states + 0.5, step + 1)
  >>> hooks = Hooks(
  ...   begin=lambda states, history: states if len(history) < 3 else None,
  ...   between=lambda states, step, history: None,
  ...   end=lambda states, step, history: (states, step))
  >>> epochs = []
  >>> loop(one_more, 0.0, hooks, steps_per_epoch=4, history=(0, epochs)), epochs
  (6.0, [4, 8, 12])

  Source: not in the paper.
  """
  step, entries = history
  while (begun := hooks.begin(states, entries)) is not None:
    states, end = begun, (len(entries) + 1) * steps_per_epoch
    while step < end:
      hooks.between(states, step, entries)
      states, step = advance(states, step, end)
    states, entry = hooks.end(states, step, entries)
    entries.append(entry)
  return states


def fit(
  step: Callable,
  state: TrainState,
  batches: Steps,
  *,
  epochs: int,
  callback: Callable[[TrainState, Metrics], Any] | None = None,
  checkpoints: Checkpoints | None = None,
) -> tuple[TrainState, list[dict[str, Any]]]:
  """Trains one student by a step of one's own, and goes on from its last checkpoint with the same bits.

  Args:
    step: (state, batch) -> (state, metrics): what ``make_train_step`` makes, with what is frozen already handed to it.
    state: a new student's, at step 0. It is donated to the step: do not use it afterwards.
    batches: ``batches[step]``, the same for the same step.
    epochs: in all, those of a checkpoint included.
    callback: is told the state and the means of the metrics after each epoch, and copies what it keeps of the state.
      A dictionary that it returns is added to the entry of the epoch; its ``score`` decides which checkpoint is the
      best, and without one the loss does.
    checkpoints: where the state is saved after each epoch; without any, nothing is saved.

  Returns:
    The state, and an entry for each epoch: its number and the means of its metrics, in float32.

  Raises:
    ValueError: an argument is none of these, or the checkpoints have more epochs.
    UnfitError: the checkpoints are of another training.
    DamagedError: none of the checkpoints can be read.
    OSError: the disk is full.

  >>> class Same:
  ...   steps_per_epoch = 3
  ...   def __getitem__(self, step): return Batch(jnp.ones((2, 4)), jnp.array([0, 1]))
  >>> import optax
  >>> model, tx = MLP((2,), 3, LMA), optax.sgd(0.1)
  >>> state = init_state(model, tx, jax.random.key(0), Same()[0].inputs)
  >>> step = make_train_step(supervised(model), tx)
  >>> state, history = fit(lambda state, batch: step(state, None, batch), state, Same(), epochs=2)
  >>> int(state.step), [sorted(entry) for entry in history]
  (6, [['epoch', 'loss'], ['epoch', 'loss']])

  Source: not in the paper.
  """
  check_count('epochs', epochs, 1)
  if not isinstance(batches, Steps):
    raise ValueError(f'batches is {shown(batches)}: give what has steps_per_epoch, and a batch for each step')
  steps = batches.steps_per_epoch
  check_count('steps_per_epoch', steps, 1)
  if not isinstance(state, TrainState) or np.shape(state.step):
    raise ValueError(f'state is {shown(state)}: give the TrainState of one student')
  state = jax.tree.map(jnp.asarray, state)
  entries: list[dict[str, Any]] = []
  if checkpoints is not None and (restored := checkpoints.restore(lambda: _placed(state))):
    state, entries = restored[0], restored[1]['epochs']
    if restored[1]['steps_per_epoch'] != steps:
      raise UnfitError(f'{checkpoints.folder} has {restored[1]["steps_per_epoch"]} steps an epoch, not {steps}')
  elif int(state.step):
    raise ValueError(f'state is of step {int(state.step)}: give a new one, of step 0')
  if len(entries) > epochs:
    raise ValueError(f'epochs is {epochs}, and the checkpoint has {len(entries)} already')
  sums: dict[str, Any] = {}

  def advance(state: Any, first: int, end: int) -> tuple[Any, int]:
    del end
    moved = step(state, batches[first])
    if not (isinstance(moved, tuple) and len(moved) == 2 and isinstance(moved[1], Mapping)):
      raise ValueError('step gives something else: let it give the state and a dictionary of metrics')
    for name, value in moved[1].items():
      sums[name] = sums.get(name, 0.0) + jnp.asarray(value, jnp.float32)
    return moved[0], first + 1

  def begin(state: Any, entries: list) -> Any:
    sums.clear()
    return state if len(entries) < epochs else None

  def end(state: Any, step: int, entries: list) -> tuple[Any, dict[str, Any]]:
    means = {name: np.asarray(total / steps).tolist() for name, total in sums.items()}
    said = None if callback is None else callback(state, means)
    if not isinstance(said, Mapping | None):
      raise ValueError(f'callback gives {shown(said)}: let it give a dictionary, or nothing')
    entry = {**means, **jax.tree.map(_plain, dict(said or {})), 'epoch': len(entries) + 1}
    if checkpoints is not None:
      loss = means.get('loss')
      score = entry.get('score', -loss if isinstance(loss, float) else 0.0)
      history = {'epochs': [*entries, entry], 'steps_per_epoch': steps}
      checkpoints.save(step, state, history=history, score=float(score))
    return state, entry

  hooks = Hooks(begin, lambda state, step, entries: None, end)
  at = len(entries) * steps, entries
  try:
    state = loop(advance, state, hooks, steps_per_epoch=steps, history=at)
  finally:
    if checkpoints is not None:
      checkpoints.close()
  return state, entries


def _plain(leaf: Any) -> Any:
  """Makes an array JSON can hold."""
  return np.asarray(leaf).tolist() if hasattr(leaf, 'dtype') else leaf


def _placed(states: Any) -> Any:
  return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), states)
