"""Logits without their place and size, so that a student is free in both."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from lmajax._arguments import check_floats
from lmajax.losses._rows import check_where, counted


def standardized(
  logits: Float[Array, '*batch classes'], *, where: Bool[Array, '*batch'] | None = None
) -> Float[Array, '*batch classes']:
  r"""Subtracts from the logits of each example their mean, and divides by their standard deviation.

  .. math:: \frac{z - \bar z}{\sigma(z) + 10^{-7}}, \qquad \sigma(z)^2 = \overline{(z - \bar z)^2}

  What it gives are logits, which every loss of logits takes: of the student and of the teacher both, they free the
  student from the size of the teacher's logits, and leave their order and proportions to be learned:
  ``soft_targets(standardized(student), standardized(teacher), temperature=2.0)``.

  Args:
    logits: unnormalized and finite, the classes last; computed in float32 at least.
    where: examples (or tokens) to count; the others become zeros, whatever they hold.

  Returns:
    Logits of mean 0 and, but where they are all alike, of standard deviation 1. All alike, they become zeros, with the
    gradient of a division by 1.

  Raises:
    ValueError: the logits are no floats with the classes last, or the mask does not fit them.

  >>> standardized(jnp.array([1., 3.])).round(4).tolist()
  [-1.0, 1.0]

  Source: Sun et al. 2024 (logit standardization), with its T moved into the loss. The authors' code divides
  by the root of the sum of squares over C - 1; here over C, as the paper's text is remembered: a choice, which changes
  the temperature by sqrt(C / (C - 1)).
  """
  check_floats('logits', logits, least_rank=1)
  check_where(where, logits)
  known = counted(logits, where)
  shifted = known - jax.lax.stop_gradient(known.max(-1, keepdims=True))  # equal logits become 0 to the last bit
  centred = shifted - shifted.mean(-1, keepdims=True)
  variance = jnp.square(centred).mean(-1, keepdims=True)
  spread = jnp.sqrt(jnp.where(variance > 0, variance, jnp.ones_like(variance)))
  return centred / (spread + 1e-7)
