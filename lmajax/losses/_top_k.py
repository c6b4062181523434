"""A teacher's distribution in few numbers: its largest classes, and what is left for the others."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Integer

from lmajax._arguments import as_given, check_alike, check_floats, is_count, of_type, shown


class TopK(NamedTuple):
  """The log-probabilities of the likeliest classes, the greatest first, and the numbers of these classes.

  >>> TopK(jnp.log(jnp.array([0.7, 0.2])), jnp.array([5, 0])).classes.tolist()
  [5, 0]
  """

  log_probabilities: Float[Array, '*batch k']
  classes: Integer[Array, '*batch k']


def top_k(logits: Float[Array, '*batch classes'], k: int) -> TopK:
  r"""The k likeliest classes.

  .. math:: \log p_c = z_c - \log \sum_j e^{z_j}, \qquad c \in \text{the } k \text{ greatest of } z

  Args:
    logits: unnormalized, the classes last; computed in float32 at least.
    k: from 1 to the number of classes; of classes that are alike, the first are taken.

  Raises:
    ValueError: k is out of range, or the logits are no array of floats with the classes last.

  >>> top = top_k(jnp.log(jnp.array([0.2, 0.1, 0.7])), 2)
  >>> top.classes.tolist(), np.exp(np.array(top.log_probabilities, float)).round(4).tolist()
  ([2, 0], [0.7, 0.2])

  Source: the top-K distillation of Tan et al. 2019, "Multilingual neural machine translation with knowledge
  distillation", who then divide by the sum of what they keep; here it stays, and ``from_top_k`` accounts for the rest.
  """
  check_floats('logits', logits, least_rank=1)
  num_classes = logits.shape[-1]
  if not is_count(k) or not 1 <= k <= num_classes:
    raise ValueError(f'the {as_given(k)} likeliest of {num_classes} classes: give from 1 to {num_classes}')
  return TopK(*jax.lax.top_k(jax.nn.log_softmax(_wide(logits)), k))


def from_top_k(top: TopK, num_classes: int) -> Float[Array, '*batch {num_classes}']:
  r"""The log-probabilities of all classes again, which serve as logits in every loss.

  .. math:: \hat p_c = p_c \text{ of the known}, \qquad
    \hat p_c = \min\left(\frac{\max(1 - \sum_j p_j, \epsilon)}{C - k}, \min_j p_j\right) \text{ of the others}

  over the known j. What these leave of the mass is spread evenly, which is exact for what label smoothing adds to a
  teacher: 64 of 6,000 classes may hold but four fifths. The two bounds are for rounding: ε, the spacing of floats at 1,
  is the least that 1 less a sum tells from 0; and no other class exceeds the least known. With k = C nothing is lost.

  Args:
    top: of ``top_k``, in whatever precision it was kept; computed in float32 at least.
    num_classes: C, of all classes.

  Raises:
    ValueError: there are more known classes than classes, or none, or the two of ``top`` are not alike.

  >>> top = TopK(jnp.log(jnp.array([0.6, 0.3])), jnp.array([3, 0]))
  >>> np.exp(np.array(from_top_k(top, 4), float)).round(4).tolist()
  [0.3, 0.05, 0.05, 0.6]

  Source: spread as label smoothing is, Szegedy et al. 2016, section 7. Tan et al. 2019 give what is left to the known
  classes instead, in proportion, which teaches targets that are sharper than the teacher's.
  """
  check_floats('log_probabilities', top.log_probabilities, least_rank=1)
  if not of_type(top.classes, jnp.integer):
    raise ValueError(f'classes is {shown(top.classes)}; give an array of class numbers')
  check_alike(log_probabilities=top.log_probabilities, classes=top.classes)
  k = top.classes.shape[-1]
  if not is_count(num_classes) or not 1 <= k <= num_classes:
    raise ValueError(f'{k} known classes of {as_given(num_classes)}: give from 1 to all')
  spread = jnp.vectorize(partial(_spread, num_classes), signature='(k),(k)->(c)')
  return spread(_wide(top.log_probabilities), top.classes.astype(jnp.int32))


def _spread(num_classes: int, known: Array, classes: Array) -> Array:
  """Spreads the rest of the mass of one example."""
  left = jnp.maximum(1 - jnp.exp(known).sum(), jnp.finfo(known.dtype).eps)
  each = jnp.minimum(jnp.log(left / max(num_classes - len(known), 1)), known.min())
  return jnp.full(num_classes, each).at[classes].set(known)


def _wide(numbers: Array) -> Array:
  return numbers.astype(np.promote_types(numbers.dtype, np.float32))
