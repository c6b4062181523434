"""The activations that LMA is compared with, each beside its initial values."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from lmajax._arguments import check_alike, check_count, check_floats
from lmajax.types import Key


def prelu(x: Float[Array, '*shape'], slope: Float[Array, '']) -> Float[Array, '*shape']:
  """``max(x, 0) + slope · min(x, 0)``: ReLU with one trained slope below 0, 0.25 at the start.

  >>> prelu(jnp.array([-2., 2.]), jnp.array(.25)).tolist()
  [-0.5, 2.0]

  Raises:
    ValueError: x is no array of floats, or the slope no scalar of them.

  Source: He et al. 2015, equation 1. One slope per layer, as the LMA paper's parameter totals have it; He et al. train
  one per channel.
  """
  check_floats('x', x)
  check_floats('slope', slope, ())
  return jnp.where(x >= 0, x, slope.astype(x.dtype) * x)


def swish(x: Float[Array, '*batch c'], slope: Float[Array, ' c']) -> Float[Array, '*batch c']:
  """``x · sigmoid(slope · x)`` with one trained slope per channel, 1 at the start.

  >>> round(float(swish(jnp.ones(1), jnp.ones(1))[0]), 4)  # the sigmoid of 1
  0.7311

  Raises:
    ValueError: x is no array of floats with its channels last, or the slopes are not one for each.

  Source: Ramachandran et al. 2017. The authors of LMA flatten [batch, channel, height, width] to (−1, channels), which
  mixes the channels up; here each channel, the last axis, keeps its own slope.
  """
  check_floats('x', x, least_rank=1)
  check_floats('slope', slope, x.shape[-1:])
  return x * jax.nn.sigmoid(slope.astype(x.dtype).reshape((1,) * (x.ndim - 1) + slope.shape) * x)


def aplu(
  x: Float[Array, '*batch c'], slopes: Float[Array, 'hinges c'], cuts: Float[Array, 'hinges c']
) -> Float[Array, '*batch c']:
  """``max(x, 0) + Σⱼ slopesⱼ · max(cutsⱼ − x, 0)``, the hinges trained per channel.

  Args:
    x: the channels last.
    slopes: one row per hinge.
    cuts: like ``slopes``.

  >>> aplu(jnp.array([[-1.], [2.]]), jnp.array([[.5]]), jnp.array([[1.]])).tolist()
  [[1.0], [2.0]]

  Raises:
    ValueError: x is no array of floats with its channels last, or slopes and cuts are not one for each, row by row.

  Source: Agostinelli et al. 2015, equation 1. K segments are ReLU's two and K − 2 hinges, as the LMA paper counts.
  """
  check_floats('x', x, least_rank=1)
  check_floats('slopes', slopes, (*getattr(slopes, 'shape', ())[:1], *x.shape[-1:]))
  check_floats('cuts', cuts)
  check_alike(slopes=slopes, cuts=cuts)
  row = (1,) * (x.ndim - 1) + slopes.shape[1:]
  hinges = [
    slope.reshape(row) * jax.nn.relu(cut.reshape(row) - x)
    for slope, cut in zip(slopes.astype(x.dtype), cuts.astype(x.dtype), strict=True)
  ]
  return jax.nn.relu(x) + sum(hinges)


def aplu_init(key: Key, num_segments: int, channels: int) -> tuple[Float[Array, 'h c'], Float[Array, 'h c']]:
  """Draws the slopes from U(−½, ½) and the cuts from N(0, ½²), K − 2 hinges per channel.

  Raises:
    ValueError: K is below 3, which leaves no hinge, or there is no channel.

  >>> [a.shape for a in aplu_init(jax.random.key(0), 8, 3)]
  [(6, 3), (6, 3)]

  Source: the LMA paper's code, which follows the fillers of Agostinelli et al.; ½ is a standard deviation.
  """
  check_count('num_segments', num_segments, 3)
  check_count('channels', channels, 1)
  slope_key, cut_key = jax.random.split(key)
  shape = (num_segments - 2, channels)
  slopes = jax.random.uniform(slope_key, shape, jnp.float32, minval=-0.5, maxval=0.5)
  return slopes, 0.5 * jax.random.normal(cut_key, shape, jnp.float32)
