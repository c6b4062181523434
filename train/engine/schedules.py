"""Learning rates by epoch: pure functions of the validation errors so far, so that a resume has no counter to lose."""

import math
from collections.abc import Callable, Sequence

import numpy as np
import optax

Schedule = Callable[[Sequence[float]], float | None]
"""The errors (0 … 1) of the finished epochs -> the factor on the learning rate in the next one, or None to stop."""


def constant(epochs: int) -> Schedule:
  """Keeps the rate constant."""
  return lambda errors: 1.0 if len(errors) < epochs else None


def cosine(epochs: int) -> Schedule:
  """Decays by half a cosine from 1 to 0 over the epochs."""
  return lambda errors: 0.5 * (1 + math.cos(math.pi * len(errors) / epochs)) if len(errors) < epochs else None


def warmup_cosine(epochs: int) -> Schedule:
  """Rises linearly over the first tenth of the epochs, then decays by half a cosine to 0, taken at mid-epoch."""
  warmup = max(1, round(epochs / 10))
  factor = optax.schedules.warmup_cosine_decay_schedule(0.0, 1.0, warmup, max(epochs, warmup + 1))
  return lambda errors: np.asarray(factor(len(errors) + 0.5)).item() if len(errors) < epochs else None


def steps(epochs: int) -> Schedule:
  """Follows the paper's CIFAR-100 rule, as its code runs it: a factor of 0.2 after 62, 122 and 162 of 200 epochs.

  The paper's text says 60, 120 and 160. For another number of epochs the borders scale in proportion.
  """
  borders = [round(border * epochs / 200) for border in (62, 122, 162)]
  return lambda errors: 0.2 ** sum(len(errors) >= b for b in borders) if len(errors) < epochs else None


def scaled(schedule: Schedule, by: float) -> Schedule:
  """Multiplies the factors of a schedule, which ends when it ended."""

  def factor(errors: Sequence[float]) -> float | None:
    found = schedule(errors)
    return None if found is None else by * found

  return factor


def part(schedule: Schedule, first: int, epochs: int) -> Schedule:
  """Takes ``epochs`` epochs, from ``first`` on, of a longer schedule that depends on the epoch's number alone."""
  return lambda errors: schedule([0.0] * first + [*errors]) if len(errors) < epochs else None


def plateau(epochs: int) -> Schedule:
  """Follows the paper's CIFAR-10 rule, as its code runs it, but on the validation error instead of the test error.

  An epoch improves if its error is more than 0.1 points below the best. After 10 epochs without improvement the rate is
  halved, at most every 8 epochs (halving does not restart the first count). After more than 30 epochs without
  improvement, or more than 11 halvings, training stops.
  """

  def factor(errors: Sequence[float]) -> float | None:
    best, stale, since_halving, halvings = math.inf, 0, math.inf, 0
    for error in errors:
      improved = error < best - 1e-3
      best, stale = (error, 0) if improved else (best, stale + 1)
      since_halving += 1
      if stale > 30 or halvings > 11:
        return None
      if stale >= 10 and since_halving >= 8:
        halvings, since_halving = halvings + 1, 0
    return 0.5**halvings if len(errors) < epochs else None

  return factor


_BY_NAME = {
  'cosine': cosine,
  'warmup-cosine': warmup_cosine,
  'plateau': plateau,
  'steps': steps,
  'constant': constant,
}


def schedule(name: str, epochs: int) -> Schedule:
  """Makes the schedule of a name for a number of epochs."""
  return _BY_NAME[name](epochs)
