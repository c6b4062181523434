"""Pruning: scores and masks beside their oracles, exact densities, training under a mask, and what a file keeps."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmajax.compress import (
  keep,
  kernels,
  lamp,
  layerwise,
  magnitude,
  masked,
  n_of_m,
  normalized,
  pack,
  sparse,
  uniform,
  unpack,
)
from tests import oracles

RNG = np.random.default_rng(0)
PARAMS = {
  'a/kernel': RNG.normal(size=(3, 4, 5)).astype(np.float32),
  'b/kernel': (0.1 * RNG.normal(size=(8, 7))).astype(np.float32).round(2),  # with ties
  'c/zero': np.zeros((4, 2), np.float32),
}
W, MASK = PARAMS['b/kernel'], RNG.random((8, 7)) < 0.4
SCORES = {
  'magnitude': magnitude,
  'layerwise': layerwise,
  'lamp': lamp,
  'l1': functools.partial(normalized, norm='l1'),
  'l2': functools.partial(normalized, norm='l2'),
}
SLOW = {
  'magnitude': oracles.magnitude,
  'layerwise': oracles.layerwise,
  'lamp': oracles.lamp,
  'l1': functools.partial(oracles.normalized, norm='l1'),
  'l2': functools.partial(oracles.normalized, norm='l2'),
}
DENSITIES = (0.0, 0.03, 0.5, 1.0)


def given():
  return jax.tree.map(jnp.asarray, PARAMS)


@functools.cache
def scores_of(name):
  return jax.jit(SCORES[name])


@functools.cache
def masks_of(density):
  return jax.jit(functools.partial(keep, density=density))


@pytest.mark.parametrize('name', SCORES)
class TestScores:
  def test_equal_their_oracle(self, name, strict_dtypes):
    ours, slow = scores_of(name)(given()), SLOW[name](PARAMS)
    for path in PARAMS:
      np.testing.assert_allclose(ours[path], slow[path], rtol=2e-6, err_msg=path)

  def test_masks_equal_those_of_the_oracles(self, name):
    scores = scores_of(name)(given())
    ours, slow = masks_of(0.25)(scores), oracles.keep(jax.tree.map(np.asarray, scores), 0.25)
    jax.tree.map(np.testing.assert_array_equal, ours, slow)

  def test_a_size_changes_only_what_it_should(self, name, strict_dtypes):
    """Squares of the largest and the smallest floats are no floats, and the scores do not need them."""
    w = jnp.array([[3.0, -1.0], [0.0, 2.0]], jnp.float32)
    plain, huge, tiny = (SCORES[name]({'w': w * factor})['w'] for factor in (1.0, 1e37, 1e-37))
    if name != 'magnitude':
      np.testing.assert_allclose(huge, plain, rtol=1e-6)
      np.testing.assert_allclose(tiny, plain, rtol=1e-6)
    assert bool(jnp.isfinite(huge).all())
    assert np.argsort(tiny, axis=None).tolist()[1:] == [1, 3, 0]

  def test_pass_empty_places_and_16_bits(self, name, strict_dtypes):
    tree = {'kernel': jnp.asarray(W, jnp.bfloat16), 'bias': None, 'empty': jnp.zeros((0, 3))}
    scores = SCORES[name](tree)
    assert scores['bias'] is None and scores['kernel'].dtype == jnp.float32
    mask = keep(scores, 0.5)
    assert mask['bias'] is None and int(mask['kernel'].sum()) == 28 and mask['empty'].shape == (0, 3)

  def test_refuse_what_is_not_finite(self, name):
    with pytest.raises(ValueError, match='b/kernel holds NaN or infinity'):
      SCORES[name]({'b': {'kernel': jnp.array([1.0, np.nan])}})
    with pytest.raises(ValueError, match='kernel is int32'):
      SCORES[name]({'kernel': jnp.arange(3)})


class TestKeep:
  @pytest.mark.parametrize('density', DENSITIES)
  def test_is_exact_to_one_weight_whatever_the_ties(self, density):
    for scores in (magnitude(given()), jax.tree.map(jnp.zeros_like, given())):
      mask = masks_of(density)(scores)
      assert sum(int(leaf.sum()) for leaf in jax.tree.leaves(mask)) == round(density * 124)
      jax.tree.map(np.testing.assert_array_equal, mask, oracles.keep(jax.tree.map(np.asarray, scores), density))

  def test_denser_masks_hold_the_sparser_ones(self):
    scores = lamp(given())
    masks = [masks_of(density)(scores) for density in DENSITIES]
    for one, other in itertools.pairwise(masks):
      assert all(bool((b | ~a).all()) for a, b in zip(*map(jax.tree.leaves, (one, other)), strict=True))

  def test_shares_of_layers(self):
    mask = masks_of(0.25)(layerwise(given()))
    for leaf in jax.tree.leaves(mask):
      assert abs(int(leaf.sum()) - leaf.size / 4) <= 1

  def test_no_layer_is_lost_by_lamp(self):
    tree = {'large': 100 * given()['a/kernel'], 'small': given()['b/kernel']}
    lost = {name: int(keep(score(tree), 0.05)['small'].sum()) == 0 for name, score in SCORES.items()}
    assert lost['magnitude'] and not lost['lamp']

  @pytest.mark.parametrize('density', [-0.1, 1.1, np.nan])
  def test_refuses_densities(self, density):
    with pytest.raises(ValueError, match=r'density is .*; give a share between 0 and 1'):
      keep({'w': jnp.ones(3)}, density)

  def test_refuses_scores(self):
    with pytest.raises(ValueError, match='w holds NaN'):
      keep({'w': jnp.array([np.nan])}, 0.5)
    assert keep({'w': None}, 0.5) == {'w': None}


class TestGroups:
  @pytest.mark.parametrize('n, m', [(2, 4), (1, 2), (4, 4)])
  def test_equals_its_oracle(self, n, m, strict_dtypes):
    tree = {path: PARAMS[path] for path in ('a/kernel', 'b/kernel')}
    masks = n_of_m(jax.tree.map(jnp.asarray, tree), n, m)
    jax.tree.map(np.testing.assert_array_equal, masks, oracles.n_of_m(tree, n, m))
    rows = np.moveaxis(np.asarray(masks['a/kernel']), -2, -1).reshape(-1, m)
    assert (rows.sum(axis=-1) == n).all()

  def test_refuses_what_has_no_groups(self):
    with pytest.raises(ValueError, match='n is 5; give 1 to 4'):
      n_of_m(given(), 5, 4)
    for shape in ((4,), (6, 4)):
      with pytest.raises(ValueError, match=r'b/kernel is .*; its axis before the last must be a multiple of 4'):
        n_of_m({'b': {'kernel': jnp.ones(shape)}}, 2, 4)


@functools.cache
def applied(**way):
  return jax.jit(sparse(**way).apply)


WAYS = [{}, {'bits': 16}, {'bits': 8}, {'bits': 4}, {'bits': 4, 'bucket_size': 5}, {'bits': 1, 'bucket_size': 1}]


@pytest.mark.parametrize('way', WAYS, ids=str)
class TestSparse:
  @pytest.mark.parametrize('mask', [MASK, ~MASK, MASK & False, MASK | True], ids=['some', 'others', 'none', 'all'])
  def test_equals_its_oracle_as_applied_as_stored_and_from_a_file(self, way, mask, strict_dtypes):
    reparam, slow = sparse(**way), oracles.sparse(W, mask, **way)
    np.testing.assert_allclose(applied(**way)(jnp.asarray(W), jnp.asarray(mask), None), slow, atol=1e-6)
    packed = reparam.stored({'kernel': jnp.asarray(W)}, {'kernel': jnp.asarray(mask)})
    np.testing.assert_allclose(packed.decode()['kernel'], slow, atol=1e-6)
    data = pack(packed, {}, {}, entropy=True)
    again = unpack(data)
    assert again.packed.decode()['kernel'].tobytes() == packed.decode()['kernel'].tobytes()
    assert (again.packed.decode()['kernel'][~mask] == 0).all()
    assert pack(*again, entropy=True) == data

  def test_gradient_goes_straight_through_what_stays(self, way):
    w, mask, apply = jnp.asarray(W), jnp.asarray(MASK), applied(**way)
    ct = jnp.asarray(RNG.normal(size=W.shape).astype(np.float32))
    value, pull = jax.vjp(lambda w: apply(w, mask, jax.random.key(0)), w)
    np.testing.assert_array_equal(value, apply(w, mask, None))
    np.testing.assert_allclose(pull(ct)[0], np.where(MASK, ct, 0))

  def test_refresh_keeps_the_mask(self, way):
    code = {'kernel': jnp.asarray(MASK)}
    assert sparse(**way).refresh({'kernel': jnp.asarray(W)}, code, jax.random.key(0)) is code


def test_pruned_weights_come_back_to_life_without_a_kind_of_their_own():
  """What this kind is for: zero is no level of a bucket."""
  w = {'kernel': jnp.where(MASK, W, 0)}
  revived = uniform(4).stored(w, ()).decode()['kernel'][~MASK]
  assert (revived != 0).all()
  ours = sparse(bits=4).stored(w, {'kernel': jnp.asarray(MASK)})
  assert (ours.decode()['kernel'][~MASK] == 0).all()
  assert ours.mean_bits() == (4 * MASK.sum() + 8 * ours.tensors['kernel'].gaps.size) / 56 < 4


def test_float16_at_its_ends():
  w = jnp.array([1e6, -1e6, 65519.0, 1 + 2**-11, 1 + 3 * 2**-11, 1e-6], jnp.float32)
  found = jax.jit(lambda w: sparse(bits=16).apply(w, jnp.ones(6, bool), None))(w)
  assert found.tolist() == [65504, -65504, 65504, 1, 1 + 2**-9, 0]


def test_masks_are_chosen_at_the_start_and_under_masked():
  tree = {'kernel': jnp.asarray(W), 'bias': jnp.ones(7)}
  reparam = masked(sparse(start=lambda params: keep(lamp(params), 0.25)), where=kernels)
  theta, code = jax.jit(reparam.init)(tree, jax.random.key(0))
  assert int(code.selected['kernel'].sum()) == 14 and code.selected['bias'] is None
  weights = reparam.apply(theta, code, None)
  assert int((weights['kernel'] != 0).sum()) == 14 and weights['bias'].tolist() == [1] * 7


@pytest.mark.parametrize('way', [{'bits': 0}, {'bits': 9}, {'bits': 32}, {'bucket_size': 0}], ids=str)
def test_refuses_its_arguments(way):
  with pytest.raises(ValueError, match=r'bits is|bucket_size is'):
    sparse(**way)


def test_refuses_masks_of_other_shapes_and_trees():
  w, reparam = {'kernel': jnp.asarray(W)}, sparse(bits=4)
  for mask, line in (
    ({'kernel': jnp.ones((7, 8), bool)}, r'the mask of kernel is bool\[7, 8\]; give an array of bools'),
    ({'kernel': jnp.ones((8, 7))}, r'the mask of kernel is float32\[8, 7\]'),
    ({'other': jnp.asarray(MASK)}, 'the masks are no tree like that of the weights'),
  ):
    for call in (reparam.stored, lambda w, mask: reparam.apply(w, mask, None)):
      with pytest.raises(ValueError, match=line):
        call(w, mask)
    with pytest.raises(ValueError, match=line):
      sparse(start=lambda params, mask=mask: mask).init(w, jax.random.key(0))
