"""Under 64-bit types and under the check for NaN, which are set at the start: each in a process of its own."""

import pytest

from tests.support.processes import finished, start

X64 = """
import jax, jax.numpy as jnp
from lmajax import LMA, relu_init
from lmajax.activations import linen
from lmajax.compress import masked, noise, points, product, product_codebook, uniform
from lmajax.losses import distillation
from lmajax.models import MLP

assert [leaf.dtype for leaf in relu_init(8)] == [jnp.float32] * 2
params = {'kernel': jnp.ones((16, 8), jnp.float32) * jnp.arange(8, dtype=jnp.float32)}
key = jax.random.key(0)
for reparam in (uniform(4), points(2), noise(uniform(4), 0.5), product(4, 4), product_codebook(4, 4)):
  theta, code = jax.jit(reparam.init)(params, key)
  code = reparam.refresh(theta, code, key)
  assert reparam.apply(theta, code, key)['kernel'].dtype == jnp.float32
  assert reparam.stored(theta, code).decode()['kernel'].dtype == jnp.float32
for act in (LMA, linen.PReLU, linen.Swish, linen.APLU):
  model = MLP((3,), 4, act)
  variables = model.init(key, jnp.zeros((2, 5), jnp.float32), train=False)
  assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype('float32')}, act
  for dtype in ('float32', 'float64'):
    (logits, _), _ = model.apply(variables, jnp.ones((2, 5), dtype), train=True, mutable=['batch_stats'])
    loss = distillation(logits, logits, jnp.array([1, 2]))
    assert jnp.isfinite(loss).all()
for dtype in ('float32', 'float64'):
  x = jnp.arange(6, dtype=dtype)
  variables = LMA().init(key, x, train=False)
  y, moved = LMA().apply(variables, x, train=True, mutable=['batch_stats'])
  assert y.dtype == dtype and {leaf.dtype for leaf in jax.tree.leaves(moved)} == {jnp.dtype('float32')}
"""

DEBUG_NANS = """
import jax, jax.numpy as jnp
from lmajax import LMA, joined_intercepts, lma, measure, relu_init, update_stats, init_stats
from lmajax.losses import soft_targets

x = jnp.linspace(-3, 3, 64).reshape(8, 8)

def loss(x, slopes, intercepts):
  return (lma(x, slopes, intercepts, measure(x)) ** 2).sum()

for segments in (2, 5, 8, 16):
  for gradient in (jax.grad(loss, (0, 1, 2)), jax.jit(jax.grad(loss, (0, 1, 2)))):
    gradient(x, *relu_init(segments))
jax.grad(lambda s: lma(x, s, joined_intercepts(s, measure(x)), measure(x)).sum())(relu_init(8)[0])
shut = jnp.array([1.0, 2.0, -jnp.inf])
jax.grad(lambda s: soft_targets(s, shut[jnp.array([1, 0, 2])]))(shut)
"""


@pytest.mark.parametrize(
  'program, variable', [(X64, 'JAX_ENABLE_X64'), (DEBUG_NANS, 'JAX_DEBUG_NANS')], ids=['x64', 'debug_nans']
)
@pytest.mark.slow
def test_the_parts_of_the_library_run(program, variable):
  done = finished(start('-c', program, **{variable: '1'}))
  assert done.returncode == 0, done.stderr


CONTRACTS = [
  ('JAX_ENABLE_X64', ('activations', 'losses'), ''),
  ('JAX_ENABLE_X64', ('reparams',), 'uniform4 or points3 or noise or product16'),  # one member of each kind
  ('JAX_DEBUG_NANS', ('activations', 'losses'), 'not nan-'),  # but for NaN that is handed in on purpose
]


@pytest.mark.slow
@pytest.mark.parametrize('variable, files, chosen', CONTRACTS, ids=['x64', 'x64-weights', 'nans'])
def test_contracts_hold(variable, files, chosen):
  command = ['-m', 'pytest', '-p', 'no:cacheprovider', '-n0', '-k', chosen]
  done = finished(start(*command, *(f'tests/contracts/test_{name}.py' for name in files), **{variable: '1'}))
  assert done.returncode == 0, done.stdout


@pytest.mark.slow
def test_contracts_of_the_last_bit_hold_as_users_compile():
  """The other tests compile quickly."""
  tests = (
    'lmajax/activations/test_lma.py::TestSegments',
    'lmajax/activations/test_sharding.py',
    'lmajax/test_golden.py',
    'programs/regions/test_regions.py::TestPieces',
  )
  command = ['-m', 'pytest', '-p', 'no:cacheprovider', '-n0', *(f'tests/{name}' for name in tests)]
  done = finished(start(*command, XLA_FLAGS='', LMAJAX_AS_SHIPPED='1'))
  assert done.returncode == 0, done.stdout


def test_the_check_for_nan_is_on():
  """Else the second of the programs could not fail."""
  program = 'import jax.numpy as jnp; jnp.zeros(()) / 0'
  done = finished(start('-c', program, JAX_DEBUG_NANS='1'))
  assert done.returncode == 1 and 'FloatingPointError' in done.stderr
