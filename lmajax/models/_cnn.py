"""Networks of plain convolutions: those of the LMA paper's CIFAR-10 experiment, and VGG-16."""

from collections.abc import Sequence

import flax.linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from lmajax.models import _blocks, _channels
from lmajax.types import ActivationFactory, ChannelGraph, Widths


class CNN(nn.Module):
  """Convolution blocks, then dense blocks, then the logits; every block is a stage.

  Attributes:
    channels: of the convolutions.
    units: of the dense layers.
    num_classes: of the logits.
    act: a factory, called once per block.
    kernel: the convolutions' height and width.
    pool_after: the numbers of the convolutions, from 0, that a 2 × 2 maximum pooling follows.
    channel_dropout: number of a convolution -> the rate at which whole channels are dropped after it.
    unit_dropout: after each dense block.
    dtype: of the computation; parameters stay in float32.

  >>> images = jnp.zeros((2, 8, 8, 3))
  >>> model = CNN(channels=(4, 6), units=(5,), num_classes=10, act=LMA, pool_after=(1,))
  >>> (output, taps), _ = jax.eval_shape(lambda: model.init_with_output(jax.random.key(0), images, train=False))
  >>> output.shape, [tap.shape for tap in taps]
  ((2, 10), [(2, 8, 8, 3), (2, 8, 8, 4), (2, 4, 4, 6), (2, 5)])

  Source: the LMA paper, table 5, as the authors' code builds it, but that biases start at 0: batch norm takes away all
  of them but the logits'.
  """

  channels: Sequence[int]
  units: Sequence[int]
  num_classes: int
  act: ActivationFactory
  kernel: int = 3
  pool_after: Sequence[int] = ()
  channel_dropout: Sequence[tuple[int, float]] = ()
  unit_dropout: float = 0.0
  dtype: DTypeLike | None = None

  def setup(self):
    rates = dict(self.channel_dropout)
    convolutions = [
      _blocks.ConvBlock(features, self.act, self.kernel, i in self.pool_after, rates.get(i, 0.0), self.dtype)
      for i, features in enumerate(self.channels)
    ]
    dense = [_blocks.DenseBlock(features, self.act, self.unit_dropout, self.dtype) for features in self.units]
    self.stages = convolutions + dense
    self.logits = _blocks.logits(self.num_classes, self.dtype)

  def stem(self, inputs: Float[Array, 'b h w c'], *, train: bool) -> Float[Array, 'b h w c']:
    """Passes the images on."""
    del train
    return inputs

  def stage(self, i: int, tap: Float[Array, 'b ...'], *, train: bool) -> Float[Array, 'b ...']:
    """Applies block ``i``."""
    return self.stages[i](tap, train=train)

  def head(self, tap: Float[Array, 'b ...'], *, train: bool) -> Float[Array, 'b classes']:
    """Flattens what is a map still, and returns the logits."""
    del train
    return self.logits(tap.reshape(tap.shape[0], -1))

  def __call__(self, inputs: Float[Array, 'b h w c'], *, train: bool):
    """Returns the logits and the taps."""
    return _blocks.output_and_taps(self, inputs, train=train)

  @nn.nowrap
  def graph(self) -> ChannelGraph:
    """Names the leaves of each convolution's channels and each dense layer's units."""
    kinds = ['Conv_0'] * len(self.channels) + ['Dense_0'] * len(self.units)
    return _channels.chain(self.act, [f'stages_{i}/{kind}' for i, kind in enumerate(kinds)])

  @nn.nowrap
  def thinned(self, widths: Widths) -> 'CNN':
    """Makes the same with so many channels and units."""
    convolutions = len(self.channels)
    return self.clone(channels=tuple(widths[:convolutions]), units=tuple(widths[convolutions:]))


def cifar10_teacher(act: ActivationFactory, *, num_classes: int = 10, dtype: DTypeLike | None = None) -> CNN:
  """Builds the paper's CIFAR-10 teacher: 5,346,142 parameters with ReLU.

  >>> cifar10_teacher(LMA).units
  (1200, 1200)

  Source: the LMA paper, table 5; pools and dropout as in the authors' code.
  """
  return CNN(
    channels=(76, 76, 126, 126, 148, 148, 148, 148),
    units=(1200, 1200),
    num_classes=num_classes,
    act=act,
    pool_after=(1, 3, 7),
    channel_dropout=((1, 0.2), (3, 0.3), (7, 0.35)),
    unit_dropout=0.4,
    dtype=dtype,
  )


def cifar10_student(
  number: int, act: ActivationFactory, *, num_classes: int = 10, dtype: DTypeLike | None = None
) -> CNN:
  """Builds the paper's CIFAR-10 student 1, 2 or 3: 1,000,235, 318,415 or 111,935 parameters with ReLU.

  Args:
    number: 1, 2 or 3.
    act: a factory, called once per block.
    num_classes: of the logits.
    dtype: of the computation.

  Raises:
    KeyError: there is no such student.

  >>> cifar10_student(3, LMA).channels
  (25, 10, 10, 5)

  Source: the LMA paper, table 5. Its strings show three pools; only the two of the authors' code give its sizes.
  """
  channels = {1: (75, 50, 50, 25), 2: (50, 25, 25, 10), 3: (25, 10, 10, 5)}[number]
  return CNN(
    channels=channels,
    units=({1: 500, 2: 400, 3: 300}[number],),
    num_classes=num_classes,
    act=act,
    kernel=5,
    pool_after=(1, 3),
    channel_dropout=((1, 0.2), (3, 0.3)),
    unit_dropout=0.4,
    dtype=dtype,
  )


def vgg16(
  act: ActivationFactory,
  *,
  channels: Sequence[int] = (64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512),
  num_classes: int = 10,
  dtype: DTypeLike | None = None,
) -> CNN:
  """Builds VGG-16 with batch norm for images of 32 × 32 pixels: 14,728,266 parameters with ReLU.

  Args:
    act: a factory, called once per block.
    channels: of the thirteen convolutions.
    num_classes: of the logits.
    dtype: of the computation.

  Raises:
    ValueError: the channels are not thirteen.

  >>> vgg16(LMA).pool_after
  (1, 3, 6, 9, 12)

  Source: Simonyan & Zisserman 2015, table 1, column D. That one dense layer is left of three, of 512 inputs, is the
  form in which pruning papers have it for CIFAR.
  """
  if len(channels) != 13:
    raise ValueError(f'channels are {len(channels)}, and must be 13')
  return CNN(tuple(channels), (), num_classes, act, pool_after=(1, 3, 6, 9, 12), dtype=dtype)
