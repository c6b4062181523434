"""Neuron selectivity transfer: the channels as a set of patterns, compared by a kernel."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from lmajax.losses._features import both, unit
from lmajax.losses._pooled import to_smaller


def neuron_selectivity(
  student_features: Float[Array, 'b *space channels'],
  teacher_features: Float[Array, 'b *other_space other_channels'],
  *,
  where: Bool[Array, ' b'] | None = None,
) -> Float[Array, ' b']:
  r"""Compares the sets of patterns that the channels draw, by the maximum mean discrepancy of degree 2.

  .. math::
    \Bigl| \frac{1}{C_s} \sum_c \hat s_c \hat s_c^\top - \frac{1}{C_t} \sum_c \hat t_c \hat t_c^\top \Bigr|^2
    = \overline{k(s, s)} + \overline{k(t, t)} - 2\,\overline{k(s, t)}, \qquad k(x, y) = \langle \hat x, \hat y \rangle^2

  where each channel's map is a vector of length 1. It does not change with the scale or sign of a channel, nor with the
  channels' order.

  Args:
    student_features: maps of n places, the channels last; computed in float32 at least, with n² numbers an example.
    teacher_features: maps of the same examples, of any number of channels. The larger map is averaged over blocks to
      the places of the smaller. No gradient flows into them.
    where: examples to count; the others give 0 and no gradient.

  Returns:
    One number per example, from 0 to 2. RepDistiller weighs it by 50.

  Raises:
    ValueError: as of ``attention_transfer``.

  >>> maps = jnp.array([[[1.], [0.]]]), jnp.array([[[0.], [3.]]])  # two patterns of one place each
  >>> neuron_selectivity(*maps).tolist()
  [2.0]

  Source: Huang and Wang 2017 (NST), with the kernel of RepDistiller's code, which computes the right side: three means,
  whose difference loses digits near agreement.
  """
  student, teacher = (
    unit(jnp.moveaxis(f.reshape(f.shape[0], -1, f.shape[-1]), 1, 2))
    for f in to_smaller(*both(student_features, teacher_features, where, least_rank=3))
  )
  ours, theirs = (jnp.einsum('bcp,bcq->bpq', f, f) / f.shape[1] for f in (student, teacher))
  return jnp.square(ours - theirs).sum((1, 2))
