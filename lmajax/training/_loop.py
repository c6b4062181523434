"""The loop over epochs, and what a caller does before, in and after each."""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, runtime_checkable


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
