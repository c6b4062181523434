"""One whole small run of each program, for all tests and all workers."""

import fcntl
import functools
import os
import shutil

import pytest

from tests.programs import CASES
from tests.support.runs import run_whole


@pytest.fixture(scope='session')
def whole_run(tmp_path_factory):
  """Command -> the folder of its small run, which nobody stopped. It is for reading: copy it to change it."""
  base = tmp_path_factory.getbasetemp()
  shared = base.parent if 'PYTEST_XDIST_WORKER' in os.environ else base

  @functools.cache
  def made(command):
    case, around = CASES[command], shared / 'whole' / command
    folder = around / 'run'
    around.mkdir(parents=True, exist_ok=True)
    with (around / 'lock').open('w') as lock:
      fcntl.flock(lock, fcntl.LOCK_EX)
      if not (around / 'done').exists():
        shutil.rmtree(folder, ignore_errors=True)
        (around / 'dots').unlink(missing_ok=True)
        run_whole(folder, command, case.options(around), case.steps)
        (around / 'done').touch()
    return folder

  return made
