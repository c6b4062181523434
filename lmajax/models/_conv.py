"""Convolution in the form that its platform runs fastest: XLA's own, but for stride 1 on the CPU."""

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

_LAYOUT = ('NHWC', 'HWIO', 'NHWC')
_IMAGES = 4  # whose columns are in the caches together


def conv_general_dilated(
  x: Array, kernel: Array, strides: Any, padding: Any, *, dimension_numbers: Any, **options: Any
) -> Array:
  """``jax.lax.conv_general_dilated``, for ``flax.linen.Conv``; on the CPU a ``SAME`` one of stride 1 is faster.

  There it has a gradient rule of its own, so that forward mode does not pass.
  """
  plain = partial(
    jax.lax.conv_general_dilated,
    window_strides=strides,
    padding=padding,
    dimension_numbers=dimension_numbers,
    **options,
  )
  height, width, *_ = kernel.shape
  same = padding == 'SAME' or all(tuple(pair) == (height // 2, height // 2) for pair in padding)
  dilated = any(number != 1 for name in ('lhs_dilation', 'rhs_dilation') for number in options.get(name) or (1,))
  if not same or dilated or set(strides) != {1} or options.get('feature_group_count', 1) != 1:
    return plain(x, kernel)
  if kernel.ndim != 4 or height != width or height not in (3, 5, 7):
    return plain(x, kernel)
  return jax.lax.platform_dependent(x, kernel, cpu=_on_cpu, default=plain)


def _on_cpu(x: Float[Array, 'n h w i'], kernel: Float[Array, 'k k i o']) -> Float[Array, 'n h w o']:
  """With a kernel above 3 × 3, two neighbours in a row are taken as one pixel of twice the channels."""
  n, h, w, _ = x.shape
  if len(kernel) == 3 or w % 2:
    return _same(x, kernel)
  return _same(x.reshape(n, h, w // 2, -1), _pair_kernel(kernel)).reshape(n, h, w, -1)


def _pair_kernel(kernel: Float[Array, 'k k i o']) -> Float[Array, 'k m i2 o2']:
  """The kernel that does on pairs what the given one does on pixels: fewer, larger products, a fifth of them by 0."""
  k, _, i, o = kernel.shape
  reach = (k // 2 + 1) // 2
  place = np.zeros((2 * reach + 1, 2, 2, k), np.float32)  # pair, pixel in it, pixel of the output pair -> tap
  for pair, inside, out in np.ndindex(*place.shape[:3]):
    tap = 2 * (pair - reach) + inside - out + k // 2
    if 0 <= tap < k:
      place[pair, inside, out, tap] = 1
  whole = jnp.einsum('bpqe,deio->dbpiqo', jnp.asarray(place, kernel.dtype), kernel)
  return whole.reshape(k, 2 * reach + 1, 2 * i, 2 * o)


@jax.custom_vjp
def _same(x: Float[Array, 'n h w i'], kernel: Float[Array, 'k m i o']) -> Float[Array, 'n h w o']:
  return jax.lax.conv_general_dilated(x, kernel, (1, 1), 'SAME', dimension_numbers=_LAYOUT)


def _same_backward(kept: tuple[Array, Array], g: Array) -> tuple[Array, Array]:
  x, kernel = kept
  return _same(g, kernel[::-1, ::-1].swapaxes(2, 3)), _kernel_gradient(x, g, kernel.shape)


_same.defvjp(lambda x, kernel: (_same(x, kernel), (x, kernel)), _same_backward)


def _kernel_gradient(
  x: Float[Array, 'n h w i'], g: Float[Array, 'n h w o'], shape: tuple[int, ...]
) -> Float[Array, 'k m i o']:
  """A matrix product over all positions, a few images at a time, with the columns of the side of fewer channels."""
  k, m, i, o = shape
  few = math.gcd(len(x), _IMAGES)

  def add(total: Array, images: tuple[Array, Array]) -> tuple[Array, None]:
    x, g = images
    if i < o:
      return total + _flat(_columns(x, k, m)).T @ _flat(g), None
    return total + _flat(x).T @ _flat(_columns(g, k, m)), None

  start = jnp.zeros((k * m * i, o) if i < o else (i, k * m * o), x.dtype)
  total, _ = jax.lax.scan(add, start, tuple(a.reshape(-1, few, *a.shape[1:]) for a in (x, g)))
  if i < o:
    return total.reshape(shape)
  return total.reshape(i, k, m, o).transpose(1, 2, 0, 3)[::-1, ::-1]


def _flat(x: Array) -> Array:
  return x.reshape(-1, x.shape[-1])


def _columns(x: Float[Array, 'n h w c'], k: int, m: int) -> Float[Array, 'n h w kmc']:
  """Beside each position the k × m about it."""
  h, w = x.shape[1:3]
  padded = jnp.pad(x, ((0, 0), (k // 2, k // 2), (m // 2, m // 2), (0, 0)))
  return jnp.concatenate([padded[:, i : i + h, j : j + w] for i in range(k) for j in range(m)], axis=-1)
