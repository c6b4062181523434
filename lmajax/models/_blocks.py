"""Parts of the networks: kinds of block, and how stem, stages and head go together."""

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from lmajax._arguments import site
from lmajax.activations import Stats, batch_norm_stats
from lmajax.models._conv import conv_general_dilated, max_pool
from lmajax.types import ActivationFactory


def batch_norm(
  x: Float[Array, '*b c'], *, train: bool, dtype: DTypeLike | None, name: str | None = None
) -> tuple[Array, Stats | None]:
  """Batch norm, and in training the statistics of its output, which follow from those that it takes of its input."""
  norm = nn.BatchNorm(use_running_average=not train, momentum=0.9, dtype=dtype, name=name)
  y = norm(x)
  if not train:
    return y, None
  wide, axes = x.astype(jnp.promote_types(x.dtype, jnp.float32)), tuple(range(x.ndim - 1))
  # Written as Flax writes it, so that the compiler computes it once.
  variance = jnp.maximum(0.0, jnp.square(wide).mean(axes) - jnp.square(wide.mean(axes)))
  params = norm.variables['params']
  return y, batch_norm_stats(variance, params['scale'], params['bias'], count=y.size, epsilon=norm.epsilon)


def conv(features: int, kernel: int, stride: int, **options: Any) -> nn.Conv:
  """A convolution padded alike on both sides: ``SAME`` at stride 2 would start one pixel later than the originals."""
  padded = {'padding': kernel // 2, 'conv_general_dilated': conv_general_dilated}
  return nn.Conv(features, (kernel, kernel), stride, **padded, **options)


class ConvBlock(nn.Module):
  """Convolution, batch norm, activation, then pooling by 2 and channel-wise dropout where asked."""

  features: int
  act: ActivationFactory
  kernel: int = 3
  pool: bool = False
  dropout: float = 0.0
  dtype: DTypeLike | None = None

  @nn.compact
  def __call__(self, x: Float[Array, 'b h w c'], *, train: bool) -> Float[Array, 'b h2 w2 f']:
    x = nn.Conv(
      self.features,
      (self.kernel, self.kernel),
      kernel_init=nn.initializers.xavier_uniform(),
      conv_general_dilated=conv_general_dilated,
      dtype=self.dtype,
    )(x)
    x, stats = batch_norm(x, train=train, dtype=self.dtype, name='norm')
    x = site(self.act, 'act')(x, train=train, stats=stats)
    if self.pool:
      x = max_pool(x)
    return nn.Dropout(self.dropout, broadcast_dims=(1, 2), deterministic=not train)(x) if self.dropout else x


class DenseBlock(nn.Module):
  """Flattening, a dense layer, batch norm, activation, and dropout where asked."""

  features: int
  act: ActivationFactory
  dropout: float = 0.0
  dtype: DTypeLike | None = None

  @nn.compact
  def __call__(self, x: Float[Array, 'b ...'], *, train: bool) -> Float[Array, 'b f']:
    x = x.reshape(x.shape[0], -1)
    x = nn.Dense(self.features, kernel_init=nn.initializers.xavier_uniform(), dtype=self.dtype)(x)
    x, stats = batch_norm(x, train=train, dtype=self.dtype, name='norm')
    x = site(self.act, 'act')(x, train=train, stats=stats)
    return nn.Dropout(self.dropout, deterministic=not train)(x) if self.dropout else x


class Group(nn.Module):
  """One resolution: a block that may change the shape, then blocks that keep it."""

  blocks: Sequence[Callable[..., Any]]
  features: int
  stride: int

  @nn.compact
  def __call__(self, x: Float[Array, 'b h w c'], *, train: bool) -> Float[Array, 'b h2 w2 f']:
    for i, block in enumerate(self.blocks):
      x = block(features=self.features, stride=self.stride if i == 0 else 1)(x, train=train)
    return x


def logits(num_classes: int, dtype: DTypeLike | None) -> nn.Dense:
  """The last dense layer of a classifier."""
  return nn.Dense(num_classes, kernel_init=nn.initializers.xavier_uniform(), dtype=dtype, name='logits')


def output_and_taps(model: Any, inputs: Any, *, train: bool) -> tuple[Array, tuple[Any, ...]]:
  """Calls a staged model: returns the output, and every tap on the way to it."""
  taps = [model.stem(inputs, train=train)]
  for i in range(len(model.stages)):
    taps.append(model.stage(i, taps[-1], train=train))
  return model.head(taps[-1], train=train), tuple(taps)
