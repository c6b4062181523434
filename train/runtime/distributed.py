"""Runs several processes as one: JAX detects the cluster and carries every number and signal between them."""

import os
import re
import subprocess
import sys
import traceback
from collections.abc import Callable

import jax
from jax.experimental import multihost_utils

from lmajax.training import lost_process
from train.runtime.errors import UserError

_HEARTBEAT_SECONDS = 20  # without one for so long, a process counts as gone
# outlives its process and then says what it heard last: JAX ends the survivors from C++, past all Python
_WATCHER = (
  'trap "" INT TERM; while read -r words; do last=$words; done; test -z "$last" || printf "\\n%s\\n" "$last" >&2'
)
_APART = 'error: not all processes of the cluster came together: start all, where they reach the coordinator'
_CUT_OFF = (
  'error: process {} of {} is cut off: it was killed, or another one is gone or unreachable; start all again with'
  ' --resume'
)


def join(
  coordinator_address: str | None = None, num_processes: int | None = None, process_id: int | None = None
) -> None:
  """Joins this process to its cluster, or leaves it alone where JAX detects none; call before any use of a device."""
  given = coordinator_address, num_processes, process_id
  if given == (None, 1, None):
    return
  if None in given and given != (None, None, None):
    raise UserError(
      '--coordinator-address, --num-processes and --process-id go together: give all three, none where the cluster is'
      ' detected, or --num-processes 1 alone to stay out of it'
    )
  if coordinator_address is not None and not re.fullmatch(r'.+:\d+', coordinator_address):
    raise UserError(f'--coordinator-address {coordinator_address} is no HOST:PORT, as 10.0.0.1:1234 is')
  try:
    jax.distributed.initialize(*given, heartbeat_timeout_seconds=_HEARTBEAT_SECONDS)
  except ValueError as error:
    if given != (None, None, None):
      raise UserError(f'--num-processes {num_processes} --process-id {process_id}: give an index from 0') from error
  except Exception as error:  # each kind of cluster has its own
    raise UserError(
      f'cannot join the cluster: {_reason(error)}; give --coordinator-address, --num-processes and --process-id, or'
      ' --num-processes 1 to stay alone'
    ) from error


def several() -> bool:
  return jax.process_count() > 1


def first() -> bool:
  """Returns whether this is process 0, which prints and writes for all."""
  return jax.process_index() == 0


def wait(name: str) -> None:
  """Waits until all processes have reached this point."""
  if several():
    multihost_utils.sync_global_devices(name)


def as_one(join: Callable[[], int], work: Callable[[], int]) -> int:
  """Joins the cluster, if any, runs ``work`` and returns the exit code; on failure exits at once, so none waits."""
  watcher = subprocess.Popen(['sh', '-c', _WATCHER], stdin=subprocess.PIPE, text=True)
  words = _APART
  print(words, file=watcher.stdin, flush=True)
  code = join()
  if code or not jax.distributed.is_initialized():
    watcher.communicate('\n')
    return code or work()
  try:
    words = _CUT_OFF.format(jax.process_index(), jax.process_count())
    print(words, file=watcher.stdin, flush=True)
    code, words = work(), ''
    if code not in (1, 2):
      jax.distributed.shutdown()  # waits for the others
  except BaseException as error:
    code, words = _ending(error, words)
  watcher.communicate(words + '\n')
  if code in (1, 2):
    sys.stdout.flush()
    os._exit(code)  # the ordinary way would wait for the others
  return code


def _ending(error: BaseException, words: str) -> tuple[int, str]:
  """Returns the exit code and the message that is left to print."""
  if isinstance(error, SystemExit) and isinstance(error.code, int):
    return error.code, ''
  if lost_process(error):
    return 1, f'{words} ({_reason(error)})'
  traceback.print_exception(error)
  return 1, ''


def _reason(error: BaseException) -> str:
  return ' '.join(str(error).split())[:200]
