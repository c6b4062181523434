"""Computes and formats means, standard deviations and paired differences with intervals; formats tables."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

from train.runtime.outside import printable


class Difference(NamedTuple):
  """A paired difference of accuracies and its 95 % interval, which needs more than one seed."""

  mean: float
  half_width: float | None


def known(values: Sequence[float] | np.ndarray) -> np.ndarray:
  """Returns the values of the students that have not diverged."""
  found = np.asarray(values, np.float64)
  return found[np.isfinite(found)]


def mean(values: Sequence[float] | np.ndarray) -> float:
  """Returns the mean over the students that have not diverged; NaN if there are none."""
  found = known(values)
  return float(found.mean()) if len(found) else np.nan


def deviation(values: Sequence[float] | np.ndarray) -> float:
  """Returns the sample standard deviation over the students that have not diverged; 0 for fewer than two."""
  found = known(values)
  return float(found.std(ddof=1)) if len(found) > 1 else 0.0


def percent(values: Sequence[float] | np.ndarray) -> tuple[float, float]:
  """Returns the mean and the standard deviation in percent."""
  return 100 * mean(values), 100 * deviation(values)


def paired(accuracy: Sequence[float], base: Sequence[float]) -> Difference:
  """Returns the mean of the differences seed by seed, with Student's t interval."""
  if len(accuracy) != len(base):  # what does not depend on the seed has one figure
    return Difference(mean(accuracy) - mean(base), None)
  differences = known(np.subtract(accuracy, base))
  n = len(differences)
  if n < 2:
    return Difference(mean(differences), None)
  error = differences.std(ddof=1) / np.sqrt(n)
  return Difference(float(differences.mean()), float(stats.t.ppf(0.975, n - 1) * error))


def markdown(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
  """Formats a Markdown table whose first column is text and whose others are numbers."""
  whole = (head, ('---', *('---:' for _ in head[1:])), *lines)
  return '\n'.join(f'| {" | ".join(map(_cell, line))} |' for line in whole)


def _cell(text: str) -> str:
  """Keeps a table whole whose names, as those of a user's own data, hold bars or ends of lines."""
  return printable(text).replace('|', '\\|')


def cells(line: str) -> list[str]:
  """Returns the cells of a line that ``markdown`` made."""
  return [cell.replace('\\|', '|') for cell in line[2:-2].split(' | ')]


def interval(difference: Difference, *, unit: float = 0.01, digits: int = 2) -> str:
  """Formats the interval, by default in percentage points."""
  if difference.half_width is None:
    return 'one seed' if np.isfinite(difference.mean) else ''
  low, high = ((difference.mean + sign * difference.half_width) / unit for sign in (-1, 1))
  return f'{low:+.{digits}f} … {high:+.{digits}f}'


def difference(
  values: Sequence[float], base: Sequence[float], *, unit: float = 0.01, digits: int = 2
) -> tuple[str, str]:
  """Formats the paired difference and its interval, by default in percentage points."""
  found = paired(values, base)
  if not np.isfinite(found.mean):
    return '', ''
  return f'{round(found.mean / unit, digits) + 0.0:+.{digits}f}', interval(found, unit=unit, digits=digits)


def spread(values: Sequence[float], *, unit: float = 0.01, digits: int = 2) -> str:
  """Formats the mean and the standard deviation over the seeds, by default in percent."""
  scaled = known(values) / unit
  lost = f'{len(values) - len(scaled)} of {len(values)} diverged' if len(scaled) < len(values) else ''
  if not len(scaled):
    return lost
  deviates = f' ± {deviation(scaled):.{digits}f}' if len(scaled) > 1 else ''
  return f'{mean(scaled):.{digits}f}{deviates}{f" ({lost})" if lost else ""}'
