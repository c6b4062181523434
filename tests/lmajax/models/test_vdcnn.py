"""The network over characters: its published sizes, and what it computes, restated in loops."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmajax import tree
from lmajax.activations.linen import LMA, ReLU
from lmajax.models import VDCNN
from lmajax.models._vdcnn import _halved, _largest
from tests import oracles

BLOCKS = {9: (1, 1, 1, 1), 17: (2, 2, 2, 2), 29: (5, 5, 2, 2), 49: (8, 8, 5, 3)}
MILLIONS = {9: (14.18, 1.58), 17: (16.27, 3.67), 29: (16.64, 4.04), 49: (19.77, 7.17)}
small = partial(VDCNN, num_classes=5, act=ReLU, channels=(3, 4, 4, 5), units=(6, 7), vocabulary=11, embedding=2, k=3)

TEXT = jnp.zeros((1, 64), jnp.int32)


def shapes(model, length=64):
  tokens = jax.ShapeDtypeStruct((1, length), jnp.int32)
  return jax.eval_shape(partial(model.init, train=False), jax.random.key(0), tokens)


def counted(depth, classes):
  """The parameters in all, and those of the sections alone, by hand."""
  sections, width = 0, 64
  for blocks, features in zip(BLOCKS[depth], (64, 128, 256, 512), strict=True):
    for _ in range(blocks):
      sections += 3 * width * features + 3 * features * features + 4 * features
      width = features
  dense = sum((inputs + 1) * units for inputs, units in ((8 * 512, 2048), (2048, 2048), (2048, classes)))
  return 69 * 16 + 3 * 16 * 64 + sections + dense, 3 * 16 * 64 + sections


class TestSizes:
  @pytest.mark.parametrize('depth, classes', [(9, 5), (17, 5), (29, 4), (49, 4)])
  def test_parameters(self, depth, classes):
    params = shapes(VDCNN(depth=depth, num_classes=classes, act=ReLU))['params']
    convolutions = {name: part for name, part in params.items() if name not in ('embed', 'last')}
    total, inside = counted(depth, classes)
    assert (tree.size(params), tree.size(convolutions)) == (total, inside)
    assert (round(total / 1e6, 2), round(inside / 1e6, 2)) == MILLIONS[depth]

  def test_the_stem_and_the_head_have_one_shape_whatever_the_depth(self):
    params = [shapes(VDCNN(depth=depth, num_classes=5, act=LMA))['params'] for depth in (9, 29)]
    for name in ('embed', 'first', 'last'):
      assert params[0][name] == params[1][name]

  def test_convolutions_start_by_the_rule_of_kaiming(self):
    params = VDCNN(depth=9, num_classes=5, act=ReLU, units=(4, 4)).init(jax.random.key(0), TEXT, train=False)['params']
    assert np.std(params['embed']['embedding']) == pytest.approx(1, rel=0.1)
    assert np.std(params['first']['kernel']) == pytest.approx(np.sqrt(2 / (3 * 16)), rel=0.1)
    assert np.std(params['stages_3']['_Block_0']['Conv_0']['kernel']) == pytest.approx(np.sqrt(2 / (3 * 256)), rel=0.01)

  def test_an_unknown_depth(self):
    with pytest.raises(ValueError, match='depth is 10, and must be one of 9, 17, 29, 49'):
      shapes(small(depth=10))

  def test_a_text_that_is_too_short(self):
    assert shapes(small(depth=9), length=17)  # 9, 5 and 3 places
    with pytest.raises(ValueError, match='2 places are left of the text, and k = 3'):
      shapes(small(depth=9), length=16)


class TestValues:
  @pytest.mark.parametrize('depth, length', [(9, 24), (17, 35)])
  def test_the_logits_equal_the_oracle(self, depth, length):
    model, draw = small(depth=depth), np.random.default_rng(depth)
    drawn = jax.tree.map(lambda leaf: draw.uniform(0.1, 1, leaf.shape).astype(np.float32), shapes(model, length))
    drawn['params'] = jax.tree.map(lambda leaf: leaf * draw.choice([-1, 1], leaf.shape), drawn['params'])
    tokens = draw.integers(0, 11, (2, length))
    logits, _ = model.apply(drawn, jnp.asarray(tokens), train=False)
    for text, ours in zip(tokens, logits, strict=True):
      expected = oracles.vdcnn(text, drawn['params'], drawn['batch_stats'], 3)
      np.testing.assert_allclose(ours, expected, rtol=0, atol=2e-5 * np.abs(expected).max())

  @pytest.mark.parametrize('length', [1, 2, 6, 7])
  def test_halving_equals_the_oracle_and_the_gradient_of_xla(self, length):
    x = np.random.default_rng(length).integers(-1, 2, (3, length, 4)).astype(np.float32)  # with ties

    def of_xla(x):
      return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 3, 1), (1, 2, 1), ((0, 0), (1, 1), (0, 0)))

    (ours, pull), (theirs, pull_of_xla) = jax.vjp(_halved, jnp.asarray(x)), jax.vjp(of_xla, jnp.asarray(x))
    np.testing.assert_array_equal(ours, [oracles.halved(one) for one in x])
    np.testing.assert_array_equal(ours, theirs)
    g = jnp.asarray(np.random.default_rng(0).normal(size=ours.shape), jnp.float32)
    np.testing.assert_allclose(*(back(g)[0] for back in (pull, pull_of_xla)), rtol=1e-6)

  def test_halving_hands_on_what_is_no_number(self):
    x = jnp.zeros((1, 8, 1)).at[0, 3].set(jnp.nan)
    np.testing.assert_array_equal(jnp.isnan(_halved(x))[0, :, 0], [False, True, True, False])

  def test_the_k_largest_stand_in_their_order(self):
    x = np.random.default_rng(0).integers(0, 5, (3, 9, 4)).astype(np.float32)  # with ties
    y, pull = jax.vjp(partial(_largest, k=4), jnp.asarray(x))
    np.testing.assert_array_equal(y, [oracles.k_largest(one, 4) for one in x])
    assert not np.array_equal(y, np.sort(y, axis=1))
    taken = np.asarray(pull(jnp.ones_like(y))[0])
    assert set(np.unique(taken)) == {0, 1} and (taken.sum(1) == 4).all()
    np.testing.assert_array_equal((taken * x).sum(1), np.asarray(y).sum(1))
