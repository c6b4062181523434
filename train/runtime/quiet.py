"""Silences other libraries' messages that the user can do nothing about."""

import contextlib
import gc
import io
import logging
import sys
import warnings
from collections.abc import Iterator


@contextlib.contextmanager
def quiet() -> Iterator[None]:
  """Silences logs, warnings and prints of its block, and complaints about what the block leaves unfinished."""
  before, hook = logging.root.manager.disable, sys.unraisablehook
  logging.disable(logging.CRITICAL)
  sys.unraisablehook = lambda unraisable: None
  try:
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
      warnings.simplefilter('ignore')
      try:
        yield
      except BaseException:
        gc.collect()  # what was left unfinished complains when it is collected
        raise
  finally:
    sys.unraisablehook = hook
    logging.disable(before)


def one_line_warnings() -> None:
  """Shows warnings without the place in the code that they come from."""
  warnings.showwarning = lambda message, *_: print(f'warning: {message}', file=sys.stderr)
