"""Every test runs on eight virtual CPU devices, with warnings as errors and no silent rank promotion.

What one process of a run has compiled, no other compiles again: the first makes a folder for it, which all workers and
the programs that they start inherit, and which goes with the run. Who names a folder by ``JAX_COMPILATION_CACHE_DIR``
keeps it from one run to the next. With ``LMAJAX_AS_SHIPPED`` set, programs are compiled as a user's are, not quickly.
"""

import gc
import os
import tempfile

from tests.support.processes import QUICK_TO_COMPILE

os.environ['XLA_FLAGS'] = (
  f'{os.environ.get("XLA_FLAGS", "")} --xla_force_host_platform_device_count=8'
  f' {"" if "LMAJAX_AS_SHIPPED" in os.environ else QUICK_TO_COMPILE}'
)
if 'JAX_COMPILATION_CACHE_DIR' not in os.environ:
  _compiled = tempfile.TemporaryDirectory(prefix='lmajax-compiled-')
  os.environ['JAX_COMPILATION_CACHE_DIR'] = _compiled.name
os.environ['JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS'] = '0'
os.environ['JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES'] = '-1'

import jax
import pytest
from jaxtyping import install_import_hook

install_import_hook('lmajax', 'beartype.beartype')
jax.config.update('jax_numpy_rank_promotion', 'raise')


@pytest.fixture
def strict_dtypes():
  """Our pure functions promote nothing by accident; optax and Flax do, so the train steps are exempt."""
  with jax.numpy_dtype_promotion('strict'):
    yield


@pytest.fixture(autouse=True)
def collected_alone():
  """A collection of garbage looks through what this test has made, not through gigabytes of compiled programs."""
  gc.freeze()
  yield
  gc.unfreeze()
