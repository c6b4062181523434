"""Parameters that are trained beside a student's and do not ship."""

from typing import Any, NamedTuple

from lmajax.types import ModelStats, Params, Theta


class WithBeside(NamedTuple):
  """A student's parameters, and those that its criterion trains beside them and that do not ship: projectors, heads.

  >>> WithBeside(student={}, beside=())._fields
  ('student', 'beside')
  """

  student: Theta
  beside: Params


def alone(params: Any) -> Theta:
  """Returns a student's parameters without those beside it.

  >>> alone(WithBeside(student=1, beside=2)), alone(1)
  (1, 1)

  Source: not in the paper.
  """
  return params.student if isinstance(params, WithBeside) else params


def without_count(stats: ModelStats) -> ModelStats:
  """Returns a student's running statistics without the count of steps that a criterion keeps among them."""
  return {name: part for name, part in stats.items() if name != 'beside'} if 'beside' in stats else stats
