"""Shows warnings as a person reads them."""

import sys
import warnings


def one_line_warnings() -> None:
  """Shows warnings without the place in the code that they come from."""
  warnings.showwarning = lambda message, *_: print(f'warning: {message}', file=sys.stderr)
