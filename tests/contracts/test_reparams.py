"""Every reparameterization keeps the same promises; a new one joins by one line in MEMBERS."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from lmajax import tree
from lmajax.compress import (
  hash_pools,
  identity,
  keep,
  lamp,
  least_error,
  masked,
  multi_hash,
  noise,
  pack,
  points,
  product,
  product_codebook,
  sparse,
  uniform,
  unpack,
)


def itself(theta):
  return theta


def joined(theta):
  return tree.combine(*theta)


# How a member is built, and what makes the weights of its theta: None where theta is something else.
MEMBERS = [
  pytest.param(identity, itself, id='identity'),
  pytest.param(lambda: uniform(1), itself, id='uniform1'),
  pytest.param(lambda: uniform(4), itself, id='uniform4'),
  pytest.param(lambda: uniform(8), itself, id='uniform8'),
  pytest.param(lambda: uniform(3, bucket_size='channel'), itself, id='uniform_channel'),
  pytest.param(lambda: uniform(4, bucket_size=None), itself, id='uniform_tensor'),
  pytest.param(lambda: uniform(4, ranges=least_error), itself, id='uniform_least_error'),
  pytest.param(lambda: uniform(4, stochastic=True), itself, id='uniform_stochastic'),
  pytest.param(lambda: uniform(4, truncated=True), itself, id='uniform_truncated'),
  pytest.param(lambda: points(3), None, id='points3'),
  pytest.param(lambda: points(1, bucket_size='channel', start='uniform'), None, id='points_channel'),
  pytest.param(lambda: noise(uniform(4), 0.5), itself, id='noise'),
  pytest.param(lambda: masked(uniform(4)), joined, id='masked'),
  pytest.param(lambda: masked(points(2)), None, id='masked_points'),
  pytest.param(
    lambda: masked(noise(uniform(4), 0.2, block_size=8, replacement=jnp.zeros_like)), joined, id='masked_noise'
  ),
  pytest.param(lambda: masked(uniform(4), otherwise=uniform(8)), joined, id='masked_twice'),
  pytest.param(lambda: product(16, 8), itself, id='product16'),
  pytest.param(lambda: product(256, 4), itself, id='product256'),
  pytest.param(lambda: product_codebook(16, 8), None, id='product_codebook'),
  pytest.param(lambda: masked(product(16, 8)), joined, id='masked_product'),
  pytest.param(lambda: masked(product_codebook(16, 8)), None, id='masked_product_codebook'),
  pytest.param(lambda: multi_hash(0.5), None, id='multi_hash'),
  pytest.param(lambda: masked(multi_hash(0.5)), None, id='masked_multi_hash'),
  pytest.param(lambda: hash_pools(0.3, 2, signed=True), None, id='hash_pools'),
  pytest.param(lambda: masked(hash_pools(0.5, 1)), None, id='masked_hash_pools'),
  pytest.param(sparse, itself, id='sparse'),
  pytest.param(lambda: sparse(bits=4), itself, id='sparse4'),
  pytest.param(lambda: sparse(bits=16), itself, id='sparse16'),
  pytest.param(lambda: masked(sparse(bits=4, start=lambda p: keep(lamp(p), 0.5))), joined, id='masked_sparse4'),
]

# A convolution of 45 columns, no multiple of 8, of which 256 entries are a bucket and 239 the next; a dense kernel
# below 256 entries; what masks leave alone.
SHAPES = {
  'stages_0': {'kernel': (3, 3, 5, 11), 'bias': (11,)},
  'norm': {'scale': (11,), 'bias': (11,)},
  'head': {'kernel': (11, 7), 'bias': (7,)},
}
RNG = np.random.default_rng(0)
DRAWN = jax.tree.map(
  lambda shape: (0.4 * RNG.normal(size=shape)).astype(np.float32), SHAPES, is_leaf=lambda leaf: isinstance(leaf, tuple)
)
X, Y = RNG.normal(size=(16, 45)).astype(np.float32), RNG.normal(size=(16, 7)).astype(np.float32)
KEY = np.asarray(jax.random.key_data(jax.random.key(3)))


def params():
  return jax.tree.map(jnp.asarray, DRAWN)


def key():
  return jax.random.wrap_key_data(jnp.asarray(KEY))


def moved(theta):
  """Theta as after some training: off its start."""
  rng = np.random.default_rng(5)
  return jax.tree.map(lambda leaf: leaf + 0.05 * rng.normal(size=leaf.shape).astype(leaf.dtype), theta)


@functools.cache
def begun(build):
  """Compiled once for all tests that start by it, k-means and all."""
  return jax.jit(build().init)


@functools.cache
def trained(build):
  """What ``init`` gives, with theta moved on; NumPy arrays, since a test may donate its own."""
  theta, code = begun(build)(params(), key())
  return jax.tree.map(np.asarray, (moved(theta), code))


def start(build):
  """A resumed process builds it anew and calls no ``init``: what another one returned is all there is."""
  return build(), *jax.tree.map(jnp.asarray, trained(build))


@functools.cache
def applied(build):
  return jax.jit(build().apply)


@functools.cache
def step_alone(build):
  """What one device gives."""
  reparam, theta, code = start(build)
  step = jax.jit(jax.value_and_grad(functools.partial(trained_loss, reparam)))
  return step, jax.tree.map(np.asarray, step(theta, code, key(), jnp.asarray(X), jnp.asarray(Y)))


def loss(weights, x, y):
  stem, norm, head = weights['stages_0'], weights['norm'], weights['head']
  hidden = x @ stem['kernel'].reshape(-1, 11) + stem['bias'][None]
  hidden = jax.nn.relu(hidden * (1 + norm['scale'][None]) + norm['bias'][None])
  return jnp.square(hidden @ head['kernel'] + head['bias'][None] - y).mean()


def trained_loss(reparam, theta, code, k, x, y):
  return loss(reparam.apply(theta, code, k), x, y)


def close(ours, theirs, tolerance=1e-6):
  assert jax.tree.structure(ours) == jax.tree.structure(theirs)
  for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
    np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance * max(1, float(np.abs(b).max())))


def equal(ours, theirs):
  assert jax.tree.structure(ours) == jax.tree.structure(theirs)
  jax.tree.map(np.testing.assert_array_equal, ours, theirs)


def kinds(tree_):
  return jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), tree_)


def error(weights, target):
  return sum(float(jnp.square(a - b).sum()) for a, b in zip(*map(jax.tree.leaves, (weights, target)), strict=True))


def odd():
  """Tensors of every type at which a quantizer may stumble; what is huge has squares that float32 still holds."""
  some = np.array([[1.0, -0.5, 0.25], [0.0, -1.0, 0.75]], np.float32)
  kinds_ = {'constant': 0 * some + 0.3, 'zero': 0 * some, 'huge': 1e18 * some, 'tiny': 1e-30 * some, 'empty': some[:0]}
  of_dtype = {dtype: {**kinds_, 'some': some} for dtype in ('float32', 'bfloat16', 'float16')}
  of_dtype['float16'] = {**of_dtype['float16'], 'huge': 6e4 * some, 'tiny': 1e-6 * some}
  of_dtype['float16']['many'] = np.linspace(-1, 1, 66_000, dtype=np.float32)[:, None]
  return {
    dtype: {
      name: {'kernel': jnp.asarray(each, dtype), 'bias': jnp.asarray(each, dtype)} for name, each in found.items()
    }
    for dtype, found in of_dtype.items()
  }


def of_bytes(packed):
  """What a file of it holds."""
  return unpack(pack(packed, {}, {})).packed


def of_files(packed):
  """The arrays of each tensor, as they lie in a file."""
  return [{**tensor.arrays(), **tensor.shared()} for tensor in jax.tree.leaves(packed.tensors)]


@pytest.mark.parametrize('build, shadow', MEMBERS)
class TestEveryReparam:
  def test_makes_weights_of_the_same_tree(self, build, shadow, strict_dtypes):
    theta, code = begun(build)(params(), key())
    for k in (None, key()):
      assert kinds(jax.eval_shape(build().apply, theta, code, k)) == kinds(params())
    if shadow:
      equal(shadow(theta), params())

  def test_is_stored_as_it_is_applied(self, build, shadow, strict_dtypes):
    reparam, theta, code = start(build)
    packed = reparam.stored(theta, code)
    close(packed.decode(), applied(build)(theta, code, None))
    assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(packed.decode()))
    close(jax.jit(lambda: packed.decode(jnp))(), packed.decode())

  @pytest.mark.slow
  def test_any_finite_tensor_of_any_type_is_stored_as_it_is_applied(self, build, shadow):
    given = odd()
    theta, code = jax.jit(build().init)(given, key())
    ours = jax.jit(build().apply)(theta, code, None)
    packed = build().stored(theta, code)
    again = of_bytes(packed).decode()
    assert kinds(ours) == kinds(given) == kinds(again)
    for path, weights in tree.by_path(ours).items():
      a, b = (np.asarray(leaf, np.float32) for leaf in (weights, tree.by_path(again)[path]))
      digits = float(jnp.finfo(weights.dtype).eps)
      assert np.isfinite(a).all(), path
      np.testing.assert_allclose(a, b, rtol=4 * digits, atol=4 * digits * np.abs(b).max(initial=0), err_msg=path)

  def test_weights_that_are_not_finite_are_refused(self, build, shadow):
    for spoilt in (np.nan, np.inf):
      given = params()
      given['head']['kernel'] = given['head']['kernel'].at[1, 2].set(spoilt)
      with pytest.raises(ValueError, match='kernel holds NaN or infinity'):
        reparam = build()
        pack(reparam.stored(*reparam.init(given, key())), {}, {})

  def test_comes_back_from_its_arrays_and_fields(self, build, shadow):
    reparam, theta, code = start(build)
    packed = reparam.stored(theta, code)
    again = jax.tree.map(
      lambda tensor: type(tensor).of_file(
        json.loads(json.dumps(tensor.fields())), {**tensor.arrays(), **tensor.shared()}
      ),
      packed.tensors,
    )
    equal(jax.tree.map(lambda tensor: tensor.decode(), again), packed.decode())
    once = {id(array): array for tensor in jax.tree.leaves(packed.tensors) for array in tensor.shared().values()}
    own = [array for tensor in jax.tree.leaves(packed.tensors) for array in tensor.arrays().values()]
    assert packed.bits() == sum(8 * len(array.tobytes()) for array in (*own, *once.values()))

  def test_what_was_decoded_is_encoded_alike(self, build, shadow, strict_dtypes):
    """Weights stand where decoding put them; what is no weights stays, and meets what decoding made of the others."""
    reparam, init = build(), begun(build)
    theta, code = start(build)[1:] if shadow else init(params(), key())
    packed = reparam.stored(theta, code)
    fresh_theta, fresh_code = init(jax.tree.map(jnp.asarray, packed.decode()), key())
    theta, code = (fresh_theta, code) if shadow else (theta, fresh_code)
    again = reparam.stored(theta, reparam.refresh(theta, code, key()))
    for ours, theirs in zip(of_files(again), of_files(packed), strict=True):
      assert set(ours) == set(theirs)
      np.testing.assert_array_equal(ours.get('codes', 0), theirs.get('codes', 0))
    close(again.decode(), packed.decode(), 1e-5)

  def test_jit_equals_eager_and_passes_empty_places(self, build, shadow, strict_dtypes):
    reparam, nothing = build(), {'scale': None, 'bias': None}
    given = {**params(), 'norm': nothing, 'head': {'kernel': None, 'bias': None}}
    theta, code = reparam.init(given, key())
    code = reparam.refresh(theta, code, key())
    for k in (None, key()):
      eager = reparam.apply(theta, code, k)
      assert kinds(eager) == kinds(given)
      close(jax.jit(reparam.apply)(theta, code, k), eager)
      equal(reparam.apply(theta, code, k), eager)
    close(reparam.stored(theta, code).decode(), reparam.apply(theta, code, None))

  def test_trains_in_one_trace_and_can_be_donated(self, build, shadow):
    reparam, given, traces = build(), params(), []
    tx = optax.adam(0.01)

    @functools.partial(jax.jit, donate_argnums=(0, 1, 2))
    def step(theta, code, opt_state, k):
      traces.append(k)
      value, gradient = jax.value_and_grad(functools.partial(trained_loss, reparam))(theta, code, k, X, Y)
      updates, opt_state = tx.update(gradient, opt_state)
      return optax.apply_updates(theta, updates), code, opt_state, value, gradient

    theta, code = reparam.init(given, key())
    state, values = (theta, code, tx.init(theta)), []
    for i in range(40):
      *state, value, gradient = step(*state, jax.random.key(i))
      values.append(float(value))
      assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(gradient))
      assert any(bool((leaf != 0).any()) for leaf in jax.tree.leaves(gradient))
      if i % 10 == 9:  # a code that is made of theta follows it between fits
        state[1] = reparam.refresh(state[0], state[1], key())
    assert len(traces) == 1
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves((theta, code)))
    assert np.mean(values[-5:]) < 0.9 * np.mean(values[:5])
    equal(given, DRAWN)

  @pytest.mark.slow
  def test_vmap_over_seeds_equals_a_loop(self, build, shadow):
    init, apply, keys = begun(build), applied(build), jax.random.split(key(), 2)
    each = [params(), jax.tree.map(lambda leaf: 0.5 - leaf, params())]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *each)

    def weights(given, k):
      theta, code = init(given, k)
      return apply(theta, code, None), apply(theta, code, k)

    one_by_one = [weights(*pair) for pair in zip(each, keys, strict=True)]
    at_once = jax.jit(jax.vmap(weights))(stacked, keys)
    close(at_once, jax.tree.map(lambda *leaves: jnp.stack(leaves), *one_by_one), 1e-5)

  def test_refresh_is_pure_and_codes_no_worse(self, build, shadow, strict_dtypes):
    reparam, theta, code = start(build)
    target = shadow(theta) if shadow else params()
    refreshed = reparam.refresh(theta, code, key())
    equal(reparam.refresh(theta, code, key()), refreshed)
    equal((theta, code), trained(build))
    assert kinds(refreshed) == kinds(code)
    before, after = (error(applied(build)(theta, each, None), target) for each in (code, refreshed))
    assert after <= before * (1 + 1e-6)

  @pytest.mark.slow
  @pytest.mark.parametrize('kind', [AxisType.Auto, AxisType.Explicit], ids=['auto', 'explicit'])
  def test_trains_on_a_batch_over_eight_devices(self, build, shadow, kind):
    reparam, theta, code = start(build)
    step, alone = step_alone(build)
    mesh = jax.make_mesh((8,), ('data',), axis_types=(kind,))
    whole, split = NamedSharding(mesh, P()), NamedSharding(mesh, P('data'))
    args = *jax.device_put((theta, code, key()), whole), *jax.device_put((X, Y), split)
    close(step(*args), alone, 1e-5)
    close(jax.jit(reparam.refresh)(*args[:3]), reparam.refresh(theta, code, key()), 1e-5)


def test_a_mask_that_selects_nothing_names_what_there_is():
  reparam = masked(uniform(4), where=lambda path, leaf: False)
  with pytest.raises(ValueError, match=r'where selects none of .*head/kernel'):
    reparam.init(params(), key())


def test_weights_that_are_known_inside_a_program_are_checked_there():
  given = params()
  assert jax.tree.leaves(jax.jit(lambda k: uniform(4).init(given, k))(key()))
  given['head']['kernel'] = given['head']['kernel'].at[1, 2].set(np.nan)
  with pytest.raises(ValueError, match='head/kernel holds NaN'):
    jax.jit(lambda k: uniform(4).init(given, k))(key())
