"""What every program is put through: wrong options, configurations to keep, and a small run that is stopped."""

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from train.data.specs import SPECS

IMAGES = tuple(SPECS)


class Stop(NamedTuple):
  """When a process is stopped, by which signal, and how many steps need not be computed again afterwards.

  It is the call of number ``at`` of one kind (``tests.support.processes``), before it or after.
  """

  at: int
  saved: int
  signum: int = signal.SIGKILL
  kind: str = 'step'
  after: bool = False


class Case(NamedTuple):
  """A program: options it refuses with the beginning of what it says, and a small run of so many steps."""

  wrong: list[tuple[str, str]]
  check: Callable[[Any], object]
  saved: list[Any]
  small: list[str]
  steps: int
  stops: list[Stop]
  left: int
  """Steps that are left when the run goes on for the last time."""
  data: tuple[str, ...] = IMAGES
  """The data sets whose defaults may be run."""
  files: Callable[[Path], list[str]] = lambda folder: []
  """Writes what the small run reads, and returns the options that name it."""
  teacher: str | None = None
  """The teacher's name in the small run, where no other test hands it on."""
  pictures: tuple[str, tuple[Callable[[Path, Any], object], ...]] | None = None
  """A folder of committed results, and what is drawn of its rows."""
  once: tuple[str, ...] = ()
  """Files of the run that are made before the last stop, and not again."""

  def options(self, folder: Path) -> list[str]:
    """The small run's; its files lie in a folder beside it."""
    return [*self.files(folder), *self.small]
