"""Makes the folders of runs; each belongs to one run alone."""

import itertools
import time
from pathlib import Path

from train.runtime.errors import UserError
from train.runtime.run import LOCK


def new(name: str) -> Path:
  """Makes a folder under runs/ that no other process has made."""
  dated = f'{name}-{time.strftime("%Y%m%d-%H%M%S")}'
  for i in itertools.count(1):
    folder = Path('runs') / (dated if i == 1 else f'{dated}-{i}')
    if create(folder):
      return folder
  raise AssertionError('numbers do not end')


def create(folder: Path) -> bool:
  """Makes a folder; returns False where it already exists."""
  try:
    folder.mkdir(parents=True)
  except FileExistsError as error:
    if folder.is_dir():
      return False
    raise _cannot_make(folder, error) from error
  except OSError as error:
    raise _cannot_make(folder, error) from error
  return True


def check_empty(folder: Path) -> None:
  """Refuses a folder that already holds a run or anything else."""
  if folder.is_dir() and any(path.name != LOCK for path in folder.iterdir()):
    raise UserError(f'{folder} already holds files: go on with a run by --resume, or choose another --workdir')


def _cannot_make(folder: Path, error: OSError) -> UserError:
  return UserError(f'cannot make the folder {folder}: {error.strerror}; choose another --workdir')
