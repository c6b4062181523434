"""Errors that the user can mend: one clear line, exit code 2, no traceback."""

import contextlib
from collections.abc import Iterator


class UserError(Exception):
  """Says what is wrong, where, and how to mend it, in one line."""


@contextlib.contextmanager
def mendable() -> Iterator[None]:
  """Turns a ValueError of the library into a UserError with the same message."""
  try:
    yield
  except ValueError as error:
    raise UserError(str(error)) from error
