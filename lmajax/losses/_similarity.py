"""Similarity-preserving distillation: which examples of a batch are alike."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from lmajax.losses._features import both, flat, pairs, small, unit


def similarity_preserving(
  student_features: Float[Array, 'b ...'],
  teacher_features: Float[Array, 'b ...'],
  *,
  where: Bool[Array, ' b'] | None = None,
) -> Float[Array, ' b']:
  r"""Compares how alike each example is to the others, for the student and for the teacher.

  .. math:: \frac{1}{B} \sum_j \left(\frac{G^s_{ij}}{|G^s_i|} - \frac{G^t_{ij}}{|G^t_i|}\right)^2, \qquad G = F F^\top

  over the B examples j, with one row of F for each. It does not change when all features of the batch are scaled or
  rotated.

  Args:
    student_features: any shape after the batch's axis; computed in float32 at least.
    teacher_features: of the same examples, of any shape; no gradient flows into them.
    where: examples to count; the others give 0 and no gradient, and no part to the others.

  Returns:
    One number per example, which depends on the batch; the mean is the source's, of weight 3,000 on the last map.

  Raises:
    ValueError: one is no batch of features, or they are not of the same examples.

  >>> features = jnp.array([[1., 0.], [0., 2.]])
  >>> similarity_preserving(features, features @ jnp.array([[0., 3.], [3., 0.]])).tolist()
  [0.0, 0.0]

  Source: Tung and Mori 2019 (similarity-preserving knowledge distillation).
  """
  student, teacher = (small(flat(f), None) for f in both(student_features, teacher_features, where))
  _, number = pairs(where, student)  # what does not count is all 0 by now
  ours, theirs = (unit(jnp.einsum('id,jd->ij', f, f, precision='highest')) for f in (student, teacher))
  return jnp.square(ours - theirs).sum(1) / number
