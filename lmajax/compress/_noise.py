"""Quant-noise: a random part of the weights is quantized in training, and all of them after it."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from lmajax import tree
from lmajax._arguments import as_given, check_count, is_between
from lmajax.compress._tensors import joined
from lmajax.types import Reparam


class Noisy(NamedTuple):
  """The code of the inner reparameterization and the share of the weights that are replaced, an array."""

  inner: Any
  rate: Any


def drawn(key: jax.Array, rate: Float[Array, ''], shape: tuple[int, ...], block_size: int) -> Bool[Array, '...']:
  """Draws blocks of each filter's entries, in the layout in which product quantization cuts them."""
  blocks = jax.random.bernoulli(key, rate, (*shape[-1:], -(-math.prod(shape[:-1]) // block_size)))
  return joined(jnp.repeat(blocks, block_size, axis=-1), shape)


def noise(
  inner: Reparam, rate: float, *, block_size: int = 1, replacement: Callable[[Array], Array] | None = None
) -> Reparam:
  r"""Replaces random blocks of the weights by their quantized values in training; without a key all are quantized.

  .. math:: \hat w = \begin{cases} q(w) & \text{with probability } p \\ w & \text{otherwise} \end{cases} \qquad
     \frac{\partial L}{\partial w} = \frac{\partial L}{\partial \hat w}

  The gradient goes straight through what is replaced; what is not keeps its exact value and is not rescaled. The noise
  of scalars at 4 and 8 bits with ranges of the extremes, of least error or per channel is ``noise(uniform(4), …)`` with
  that choice of ``uniform``; the exact noise of product quantization has it as the inner, and the proxy has
  ``replacement=jnp.zeros_like`` besides.

  Args:
    inner: whose theta is the weights; ``masked`` goes around ``noise``, not into it.
    rate: p, 0 … 1. It lies in the code, as an array: ``code._replace(rate=jnp.float32(.2))`` changes it between fits.
    block_size: consecutive entries of a filter that are drawn together: 1 for scalars, for product quantization its
      block size. A filter's last block may stick out over its end.
    replacement: weights -> what replaces them in training, tensor by tensor; by default their quantized values.

  Raises:
    ValueError: the rate or the block size are out of range, or the inner's theta is not the weights.

  >>> reparam = noise(uniform(1), .5)
  >>> theta, code = reparam.init({'kernel': jnp.array([[0.], [.3], [.9], [1.]])}, jax.random.key(0))
  >>> reparam.apply(theta, code._replace(rate=jnp.float32(0)), jax.random.key(0))['kernel'].ravel().tolist()
  [0.0, 0.30000001192092896, 0.8999999761581421, 1.0]

  Source: Fan et al. 2021, "Training with Quantization Noise for Extreme Model Compression", section 4. Their code
  multiplies what it keeps by 1 / (1 − p), in place; the paper does neither, and nor do we.
  """
  if not is_between(rate, 0.0, 1.0):
    raise ValueError(f'rate is {as_given(rate)}; a probability lies between 0 and 1')
  check_count('block_size', block_size, 1)

  def init(params, key):
    theta, code = inner.init(params, key)
    if jax.tree.map(jnp.shape, theta) != jax.tree.map(jnp.shape, params):
      raise ValueError('noise needs an inner whose theta is the weights, as of uniform; put masked around noise')
    return theta, Noisy(code, jnp.asarray(rate, jnp.float32))

  def proxies(weights, code):
    return inner.apply(weights, code.inner, None) if replacement is None else jax.tree.map(replacement, weights)

  def apply(theta, code, key):
    if key is None:
      return inner.apply(theta, code.inner, None)
    fixed = jax.lax.stop_gradient(theta)

    def mixed(w: Array, fixed: Array, replaced: Array, key: jax.Array) -> Array:
      # The difference is 0 and has the gradient; added last, it leaves the quantized values exact.
      return jnp.where(drawn(key, code.rate, w.shape, block_size), replaced + (w - fixed), w)

    return jax.tree.map(mixed, theta, fixed, proxies(fixed, code), tree.keys_like(key, theta))

  return Reparam(
    init=init,
    apply=apply,
    refresh=lambda theta, code, key: code._replace(inner=inner.refresh(theta, code.inner, key)),
    stored=lambda theta, code: inner.stored(theta, code.inner),
  )
