"""Residual networks for small images, whose stages of equal width differ in depth alone."""

from collections.abc import Sequence
from functools import partial

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from lmajax._arguments import site
from lmajax.activations import Stats
from lmajax.models import _blocks, _channels
from lmajax.types import ActivationFactory, ChannelGraph, Widths


class _ConvNorm(nn.Module):
  """Convolution without bias, then batch norm, with the statistics of what it gives."""

  features: int
  kernel: int
  stride: int = 1
  groups: int = 1
  dtype: DTypeLike | None = None

  @nn.compact
  def __call__(self, x: Float[Array, 'b h w c'], *, train: bool) -> tuple[Float[Array, 'b h2 w2 f'], Stats | None]:
    x = _blocks.conv(
      self.features,
      self.kernel,
      self.stride,
      use_bias=False,
      kernel_init=nn.initializers.variance_scaling(2.0, 'fan_out', 'normal'),
      feature_group_count=self.groups,
      dtype=self.dtype,
    )(x)
    return _blocks.batch_norm(x, train=train, dtype=self.dtype)


class _Stem(nn.Module):
  """A 3 × 3 convolution, norm, activation."""

  features: int
  act: ActivationFactory
  dtype: DTypeLike | None

  @nn.compact
  def __call__(self, x: Float[Array, 'b h w c'], *, train: bool) -> Float[Array, 'b h w f']:
    x, stats = _ConvNorm(self.features, 3, dtype=self.dtype)(x, train=train)
    return site(self.act, 'act')(x, train=train, stats=stats)


class _BasicBlock(nn.Module):
  """Two 3 × 3 convolutions beside a shortcut; the sum is activated."""

  features: int
  stride: int
  inner: int | None
  projected: bool
  act: ActivationFactory
  dtype: DTypeLike | None

  @nn.compact
  def __call__(self, x: Float[Array, 'b h w c'], *, train: bool) -> Float[Array, 'b h2 w2 f']:
    inner = self.features if self.inner is None else self.inner
    y, stats = _ConvNorm(inner, 3, self.stride, dtype=self.dtype)(x, train=train)
    y = site(self.act, 'act1')(y, train=train, stats=stats)
    y, _ = _ConvNorm(self.features, 3, dtype=self.dtype)(y, train=train)
    if self.projected and self.stride != 1:
      x, _ = _ConvNorm(self.features, 1, self.stride, dtype=self.dtype, name='shortcut')(x, train=train)
    else:
      x = _padded(x, self.features, self.stride)
    return site(self.act, 'act2')(y + x, train=train)


def _padded(x: Float[Array, 'b h w c'], features: int, stride: int) -> Float[Array, 'b h2 w2 f']:
  """The shortcut of option A: every second position, and channels of zeros on both sides."""
  more = features - x.shape[-1]
  return jnp.pad(x[:, ::stride, ::stride], ((0, 0), (0, 0), (0, 0), (more // 2, more - more // 2)))


class _Bottleneck(nn.Module):
  """1 × 1, grouped 3 × 3 and 1 × 1 convolutions; a 1 × 1 shortcut with a norm where shapes change."""

  features: int
  stride: int
  inner: int
  groups: int
  act: ActivationFactory
  dtype: DTypeLike | None

  @nn.compact
  def __call__(self, x: Float[Array, 'b h w c'], *, train: bool) -> Float[Array, 'b h2 w2 f']:
    y, stats = _ConvNorm(self.inner, 1, dtype=self.dtype)(x, train=train)
    y = site(self.act, 'act1')(y, train=train, stats=stats)
    y, stats = _ConvNorm(self.inner, 3, self.stride, self.groups, self.dtype)(y, train=train)
    y = site(self.act, 'act2')(y, train=train, stats=stats)
    y, _ = _ConvNorm(self.features, 1, dtype=self.dtype)(y, train=train)
    if self.stride != 1 or x.shape[-1] != self.features:
      x, _ = _ConvNorm(self.features, 1, self.stride, dtype=self.dtype, name='shortcut')(x, train=train)
    return site(self.act, 'act3')(y + x, train=train)


class ResNet(nn.Module):
  """A stem, then three stages of equal numbers of basic blocks, each but the first at half the resolution.

  A block is ``act(x + bn(conv(act(bn(conv(x))))))`` with 3 × 3 convolutions and no biases. Where a stage begins the
  first of them has stride 2, and the shortcut takes every second position and fills new channels with zeros, half of
  them before the old ones and half behind (option A). The taps are the activated outputs of the stem and the stages.

  Attributes:
    depth: 6 n + 2, for n blocks a stage.
    num_classes: of the logits.
    act: a factory, called at every activation.
    channels: of each stage, the first also of the stem; without ``projected`` they must not fall.
    inner: between the two convolutions of each block, block after block; None: the stage's own.
    projected: whether the shortcut is a 1 × 1 convolution with a batch norm where a stage begins (option B).
    dtype: of the computation; parameters stay in float32.

  Raises:
    ValueError: the depth is not 6 n + 2, the channels fall without ``projected``, or there is not an inner width for
      each block.

  >>> model = ResNet(depth=8, num_classes=10, act=LMA, channels=(4, 8, 16))
  >>> images = jnp.zeros((1, 16, 16, 3))
  >>> (output, taps), _ = jax.eval_shape(lambda: model.init_with_output(jax.random.key(0), images, train=False))
  >>> output.shape, [tap.shape for tap in taps]
  ((1, 10), [(1, 16, 16, 4), (1, 16, 16, 4), (1, 8, 8, 8), (1, 4, 4, 16)])

  Source: He et al. 2016, "Deep residual learning", section 4.2; kernels start as in He et al. 2015, by their outputs,
  as in the code of LIT (Koratana et al. 2019). The logits start as in our other models, theirs as torch has it.
  """

  depth: int
  num_classes: int
  act: ActivationFactory
  channels: Sequence[int] = (16, 32, 64)
  inner: Sequence[int] | None = None
  projected: bool = False
  dtype: DTypeLike | None = None

  def setup(self):
    if not self.projected and sorted(self.channels) != list(self.channels):
      raise ValueError(f'channels are {tuple(self.channels)}, and must not fall: the shortcuts can add zeros alone')
    each = _blocks_a_stage(self.depth, 2, len(self.channels))
    inner = [None] * (each * len(self.channels)) if self.inner is None else self.inner
    if len(inner) != each * len(self.channels):
      raise ValueError(f'inner has {len(inner)} widths, and there are {each * len(self.channels)} blocks')
    block = partial(_BasicBlock, projected=self.projected, act=self.act, dtype=self.dtype)
    blocks = [partial(block, inner=width) for width in inner]
    self.first = _Stem(self.channels[0], self.act, self.dtype)
    self.stages = [
      _blocks.Group(blocks[i * each : (i + 1) * each], width, 1 if i == 0 else 2)
      for i, width in enumerate(self.channels)
    ]
    self.logits = _blocks.logits(self.num_classes, self.dtype)

  def stem(self, inputs: Float[Array, 'b h w c'], *, train: bool) -> Float[Array, 'b h w f']:
    """Convolves, normalizes and activates."""
    return self.first(inputs, train=train)

  def stage(self, i: int, tap: Float[Array, 'b h w c'], *, train: bool) -> Float[Array, 'b h2 w2 f']:
    """Applies the blocks of stage ``i``."""
    return self.stages[i](tap, train=train)

  def head(self, tap: Float[Array, 'b h w c'], *, train: bool) -> Float[Array, 'b classes']:
    """Averages over positions and returns the logits."""
    del train
    return self.logits(tap.mean(axis=(1, 2)))

  def __call__(self, inputs: Float[Array, 'b h w c'], *, train: bool):
    """Returns the logits and the taps."""
    return _blocks.output_and_taps(self, inputs, train=train)

  @nn.nowrap
  def graph(self, *, coupled: bool = False) -> ChannelGraph:
    """Names the leaves of the channels within each block; ``coupled``: of each stage's too, which add up to one sum.

    Raises:
      ValueError: ``coupled`` without ``projected``: zeros that are added tie the stages' channels to each other.
    """
    if coupled and not self.projected:
      raise ValueError('the stages of this network are coupled by zeros: give it projected=True to slim them')
    stages = self._stages()
    inner = tuple(_channels.within(self.act, block) for blocks in stages for block in blocks)
    return (*inner, *(_channels.trunk(self.act, stages, i) for i in range(len(stages) if coupled else 0)))

  @nn.nowrap
  def thinned(self, widths: Widths) -> 'ResNet':
    """Makes the same with so many channels within each block, and where there are more widths, in each stage."""
    blocks = sum(map(len, self._stages()))
    return self.clone(inner=tuple(widths[:blocks]), channels=tuple(widths[blocks:]) or tuple(self.channels))

  @nn.nowrap
  def _stages(self) -> list[list[str]]:
    """The blocks of each stage, by their modules."""
    each = range(_blocks_a_stage(self.depth, 2, len(self.channels)))
    return [[f'stages_{i}/_BasicBlock_{j}' for j in each] for i in range(len(self.channels))]


class ResNeXt(nn.Module):
  """Residual network of bottleneck blocks whose 3 × 3 convolutions see groups of channels; else as ``ResNet``.

  A block is ``act(shortcut(x) + bn(conv1(act(bn(conv3(act(bn(conv1(x))))))))``, with four times ``channels`` in and
  out, and ``cardinality`` groups of the 3 × 3 convolution, which also has the stride. The groups are ``base_width``
  channels wide in the first stage, and as much wider in the others as those are. The shortcut is a 1 × 1 convolution
  with a batch norm where the shape changes, else ``x``.

  Attributes:
    depth: 9 n + 2, for n blocks a stage.
    num_classes: of the logits.
    act: a factory, called at every activation.
    cardinality: number of groups.
    base_width: of a group in the first stage.
    channels: a quarter of each stage's, the first also of the stem.
    dtype: of the computation; parameters stay in float32.

  Raises:
    ValueError: the depth is not 9 n + 2.

  >>> model = ResNeXt(depth=11, num_classes=10, act=LMA, cardinality=2, channels=(2, 4, 8))
  >>> images = jnp.zeros((1, 16, 16, 3))
  >>> (output, taps), _ = jax.eval_shape(lambda: model.init_with_output(jax.random.key(0), images, train=False))
  >>> output.shape, [tap.shape for tap in taps]
  ((1, 10), [(1, 16, 16, 2), (1, 16, 16, 8), (1, 8, 8, 16), (1, 4, 4, 32)])

  Source: Xie et al. 2017, section 5.2: depth 29, cardinality 8, base width 64 and channels 64, 128, 256 are theirs. LIT
  does not say which network its ResNeXt-110 and -20 are: 110 and 20 are 6 n + 2 as well, for blocks of two
  convolutions. That they are Xie's, of the widths of the ResNet, with 8 groups of 4 channels, is our choice.
  """

  depth: int
  num_classes: int
  act: ActivationFactory
  cardinality: int = 8
  base_width: int = 4
  channels: Sequence[int] = (16, 32, 64)
  dtype: DTypeLike | None = None

  def setup(self):
    widths = [self.base_width * channels // self.channels[0] for channels in self.channels]
    blocks = [
      partial(_Bottleneck, inner=self.cardinality * width, groups=self.cardinality, act=self.act, dtype=self.dtype)
      for width in widths
    ]
    self.first = _Stem(self.channels[0], self.act, self.dtype)
    each = _blocks_a_stage(self.depth, 3, len(self.channels))
    self.stages = [
      _blocks.Group([block] * each, 4 * width, 1 if i == 0 else 2)
      for i, (block, width) in enumerate(zip(blocks, self.channels, strict=True))
    ]
    self.logits = _blocks.logits(self.num_classes, self.dtype)

  def stem(self, inputs: Float[Array, 'b h w c'], *, train: bool) -> Float[Array, 'b h w f']:
    """Convolves, normalizes and activates."""
    return self.first(inputs, train=train)

  def stage(self, i: int, tap: Float[Array, 'b h w c'], *, train: bool) -> Float[Array, 'b h2 w2 f']:
    """Applies the blocks of stage ``i``."""
    return self.stages[i](tap, train=train)

  def head(self, tap: Float[Array, 'b h w c'], *, train: bool) -> Float[Array, 'b classes']:
    """Averages over positions and returns the logits."""
    del train
    return self.logits(tap.mean(axis=(1, 2)))

  def __call__(self, inputs: Float[Array, 'b h w c'], *, train: bool):
    """Returns the logits and the taps."""
    return _blocks.output_and_taps(self, inputs, train=train)


def _blocks_a_stage(depth: int, layers: int, stages: int) -> int:
  """Returns the number of blocks, of so many layers each, in a stage of a network of that depth."""
  period = layers * stages
  if (depth - 2) % period or depth <= 2:
    raise ValueError(f'depth is {depth}, and must be {period + 2}, {2 * period + 2}, ... ({period} n + 2)')
  return (depth - 2) // period
