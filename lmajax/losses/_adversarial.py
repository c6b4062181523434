"""The gradient penalty: it keeps a critic's slope near 1, so that it measures a distance of real and made examples."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from lmajax._arguments import check_pair
from lmajax.types import Key


def gradient_penalty(
  critic: Callable[[Array], Array], real: Float[Array, ' b *example'], fake: Float[Array, ' b *example'], key: Key
) -> Float[Array, ' b']:
  r"""Distance of the critic's slope from 1, squared, at one point between each real example and a made one.

  .. math:: \left(\|\nabla_{\hat x} D(\hat x)\|_2 - 1\right)^2, \qquad \hat x = u\,x + (1 - u)\,\tilde x, \quad
    u \sim U[0, 1)

  Args:
    critic: D, from examples to one value each, or to several (patches), of which the sum is meant. Each example's
      values depend on that example alone, so there is no batch norm in it.
    real: x, float.
    fake: x̃, like ``real``. Through neither of the two does a gradient flow: the penalty trains the critic.
    key: of u, one number per example.

  Returns:
    One number per example; the caller takes the mean, times 10. Norms are taken in float32 at least, and where the
    slope is 0, it has no gradient.

  Raises:
    ValueError: one of the two is no batch of floats, or they differ in shape.

  >>> x = jnp.ones((2, 3))
  >>> gradient_penalty(lambda x: 2 * x[:, 0] + 2 * x[:, 1] + x[:, 2], x, -x, jax.random.key(0)).tolist()  # (3 - 1)²
  [4.0, 4.0]

  Source: Gulrajani et al. 2017 (WGAN-GP), equation 3; with patches as Choi et al. 2018 (StarGAN) in their code, where
  a critic of more patches must be flatter at each.
  """
  check_pair(real=real, fake=fake)
  real, fake = (jax.lax.stop_gradient(examples) for examples in (real, fake))
  share = jax.random.uniform(key, (len(real), *(1 for _ in real.shape[1:])), real.dtype)
  slopes = jax.grad(lambda between: critic(between).sum())(share * real + (1 - share) * fake)
  slopes = slopes.reshape(len(real), math.prod(real.shape[1:])).astype(np.promote_types(slopes.dtype, np.float32))
  return jnp.square(optax.safe_norm(slopes, 0.0, axis=1) - 1)
