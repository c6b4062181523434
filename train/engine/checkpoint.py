"""Says how to go on where a run's checkpoints cannot be written, read or used."""

import contextlib
from collections.abc import Iterator

from lmajax.training import DamagedError, UnfitError
from train.runtime.errors import UserError


@contextlib.contextmanager
def mendable_checkpoints() -> Iterator[None]:
  """Turns the library's errors about checkpoints into UserErrors that name the file or option to mend."""
  try:
    yield
  except UnfitError as error:
    mend = 'restore config.json, or go on as the run was begun (environment.json; JAX_ENABLE_X64)'
    raise UserError(f'{error}: {mend}') from error
  except DamagedError as error:
    raise UserError(f'{error}; restore one, or train anew by --resume --restart') from error
  except OSError as error:
    raise UserError(f'{error} (make room there, then --resume)') from error
