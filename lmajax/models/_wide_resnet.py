"""The wide residual networks of the LMA paper's CIFAR-100 experiment."""

from functools import partial

import flax.linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from lmajax._arguments import site
from lmajax.activations.linen import ReLU
from lmajax.models import _blocks
from lmajax.types import ActivationFactory


def _conv(features: int, kernel: int, stride: int, dtype: DTypeLike | None) -> nn.Conv:
  init = nn.initializers.variance_scaling(2.0, 'fan_avg', 'uniform')  # Xavier's uniform with gain sqrt(2)
  return _blocks.conv(features, kernel, stride, kernel_init=init, dtype=dtype)


class _WideBlock(nn.Module):
  """Norm, activation, convolution, dropout, and again with the stride; a 1 × 1 shortcut where shapes change."""

  features: int
  stride: int
  act: ActivationFactory
  dropout: float
  dtype: DTypeLike | None

  @nn.compact
  def __call__(self, x: Float[Array, 'b h w c'], *, train: bool) -> Float[Array, 'b h2 w2 f']:
    y, stats = _blocks.batch_norm(x, train=train, dtype=self.dtype)
    y = site(self.act, 'act1')(y, train=train, stats=stats)
    y = _conv(self.features, 3, 1, self.dtype)(y)
    y = nn.Dropout(self.dropout, deterministic=not train)(y)
    y, stats = _blocks.batch_norm(y, train=train, dtype=self.dtype)
    y = site(self.act, 'act2')(y, train=train, stats=stats)
    y = _conv(self.features, 3, self.stride, self.dtype)(y)
    same = self.stride == 1 and x.shape[-1] == self.features
    return y + (x if same else _conv(self.features, 1, self.stride, self.dtype)(x))


class WideResNet(nn.Module):
  """A pre-activation residual network, three groups of widths 16, 32 and 64 times ``widen``; each group is a stage.

  Attributes:
    depth: 6 n + 4, for n blocks a group.
    widen: the factor on the widths.
    num_classes: of the logits.
    act: a factory, called at every activation.
    last_only: only the activation before the logits is ``act``, the others are ReLU, as the authors' code had it.
    dropout: between a block's convolutions.
    dtype: of the computation; parameters stay in float32.

  Raises:
    ValueError: the depth is not 6 n + 4.

  >>> model = WideResNet(depth=10, widen=1, num_classes=100, act=LMA)
  >>> images = jnp.zeros((1, 16, 16, 3))
  >>> (output, taps), _ = jax.eval_shape(lambda: model.init_with_output(jax.random.key(0), images, train=False))
  >>> output.shape, [tap.shape for tap in taps]
  ((1, 100), [(1, 16, 16, 16), (1, 16, 16, 16), (1, 8, 8, 32), (1, 4, 4, 64)])

  Source: Zagoruyko & Komodakis 2016, table 1; the stride on the second convolution and the biases follow the authors'
  code, whose last batch norm also forgets nine times as fast as the others (an oversight; here all are alike).
  """

  depth: int
  widen: int
  num_classes: int
  act: ActivationFactory
  last_only: bool = False
  dropout: float = 0.3
  dtype: DTypeLike | None = None

  def setup(self):
    if (self.depth - 4) % 6 or self.depth < 10:
      raise ValueError(f'depth is {self.depth}, and must be 10, 16, 22, ... (6 n + 4)')
    inner = ReLU if self.last_only else self.act
    self.first = _conv(16, 3, 1, self.dtype)
    block = partial(_WideBlock, act=inner, dropout=self.dropout, dtype=self.dtype)
    self.stages = [
      _blocks.Group([block] * ((self.depth - 4) // 6), 16 * 2**i * self.widen, 1 if i == 0 else 2) for i in range(3)
    ]
    self.last = _Last(self.num_classes, self.act, self.dtype)

  def stem(self, inputs: Float[Array, 'b h w c'], *, train: bool) -> Float[Array, 'b h w f']:
    """Applies the first convolution."""
    del train
    return self.first(inputs)

  def stage(self, i: int, tap: Float[Array, 'b h w c'], *, train: bool) -> Float[Array, 'b h2 w2 f']:
    """Applies group ``i``."""
    return self.stages[i](tap, train=train)

  def head(self, tap: Float[Array, 'b h w c'], *, train: bool) -> Float[Array, 'b classes']:
    """Normalizes, activates, averages over positions and returns the logits."""
    return self.last(tap, train=train)

  def __call__(self, inputs: Float[Array, 'b h w c'], *, train: bool):
    """Returns the logits and the taps."""
    return _blocks.output_and_taps(self, inputs, train=train)


class _Last(nn.Module):
  """The head of a wide residual network."""

  num_classes: int
  act: ActivationFactory
  dtype: DTypeLike | None

  @nn.compact
  def __call__(self, x: Float[Array, 'b h w c'], *, train: bool) -> Float[Array, 'b classes']:
    x, stats = _blocks.batch_norm(x, train=train, dtype=self.dtype)
    x = site(self.act, 'act')(x, train=train, stats=stats)
    return _blocks.logits(self.num_classes, self.dtype)(x.mean(axis=(1, 2)))
