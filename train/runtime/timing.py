"""Interleaved timing: every round runs all contestants in a fresh order, so that what disturbs one disturbs all."""

import math
import random
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

Contestant = Callable[[], object]  # runs once and waits for its end


class Ratio(NamedTuple):
  """The median over the rounds of time / time of the base in the same round, and its 10th and 90th percentiles."""

  median: float
  low: float
  high: float


def pause() -> None:
  """Sleeps so that the previous contestant's threads stop spinning."""
  time.sleep(0.005)


def interleaved(
  contestants: Mapping[str, Contestant],
  *,
  rounds: int,
  seed: int = 0,
  at_least: float = 0.002,
  clock: Callable[[], float] = time.perf_counter,
  rest: Callable[[], None] = pause,
) -> dict[str, list[float]]:
  """Times each contestant once a round; returns seconds per call, name -> one number per round.

  A call shorter than ``at_least`` seconds is repeated within its turn until the turn lasts that long.
  """

  def seconds(contestant: Contestant, calls: int) -> float:
    began = clock()
    for _ in range(calls):
      contestant()
    return (clock() - began) / calls

  calls = {name: _calls(contestant, seconds, at_least) for name, contestant in contestants.items()}
  samples: dict[str, list[float]] = {name: [] for name in contestants}
  order, shuffle = list(contestants), random.Random(seed).shuffle
  for _ in range(rounds):
    shuffle(order)
    for name in order:
      rest()
      samples[name].append(seconds(contestants[name], calls[name]))
  return samples


def _calls(contestant: Contestant, seconds: Callable[[Contestant, int], float], at_least: float) -> int:
  """Warms up and returns how many calls make a turn."""
  contestant()
  once = seconds(contestant, 1)
  return 1 if once <= 0 else max(1, math.ceil(at_least / once))


def best(ways: Mapping[str, Contestant], *, clock: Callable[[], float] = time.perf_counter) -> tuple[str, Contestant]:
  """Returns the fastest of several ways to do the same, after a short trial."""
  samples = interleaved(ways, rounds=2, clock=clock)
  return min(ways.items(), key=lambda way: median(samples[way[0]]))


def median(samples: Sequence[float]) -> float:
  return float(np.median(samples))


def ratio(samples: Sequence[float], base: Sequence[float]) -> Ratio:
  """Divides the samples by the base's, round by round."""
  low, middle, high = np.percentile(np.divide(samples, base), (10, 50, 90))
  return Ratio(float(middle), float(low), float(high))
