"""Convolution and pooling in the form that their platform runs fastest: XLA's own, but on the CPU."""

import math
from collections.abc import Callable
from functools import partial, reduce
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import export
from jaxtyping import Array, Float

LAYOUT = ('NHWC', 'HWIO', 'NHWC')
_IMAGES = 4  # whose columns are in the caches together
_MANY = 16


def conv_general_dilated(
  x: Array, kernel: Array, strides: Any, padding: Any, *, dimension_numbers: Any, **options: Any
) -> Array:
  """``jax.lax.conv_general_dilated``, for ``flax.linen.Conv``; on the CPU many are faster than XLA's.

  These are those of 1 × 1, those that are ``SAME`` with stride 1, and all in groups. Forward mode does not pass where
  the CPU's form has a gradient rule of its own, whatever the platform.
  """
  plain = partial(
    jax.lax.conv_general_dilated,
    window_strides=strides,
    padding=padding,
    dimension_numbers=dimension_numbers,
    **options,
  )
  groups = options.get('feature_group_count', 1)
  form = _cpu_form(kernel.shape[:-2], tuple(strides), padding, options)
  if (form is None and groups == 1) or as_it_is(x) or as_it_is(kernel):
    return plain(x, kernel)
  on_cpu = partial(_on_cpu, form=form or partial(plain, feature_group_count=1), groups=groups)
  return jax.lax.platform_dependent(x, kernel, cpu=on_cpu, default=plain)


def _cpu_form(
  size: tuple[int, ...], strides: tuple[int, ...], padding: Any, options: dict[str, Any]
) -> Callable[[Array, Array], Array] | None:
  """Chooses the fast form on the CPU; None is XLA's own, which is good at strides with kernels above 1 × 1."""
  pads = None if isinstance(padding, str) else {tuple(pair) for pair in padding}
  if any(number != 1 for name in ('lhs_dilation', 'rhs_dilation') for number in options.get(name) or (1,)):
    return None
  if size == (1, 1) and pads in (None, {(0, 0)}):
    return partial(_pointwise, strides=strides)
  if size in ((3, 3), (5, 5), (7, 7)) and strides == (1, 1):
    return _same_form if padding == 'SAME' or pads == {(size[0] // 2,) * 2} else None
  return None


def as_it_is(x: Array) -> bool:
  """Returns whether XLA's own form must do: axes are split by hand, or sizes are not known.

  Over explicit axes and those of ``shard_map`` reshapes, loops and gradient rules must say the split. A batch of any
  size, as programs are exported for, cannot be cut into groups; their readers need not know a choice by platform.
  """
  mesh = jax.typeof(x).sharding.mesh
  return bool(mesh.explicit_axes or mesh.manual_axes) or any(map(export.is_symbolic_dim, x.shape))


def _on_cpu(x: Array, kernel: Array, form: Callable[[Array, Array], Array], groups: int) -> Array:
  """Half precision is computed in float32, as XLA does: sums over a batch in bfloat16 had three times the error."""
  if x.dtype in (jnp.bfloat16, jnp.float16):
    return _on_cpu(x.astype(jnp.float32), kernel.astype(jnp.float32), form, groups).astype(x.dtype)
  return form(x, _block_diagonal(kernel, groups) if groups > 1 else kernel)


def _block_diagonal(kernel: Float[Array, '*k i o'], groups: int) -> Float[Array, '*k gi o']:
  """The kernel that sees all channels, with zeros for those of other groups: in groups XLA is many times slower."""
  i, o = kernel.shape[-2:]
  own = np.arange(groups * i)[:, None] // i == np.arange(o) // (o // groups)
  repeated = jnp.concatenate([kernel] * groups, axis=-2)
  return jnp.where(np.broadcast_to(own, repeated.shape), repeated, 0)


def _pointwise(
  x: Float[Array, 'n h w i'], kernel: Float[Array, '1 1 i o'], strides: tuple[int, ...]
) -> Float[Array, 'n h2 w2 o']:
  """A matrix product: with its gradients XLA's convolution took two to three times as long."""
  x = x[:, :: strides[0], :: strides[1]]
  return (_flat(x) @ kernel[0, 0]).reshape(*x.shape[:3], kernel.shape[-1])


def _same_form(x: Float[Array, 'n h w i'], kernel: Float[Array, 'k k i o']) -> Float[Array, 'n h w o']:
  """With a kernel above 3 × 3, two neighbours in a row are taken as one pixel of twice the channels."""
  n, h, w, i = x.shape
  if len(kernel) == 3 or w % 2:
    return _same(x, kernel)
  return _same(x.reshape(n, h, w // 2, 2 * i), _pair_kernel(kernel)).reshape(n, h, w, kernel.shape[-1])


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
  """XLA's, unless the channels differ much: then a matrix product, of the columns or before them."""
  i, o = kernel.shape[2:]
  if i <= o < _MANY * i:
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), 'SAME', dimension_numbers=LAYOUT)
  product = partial(_from_columns if i < o else _into_columns, kernel=kernel)
  return jax.lax.map(product, _groups(x)).reshape(*x.shape[:3], o)


def _from_columns(x: Float[Array, 'n h w i'], kernel: Float[Array, 'k m i o']) -> Float[Array, 'n h w o']:
  k, m, _, o = kernel.shape
  return (_flat(_columns(x, k, m)) @ kernel.reshape(-1, o)).reshape(*x.shape[:3], o)


def _into_columns(x: Float[Array, 'n h w i'], kernel: Float[Array, 'k m i o']) -> Float[Array, 'n h w o']:
  """One product for all taps, whose results are then moved to their places and added."""
  (n, h, w, _), (k, m, i, o) = x.shape, kernel.shape
  products = (_flat(x) @ kernel.transpose(2, 0, 1, 3).reshape(i, -1)).reshape(n, h, w, -1)
  products = _padded(products, k, m).reshape(n, h + k - 1, w + m - 1, k, m, o)
  return reduce(jnp.add, [products[:, a : a + h, b : b + w, a, b] for a, b in np.ndindex(k, m)])


def _same_backward(kept: tuple[Array, Array], g: Array) -> tuple[Array, Array]:
  x, kernel = kept
  return _same(g, kernel[::-1, ::-1].swapaxes(2, 3)), _kernel_gradient(x, g, kernel.shape)


_same.defvjp(lambda x, kernel: (_same(x, kernel), (x, kernel)), _same_backward)


def _kernel_gradient(
  x: Float[Array, 'n h w i'], g: Float[Array, 'n h w o'], shape: tuple[int, ...]
) -> Float[Array, 'k m i o']:
  """A matrix product over all positions, a few images at a time, with the columns of the side of fewer channels."""
  k, m, i, o = shape

  def add(total: Array, images: tuple[Array, Array]) -> tuple[Array, None]:
    x, g = images
    if i < o:
      return total + _flat(_columns(x, k, m)).T @ _flat(g), None
    return total + _flat(x).T @ _flat(_columns(g, k, m)), None

  start = jnp.zeros((k * m * i, o) if i < o else (i, k * m * o), x.dtype)
  total, _ = jax.lax.scan(add, start, (_groups(x), _groups(g)))
  if i < o:
    return total.reshape(shape)
  return total.reshape(i, k, m, o).transpose(1, 2, 0, 3)[::-1, ::-1]


def _groups(x: Float[Array, 'n h w c']) -> Float[Array, 'groups few h w c']:
  few = math.gcd(len(x), _IMAGES)
  return x.reshape(-1, few, *x.shape[1:])


def _flat(x: Array) -> Array:
  return x.reshape(-1, x.shape[-1])


def _padded(x: Float[Array, 'n h w c'], k: int, m: int) -> Float[Array, 'n hk wm c']:
  return jnp.pad(x, ((0, 0), (k // 2, k // 2), (m // 2, m // 2), (0, 0)))


def _columns(x: Float[Array, 'n h w c'], k: int, m: int) -> Float[Array, 'n h w kmc']:
  """Beside each position the k × m about it."""
  h, w = x.shape[1:3]
  padded = _padded(x, k, m)
  return jnp.concatenate([padded[:, a : a + h, b : b + w] for a, b in np.ndindex(k, m)], axis=-1)


def max_pool(x: Float[Array, 'n h w c']) -> Float[Array, 'n h2 w2 c']:
  """The largest of each 2 × 2, NaN above all; a tie goes to the first. As XLA's, whose gradient is slow on the CPU."""
  plain = partial(nn.max_pool, window_shape=(2, 2), strides=(2, 2))
  return plain(x) if as_it_is(x) else jax.lax.platform_dependent(x, cpu=_first_of_largest, default=plain)


def _first_of_largest(x: Array) -> Array:
  n, h, w, c = x.shape
  x = x[:, : h // 2 * 2, : w // 2 * 2].reshape(n, h // 2, 2, w // 2, 2, c)
  largest = x[:, :, 0, :, 0]
  for row, column in ((0, 1), (1, 0), (1, 1)):
    other = x[:, :, row, :, column]
    largest = jnp.where((other > largest) | jnp.isnan(other), other, largest)
  return largest
