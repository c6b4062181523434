"""StarGAN's generator, which takes images from one domain to another, and the discriminator it is trained against."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.dtypes import promote_dtype
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from lmajax._arguments import site
from lmajax.models._conv import LAYOUT as _LAYOUT
from lmajax.models._conv import as_it_is, conv_general_dilated
from lmajax.types import ActivationFactory

_INIT = nn.initializers.variance_scaling(1 / 3, 'fan_in', 'uniform')  # the start that the authors' framework gives


def _conv(features: int, kernel: int, stride: int, dtype: DTypeLike | None, *, use_bias: bool = False) -> nn.Conv:
  return nn.Conv(
    features,
    (kernel, kernel),
    stride,
    padding=(kernel - 1) // 2,
    use_bias=use_bias,
    kernel_init=_INIT,
    conv_general_dilated=conv_general_dilated,
    dtype=dtype,
  )


def _norm(dtype: DTypeLike | None) -> nn.InstanceNorm:
  return nn.InstanceNorm(epsilon=1e-5, dtype=dtype)


class Transposed(nn.Module):
  """``nn.ConvTranspose`` by 4 × 4 and stride 2; on the CPU by a 3 × 3 convolution to the 2 × 2 pixels of each.

  Five ninths of that kernel are 0, and yet it takes 0.2 to 0.35 of the time there.
  """

  features: int
  dtype: DTypeLike | None

  @nn.compact
  def __call__(self, x: Float[Array, 'b h w c'], /) -> Float[Array, 'b h2 w2 f']:
    kernel = self.param('kernel', _INIT, (4, 4, x.shape[-1], self.features))
    x, kernel = promote_dtype(x, kernel, dtype=self.dtype)
    plain = partial(jax.lax.conv_transpose, strides=(2, 2), padding='SAME', dimension_numbers=_LAYOUT)
    return plain(x, kernel) if as_it_is(x) else jax.lax.platform_dependent(x, kernel, cpu=self._on_cpu, default=plain)

  def _on_cpu(self, x: Float[Array, 'b h w c'], kernel: Float[Array, '4 4 c f']) -> Float[Array, 'b h2 w2 f']:
    b, h, w, c = x.shape
    taps = jnp.pad(kernel, ((1, 1), (1, 1), (0, 0), (0, 0))).reshape(3, 2, 3, 2, c, -1)[:, ::-1, :, ::-1]
    taps = taps.transpose(0, 2, 4, 1, 3, 5).reshape(3, 3, c, -1)
    pixels = conv_general_dilated(x, taps, (1, 1), 'SAME', dimension_numbers=_LAYOUT)
    return pixels.reshape(b, h, w, 2, 2, -1).transpose(0, 1, 3, 2, 4, 5).reshape(b, 2 * h, 2 * w, -1)


class _Down(nn.Module):
  """Reduces height and width to a quarter and quadruples the channels."""

  channels: int
  act: ActivationFactory
  dtype: DTypeLike | None

  @nn.compact
  def __call__(self, x: Float[Array, 'b h w c'], *, train: bool) -> Float[Array, 'b h4 w4 f']:
    for i, (kernel, stride) in enumerate([(7, 1), (4, 2), (4, 2)]):
      x = _norm(self.dtype)(_conv(self.channels * 2**i, kernel, stride, self.dtype)(x))
      x = site(self.act, f'act{i + 1}')(x, train=train)
    return x


class _Residual(nn.Module):
  """Convolution, norm, activation, convolution and norm, added to what came in."""

  act: ActivationFactory
  dtype: DTypeLike | None

  @nn.compact
  def __call__(self, x: Float[Array, 'b h w c'], *, train: bool) -> Float[Array, 'b h w c']:
    y = _norm(self.dtype)(_conv(x.shape[-1], 3, 1, self.dtype)(x))
    y = site(self.act, 'act')(y, train=train)
    return x + _norm(self.dtype)(_conv(x.shape[-1], 3, 1, self.dtype)(y))


class _Bottleneck(nn.Module):
  """The residual blocks, all of one shape."""

  blocks: int
  act: ActivationFactory
  dtype: DTypeLike | None

  @nn.compact
  def __call__(self, x: Float[Array, 'b h w c'], *, train: bool) -> Float[Array, 'b h w c']:
    for _ in range(self.blocks):
      x = _Residual(self.act, self.dtype)(x, train=train)
    return x


class _Up(nn.Module):
  """Back to the images' height, width and colours, between -1 and 1."""

  colours: int
  act: ActivationFactory
  dtype: DTypeLike | None

  @nn.compact
  def __call__(self, x: Float[Array, 'b h w c'], *, train: bool) -> Float[Array, 'b h4 w4 colours']:
    for i in range(2):
      x = _norm(self.dtype)(Transposed(x.shape[-1] // 2, self.dtype)(x))
      x = site(self.act, f'act{i + 1}')(x, train=train)
    return jnp.tanh(_conv(self.colours, 7, 1, self.dtype)(x))


class Generator(nn.Module):
  """Makes of images those of a target domain; the residual blocks between sampling down and up are its one stage.

  Its inputs are a pair: images in [-1, 1], [b, h, w, colours], and the target domains one-hot, [b, domains], each of
  which becomes a constant channel beside the colours.

  Attributes:
    channels: of the first convolution; the blocks have four times as many.
    blocks: of the bottleneck; the paper's teacher has 6, LIT's student 2.
    colours: of the images.
    act: a factory, called at every activation.
    dtype: of the computation; parameters stay in float32.

  Raises:
    ValueError: the images' height or width is no multiple of 4.

  >>> model = Generator(channels=4, blocks=2, colours=1, act=LMA)
  >>> inputs = jnp.zeros((2, 28, 28, 1)), jax.nn.one_hot(jnp.array([0, 2]), 3)
  >>> (output, taps), _ = jax.eval_shape(lambda: model.init_with_output(jax.random.key(0), inputs, train=False))
  >>> output.shape, [tap.shape for tap in taps]
  ((2, 28, 28, 1), [(2, 7, 7, 16), (2, 7, 7, 16)])

  Source: Choi et al. 2018 (StarGAN), table 4. The authors' code keeps running statistics in its instance norms; here
  each image is normalized by its own, in training and evaluation alike: running ones would mix the domains, and would
  move in a stem that is meant to be frozen.
  """

  channels: int
  blocks: int
  colours: int
  act: ActivationFactory
  dtype: DTypeLike | None = None

  def setup(self):
    self.down = _Down(self.channels, self.act, self.dtype)
    self.stages = [_Bottleneck(self.blocks, self.act, self.dtype)]
    self.up = _Up(self.colours, self.act, self.dtype)

  def stem(
    self, inputs: tuple[Float[Array, 'b h w c'], Float[Array, 'b domains']], *, train: bool
  ) -> Float[Array, 'b h4 w4 f']:
    """Sets the target's channels beside the colours and samples down."""
    images, target = inputs
    height, width = images.shape[1:3]
    if height % 4 or width % 4:
      raise ValueError(f'images of {height} × {width}: the generator needs multiples of 4')
    planes = jnp.broadcast_to(target[:, None, None].astype(images.dtype), (*images.shape[:3], target.shape[-1]))
    return self.down(jnp.concatenate([images, planes], axis=-1), train=train)

  def stage(self, i: int, tap: Float[Array, 'b h w f'], *, train: bool) -> Float[Array, 'b h w f']:
    """Applies the residual blocks; ``i`` is 0."""
    return self.stages[i](tap, train=train)

  def head(self, tap: Float[Array, 'b h w f'], *, train: bool) -> Float[Array, 'b h4 w4 c']:
    """Samples up and returns images in [-1, 1]."""
    return self.up(tap, train=train)

  def __call__(self, inputs: tuple[Float[Array, 'b h w c'], Float[Array, 'b domains']], *, train: bool):
    """Returns the images and the taps."""
    taps = (self.stem(inputs, train=train),)
    taps += (self.stage(0, taps[0], train=train),)
    return self.head(taps[-1], train=train), taps


class Discriminator(nn.Module):
  """Judges patches of images, real or made, and tells the domain of the whole.

  Attributes:
    channels: of the first convolution; each later one has twice as many.
    layers: each halves height and width; the paper's 6 are for 128 × 128, 2 or 3 for 28 × 28.
    domains: of the logits.
    dtype: of the computation; parameters stay in float32.

  Raises:
    ValueError: the images are too small for so many layers.

  >>> model = Discriminator(channels=4, layers=2, domains=3)
  >>> (patches, domains), _ = model.init_with_output(jax.random.key(0), jnp.zeros((2, 28, 28, 1)))
  >>> patches.shape, domains.shape  # the critic's values, and logits
  ((2, 7, 7, 1), (2, 3))

  Source: Choi et al. 2018 (StarGAN), table 5, as the authors' code builds it, but that biases start at 0. No norm: the
  gradient penalty takes examples one by one, and a batch norm would tie them together.
  """

  channels: int
  layers: int
  domains: int
  dtype: DTypeLike | None = None

  @nn.compact
  def __call__(
    self, images: Float[Array, 'b h w c']
  ) -> tuple[Float[Array, 'b patches_h patches_w 1'], Float[Array, 'b domains']]:
    """Returns the value of each patch and the logits of the domains."""
    height, width = images.shape[1:3]
    if min(height, width) < 2**self.layers:
      raise ValueError(f'images of {height} × {width}: too small for {self.layers} layers, each of which halves them')
    x = images
    for i in range(self.layers):
      x = jax.nn.leaky_relu(_conv(self.channels * 2**i, 4, 2, self.dtype, use_bias=True)(x), 0.01)
    patches = _conv(1, 3, 1, self.dtype)(x)
    whole = nn.Conv(self.domains, x.shape[1:3], padding='VALID', use_bias=False, kernel_init=_INIT, dtype=self.dtype)
    return patches, whole(x)[:, 0, 0]
