"""The very deep convolutional networks over characters of the LIT paper's text experiment."""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from lmajax._arguments import site
from lmajax.models import _blocks
from lmajax.types import ActivationFactory

_BLOCKS = {9: (1, 1, 1, 1), 17: (2, 2, 2, 2), 29: (5, 5, 2, 2), 49: (8, 8, 5, 3)}


def _conv(features: int, dtype: DTypeLike | None) -> nn.Conv:
  """XLA's own form: in one dimension its gradients are as fast as matrix products, on the CPU too."""
  init = nn.initializers.variance_scaling(2.0, 'fan_in', 'normal')
  return nn.Conv(features, (3,), use_bias=False, kernel_init=init, dtype=dtype)


class _Block(nn.Module):
  """Convolution, batch norm and activation, twice."""

  features: int
  act: ActivationFactory
  dtype: DTypeLike | None

  @nn.compact
  def __call__(self, x: Float[Array, 'b t c'], *, train: bool) -> Float[Array, 'b t f']:
    for i in (1, 2):
      x = _conv(self.features, self.dtype)(x)
      x, stats = _blocks.batch_norm(x, train=train, dtype=self.dtype)
      x = site(self.act, f'act{i}')(x, train=train, stats=stats)
    return x


class _Section(nn.Module):
  """One length and width: the halving of the length where asked, then blocks."""

  features: int
  blocks: int
  halves: bool
  act: ActivationFactory
  dtype: DTypeLike | None

  @nn.compact
  def __call__(self, x: Float[Array, 'b t c'], *, train: bool) -> Float[Array, 'b t2 f']:
    x = _halved(x) if self.halves else x
    for _ in range(self.blocks):
      x = _Block(self.features, self.act, self.dtype)(x, train=train)
    return x


class VDCNN(nn.Module):
  """Characters embedded, four sections of convolutions in time, the k largest per channel, three dense layers.

  Attributes:
    depth: 9, 17, 29 or 49: the convolutions, and one for the dense layers.
    num_classes: of the logits.
    act: a factory, called at every activation, those after the hidden dense layers included.
    channels: of the four sections; all but the first halve the length before their convolutions.
    vocabulary: how many symbols there are, 0 among them, which stands for padding.
    embedding: the size of a symbol's vector.
    units: of the hidden dense layers.
    k: how many values of each channel go to the dense layers, in the order in which they stand.
    dtype: of the computation; parameters stay in float32.

  Raises:
    ValueError: there is no such depth, or the text is so short that fewer than k places are left of it.

  >>> tokens = jnp.zeros((2, 64), jnp.int32)
  >>> model = VDCNN(depth=9, num_classes=4, act=LMA, channels=(4, 5, 6, 7), units=(9, 8))
  >>> (output, taps), _ = jax.eval_shape(lambda: model.init_with_output(jax.random.key(0), tokens, train=False))
  >>> output.shape, [tap.shape for tap in taps]
  ((2, 4), [(2, 64, 4), (2, 64, 4), (2, 32, 5), (2, 16, 6), (2, 8, 7)])

  Source: Conneau et al. 2017, figure 1 and table 2, as the LIT paper's code builds it: no norm after the first
  convolution, biases in the dense layers alone, and a halving by the maximum of 3. Its two other ways of halving (a
  stride, the k largest) and its optional shortcuts are left out; dense layers start by Xavier's rule, as in the other
  models here.
  """

  depth: int
  num_classes: int
  act: ActivationFactory
  channels: Sequence[int] = (64, 128, 256, 512)
  vocabulary: int = 69
  embedding: int = 16
  units: Sequence[int] = (2048, 2048)
  k: int = 8
  dtype: DTypeLike | None = None

  def setup(self):
    if self.depth not in _BLOCKS:
      raise ValueError(f'depth is {self.depth}, and must be one of {", ".join(map(str, _BLOCKS))}')
    self.embed = nn.Embed(self.vocabulary, self.embedding, embedding_init=nn.initializers.normal(1.0), dtype=self.dtype)
    self.first = _conv(self.channels[0], self.dtype)
    self.stages = [
      _Section(features, blocks, i > 0, self.act, self.dtype)
      for i, (features, blocks) in enumerate(zip(self.channels, _BLOCKS[self.depth], strict=True))
    ]
    self.last = _Last(self.units, self.num_classes, self.k, self.act, self.dtype)

  def stem(self, inputs: Int[Array, 'b t'], *, train: bool) -> Float[Array, 'b t c']:
    """Embeds the symbols and applies the first convolution."""
    del train
    return self.first(self.embed(inputs))

  def stage(self, i: int, tap: Float[Array, 'b t c'], *, train: bool) -> Float[Array, 'b t2 f']:
    """Applies section ``i``."""
    return self.stages[i](tap, train=train)

  def head(self, tap: Float[Array, 'b t c'], *, train: bool) -> Float[Array, 'b classes']:
    """Takes the k largest of each channel and returns the logits."""
    return self.last(tap, train=train)

  def __call__(self, inputs: Int[Array, 'b t'], *, train: bool):
    """Returns the logits and the taps."""
    taps = [self.stem(inputs, train=train)]
    for i in range(len(self.stages)):
      taps.append(self.stage(i, taps[-1], train=train))
    return self.head(taps[-1], train=train), tuple(taps)


class _Last(nn.Module):
  """The head of a VDCNN."""

  units: Sequence[int]
  num_classes: int
  k: int
  act: ActivationFactory
  dtype: DTypeLike | None

  @nn.compact
  def __call__(self, x: Float[Array, 'b t c'], *, train: bool) -> Float[Array, 'b classes']:
    if x.shape[1] < self.k:
      raise ValueError(f'{x.shape[1]} places are left of the text, and k = {self.k} are needed: give longer texts')
    x = _largest(x, self.k)
    x = x.reshape(x.shape[0], -1)
    for i, features in enumerate(self.units, 1):
      x = nn.Dense(features, kernel_init=nn.initializers.xavier_uniform(), dtype=self.dtype)(x)
      x = site(self.act, f'act{i}')(x, train=train)
    return _blocks.logits(self.num_classes, self.dtype)(x)


def _halved(x: Float[Array, 'b t c']) -> Float[Array, 'b t2 c']:
  """The largest of each place of an even number and its two neighbours; a tie goes to the first.

  As a pooling of 3 by 2 with a padding of 1, whose gradient is slow on the CPU.
  """
  odd = x.shape[1] % 2
  x = jnp.pad(x, ((0, 0), (0, odd), (0, 0)), constant_values=-jnp.inf)
  here, after = jnp.moveaxis(x.reshape(x.shape[0], -1, 2, x.shape[-1]), 2, 0)
  largest = jnp.pad(after[:, :-1], ((0, 0), (1, 0), (0, 0)), constant_values=-jnp.inf)
  for other in (here, after):
    largest = jnp.where((other > largest) | jnp.isnan(other), other, largest)
  return largest


def _largest(x: Float[Array, 'b t c'], k: int) -> Float[Array, 'b k c']:
  """The k largest of each channel, in the order in which they stand; of equal ones the first."""
  _, places = jax.lax.top_k(x.swapaxes(1, 2), k)
  return jnp.take_along_axis(x, jnp.sort(places).swapaxes(1, 2), axis=1)
