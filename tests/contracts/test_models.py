"""Every model keeps the Staged law and the published sizes; a new one joins by a line in MEMBERS and one in SITES."""

import re
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lmajax import tree
from lmajax.activations.linen import APLU, LMA, PReLU, ReLU, Swish
from lmajax.models import (
  CNN,
  MLP,
  VDCNN,
  ResNet,
  ResNeXt,
  Transformer,
  WideResNet,
  cifar10_student,
  cifar10_teacher,
  vgg16,
)
from lmajax.types import Staged
from tests import oracles

small_cnn = partial(
  CNN,
  channels=(4, 6),
  units=(5,),
  num_classes=10,
  act=LMA,
  pool_after=(1,),
  channel_dropout=((1, 0.5),),
  unit_dropout=0.5,
)

# How to build a small one, and whether it drops anything out.
SITES = {CNN: 3, MLP: 2, WideResNet: 7, ResNet: 7, ResNeXt: 10, VDCNN: 10, Transformer: 3}
"""How many activations the members have."""

MEMBERS = [
  pytest.param(small_cnn, True, id='cnn'),
  pytest.param(partial(MLP, units=(7, 5), num_classes=10, act=LMA), False, id='mlp'),
  pytest.param(partial(WideResNet, depth=10, widen=1, num_classes=10, act=LMA), True, id='wide_resnet'),
  pytest.param(partial(ResNet, depth=8, num_classes=10, act=LMA, channels=(4, 8, 12)), False, id='resnet'),
  pytest.param(
    partial(ResNet, 8, 10, LMA, channels=(8, 4, 6), inner=(5, 3, 7), projected=True), False, id='projected resnet'
  ),
  pytest.param(
    partial(ResNeXt, depth=11, num_classes=10, act=LMA, cardinality=2, base_width=2, channels=(2, 4, 6)),
    False,
    id='resnext',
  ),
  pytest.param(
    partial(VDCNN, depth=9, num_classes=10, act=LMA, channels=(4, 5, 6, 7), units=(9, 8), k=3), False, id='vdcnn'
  ),
  pytest.param(
    partial(Transformer, (11, 13), LMA, layers=(1, 2), features=8, units=12, heads=2), True, id='transformer'
  ),
]
X = jnp.asarray(np.random.default_rng(0).normal(size=(4, 8, 8, 3)), jnp.float32)
TOKENS = jnp.asarray(np.random.default_rng(0).integers(0, 69, (4, 37)), jnp.int32)
SENTENCES = tuple(
  jnp.asarray(np.random.default_rng(0).integers(1, 11, (4, count)) * (np.arange(count) < [[1], [3], [4], [9]]))
  for count in (6, 5)
)  # 0, padding, from a place on that is each row's own


def inputs_of(make):
  return {VDCNN: TOKENS, Transformer: SENTENCES}.get(make.func, X)


def assert_close(ours, expected, **tolerance):
  """Leaf by leaf."""
  for one, other in zip(jax.tree.leaves(ours), jax.tree.leaves(expected), strict=True):
    np.testing.assert_allclose(one, other, **tolerance)


def forward(model, variables, x, *, train, seed=0):
  rngs = {'dropout': jax.random.key(seed)} if train else {}
  return model.apply(variables, x, train=train, rngs=rngs, mutable=['batch_stats'] if train else False)


class Trained(NamedTuple):
  """A model with variables whose statistics have seen a batch, its inputs, and what it gives for them in evaluation.

  Its two programs are compiled once for all tests: ``step`` trains, and ``evaluate`` is called with a key of dropout.
  """

  model: Any
  x: Any
  variables: Any
  output: jax.Array
  taps: tuple
  step: Callable
  evaluate: Callable


@pytest.fixture(scope='module')
def trained():
  """Builds and trains a model once."""
  built = {}

  def build(make):
    if make not in built:
      model, x = make(), inputs_of(make)

      @jax.jit
      def step(variables, x, seed):
        def loss(params):
          (output, _), updated = forward(model, {**variables, 'params': params}, x, train=True, seed=seed)
          labels = jnp.indices(output.shape[:-1])[0]  # an example's number, for each of its tokens
          return optax.softmax_cross_entropy_with_integer_labels(output, labels).mean(), (output, updated)

        return jax.grad(loss, has_aux=True)(variables['params'])

      @jax.jit
      def evaluate(variables, x, seed):
        return model.apply(variables, x, train=False, rngs={'dropout': jax.random.key(seed)})

      variables = jax.jit(partial(model.init, train=False))(jax.random.key(1), x)
      _, (_, updated) = step(variables, x, 0)
      variables = {**variables, **updated}
      built[make] = Trained(model, x, variables, *evaluate(variables, x, 0), step, evaluate)
    return built[make]

  return build


@pytest.mark.parametrize('make, drops', MEMBERS)
class TestEveryModel:
  def test_is_staged(self, make, drops):
    assert isinstance(make(), Staged)

  def test_stem_stages_and_head_make_the_taps_and_the_output(self, make, drops, trained):
    """None but its own parameters and statistics are given to a stage."""
    model, x, variables, output, taps, *_ = trained(make)

    def own(variables, i):
      return {collection: {f'stages_{i}': part[f'stages_{i}']} for collection, part in variables.items()}

    @jax.jit
    def parts(variables, taps):
      stem = model.apply(variables, x, train=False, method='stem')
      each = [model.apply(own(variables, i), i, tap, train=False, method='stage') for i, tap in enumerate(taps[:-1])]
      return (stem, *each), model.apply(variables, taps[-1], train=False, method='head')

    assert len(taps) > 2
    assert_close(parts(variables, taps), (taps, output), rtol=1e-5, atol=1e-6)

  def test_parameters_lie_under_their_stage(self, make, drops, trained):
    _, _, variables, _, taps, *_ = trained(make)
    for part in variables.values():
      stages = {name for name in part if re.fullmatch(r'stages_\d+', name)}
      assert stages == {f'stages_{i}' for i in range(len(taps) - 1)}

  def test_every_site_has_a_table_and_statistics_of_its_own(self, make, drops, trained):
    model, _, variables, *_ = trained(make)
    paths = {collection: set() for collection in variables}
    for collection, part in variables.items():
      for path, leaf in jax.tree_util.tree_leaves_with_path(part):
        names = [key.key for key in path]
        if names[-1] in ('slope_deltas', 'weight'):
          paths[collection].add(tuple(names[:-1]))
          assert names[-1] != 'weight' or np.isclose(leaf, 0.01)
    assert paths['params'] == paths['batch_stats']
    assert len(paths['params']) == SITES[type(model)]

  def test_bfloat16_computes_over_float32_parameters(self, make, drops):
    model, x = make(dtype=jnp.bfloat16), inputs_of(make)
    half = x.astype(jnp.bfloat16) if x is X else x
    variables = jax.eval_shape(partial(model.init, train=False), jax.random.key(1), x)
    (output, taps), updated = jax.eval_shape(partial(forward, model, train=True), variables, half)
    computed = {leaf.dtype for leaf in jax.tree.leaves((output, taps))} - {jnp.dtype(bool)}  # a mask is bool
    assert computed == {jnp.dtype(jnp.bfloat16)}
    assert {leaf.dtype for leaf in jax.tree.leaves((variables, updated))} == {jnp.dtype(jnp.float32)}

  def test_dropout_follows_the_key_in_training_only(self, make, drops, trained):
    _, x, variables, output, _, step, evaluate = trained(make)
    outputs = [step(variables, x, seed)[1][0] for seed in (0, 0, 1)]
    assert np.array_equal(outputs[0], outputs[1])
    assert np.array_equal(outputs[0], outputs[2]) != drops
    again, _ = evaluate(variables, x, 5)
    np.testing.assert_allclose(again, output, rtol=1e-5, atol=1e-6)

  def test_evaluates_each_example_alone(self, make, drops, trained):
    _, x, variables, output, _, _, evaluate = trained(make)
    half, _ = evaluate(variables, jax.tree.map(lambda part: part[:2], x), 0)
    np.testing.assert_allclose(half, output[:2], rtol=1e-4, atol=1e-5)

  def test_gradients_are_finite_and_reach_every_parameter(self, make, drops, trained):
    _, x, variables, _, _, step, _ = trained(make)
    gradients, _ = step(variables, x, 0)
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradients):
      assert np.isfinite(leaf).all()
      assert np.any(leaf), f'nothing reaches {jax.tree_util.keystr(path)}'


def parameters(model):
  images = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
  return tree.size(jax.eval_shape(partial(model.init, train=False), jax.random.key(0), images)['params'])


STUDENTS = {
  1: (1_000_235, {ReLU: 0, PReLU: 5, Swish: 700, APLU: 8_400, LMA: 80}),
  2: (318_415, {ReLU: 0, PReLU: 5, Swish: 510, APLU: 6_120, LMA: 80}),
  3: (111_935, {ReLU: 0, PReLU: 5, Swish: 350, APLU: 4_200, LMA: 80}),
}
WIDE = {
  4: (1_223_300, {ReLU: 0, PReLU: 1, Swish: 256, APLU: 3_072, LMA: 16}),
  2: (316_004, {ReLU: 0, APLU: 1_536, LMA: 16}),
}


class TestPublishedSizes:
  @pytest.mark.parametrize('number, act', [(number, act) for number, (_, more) in STUDENTS.items() for act in more])
  def test_cifar10_students(self, number, act):
    base, more = STUDENTS[number]
    assert parameters(cifar10_student(number, act)) == base + more[act]

  def test_cifar10_teacher(self):
    assert parameters(cifar10_teacher(ReLU)) == 5_346_142

  @pytest.mark.parametrize('widen, act', [(widen, act) for widen, (_, more) in WIDE.items() for act in more])
  def test_cifar100_students_with_one_activation_replaced(self, widen, act):
    base, more = WIDE[widen]
    model = WideResNet(depth=10, widen=widen, num_classes=100, act=act, last_only=True)
    assert parameters(model) == base + more[act]

  def test_cifar100_student_with_all_activations_replaced(self):
    assert parameters(WideResNet(depth=10, widen=4, num_classes=100, act=LMA)) == 1_223_300 + 7 * 16

  def test_cifar100_teacher(self):
    assert parameters(WideResNet(depth=16, widen=10, num_classes=100, act=ReLU)) == 17_179_940

  @pytest.mark.parametrize(
    'depth, size', [(110, 1_727_962), (56, 853_018), (44, 658_586), (32, 464_154), (20, 269_722)]
  )
  def test_resnets(self, depth, size):
    assert parameters(ResNet(depth, 10, ReLU)) == size

  @pytest.mark.parametrize(
    'depth, cardinality, base_width, channels, size',
    [(110, 8, 4, (16, 32, 64), 1_367_898), (20, 8, 4, (16, 32, 64), 247_898), (20, 4, 3, (8, 16, 20), 31_938)],
  )
  def test_resnexts(self, depth, cardinality, base_width, channels, size):
    """Convolutions without biases, each with a norm of two numbers a channel, then the logits."""
    count, before = 3 * 9 * channels[0] + 2 * channels[0], channels[0]
    for width in channels:
      group, after = base_width * width // channels[0], 4 * width
      inner = cardinality * group
      count += before * after + 2 * after  # the shortcut
      for _ in range((depth - 2) // 9):
        count += before * inner + 9 * group * inner + inner * after + 4 * inner + 2 * after
        before = after
    assert count + 10 * before + 10 == size == parameters(ResNeXt(depth, 10, ReLU, cardinality, base_width, channels))

  def test_resnext_of_its_paper(self):
    assert round(parameters(ResNeXt(29, 10, ReLU, 8, 64, (64, 128, 256))) / 1e6, 1) == 34.4

  def test_vgg16(self):
    assert parameters(vgg16(ReLU)) == 14_728_266

  @pytest.mark.parametrize('count', [0, 12, 14])
  def test_vgg16_of_no_other_depth(self, count):
    with pytest.raises(ValueError, match=f'channels are {count}, and must be 13'):
      vgg16(ReLU, channels=(4,) * count)

  @pytest.mark.parametrize('number', [0, 4])
  def test_no_other_student(self, number):
    with pytest.raises(KeyError):
      cifar10_student(number, LMA)

  @pytest.mark.parametrize('depth', [4, 11, 20])
  def test_no_other_depth(self, depth):
    with pytest.raises(ValueError, match='6 n'):
      parameters(WideResNet(depth=depth, widen=1, num_classes=10, act=LMA))

  @pytest.mark.parametrize('model, depth, law', [(ResNet, 2, '6 n'), (ResNet, 18, '6 n'), (ResNeXt, 14, '9 n')])
  def test_no_other_depth_of_residual_networks(self, model, depth, law):
    with pytest.raises(ValueError, match=law):
      parameters(model(depth, 10, LMA))

  def test_no_falling_channels_without_parameters_in_the_shortcut(self):
    with pytest.raises(ValueError, match=r'\(16, 8, 32\), and must not fall'):
      parameters(ResNet(8, 10, LMA, (16, 8, 32)))


class TestTree:
  def test_size_and_nbytes_equal_the_oracle(self):
    nest = {
      'a': [np.zeros((3, 4), np.float32), np.zeros((), np.int8)],
      'b': (jnp.zeros((2, 0, 5)), {'c': jnp.ones(7, jnp.bfloat16)}),
    }
    assert tree.size(nest) == oracles.size(nest) == 20
    assert tree.nbytes(nest) == oracles.nbytes(nest) == 63

  def test_leaves_by_their_paths_equal_the_oracle(self):
    nest = {'b': {'kernel': 1, 'bias': 2}, 'a': {'b': {'kernel': 3}}}
    assert tree.by_path(nest) == oracles.by_path(nest) == {'b/kernel': 1, 'b/bias': 2, 'a/b/kernel': 3}

  def test_nothing_has_no_size(self):
    assert tree.size({}) == tree.nbytes(()) == 0

  def test_shapes_are_enough(self):
    assert tree.nbytes(jax.ShapeDtypeStruct((3, 4), jnp.bfloat16)) == 24
