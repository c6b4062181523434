"""The divergences between a teacher's KL and the student's."""

from jaxtyping import Array, Bool, Float

from lmajax._arguments import as_given, is_between
from lmajax.losses._rows import Number, check_logits, kl, only, tempered, to_mixture


def jensen_shannon(
  student_logits: Float[Array, '*batch classes'],
  teacher_logits: Float[Array, '*batch classes'],
  *,
  share: float = 0.5,
  temperature: Number = 1.0,
  where: Bool[Array, '*batch'] | None = None,
) -> Float[Array, '*batch']:
  r"""Generalizes the Jensen-Shannon divergence: at one end is the KL of ``soft_targets``, at the other the reverse KL.

  .. math::
    T^2 \bigl[\beta\,\mathrm{KL}(p \,\|\, m) + (1 - \beta)\,\mathrm{KL}(q \,\|\, m)\bigr], \qquad
    m = \beta p + (1 - \beta) q

  with p the teacher's and q the student's distribution at T. The forward KL asks the student to cover all that the
  teacher holds possible, the reverse KL to keep to what the teacher holds likely.

  Args:
    student_logits: unnormalized, the classes last; computed in float32 at least.
    teacher_logits: like ``student_logits``; no gradient flows into them.
    share: β; one half is the symmetric divergence, which is at most log 2 (times T²). The formula vanishes toward both
      ends, so that 0 stands for KL(p ‖ q) and 1 for KL(q ‖ p), as in TRL.
    temperature: T > 0.
    where: examples (or tokens) to count; the others give 0 and no gradient.

  Returns:
    One number per example, in nats.

  Raises:
    ValueError: the share lies outside [0, 1], or as of ``soft_targets``.

  >>> apart = jnp.array([0., 99.]), jnp.array([99., 0.])
  >>> round(float(jensen_shannon(*apart)), 4)  # log 2
  0.6931

  Source: Agarwal et al. 2024 (GKD). The factor T² is ours, as in all losses
  here; the source has T = 1, where it makes no difference.
  """
  if not is_between(share, 0.0, 1.0):
    raise ValueError(f'share is {as_given(share)}, and must lie between 0 and 1')
  check_logits(student_logits, teacher_logits, where, temperature)
  student, teacher = tempered(student_logits, teacher_logits, temperature, where)
  return only(temperature**2 * _between(student, teacher, share), where)


def _between(student: Array, teacher: Array, share: float) -> Array:
  if 1 - share in (0, 1):
    return kl(teacher, student) if share == 1 else kl(student, teacher)
  of_teacher, of_student = to_mixture(student, teacher, share), to_mixture(teacher, student, 1 - share)
  return share * of_teacher + (1 - share) * of_student
