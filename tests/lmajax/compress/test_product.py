"""Product quantization: what its k-means promises, how its codebooks are trained, and iPQ's stages."""

import itertools
import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lmajax.compress import extended, identity, kernels, masked, product, product_codebook
from tests import oracles

# Filters of 45, 12 and 7 entries: of a whole number of blocks of 3, and not of 4 or 8; a vector, of one each.
SHAPES = [(3, 3, 5, 4), (12, 5), (7, 6), (9,)]
KEY = jax.random.key(3)
EVERY_SHAPE = pytest.mark.parametrize('shape', SHAPES, ids=str)


def drawn(shape, seed=0):
  return jnp.asarray(np.random.default_rng(seed).normal(size=shape).astype(np.float32))


def error(reparam, theta, code, target):
  return float(jnp.square(reparam.apply(theta, code, None) - target).sum())


def close(ours, theirs, tolerance=1e-5):
  np.testing.assert_allclose(ours, theirs, rtol=tolerance, atol=tolerance)


def equal(ours, theirs):
  assert jax.tree.structure(ours) == jax.tree.structure(theirs)
  jax.tree.map(np.testing.assert_array_equal, ours, theirs)


@pytest.mark.usefixtures('strict_dtypes')
class TestKMeans:
  @EVERY_SHAPE
  def test_starts_from_distinct_blocks(self, shape):
    w = drawn(shape)
    _, code = product(5, 4, iterations=0).init(w, KEY)
    blocks = [tuple(block) for block in oracles.filter_blocks(w, 4)]
    width = min(4, math.prod(shape[:-1]))
    filled = {(*block, *(0.0,) * (width - len(block))) for block in blocks}
    chosen = {tuple(map(float, row)) for row in code.codebook}
    assert len(chosen) == min(5, len(blocks))
    assert chosen <= filled

  @EVERY_SHAPE
  @pytest.mark.parametrize('size', [3, 4, 8])
  def test_init_equals_the_oracle(self, shape, size):
    w = drawn(shape)
    _, first = product(5, size, iterations=0).init(w, KEY)
    reparam = product(5, size, iterations=6)
    close(reparam.apply(*reparam.init(w, KEY), None), oracles.product(w, *first, iterations=6))

  @EVERY_SHAPE
  def test_refresh_goes_on_as_the_oracle_does(self, shape):
    reparam, moved = product(5, 4, iterations=3), drawn(shape, 1)
    _, code = reparam.init(drawn(shape), KEY)
    refreshed = reparam.refresh(moved, code, KEY)
    close(reparam.apply(moved, refreshed, None), oracles.product(moved, *code, iterations=3))
    once = product(5, 4, iterations=1)
    for _ in range(3):
      code = once.refresh(moved, code, KEY)
    equal(code, refreshed)

  @EVERY_SHAPE
  def test_error_falls_with_every_iteration(self, shape):
    w = drawn(shape)
    made = [product(4, 4, iterations=i) for i in range(9)]
    errors = [error(reparam, *reparam.init(w, KEY), w) for reparam in made]
    assert all(after <= before * (1 + 1e-6) for before, after in itertools.pairwise(errors))
    assert errors[-1] < 0.95 * errors[0] or errors[0] == 0

  def test_empty_centroids_move_to_the_worst_blocks(self):
    w, reparam = drawn((12, 6)), product(5, 4, iterations=1)
    _, code = reparam.init(w, KEY)
    same = code._replace(codebook=jnp.zeros_like(code.codebook), assignments=jnp.zeros_like(code.assignments))
    refreshed = reparam.refresh(w, same, KEY)
    assert len(set(np.asarray(refreshed.assignments).tolist())) == 5
    close(reparam.apply(w, refreshed, None), oracles.product(w, *same, iterations=1))
    assert error(reparam, w, refreshed, w) < error(reparam, w, same, w)

  def test_as_many_different_blocks_as_centroids_cost_nothing(self):
    """Though most of the first blocks are copies of one: the others are found by repair, one after the other."""
    w = np.repeat(np.asarray(drawn((4, 1))), 60, axis=1)
    w[:, :7] = drawn((4, 7), 1)
    reparam = product(8, 4)
    np.testing.assert_array_equal(reparam.apply(*reparam.init(jnp.asarray(w), KEY), None), w)

  @pytest.mark.parametrize('value', [0.0, 0.3])
  def test_equal_blocks_are_kept_to_the_bit(self, value):
    reparam, w = product(256, 4), jnp.full((10, 30), value)
    theta, code = reparam.init(w, KEY)
    equal(reparam.apply(theta, code, None), w)
    equal(reparam.refresh(theta, code, KEY), code)

  def test_fewer_blocks_than_centroids_are_kept_to_the_bit(self):
    reparam, w = product(256, 8), drawn((7, 6))
    theta, code = reparam.init(w, KEY)
    assert code.codebook.shape == (6, 7)
    equal(reparam.apply(theta, code, None), w)

  def test_ties_go_to_the_first_and_a_block_stays_where_it_is_as_near(self):
    reparam = product_codebook(3, 1)
    _, code = reparam.init(jnp.array([1.0, 1.0, 1.0]), KEY)
    code = code._replace(assignments=jnp.array([0, 1, 2], jnp.uint8))
    again = reparam.refresh(jnp.array([[5.0], [0.0], [2.0]]), code, KEY)
    assert again.assignments.tolist() == [1, 1, 2]

  def test_more_blocks_than_are_compared_at_once(self):
    w, reparam = drawn((4, 2100)), product_codebook(4, 2, iterations=1)
    theta, code = reparam.init(w, KEY)
    blocks = oracles.filter_blocks(w, 2)
    assert len(blocks) == 4200
    moved = theta + 0.3
    assert reparam.refresh(moved, code, KEY).assignments.tolist() == oracles.reassigned(blocks, moved, code.assignments)

  def test_seeds_at_once_equal_one_after_the_other(self):
    keys, reparam = jax.random.split(KEY, 3), product(5, 4)
    w = jnp.stack([drawn((7, 6), seed) for seed in range(3)])
    theta, code = jax.vmap(reparam.init)(w, keys)
    code = jax.vmap(reparam.refresh)(theta + 0.1, code, keys)
    for i in range(3):
      one_theta, one = reparam.init(w[i], keys[i])
      one = reparam.refresh(one_theta + 0.1, one, keys[i])
      close(code.codebook[i], one.codebook)
      equal(code.assignments[i], one.assignments)
    equal(reparam.init(w[0], keys[0]), reparam.init(w[0], keys[0]))


@pytest.mark.usefixtures('strict_dtypes')
class TestProduct:
  def test_gradient_goes_straight_through(self):
    theta, code = product(4, 4).init(drawn((7, 6)), KEY)
    scale = drawn((7, 6), 1)
    gradient = jax.grad(lambda theta: (product(4, 4).apply(theta, code, KEY) * scale).sum())(theta)
    equal(gradient, scale)
    close(product(4, 4).apply(theta, code, KEY), product(4, 4).apply(theta, code, None), 1e-6)

  @EVERY_SHAPE
  @pytest.mark.parametrize('num_centroids', [2, 3, 16, 256])
  def test_file_costs_its_codes_and_its_codebook(self, shape, num_centroids):
    w = drawn(shape)
    width, size = min(4, math.prod(shape[:-1])), math.prod(shape[:-1])
    blocks = math.ceil(size / width) * shape[-1]
    k = min(num_centroids, blocks)
    expected = 8 * math.ceil(blocks * math.ceil(math.log2(k)) / 8) + 32 * k * width
    for reparam in (product(num_centroids, 4), product_codebook(num_centroids, 4)):
      theta, code = reparam.init(w, KEY)
      packed = reparam.stored(theta, code)
      assert packed.bits() == expected
      tensor = packed.tensors
      again = type(tensor).of_file({**tensor.fields(), 'shape': list(shape)}, tensor.arrays()).decode()
      equal(again, np.asarray(reparam.apply(theta, code, None)))
      equal(np.asarray(tensor.decode(jnp)), again)

  def test_one_centroid_for_all_still_costs_a_bit(self):
    w = drawn((3, 1))
    reparam = product(2, 4)
    assert reparam.stored(*reparam.init(w, KEY)).bits() == 8 + 32 * 3

  @EVERY_SHAPE
  def test_what_was_decoded_is_encoded_alike(self, shape):
    reparam = product(5, 4)
    decoded = reparam.apply(*reparam.init(drawn(shape), KEY), None)
    again = reparam.init(decoded, jax.random.key(8))
    equal(reparam.apply(*again, None), decoded)

  @pytest.mark.parametrize('make', [product, product_codebook])
  def test_keeps_half_precision(self, make):
    theta, code = make(4, 4).init(drawn((7, 6)).astype(jnp.bfloat16), KEY)
    assert make(4, 4).apply(theta, code, KEY).dtype == jnp.bfloat16
    assert make(4, 4).stored(theta, code).decode().dtype == jnp.bfloat16

  @pytest.mark.parametrize('make', [product, product_codebook])
  def test_refuses_what_is_out_of_range(self, make):
    for wrong in (1, 257):
      with pytest.raises(ValueError, match=f'num_centroids is {wrong}; give 2 to 256'):
        make(wrong, 8)
    with pytest.raises(ValueError, match='block_size is 0'):
      make(16, 0)


@pytest.mark.usefixtures('strict_dtypes')
class TestCodebook:
  @EVERY_SHAPE
  def test_starts_as_product_and_decodes_as_the_oracle(self, shape):
    w, reparam = drawn(shape), product_codebook(5, 4)
    theta, code = reparam.init(w, KEY)
    equal(reparam.apply(theta, code, KEY), product(5, 4).apply(*product(5, 4).init(w, KEY), None))
    moved = theta + drawn(theta.shape, 1)
    close(reparam.apply(moved, code, None), oracles.product_codebook(moved, code.assignments, shape), 1e-7)

  @EVERY_SHAPE
  def test_gradient_of_a_centroid_is_the_sum_over_its_blocks(self, shape):
    reparam, scale = product_codebook(3, 4), drawn(shape, 1)
    theta, code = reparam.init(drawn(shape), KEY)
    gradient = jax.jit(jax.grad(lambda theta: (reparam.apply(theta, code, KEY) * scale).sum()))(theta)
    expected = np.zeros(theta.shape)
    for block, row in zip(oracles.filter_blocks(scale, theta.shape[1]), code.assignments, strict=True):
      expected[row, : len(block)] += block
    close(gradient, expected)

  @EVERY_SHAPE
  def test_refresh_hands_each_block_to_the_nearest_centroid(self, shape):
    w, reparam = drawn(shape), product_codebook(5, 4)
    theta, code = reparam.init(w, KEY)
    moved = theta + drawn(theta.shape, 1)
    refreshed = reparam.refresh(moved, code, KEY)
    blocks = oracles.filter_blocks(w, theta.shape[1])
    assert refreshed.assignments.tolist() == oracles.reassigned(blocks, moved, code.assignments)
    assert error(reparam, moved, refreshed, w) <= error(reparam, moved, code, w)
    equal(refreshed.weights, w)


X, Y = drawn((32, 10), 5), drawn((32, 3), 6)
PARAMS = {
  'a': {'kernel': drawn((10, 9), 1), 'bias': drawn((9,), 2)},
  'b': {'kernel': drawn((9, 3), 3), 'bias': drawn((3,), 4)},
}


def loss(reparam, code, theta):
  params = reparam.apply(theta, code, KEY)
  hidden = jax.nn.relu(X @ params['a']['kernel'] + params['a']['bias'][None])
  return jnp.square(hidden @ params['b']['kernel'] + params['b']['bias'][None] - Y).mean()


def first_kernel(path, leaf):
  return path == 'a/kernel'


class TestStages:
  """iPQ: a layer is coded, everything is trained on, the next layer is coded from where it got to."""

  def tuned(self, reparam, theta, code):
    value_and_grad = jax.jit(jax.value_and_grad(partial(loss, reparam, code)))
    tx = optax.adam(0.01)
    opt_state, values = tx.init(theta), []
    for _ in range(20):
      value, gradient = value_and_grad(theta)
      updates, opt_state = tx.update(gradient, opt_state)
      theta = optax.apply_updates(theta, updates)
      values.append(float(value))
    assert values[-1] < 0.8 * values[0]
    return theta

  def test_code_one_layer_after_the_other(self):
    coded = product_codebook(4, 3)
    first = masked(coded, where=first_kernel)
    theta, code = extended(*identity().init(PARAMS, KEY), first, KEY)
    trained = self.tuned(first, theta, code)
    before = first.apply(trained, code, None)
    assert np.abs(trained.selected['a']['kernel'] - theta.selected['a']['kernel']).max() > 0.01
    assert np.abs(before['b']['kernel'] - PARAMS['b']['kernel']).max() > 0.01

    both = masked(coded, where=first_kernel, otherwise=masked(coded))
    theta, code = extended(trained, code, masked(coded), jax.random.key(4))
    equal(theta.selected, trained.selected)
    equal(code.rest.selected['b']['kernel'].weights, before['b']['kernel'])
    after = both.apply(theta, code, None)
    equal(after['a'], before['a'])
    equal(after['b']['bias'], before['b']['bias'])

    theta = self.tuned(both, theta, code)
    shipped = both.apply(theta, code, None)
    jax.tree.map(partial(close, tolerance=1e-7), both.stored(theta, code).decode(), shipped)
    for kernel, filters in ((shipped['a']['kernel'], 9), (shipped['b']['kernel'], 3)):
      blocks = {tuple(block) for block in oracles.filter_blocks(kernel, 3) if len(block) == 3}
      assert 1 < len(blocks) <= 4 < 3 * filters

  def test_structure_is_that_of_init(self):
    """So that a resumed process can build what it restores."""
    coded = product_codebook(4, 3)
    nested = masked(coded, where=first_kernel, otherwise=masked(coded))
    theta, code = identity().init(PARAMS, KEY)
    for where in (first_kernel, kernels):
      theta, code = extended(theta, code, masked(coded, where=where), KEY)
    expected = jax.eval_shape(nested.init, PARAMS, KEY)
    assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), (theta, code)) == jax.tree.map(
      lambda leaf: (leaf.shape, leaf.dtype), expected
    )
