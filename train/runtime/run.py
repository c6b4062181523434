"""Holds a run's folder: locks it, reports metrics into it, and stops the run on a signal."""

import fcntl
import json
import os
import shlex
import signal
import sys
import threading
from collections.abc import Callable, Collection
from pathlib import Path
from types import FrameType
from typing import Any

from jax.experimental import multihost_utils
from tensorboardX import SummaryWriter
from tqdm.auto import tqdm

from train.runtime.distributed import first, several, wait
from train.runtime.errors import UserError
from train.runtime.files import environment, environments, without_nan, write_atomically

LOCK = '.lock'
"""The file by which one process holds a run's folder."""


_GRACE = 2.0  # seconds in which a loop can heed a signal, where there is one


class Stopped(BaseException):
  """Raised where a signal asked to stop and everything is saved; no handler of errors may catch it."""

  def __init__(self, signum: int, folder: Path):
    super().__init__(
      f'stopped by {signal.Signals(signum).name}; go on with --resume --workdir {shlex.quote(str(folder))}'
    )
    self.signum = signum
    self.code = 128 + signum


class Run:
  """The open folder of a run: metrics, progress bar, and whether a signal has asked to stop.

  While ``unsaved`` is set, a signal waits until the loop asks for it and has saved. Otherwise it ends the process
  within seconds, even during a compilation or the scores.

  Args:
    folder: the run's.
    restart: whether to train anew where there are checkpoints and none can be read.
    begin: called first, once the folder is locked against other processes.
  """

  def __init__(self, folder: Path, *, restart: bool = False, begin: Callable[[], None] = lambda: None):
    self.folder = folder
    self.restart = restart
    self._begin = begin
    self._metrics = folder / 'metrics.jsonl'
    self._boards: dict[str, SummaryWriter] = {}
    self.unsaved = False
    self._signum: int | None = None
    self._left = threading.Event()
    self._asked = 0
    self._before: dict[int, Any] = {}
    self._woken: int | None = None
    self._woken_before = -1

  def __enter__(self) -> 'Run':
    if first():
      self._lock()
      try:
        self._begin()
      except BaseException:
        self._locked.close()
        raise
    self.bar = tqdm(unit='step', dynamic_ncols=True, disable=not first())
    if several():  # SIGTERM is JAX's there: it tells the others
      self._before[signal.SIGINT] = signal.signal(signal.SIGINT, lambda *_: signal.raise_signal(signal.SIGTERM))
    else:
      for signum in (signal.SIGTERM, signal.SIGINT):
        self._before[signum] = signal.signal(signum, self._on_signal)
      self._watch()
    wait('the folder is made and locked')
    return self

  def __exit__(self, *_: object) -> None:
    self._left.set()
    for signum, handler in self._before.items():
      signal.signal(signum, handler)
    if self._woken is not None:
      signal.set_wakeup_fd(self._woken_before)
      os.close(self._woken)  # ends the watch
    for board in self._boards.values():
      board.close()
    self.bar.close()
    if first():
      self._locked.close()

  def _lock(self) -> None:
    """Locks the folder for this process alone; the lock goes with the process, however that ends."""
    self._locked = (self.folder / LOCK).open('w')
    try:
      fcntl.flock(self._locked, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
      self._locked.close()
      raise UserError(f'another process is at work in {self.folder}: wait for it, or stop it') from error

  def _on_signal(self, signum: int, frame: FrameType | None) -> None:
    del frame
    self._signum = signum  # an exception here could be lost in a callback of whatever is running

  def _watch(self) -> None:
    """Starts a thread that ends the process on a signal that no loop heeds, since Python may wait for a compiler."""
    heard, self._woken = os.pipe()
    os.set_blocking(self._woken, False)
    self._woken_before = signal.set_wakeup_fd(self._woken)

    def watch() -> None:
      while signum := os.read(heard, 1):
        while signum[0] in self._before and not self._left.wait(_GRACE):
          if not self.unsaved:
            stopped = Stopped(signum[0], self.folder)
            os.write(2, f'\n{stopped}\n'.encode())
            os._exit(stopped.code)
      os.close(heard)

    threading.Thread(target=watch, daemon=True).start()

  def stopping(self) -> bool:
    """Returns whether to stop; call before every step. All processes agree on the step, whichever got the signal."""
    self._asked += 1
    if several() and multihost_utils.reached_preemption_sync_point(self._asked):
      self._signum = signal.SIGTERM
    return self._signum is not None

  def stop(self) -> None:
    """Raises ``Stopped``; call once everything is saved."""
    assert self._signum is not None
    raise Stopped(self._signum, self.folder)

  def note_environment(self) -> None:
    """Adds this machine, once, to the environments that the run was trained on."""
    if not first():
      return
    seen = environments(self.folder)
    if environment() not in seen:
      write_atomically(self.folder / 'environment.json', json.dumps([*seen, environment()], indent=1) + '\n')

  def note(self, line: str) -> None:
    """Prints a line to stderr without breaking the progress bar."""
    if first():
      tqdm.write(line, file=sys.stderr)

  def report(self, phase: str, step: int, values: dict[str, Any]) -> None:
    """Appends one line to ``metrics.jsonl``, and the means over the seeds to TensorBoard."""
    if not first():
      return
    values = without_nan(values)
    with self._metrics.open('a') as file:
      file.write(json.dumps({'phase': phase, 'step': step, **values}, allow_nan=False) + '\n')
    board = self._board(phase)
    for name, value in values.items():
      numbers = [number for number in (value if isinstance(value, list) else [value]) if number is not None]
      if numbers:
        board.add_scalar(name, sum(numbers) / len(numbers), step)

  def cut_back(self, phases: Collection[str], step: int) -> None:
    """Drops the phases' reports after the step they resume from, and a line that a kill left unfinished."""
    if not (first() and self._metrics.exists()):
      return
    kept = [line for line in map(_parsed, self._metrics.read_text().splitlines()) if line is not None]
    kept = [line for line in kept if line['phase'] not in phases or line['step'] <= step]
    write_atomically(self._metrics, ''.join(json.dumps(line) + '\n' for line in kept))
    for phase in phases:
      self._board(phase, purge_step=step + 1)

  def _board(self, phase: str, **options: Any) -> SummaryWriter:
    if phase not in self._boards:
      self._boards[phase] = SummaryWriter(str(self.folder / 'tensorboard' / phase), **options)
    return self._boards[phase]


def _parsed(line: str) -> dict[str, Any] | None:
  try:
    return json.loads(line)
  except ValueError:
    return None
