"""Holds a phase's data and runs its training steps, one by one or many in one program."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax

from lmajax.training import compiled
from lmajax.types import Array, Batch, Frozen
from train.data.batches import Batches, Epoch, Steps

Advance = Callable[[Any, Frozen, int, int], tuple[Any, int]]
"""(states, frozen, first, end) -> (states, next): goes some of the steps from the first on, and none beyond the end."""


def stepped(step: Callable, batches: Steps) -> Advance:
  """Runs one step per call, on a batch from the host."""
  one = compiled(step, placed=batches.everywhere)

  def advance(states: Any, frozen: Frozen, first: int, end: int) -> tuple[Any, int]:
    del end
    return one(states, frozen, batches[first]), first + 1

  return advance


def looped(step: Callable, batches: Batches, *, chunk: int = 50) -> Advance:
  """Runs a chunk of steps of one epoch per call, in one program over images that stay on the devices.

  A signal has to wait for the chunk's end: 50 steps are seconds, and a call costs nothing beside them. The bounds are
  arguments, not constants, so that all chunks share one program. On the CPU a convolution inside a loop is ten times
  slower.
  """

  def run(states: Any, frozen: Frozen, epoch: Epoch, first: Array, last: Array) -> Any:
    return jax.lax.fori_loop(first, last, lambda i, states: step(states, frozen, batches.batch(epoch, i)), states)

  compiled_run = compiled(run, placed=batches.everywhere)

  def advance(states: Any, frozen: Frozen, first: int, end: int) -> tuple[Any, int]:
    last = min(first + chunk, end)
    states = compiled_run(states, frozen, batches.epoch(first // batches.steps_per_epoch), first, last)
    return jax.block_until_ready(states), last

  return advance


class Data(NamedTuple):
  """Data of a phase: training batches by step, and the validation set as batches with masks."""

  batches: Steps
  validation: Sequence[tuple[Batch, Array]]
  sharding: jax.sharding.NamedSharding
  walk: Callable[[Callable, Any], Advance] = stepped
