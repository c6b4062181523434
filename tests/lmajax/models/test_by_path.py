"""Models that were not written in stages, seen as staged ones, and trained stage by stage."""

import re
from functools import partial

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmajax import losses, tree
from lmajax.models import ByPath
from lmajax.training import Stages, blockwise, check_boundaries, in_stages, teach, with_ends
from lmajax.types import Batch
from tests.support.towers import ResNet, ResNetBlock, resnet

X = jnp.asarray(np.random.default_rng(0).normal(size=(4, 8, 8, 3)), jnp.float32)
TEACHER, STUDENT = resnet(2, 2, 2), resnet(1, 1, 1)


@pytest.fixture(scope='module')
def variables():
  """The teacher's, with statistics that have seen a batch."""
  fresh = TEACHER.init(jax.random.key(0), X, train=False)
  return fresh | TEACHER.apply(fresh, X, train=True, mutable=['batch_stats'])[1]


class Tapped(ResNet):
  """The same network, written with its taps."""

  @nn.compact
  def __call__(self, x, train=True):
    norm = partial(nn.BatchNorm, use_running_average=not train, momentum=0.9)
    taps = [nn.relu(norm(name='bn_init')(nn.Conv(self.filters, (3, 3), use_bias=False, name='conv_init')(x)))]
    for i in range(3):
      x = ResNetBlock(self.filters * 2**i, 2 if i else 1, norm, name=f'ResNetBlock_{2 * i}')(taps[-1])
      taps.append(ResNetBlock(self.filters * 2**i, 1, norm, name=f'ResNetBlock_{2 * i + 1}')(x))
    return nn.Dense(10, name='Dense_0')(taps[-1].mean(axis=(1, 2))), tuple(taps)


@pytest.mark.parametrize('train', [False, True])
def test_the_taps_are_those_of_the_model_written_with_them_to_the_bit(variables, train):
  mutable = ['batch_stats'] if train else False
  ours = TEACHER.apply(variables, X, train=train, mutable=mutable)
  written = Tapped(TEACHER.model.blocks).apply(variables, X, train=train, mutable=mutable)
  chex.assert_trees_all_equal(ours, written)


def test_they_are_what_flax_captures(variables):
  output, taps = TEACHER.apply(variables, X, train=False)
  kept = {'mutable': ['intermediates'], 'capture_intermediates': True}
  plain, captured = TEACHER.model.apply(variables, X, train=False, **kept)
  found = [captured['intermediates'][f'ResNetBlock_{i}']['__call__'][0] for i in (1, 3, 5)]
  chex.assert_trees_all_equal((output, taps[1:]), (plain, tuple(found)))


@pytest.mark.parametrize('train', [False, True])
def test_stem_stages_and_head_make_the_taps_and_the_output(variables, train):
  """In training too, statistics and all: each part moves its own and they make the whole."""

  @jax.jit
  def parts(variables):
    apply = partial(TEACHER.apply, train=train, mutable=['batch_stats'])
    stem, moved = apply(variables, X, method='stem')
    taps = [stem]
    for i in range(3):
      tap, moved = apply({**variables, **moved}, i, taps[-1], method='stage')
      taps.append(tap)
    output, moved = apply({**variables, **moved}, taps[-1], method='head')
    return (output, tuple(taps)), moved

  whole = jax.jit(partial(TEACHER.apply, train=train, mutable=['batch_stats']))(variables, X)
  chex.assert_trees_all_close(parts(variables), whole, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('i', [0, 1, 2])
def test_a_stage_moves_its_own_statistics_alone(variables, i):
  _, taps = TEACHER.apply(variables, X, train=False)
  _, moved = TEACHER.apply(variables, i, taps[i] + 1, train=True, method='stage', mutable=['batch_stats'])
  same = jax.tree.map(lambda new, old: bool((new == old).all()), moved, {'batch_stats': variables['batch_stats']})
  mine = {f'ResNetBlock_{2 * i}', f'ResNetBlock_{2 * i + 1}'}
  for name, part in same['batch_stats'].items():
    assert {*jax.tree.leaves(part)} == {name not in mine}


def test_what_a_part_does_not_need_is_not_computed(variables):
  _, taps = TEACHER.apply(variables, X, train=False)

  def convolutions(*args, method):
    run = jax.jit(lambda variables, *args: TEACHER.apply(variables, *fixed, *args, train=False, method=method))
    fixed, args = (args[:1], args[1:]) if method == 'stage' else ((), args)
    text = run.lower(variables, *args).compile().as_text()
    return len(re.findall(r'= \S+ convolution\(|custom_call_target="__\w*conv', text))

  assert convolutions(X, method='stem') == 1
  assert [convolutions(i, taps[i], method='stage') for i in range(3)] == [4, 5, 5]  # the last two have a shortcut's
  assert convolutions(taps[3], method='head') == 0


class Skipping(nn.Module):
  """Its second stage sees past the tap."""

  @nn.compact
  def __call__(self, x, train=True):
    y = nn.Dense(3, name='stem')(x)
    z = nn.Dense(3, name='a')(y)
    return nn.Dense(3, name='c')(nn.Dense(3, name='b')(z) + y)


def test_a_stage_that_sees_past_its_tap_gives_nan():
  model = ByPath(Skipping(), ('a', 'b'), 'c', jax.ShapeDtypeStruct((2,), jnp.float32))
  variables = model.init(jax.random.key(0), X[0, 0, :, :2], train=False)
  _, taps = model.apply(variables, X[0, 0, :, :2], train=False)
  assert jnp.isfinite(model.apply(variables, 0, taps[0], train=False, method='stage')).all()
  assert jnp.isnan(model.apply(variables, 1, taps[1], train=False, method='stage')).all()


class Nested(nn.Module):
  """Modules within modules, numbers of characters in, and a mode of another name; between the stages a pooling."""

  @nn.compact
  def __call__(self, tokens, deterministic):
    x = nn.Embed(7, 4, name='embed')(tokens)
    x = Encoder(name='encoder')(x)
    return nn.Dense(2)(nn.Dropout(0.5, deterministic=deterministic)(x.mean(axis=1)))


class Encoder(nn.Module):
  @nn.compact
  def __call__(self, x):
    bias = self.param('bias', nn.initializers.ones, (1, 1, 4))
    x = nn.relu(nn.Dense(4, name='a')(x + bias))
    return nn.Dense(5, name='b')(x[:, ::2])


def test_nested_paths_other_modes_and_what_lies_between_two_modules():
  example = jax.ShapeDtypeStruct((6,), jnp.int32)
  model = ByPath(Nested(), ('encoder/a', 'encoder/b'), 'encoder/b', example, lambda train: {'deterministic': not train})
  tokens = jnp.arange(12).reshape(2, 6) % 7
  variables = model.init(jax.random.key(0), tokens, train=False)
  _, taps = model.apply(variables, tokens, train=False)
  assert [tap.shape for tap in taps] == [(2, 6, 4), (2, 3, 4), (2, 3, 5)]
  for i in range(2):
    chex.assert_trees_all_equal(model.apply(variables, i, taps[i], train=False, method='stage'), taps[i + 1])
  dropped = [
    model.apply(variables, taps[2], train=True, method='head', rngs={'dropout': jax.random.key(i)}) for i in (0, 1)
  ]
  assert not np.array_equal(*dropped)
  paths = jax.tree.leaves(tree.map_with_path(lambda path, leaf: path, variables['params']))
  assert {path for path in paths if model.in_stages(path)} == {
    'encoder/a/kernel', 'encoder/a/bias', 'encoder/b/kernel', 'encoder/b/bias'
  }  # fmt: skip


@pytest.mark.parametrize(
  'first, last', [(('a', 'x'), 'c'), (('b', 'a'), 'c'), (('a', 'b'), 'a')], ids=['unknown', 'order', 'end']
)
def test_wrong_paths_are_named(first, last):
  model = ByPath(Skipping(), first, last, jax.ShapeDtypeStruct((2,), jnp.float32))
  variables = model.init(jax.random.key(0), X[0, 0, :, :2], train=False)
  with pytest.raises(ValueError, match=rf'{", ".join(first)}, {last} .* must be called once, .* of stem, a, b, c'):
    model.apply(variables, X[0, 0, :, :2], train=False)


def test_teacher_and_student_as_they_are_found(variables):
  """Start, freezing and objective take them as they take our own."""
  check_boundaries(STUDENT, TEACHER, X)
  fresh = STUDENT.init(jax.random.key(1), X, train=False)
  start = with_ends(STUDENT, fresh, TEACHER, variables)
  stats = {'batch_stats': start['batch_stats']}
  chex.assert_trees_all_equal(start['batch_stats']['bn_init'], variables['batch_stats']['bn_init'])
  chex.assert_trees_all_equal(start['params']['Dense_0'], variables['params']['Dense_0'])
  chex.assert_trees_all_equal(start['params']['ResNetBlock_1'], fresh['params']['ResNetBlock_1'])

  batch, key = Batch(X, jnp.arange(4)), jax.random.key(2)
  frozen = teach(TEACHER)(variables, batch)

  def end_to_end(logits, taught, batch):
    return losses.distillation(logits, taught.logits, batch.labels).mean()

  def run(params, fed, compared, beta):
    objective = blockwise(STUDENT, end_to_end, Stages(beta, fed, compared))
    return jax.value_and_grad(objective, has_aux=True)(params, stats, frozen, batch, key)

  run = jax.jit(run, static_argnums=(1, 2, 3))
  (loss, (moved, errors)), grads = run(start['params'], (0, 1, 2), (0, 1, 2), 0.0)
  stages = [run(start['params'], (i,), (i,), 0.0) for i in range(3)]
  np.testing.assert_allclose(loss, sum(value for (value, _), _ in stages), rtol=1e-6)
  for i, (_, alone) in enumerate(stages):
    touched = {name for name, part in alone.items() if any(leaf.any() for leaf in jax.tree.leaves(part))}
    assert touched == {f'ResNetBlock_{i}'}
    chex.assert_trees_all_close(alone[f'ResNetBlock_{i}'], grads[f'ResNetBlock_{i}'], rtol=1e-5, atol=1e-7)
  for i in range(3):
    stage = partial(STUDENT.apply, start, i, train=True, method='stage', mutable=['batch_stats'])
    tap, _ = stage(frozen.taps[i])
    np.testing.assert_allclose(errors[f'error_{i}'], jnp.square(tap - frozen.taps[i + 1]).mean(), rtol=1e-5)
  chex.assert_trees_all_equal(moved['batch_stats']['bn_init'], variables['batch_stats']['bn_init'])
  mixed = run(start['params'], (0, 1, 2), (0, 1, 2), 0.5)
  assert jnp.isfinite(mixed[0][0])
  assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(mixed[1]))
  assert {path for path, yes in _labels(start['params'], in_stages(STUDENT)) if not yes} == {
    'bn_init/scale', 'bn_init/bias', 'conv_init/kernel', 'Dense_0/kernel', 'Dense_0/bias'
  }  # fmt: skip


def _labels(params, where):
  return jax.tree.leaves(
    tree.map_with_path(lambda path, leaf: (path, where(path, leaf)), params), is_leaf=lambda x: isinstance(x, tuple)
  )
