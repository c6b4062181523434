"""Losses that ask a student to agree with its teacher but for scale: DIST, and R2KD's terms."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from lmajax.losses._rows import Number, check_logits, check_weight, only, tempered

_EPSILON = 1e-8


def dist(
  student_logits: Float[Array, '*batch classes'],
  teacher_logits: Float[Array, '*batch classes'],
  *,
  temperature: Number = 4.0,
  within_weight: Number = 1.0,
  across_weight: Number = 1.0,
  where: Bool[Array, '*batch'] | None = None,
) -> Float[Array, '*batch']:
  r"""Compares the probabilities by correlation, within each example and of each class across the examples.

  .. math::
    T^2 \bigl[\beta\,(1 - \rho(q_i, p_i)) + \gamma\,(1 - \overline{\rho(q_{\cdot c}, p_{\cdot c})})\bigr], \qquad
    \rho(a, b) = \frac{\langle a', b'\rangle + \epsilon}{\sqrt{(|a'|^2 + \epsilon)(|b'|^2 + \epsilon)}}

  with q and p the student's and the teacher's probabilities at T, and a', b' less their means; ε is 1e-8.

  Args:
    student_logits: unnormalized, the classes last; computed in float32 at least. All leading axes are one batch.
    teacher_logits: like ``student_logits``; no gradient flows into them.
    temperature: T > 0; in the source 4 on CIFAR and 1 on ImageNet.
    within_weight: β, of the correlation of each example over the classes; 2 in the source, beside labels of weight 1.
    across_weight: γ, of the mean correlation of the classes over the examples; 2 in the source.
    where: examples (or tokens) to count; the others give 0 and no gradient, and no part to the classes.

  Returns:
    One number per example. The second part is of the batch, and each example gets the whole of it.

  Raises:
    ValueError: a weight is negative, or as of ``soft_targets``.

  >>> z = jnp.array([[1., 0., 2.], [0., 3., 1.]])
  >>> dist(z, z).tolist()
  [0.0, 0.0]

  Source: Huang et al. 2022 (DIST). The authors add 1e-8 to the product of the norms, by which agreement is not the
  minimum; here a' and b' get one more coordinate of √ε, by which it is. ε keeps the gradient of what hardly varies
  small: with a hundredth of it students diverge. So the loss fades where the probabilities vary by less than 1e-4, as
  those of 100,000 classes do; there the authors' goes to 1 and this one to 0.
  """
  check_weight('within_weight', within_weight)
  check_weight('across_weight', across_weight)
  check_logits(student_logits, teacher_logits, where, temperature)
  student, teacher = (jax.nn.softmax(z) for z in tempered(student_logits, teacher_logits, temperature, where))
  rows, columns = _both_ways(_centred, student, teacher, where)
  return only(temperature**2 * (within_weight * rows + across_weight * columns), where)


def value_agreement(
  student_logits: Float[Array, '*batch classes'],
  teacher_logits: Float[Array, '*batch classes'],
  *,
  temperature: Number = 4.0,
  where: Bool[Array, '*batch'] | None = None,
) -> Float[Array, '*batch']:
  r"""Compares the probabilities by cosine, within each example and of each class across the examples.

  .. math:: T^2 \bigl[(1 - \cos(q_i, p_i)) + (1 - \overline{\cos(q_{\cdot c}, p_{\cdot c})})\bigr]

  Args:
    student_logits: unnormalized, the classes last; computed in float32 at least. All leading axes are one batch.
    teacher_logits: like ``student_logits``; no gradient flows into them.
    temperature: T > 0; 4 in the source, which weighs the whole by 2.
    where: examples (or tokens) to count; the others give 0 and no gradient, and no part to the classes.

  Returns:
    One number per example; the second part is of the batch, as in ``dist``.

  Raises:
    ValueError: as of ``soft_targets``.

  >>> z = jnp.array([[1., 0., 2.], [0., 3., 1.]])
  >>> value_agreement(z, z).tolist()
  [0.0, 0.0]

  Source: the value term of robustness-reinforced distillation, R2KD (2023), as its code computes it, where the cosine's
  absolute value is taken: of probabilities it is never negative. ε as in ``dist``, our choice.
  """
  check_logits(student_logits, teacher_logits, where, temperature)
  student, teacher = (jax.nn.softmax(z) for z in tempered(student_logits, teacher_logits, temperature, where))
  rows, columns = _both_ways(lambda x, _where, _axis: x, student, teacher, where)
  return only(temperature**2 * (rows + columns), where)


def rank_agreement(
  student_logits: Float[Array, '*batch classes'],
  teacher_logits: Float[Array, '*batch classes'],
  *,
  temperature: Number = 1.0,
  where: Bool[Array, '*batch'] | None = None,
) -> Float[Array, '*batch']:
  r"""Compares in which order the classes come, by the correlation of soft ranks.

  .. math:: 1 - \rho(r(z^s), r(z^t)), \qquad r_i(z) = \sum_j \frac{1}{1 + e^{(z_j - z_i) / T}}

  ρ is that of ``dist``, with an ε of 1e-8. As T falls to 0, r becomes the rank and ρ Spearman's coefficient, but its
  gradient vanishes.

  Args:
    student_logits: unnormalized and finite, the classes last; computed in float32 at least. C² numbers an example.
    teacher_logits: like ``student_logits``; no gradient flows into them.
    temperature: T > 0, in units of the logits: two classes nearer than this count as partly tied.
    where: examples (or tokens) to count; the others give 0 and no gradient.

  Returns:
    One number per example, from 0 to 2.

  Raises:
    ValueError: as of ``soft_targets``.

  >>> rank_agreement(jnp.array([0., 1., 5.]), jnp.array([0., 1., 5.])).tolist()
  0.0

  Source: ours. R2KD (2023) has Spearman's coefficient of ranks by sorting, which carries no gradient: as released, that
  term trains nothing. Soft ranks by sigmoids of all pairs are those of Qin et al. 2010.
  """
  check_logits(student_logits, teacher_logits, where, temperature)
  both = tempered(student_logits, teacher_logits, temperature, where)
  ranks = [jax.nn.sigmoid(z[..., :, None] - z[..., None, :]).sum(-1) for z in both]
  ours, theirs = (r - r.mean(-1, keepdims=True) for r in ranks)
  return only(_apart(ours, theirs, -1), where)


def _both_ways(
  prepared: Callable[..., Array], student: Array, teacher: Array, where: Array | None
) -> tuple[Array, Array]:
  """How far each example is off over the classes, and the classes, on the mean, over the examples."""
  classes = student.shape[-1]
  some = None if where is None else where.reshape(-1, 1)
  flat = [chances.reshape(-1, classes) for chances in (student, teacher)]
  if some is not None:
    flat = [jnp.where(some, chances, jnp.zeros_like(chances)) for chances in flat]
  ours, theirs = flat
  rows = _apart(prepared(ours, None, 1), prepared(theirs, None, 1), 1).reshape(student.shape[:-1])
  return rows, _apart(prepared(ours, some, 0), prepared(theirs, some, 0), 0).mean()


def _centred(x: Array, where: Array | None, axis: int) -> Array:
  if where is None:
    return x - x.mean(axis, keepdims=True)
  mean = x.sum(axis, keepdims=True) / jnp.maximum(where.sum(axis, keepdims=True, dtype=x.dtype), 1)
  return jnp.where(where, x - mean, jnp.zeros_like(x))


def _apart(a: Array, b: Array, axis: int) -> Array:
  """1 - ρ, as half the squared difference of unit vectors: near agreement no digits are lost."""
  lengths = [jnp.sqrt(jnp.square(v).sum(axis, keepdims=True) + _EPSILON) for v in (a, b)]
  of_vectors = jnp.square(a / lengths[0] - b / lengths[1]).sum(axis)
  of_last = _EPSILON * jnp.square(1 / lengths[0] - 1 / lengths[1]).squeeze(axis)
  return (of_vectors + of_last) / 2
