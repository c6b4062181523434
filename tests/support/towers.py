"""Small networks of stages: one of our own kind, and one as it is found, which knows nothing of stages."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from lmajax.activations.linen import ReLU
from lmajax.models import ByPath


class DenseStage(nn.Module):
  """A layer that may change the width, then residual ones; a norm and an activation after each."""

  features: int
  blocks: int
  act: Any
  momentum: float

  @nn.compact
  def __call__(self, x, *, train):
    norm = partial(nn.BatchNorm, use_running_average=not train, momentum=self.momentum)
    for i in range(self.blocks):
      y = norm()(nn.Dense(self.features)(x))
      x = self.act(name=f'act_{i}')(y + x if i else y, train=train)
    return x


class Tower(nn.Module):
  """Stem and head have norms too: what is frozen has statistics."""

  blocks: Sequence[int]
  widths: Sequence[int] = (6, 6, 5)
  act: Any = ReLU
  momentum: float = 0.9

  def setup(self):
    stages = zip(self.widths, self.blocks, strict=True)
    self.stages = [DenseStage(features, blocks, self.act, self.momentum) for features, blocks in stages]
    self.first = DenseStage(5, 1, self.act, self.momentum)
    self.norm, self.logits = nn.BatchNorm(momentum=self.momentum), nn.Dense(10)

  def stem(self, inputs, *, train):
    return self.first(inputs.reshape(len(inputs), -1), train=train)

  def stage(self, i, tap, *, train):
    return self.stages[i](tap, train=train)

  def head(self, tap, *, train):
    return self.logits(self.norm(tap, use_running_average=not train))

  def __call__(self, inputs, *, train):
    taps = [self.stem(inputs, train=train)]
    for i in range(len(self.stages)):
      taps.append(self.stage(i, taps[-1], train=train))
    return self.head(taps[-1], train=train), tuple(taps)


class ResNetBlock(nn.Module):
  """A residual block as one finds it: nothing in it or below it comes from lmajax."""

  filters: int
  strides: int
  norm: Any

  @nn.compact
  def __call__(self, x):
    y = nn.Conv(self.filters, (3, 3), self.strides, use_bias=False)(x)
    y = nn.relu(self.norm()(y))
    y = nn.Conv(self.filters, (3, 3), use_bias=False)(y)
    y = self.norm(scale_init=nn.initializers.constant(0.7))(y)
    if x.shape != y.shape:
      x = self.norm(name='norm_proj')(nn.Conv(self.filters, (1, 1), self.strides, use_bias=False, name='proj')(x))
    return nn.relu(x + y)


class ResNet(nn.Module):
  """A network as one finds it: its post-activation stem is no module's output."""

  blocks: Sequence[int]
  filters: int = 4

  @nn.compact
  def __call__(self, x, train=True):
    norm = partial(nn.BatchNorm, use_running_average=not train, momentum=0.9)
    x = nn.relu(norm(name='bn_init')(nn.Conv(self.filters, (3, 3), use_bias=False, name='conv_init')(x)))
    for i, blocks in enumerate(self.blocks):
      for j in range(blocks):
        x = ResNetBlock(self.filters * 2**i, 2 if i and not j else 1, norm)(x)
    return nn.Dense(10)(x.mean(axis=(1, 2)))


def resnet(*blocks, side=8):
  """That network by the paths of its blocks."""
  first = tuple(f'ResNetBlock_{sum(blocks[:i])}' for i in range(len(blocks)))
  example = jax.ShapeDtypeStruct((side, side, 3), jnp.float32)
  return ByPath(ResNet(blocks), first, f'ResNetBlock_{sum(blocks) - 1}', example)
