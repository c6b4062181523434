"""Accelerators that are not here: enough for their compilers, which say what a program becomes on them."""

import os
import re
from pathlib import Path
from typing import Any

from jax.experimental import topologies

from lmajax._arguments import as_given

_CARDS = {'h100': Path(__file__).with_name('h100.txtpb')}
_HOSTS = {'v4': '2x2x1', 'v5e': '2x2', 'v5p': '2x2x1', 'v6e': '2x2'}  # chips of one host: fewer are not to be had
# That there is no TPU: nobody to ask over the network for minutes, nothing to lock, nothing to complain of.
_NO_TPU = {'TPU_SKIP_MDS_QUERY': '1', 'ALLOW_MULTIPLE_LIBTPU_LOAD': '1', 'TPU_MIN_LOG_LEVEL': '3'}
_NO_TPU |= {'TPU_STDERR_LOG_LEVEL': '3', 'TPU_WORKER_HOSTNAMES': 'localhost'}
_NO_TPU |= {'TPU_ACCELERATOR_TYPE': 'v5litepod-4'}
_NAMES = f'{", ".join([*_CARDS, *_HOSTS])}, or of several h100-8 (cards), v5e-4x4 or v4-2x2x4 (chips)'


def chips(target: str) -> list[Any]:
  """Describes accelerators, so that a step can be compiled for them where there are none; nothing can run on them.

  ``jax.jit(step).lower(*shapes).compile()`` compiles for them if the shapes are ``jax.ShapeDtypeStruct`` with a
  ``sharding`` over them. ``traffic`` says what has come out.

  Args:
    target: ``'h100'``, ``'v4'``, ``'v5e'``, ``'v5p'`` or ``'v6e'`` for one; ``'h100-8'``, ``'v5e-4x4'`` or
      ``'v4-2x2x4'`` for several: cards of one host, or the layout of the chips.

  Returns:
    The devices, as ``jax.devices()`` gives them, two a chip of a v4.

  Raises:
    ValueError: there is no such target, or its compiler is not installed, or JAX has already looked for a real one.

  >>> chips('h200')
  Traceback (most recent call last):
    ...
  ValueError: target is 'h200'; give h100, v4, v5e, v5p, v6e, or of several h100-8 (cards), v5e-4x4 or v4-2x2x4 (chips)

  Source: not in the paper; the figures of the H100 are NVIDIA's for its SXM form.
  """
  found = re.fullmatch(r'(\w+)(?:-([1-9]\d{0,3}(?:x[1-9]\d{0,3}){0,2}))?', target)
  kind, layout = found.groups() if found else ('', None)
  if kind in _CARDS and (layout or '1').isdigit():
    extra, what = 'jax[cuda12]', {'platform': 'cuda', 'topology': f'1x1x{layout or 1}'}
    what['target_config'] = _CARDS[kind].read_text()
  elif kind in _HOSTS and not (layout or 'x').isdigit():
    extra, what = 'jax[tpu]', {'platform': 'tpu', 'topology_name': f'{kind}:{layout or _HOSTS[kind]}'}
  else:
    raise ValueError(f'target is {as_given(target)}; give {_NAMES}')
  missing = {name: value for name, value in _NO_TPU.items() if name not in os.environ}
  os.environ.update(missing)
  try:
    devices = topologies.get_topology_desc(**what).devices
  except (NotImplementedError, RuntimeError) as error:
    why = str(error).splitlines()[0]
    mend = (
      'give another layout'
      if 'INVALID_ARGUMENT' in why
      else (f'pip install "{extra}", and set JAX_PLATFORMS=cpu before JAX starts')
    )
    raise ValueError(f'cannot describe {target} ({why}): {mend}') from error
  finally:
    for name in missing:  # which would mislead a TPU that is there
      del os.environ[name]
  return devices if layout else devices[:1]
