"""Decoupled knowledge distillation: what the teacher says of the label, and of the other classes, weighted apart."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from lmajax._arguments import shown
from lmajax.losses._rows import (
  Number,
  check_classes,
  check_logits,
  check_numbers,
  check_weight,
  kl,
  only,
  tempered,
)


def decoupled(
  student_logits: Float[Array, '*batch classes'],
  teacher_logits: Float[Array, '*batch classes'],
  labels: Int[Array, '*batch'],
  *,
  temperature: Number = 4.0,
  others_weight: Number = 8.0,
  where: Bool[Array, '*batch'] | None = None,
) -> Float[Array, '*batch']:
  r"""Divergence in the label's chance, and among the other classes, each with a weight of its own.

  .. math::
    T^2 \bigl[\mathrm{KL}(b^t \,\|\, b^s) + \beta\,\mathrm{KL}(\hat p^t \,\|\, \hat p^s)\bigr], \qquad
    b = (p_y, 1 - p_y), \quad \hat p_c = \frac{p_c}{1 - p_y} \text{ for } c \neq y

  With β = 1 - p_y of the teacher, another in each example, this is ``soft_targets``: there a teacher that is sure
  hides what it knows of the other classes.

  Args:
    student_logits: unnormalized, the classes last; computed in float32 at least.
    teacher_logits: like ``student_logits``; no gradient flows into them.
    labels: class numbers y.
    temperature: T > 0; 4 in the source.
    others_weight: β; in the source 2 to 8 by the pair of networks: 2 for ResNet-56 → 20, 6 for WRN-40-2 → 16-2, 8 for
      ResNet-32x4 → 8x4. The source has a weight α of the first part too, which is 1 in all of these, and lets the
      whole grow evenly over the first 20 epochs.
    where: examples (or tokens) to count; the others give 0 and no gradient.

  Returns:
    One number per example, in nats. Of two classes there is one other, and the second part is 0.

  Raises:
    ValueError: the weight is negative, the labels are no class numbers, there is one class, or as of ``soft_targets``.

  >>> s, t = jnp.array([2., 1., 0.]), jnp.array([2., 0., 1.])  # they disagree on the other classes alone
  >>> round(float(decoupled(s, t, jnp.array(0), temperature=1.0, others_weight=1.0)), 4)  # tanh(1 / 2)
  0.4621

  Source: Zhao et al. 2022 (DKD). The authors' code takes logarithms of sums of a softmax, which are
  infinite at logits of ±600, and subtracts 1,000 from the label's logit; here both are logsumexp.
  """
  check_weight('others_weight', others_weight)
  check_logits(student_logits, teacher_logits, where, temperature)
  check_numbers(labels, student_logits)
  if student_logits.shape[-1] < 2:
    raise ValueError(f'student_logits is {shown(student_logits)}; give two classes or more')
  labels = labels if where is None else jnp.where(where, labels, jnp.zeros_like(labels))
  check_classes(labels, student_logits.shape[-1])
  is_label = jax.nn.one_hot(labels, student_logits.shape[-1], dtype=bool)
  both = tempered(student_logits, teacher_logits, temperature, where)
  others = [jnp.where(is_label, -jnp.inf, logits) for logits in both]
  own = [jnp.where(is_label, logits, jnp.zeros_like(logits)).sum(-1) for logits in both]
  binary = [jnp.stack([z, jax.nn.logsumexp(rest, -1)], -1) for z, rest in zip(own, others, strict=True)]
  return only(temperature**2 * (kl(*binary) + others_weight * kl(*others)), where)
