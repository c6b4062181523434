"""A training as a person watches it: a bar, a line an epoch in the log, a file of them, and signals that wait."""

import contextlib
import json
import logging
import math
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
from jax.experimental import multihost_utils

_logger = logging.getLogger('lmajax')
_NAME = 'history.jsonl'


class Signals:
  """Keeps SIGINT and SIGTERM until ``stop`` hands them to whoever had them before; the second one goes there at once.

  Of several processes JAX hears SIGTERM and tells all of them.

  Args:
    wanted: whether anything can be saved; if not, signals are left alone.
  """

  def __init__(self, wanted: bool) -> None:
    self._wanted = wanted
    self._heard: int | None = None
    self._before: dict[int, Any] = {}

  def __enter__(self) -> 'Signals':
    alone = jax.process_count() == 1
    if self._wanted and alone and threading.current_thread() is threading.main_thread():
      for signum in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(signum) not in (signal.SIG_IGN, None):
          self._before[signum] = signal.signal(signum, self._hear)
    return self

  def __exit__(self, *_: object) -> None:
    while self._before:
      signal.signal(*self._before.popitem())

  def _hear(self, signum: int, frame: object) -> None:
    del frame
    if self._heard is not None:
      self.stop()
    self._heard = signum

  def stopping(self, step: int) -> bool:
    """Returns whether one has come; all processes agree on the step."""
    if self._wanted and jax.process_count() > 1 and multihost_utils.reached_preemption_sync_point(step):
      self._heard = signal.SIGTERM
    return self._heard is not None

  def stop(self) -> None:
    """Raises the signal again, now that everything is saved."""
    self.__exit__()
    heard, self._heard = self._heard, None
    if jax.process_count() > 1:
      raise SystemExit(128 + signal.SIGTERM)
    if heard is not None:
      signal.raise_signal(heard)


@contextlib.contextmanager
def bar(total: int, done: int) -> Iterator[Any]:
  """Shows a bar where a person sees it, in a terminal or a notebook, and yields a function that moves it."""
  from rich import console, progress  # which flax needs

  on_stderr = console.Console(stderr=True)
  seen = (on_stderr.is_interactive or on_stderr.is_jupyter) and jax.process_index() == 0
  columns = progress.TextColumn('{task.description}'), progress.BarColumn(), progress.MofNCompleteColumn()
  with progress.Progress(*columns, progress.TimeRemainingColumn(), console=on_stderr, disable=not seen) as shown:
    task = shown.add_task('training', total=total, completed=done)
    yield lambda step, entry: shown.update(task, completed=step, description=_words(entry) or 'training')


def tell(entries: list[dict[str, Any]], folder: Path | None) -> None:
  """Logs the last epoch, and writes the file of all epochs anew."""
  if jax.process_index():
    return
  _logger.info('epoch %d: %s', entries[-1]['epoch'], _words(entries[-1]))
  if folder is not None:
    draft = folder / f'{_NAME}.part'
    draft.write_text(''.join(json.dumps(jax.tree.map(_finite, entry)) + '\n' for entry in entries))
    draft.replace(folder / _NAME)


def _words(entry: dict[str, Any]) -> str:
  return ', '.join(f'{name} {value:.4g}' for name, value in entry.items() if isinstance(value, float))


def _finite(value: Any) -> Any:
  """JSON has no NaN."""
  return None if isinstance(value, float) and not math.isfinite(value) else value
