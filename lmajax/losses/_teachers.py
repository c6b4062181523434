"""Several teachers as one."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from lmajax._arguments import as_given, check_pair, is_between
from lmajax.losses._rows import Number, check_temperature


def averaged(
  teacher_logits: Sequence[Float[Array, '*batch classes']] | Float[Array, 'teachers *batch classes'],
  *,
  weights: Sequence[float] | None = None,
  temperature: Number = 1.0,
) -> Float[Array, '*batch classes']:
  r"""Makes logits of the average of what several teachers hold likely.

  .. math:: T \log \sum_k w_k\,\mathrm{softmax}(z_k / T)

  At the same T they serve as a teacher's logits in every loss: the gradient of their KL is that of the mean of the
  teachers' KLs. (The mean of logits, in their place, is a normalized geometric mean, which a class keeps only if no
  teacher rules it out.)

  Args:
    teacher_logits: one array for each teacher, or all in one, of one shape, the classes last; computed in float32 at
      least.
    weights: w, of sum 1; by default all alike.
    temperature: T > 0, that of the loss.

  Raises:
    ValueError: there is no teacher, their logits differ in shape, or the weights do not fit them or do not add up to 1.

  >>> sure, unsure = jnp.log(jnp.array([0.9, 0.1])), jnp.log(jnp.array([0.5, 0.5]))
  >>> np.exp(np.array(averaged([sure, unsure]), float)).round(4).tolist()
  [0.7, 0.3]

  Source: Hinton et al. 2015, section 1, where an ensemble teaches; that averaging changes no gradient of the KL is
  worked out here.
  """
  if not len(teacher_logits):
    raise ValueError('there are no teacher_logits: give at least one array')
  for other in teacher_logits:
    check_pair(teacher_logits=teacher_logits[0], another=other)
  check_temperature(temperature)
  number = len(teacher_logits)
  shares = [1 / number] * number if weights is None else list(weights)
  right = len(shares) == number and all(is_between(share, 0.0, 1.0) for share in shares)
  if not right or not abs(sum(shares) - 1) < 1e-6:
    given = ', '.join(map(as_given, shares))
    raise ValueError(f'weights is {given}; give {number} of sum 1, one for each teacher')
  wide = [z.astype(np.promote_types(z.dtype, np.float32)) for z in teacher_logits]
  logs = jnp.stack([jax.nn.log_softmax(z / temperature) for z in wide])
  of_each = np.array(shares, logs.dtype).reshape(number, *[1] * (logs.ndim - 1))
  return temperature * jax.nn.logsumexp(logs, 0, b=of_each)
