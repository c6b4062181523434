"""Attention transfer: where in an image the features are strong."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from lmajax.losses._features import both, flat, small, unit
from lmajax.losses._pooled import to_smaller


def attention_transfer(
  student_features: Float[Array, 'b *space channels'],
  teacher_features: Float[Array, 'b *other_space other_channels'],
  *,
  where: Bool[Array, ' b'] | None = None,
) -> Float[Array, ' b']:
  r"""Compares where two maps of features are strong, whatever their channels.

  .. math:: \frac{1}{n} \sum_p \left(\frac{a^s_p}{|a^s|} - \frac{a^t_p}{|a^t|}\right)^2, \qquad
    a_p = \sum_c f_{pc}^2

  over the n places p. It does not change with the scale or the signs of an example's features, nor with the order of
  their channels.

  Args:
    student_features: maps, the channels last; computed in float32 at least.
    teacher_features: maps of the same examples, of any number of channels. The larger map is averaged over blocks to
      the places of the smaller. No gradient flows into them.
    where: examples to count; the others give 0 and no gradient.

  Returns:
    One number per example. The source adds it over the stages of the networks, and weighs it by 1,000.

  Raises:
    ValueError: one is no map, they are not of the same examples, or one is no multiple of the other in height or width.

  >>> maps = jnp.array([[[1.], [0.]]]), jnp.array([[[0.], [3.]]])  # one example, two places, one channel
  >>> attention_transfer(*maps).tolist()
  [1.0]

  Source: Zagoruyko and Komodakis 2017, with the exponent 2, squared and averaged over the places as their code has it;
  the paper's text has the length of the difference. RepDistiller averages the larger map before squaring it; here the
  squares are averaged, so that opposite signs in a block do not cancel: a choice.
  """
  student, teacher = both(student_features, teacher_features, where, least_rank=3)
  strong = [jnp.square(small(f, tuple(range(1, f.ndim)))).sum(-1, keepdims=True) for f in (student, teacher)]
  student, teacher = (unit(flat(a)) for a in to_smaller(*strong))
  return jnp.square(student - teacher).mean(-1)
