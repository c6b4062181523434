"""Every test runs on eight virtual CPU devices, with warnings as errors and no silent rank promotion."""

import os

from tests.programs import QUICK_TO_COMPILE

os.environ['XLA_FLAGS'] = (
  f'{os.environ.get("XLA_FLAGS", "")} --xla_force_host_platform_device_count=8 {QUICK_TO_COMPILE}'
)

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
