"""Silences other libraries' messages that the user can do nothing about."""

import contextlib
import io
import sys
import warnings
from collections.abc import Iterator

from lmajax.training import silenced


@contextlib.contextmanager
def quiet() -> Iterator[None]:
  """Silences logs, warnings and prints of its block, and complaints about what the block leaves unfinished."""
  with silenced(), contextlib.redirect_stdout(io.StringIO()):
    yield


def one_line_warnings() -> None:
  """Shows warnings without the place in the code that they come from."""
  warnings.showwarning = lambda message, *_: print(f'warning: {message}', file=sys.stderr)
