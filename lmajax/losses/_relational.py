"""Relational distillation: the distances and angles between the examples of a batch."""

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float

from lmajax.losses._features import both, flat, pairs, root, small, unit


def relational_distance(
  student_features: Float[Array, 'b ...'],
  teacher_features: Float[Array, 'b ...'],
  *,
  where: Bool[Array, ' b'] | None = None,
) -> Float[Array, ' b']:
  r"""Compares the distances between examples, in units of the batch's mean distance.

  .. math:: \frac{1}{B} \sum_j h\left(\frac{d^s_{ij}}{\bar d^s} - \frac{d^t_{ij}}{\bar d^t}\right), \qquad
    d_{ij} = |f_i - f_j|

  with h Huber's function (δ = 1) and the mean over the pairs that are apart. It does not change when the features of
  the batch are scaled, rotated or moved as a whole.

  Args:
    student_features: any shape after the batch's axis, as a last layer averaged over the places; computed in float32 at
      least, with B² d numbers of features of d.
    teacher_features: of the same examples, of any shape; no gradient flows into them.
    where: examples to count; the others give 0 and no gradient, and no part to the others.

  Returns:
    One number per example, which depends on the batch; the mean is the source's, whose weight is 25 on CIFAR-100.

  Raises:
    ValueError: one is no batch of features, or they are not of the same examples.

  >>> points = jnp.array([[0.], [1.], [3.]])
  >>> relational_distance(points, 5 - 2 * points).round(6).tolist()
  [0.0, 0.0, 0.0]

  Source: Park et al. 2019 (RKD). The mean over all j has the trivial i = j in it, as the authors' code has.
  """
  student, teacher = (small(flat(f), None) for f in both(student_features, teacher_features, where))
  weight, number = pairs(where, student)
  ours, theirs = (_in_units(root(jnp.square(f[:, None] - f[None]).sum(-1)), weight) for f in (student, teacher))
  return (weight * optax.losses.huber_loss(ours, theirs)).sum(1) / number


def _in_units(distances: Array, weight: Array) -> Array:
  apart = weight * (distances > 0).astype(weight.dtype)
  mean = (apart * distances).sum() / jnp.maximum(apart.sum(), 1)
  return distances / jnp.where(mean > 0, mean, jnp.ones_like(mean))


def relational_angle(
  student_features: Float[Array, 'b ...'],
  teacher_features: Float[Array, 'b ...'],
  *,
  where: Bool[Array, ' b'] | None = None,
) -> Float[Array, ' b']:
  r"""Compares the angles under which each example sees two others.

  .. math:: \frac{1}{B^2} \sum_{jk} h\bigl(\cos^s_{ijk} - \cos^t_{ijk}\bigr), \qquad
    \cos_{ijk} = \left\langle \frac{f_j - f_i}{|f_j - f_i|}, \frac{f_k - f_i}{|f_k - f_i|} \right\rangle

  with h Huber's function (δ = 1). It does not change when the features of the batch are scaled, rotated or moved as a
  whole.

  Args:
    student_features: any shape after the batch's axis; computed in float32 at least, with B³ cosines and B² d numbers.
    teacher_features: of the same examples, of any shape; no gradient flows into them.
    where: examples to count; the others give 0 and no gradient, and no part to the others.

  Returns:
    One number per example, which depends on the batch; the mean is the source's, whose weight is 50 on CIFAR-100.

  Raises:
    ValueError: as of ``relational_distance``.

  >>> corner = jnp.array([[0., 0.], [1., 0.], [0., 1.]])
  >>> relational_angle(corner, 3 * corner + 1).round(6).tolist()
  [0.0, 0.0, 0.0]

  Source: Park et al. 2019 (RKD). The mean over all j and k has the trivial ones in it, as the
  authors' code has; examples that are the same point have the cosine 0, where the formula has no value.
  """
  student, teacher = (small(flat(f), None) for f in both(student_features, teacher_features, where))
  weight, number = pairs(where, student)
  ours, theirs = (_cosines(f) for f in (student, teacher))
  each = jax.vmap(lambda row, of_three: (row[:, None] * row[None, :] * of_three).sum())
  return each(weight, optax.losses.huber_loss(ours, theirs)) / jnp.square(number)


def _cosines(features: Array) -> Float[Array, 'b b b']:
  towards = unit(features[None] - features[:, None])
  return jnp.einsum('ijd,ikd->ijk', towards, towards, precision='highest')
