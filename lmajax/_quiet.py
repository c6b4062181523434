"""Silence, where another library says more than anybody can use."""

import contextlib
import gc
import io
import logging
import sys
import warnings
from collections.abc import Iterator


@contextlib.contextmanager
def silenced() -> Iterator[None]:
  """Silences logs and warnings of a block, and complaints about what it leaves unfinished when it fails.

  >>> with silenced():
  ...   warnings.warn('nobody hears it')

  Source: not in the paper; Orbax says more of a damaged checkpoint than anybody can use.
  """
  before, hook = logging.root.manager.disable, sys.unraisablehook
  logging.disable(logging.CRITICAL)
  sys.unraisablehook = lambda unraisable: None
  try:
    with warnings.catch_warnings():
      warnings.simplefilter('ignore')
      try:
        yield
      except BaseException:
        gc.collect()
        raise
  finally:
    sys.unraisablehook = hook
    logging.disable(before)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
  """Silences what a block prints, too.

  >>> with quiet():
  ...   print('nobody hears it')

  Source: not in the paper; converters and decoders print.
  """
  with silenced(), contextlib.redirect_stdout(io.StringIO()):
    yield
