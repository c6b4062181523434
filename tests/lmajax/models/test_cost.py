"""Multiply-accumulates counted from shapes: published figures, the sum written out, and modules of others."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from lmajax.activations.linen import LMA, ReLU
from lmajax.models import CNN, MLP, Generator, ResNet, macs
from tests import oracles

IMAGE = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)


def expect(model, image, layers):
  assert macs(model, image) == oracles.macs(layers)


def test_dense_and_convolutional_blocks():
  image = jnp.zeros((1, 6, 5, 2))
  expect(MLP((4, 3), 7, LMA), image, [((60, 4), (1,)), ((4, 3), (1,)), ((3, 7), (1,))])
  cnn = CNN((4, 3), (5,), 7, LMA, pool_after=(0,))
  expect(cnn, image, [((3, 3, 2, 4), (6, 5)), ((3, 3, 4, 3), (3, 2)), ((18, 5), (1,)), ((5, 7), (1,))])


@pytest.mark.parametrize('strides, groups, padding, positions', [(1, 1, 'SAME', (6, 5)), (2, 2, 'VALID', (2, 2))])
def test_convolutions_of_others(strides, groups, padding, positions):
  conv = nn.Conv(8, (3, 3), strides, padding, feature_group_count=groups)
  expect(conv, jax.ShapeDtypeStruct((1, 6, 5, 4), jnp.float32), [((3, 3, 4 // groups, 8), positions)])


def test_a_transposed_one_is_laid_at_its_inputs():
  expect(nn.ConvTranspose(3, (4, 4), (2, 2)), jnp.zeros((1, 5, 6, 2)), [((4, 4, 2, 3), (5, 6))])


def test_a_generator():
  """Three convolutions down, two in each block, two transposed and one up; the norms count nothing."""
  model = Generator(channels=4, blocks=2, colours=1, act=LMA)
  images, target = jnp.zeros((1, 16, 12, 1)), jnp.zeros((1, 3))
  layers = [((7, 7, 4, 4), (16, 12)), ((4, 4, 4, 8), (8, 6)), ((4, 4, 8, 16), (4, 3))]
  layers += 4 * [((3, 3, 16, 16), (4, 3))] + [((4, 4, 16, 8), (4, 3)), ((4, 4, 8, 4), (8, 6))]
  expect(model, (images, target), [*layers, ((7, 7, 4, 1), (16, 12))])


class Foreign(nn.Module):
  """Takes a pytree and an argument of its own, and calls one layer twice."""

  @nn.compact
  def __call__(self, inputs, *, loud):
    dense = nn.Dense(4)
    y = dense(nn.LayerNorm()(dense(inputs['x'])))
    return nn.Dense(5)(y) if loud else y


@pytest.mark.parametrize('loud', [False, True])
def test_a_module_of_others(loud):
  inputs = {'x': jax.ShapeDtypeStruct((1, 3, 4), jnp.float32), 'unused': jnp.zeros(2)}
  layers = [((4, 4), (3,)), ((4, 4), (3,))] + [((4, 5), (3,))] * loud
  assert macs(Foreign(), inputs, loud=loud) == oracles.macs(layers)


@pytest.mark.parametrize('depth, millions', [(20, 40.55), (32, 68.86), (44, 97.17), (56, 125.49), (110, 252.89)])
def test_residual_networks(depth, millions):
  """The published figures for 32 × 32; the activation counts nothing."""
  assert round(macs(ResNet(depth, 10, ReLU), IMAGE) / 1e6, 2) == millions


def test_activations_and_training_cost_nothing():
  assert macs(ResNet(8, 10, LMA), IMAGE, train=True) == macs(ResNet(8, 10, ReLU), IMAGE)


class InNNX(nnx.Module):
  """A dense layer, and attention of two heads of 4."""

  def __init__(self, rngs):
    self.dense = nnx.Linear(8, 8, rngs=rngs)
    self.attention = nnx.MultiHeadAttention(2, 8, decode=False, rngs=rngs)

  def __call__(self, x):
    return self.attention(self.dense(x))


def test_nnx_and_attention():
  """Five projections of 8 × 8, and two products of each head: 5 × 5 of 4."""
  assert macs(InNNX(nnx.Rngs(0)), jnp.zeros((1, 5, 8))) == 5 * 5 * 64 + 2 * 2 * 25 * 4


def test_functions_scans_and_alternatives():
  weights = jnp.zeros((3, 4, 4))

  def turns(x):
    x, _ = jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, weights)
    x = jax.lax.cond(x.sum() > 0, lambda x: x @ weights[0] @ weights[1], lambda x: x @ weights[0], x)
    x = jax.lax.while_loop(lambda x: x.sum() < 0, lambda x: x @ weights[0], x)
    return jax.checkpoint(jax.jit(lambda x: x @ weights[0]))(x)

  assert macs(turns, jnp.zeros((2, 4))) == 2 * 16 * (3 + 2 + 1 + 1)
  with pytest.raises(ValueError, match='model is int: give a module of Linen or NNX, or a function'):
    macs(3, jnp.zeros(2))


@pytest.mark.parametrize('model', [ResNet(8, 10, LMA), CNN((4, 8), (), 10, LMA, pool_after=(0,)), MLP((9,), 10, LMA)])
def test_a_batch_costs_as_many_times_one(model):
  """Also where the CPU has forms of its own: what counts is the layer, as Linen has it."""
  image = jax.ShapeDtypeStruct((4, 8, 8, 3), jnp.float32)
  layers = []

  def note(call, args, options, context):
    y = call(*args, **options)
    if isinstance(context.module, nn.Dense | nn.Conv) and context.method_name == '__call__':
      layers.append(y.size // y.shape[-1] * context.module.get_variable('params', 'kernel').size)
    return y

  with nn.intercept_methods(note):
    jax.eval_shape(partial(model.init, train=False), jax.random.key(0), image)
  assert macs(model, image) == sum(layers) == 4 * macs(model, jax.ShapeDtypeStruct((1, 8, 8, 3), jnp.float32))
