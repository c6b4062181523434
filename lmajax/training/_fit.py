"""The loop: steps over batches that are numbered by step, and after each epoch a callback and a checkpoint."""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np

from lmajax.training._checkpoint import Checkpoints
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

  def __getitem__(self, step: int) -> Any: ...


class Hooks(NamedTuple):
  """Functions that a loop calls before, in and after each epoch.

  Attributes:
    begin: (states, history) -> the states of the next epoch, or None to end. History has an entry for each epoch.
    between: (states, step, history) -> nothing, before each call of steps; it may save, and raise to stop.
    end: (states, step, history) -> (states, entry), after an epoch.

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
    state: a new student's; as every compiled step, this one takes it.
    batches: by step.
    epochs: to train in all.
    callback: is told the state and the means of the metrics after each epoch; a dictionary that it returns is added to
      the entry of the epoch, and its ``score``, if there is one, decides which checkpoint is the best.
    checkpoints: where the state is saved after each epoch; without any, nothing is saved.

  Returns:
    The state, and an entry for each epoch: its number and the means of its metrics.

  Raises:
    UnfitError: the checkpoints are of another training.

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
  shapes = jax.eval_shape(lambda *given: step(*given)[1], state, batches[0])
  states = state, jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
  entries: list[dict[str, Any]] = []
  if checkpoints is not None and (restored := checkpoints.restore(lambda: _placed(states))):
    states, entries = restored[0], restored[1]['epochs']

  def advance(states: Any, first: int, end: int) -> tuple[Any, int]:
    del end
    state, sums = states
    state, metrics = step(state, batches[first])
    return (state, jax.tree.map(jnp.add, sums, metrics)), first + 1

  def begin(states: Any, entries: list) -> Any:
    return states if len(entries) < epochs else None

  def end(states: Any, step: int, entries: list) -> tuple[Any, dict[str, Any]]:
    state, sums = states
    means = {name: np.asarray(total / batches.steps_per_epoch).tolist() for name, total in sums.items()}
    entry = {'epoch': len(entries) + 1, **means}
    if callback is not None:
      entry |= callback(state, means) or {}
    states = state, jax.tree.map(jnp.zeros_like, sums)
    if checkpoints is not None:
      score = entry.get('score', -entry['loss'])
      checkpoints.save(step, states, history={'epochs': [*entries, entry]}, score=float(score))
    return states, entry

  hooks = Hooks(begin, lambda states, step, entries: None, end)
  first = int(states[0].step), entries
  states = loop(advance, states, hooks, steps_per_epoch=batches.steps_per_epoch, history=first)
  if checkpoints is not None:
    checkpoints.close()
  return states[0], entries


def _placed(states: Any) -> Any:
  return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), states)
