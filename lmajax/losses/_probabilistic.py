"""Probabilistic knowledge transfer: how likely each example picks another as its neighbour."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from lmajax.losses._features import both, flat, pairs, unit
from lmajax.losses._rows import beyond_log

_EPSILON = 1e-7


def probabilistic_transfer(
  student_features: Float[Array, 'b ...'],
  teacher_features: Float[Array, 'b ...'],
  *,
  where: Bool[Array, ' b'] | None = None,
) -> Float[Array, ' b']:
  r"""Compares with which chance each example picks another as its neighbour, by their cosine.

  .. math:: \frac{1}{B} \sum_j p^t_{ij} \log \frac{p^t_{ij} + \epsilon}{p^s_{ij} + \epsilon}, \qquad
    p_{ij} = \frac{1 + \cos(f_i, f_j)}{\sum_k (1 + \cos(f_i, f_k))}

  with ε of 1e-7. It does not change with the length of an example's features, nor when all are rotated.

  Args:
    student_features: any shape after the batch's axis; computed in float32 at least.
    teacher_features: of the same examples, of any shape; no gradient flows into them.
    where: examples to count; the others give 0 and no gradient, and no part to the others.

  Returns:
    One number per example, which depends on the batch; the mean is the authors' code's, a mean over B² pairs, whence
    its weight of 30,000.

  Raises:
    ValueError: one is no batch of features, or they are not of the same examples.

  >>> features = jnp.array([[1., 0.], [1., 1.]])
  >>> probabilistic_transfer(features, 2 * features).tolist()
  [0.0, 0.0]

  Source: Passalis and Tefas 2018 (PKT), as the authors' code has it, with each example among its own
  neighbours, which the paper leaves out.
  """
  student, teacher = (unit(flat(f)) for f in both(student_features, teacher_features, where))
  weight, number = pairs(where, student)
  ours, theirs = (_chances(f, weight) for f in (student, teacher))
  ratio = (ours - theirs) / (theirs + _EPSILON)
  near = jnp.abs(ratio) < 0.5
  little = jnp.where(near, ratio, jnp.zeros_like(ratio))
  logs = -jnp.log1p(jnp.where(near, jnp.zeros_like(ratio), ratio))
  # both with ours less theirs added, which is 0 in all: no digits are lost where the two are near each other
  each = jnp.where(near, theirs * beyond_log(little) + _EPSILON * little, theirs * logs - theirs + ours)
  return (weight * each).sum(1) / number


def _chances(directions: Array, weight: Array) -> Array:
  near = weight * (1 + jnp.einsum('id,jd->ij', directions, directions, precision='highest')) / 2
  total = near.sum(1, keepdims=True)
  return near / jnp.where(total > 0, total, jnp.ones_like(total))
