"""Criteria with parameters of their own: projectors onto a teacher's taps, and classifiers on inner taps."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from lmajax._arguments import as_given, check_floats, is_count
from lmajax.losses import distillation, representation_error, soft_targets, to_smaller
from lmajax.training._criteria import Criterion
from lmajax.training._objectives import Taught
from lmajax.types import Array, Key, Params


def projected(*, student_at: int = -1, teacher_at: int = -1) -> Criterion:
  r"""Compares a tap of the student with one of the teacher, through a linear map that is trained beside the student.

  .. math:: \frac{1}{n} \sum_j (W s_j + b - t_j)^2

  Where they are maps, W is the same at each place, and the larger map is averaged over blocks first.

  Args:
    student_at: the number of the student's tap; -1 is the last.
    teacher_at: the number of the teacher's tap.

  Raises:
    ValueError: from ``init``: a network gives no such tap, or the two cannot be brought to one size.

  >>> student, teacher = (training.Taught(jnp.zeros((2, 3)), (jnp.ones((2, width)),)) for width in (4, 8))
  >>> params = training.projected().init(jax.random.key(0), student, teacher)
  >>> params['kernel'].shape, training.projected().loss(params, 0, student, teacher, None).shape
  ((4, 8), (2,))

  Source: Romero et al. 2015 (FitNets), where the map is a convolution of as many places as the sizes differ; in
  RepDistiller's code a batch norm and a ReLU follow it. One linear map for each place is a choice. Its weight there is
  100, and its taps are those in the middle of the networks.
  """

  def both(student: Taught, teacher: Taught) -> tuple[Array, Array]:
    return to_smaller(_tap('student', student, student_at), _tap('teacher', teacher, teacher_at))

  def init(key: Key, student: Taught, teacher: Taught) -> Params:
    own, other = jax.eval_shape(both, student, teacher)
    return _dense(key, own.shape[-1], other.shape[-1])

  def loss(params: Params, step: Array | int, student: Taught, teacher: Taught, batch: Any) -> Array:
    del step, batch
    own, other = both(student, teacher)
    return representation_error(_through(params, own), other)

  return Criterion(init, loss)


def heads(
  *, temperature: float = 4.0, student_at: Sequence[int] = (-2,), teacher_at: Sequence[int] = (-2,)
) -> Criterion:
  r"""Teaches classifiers on inner taps of the student by classifiers on the teacher's, all trained beside it.

  .. math::
    \overline{T^2\,\mathrm{KL}\bigl(\mathrm{softmax}(h^t_i / T) \,\|\, \mathrm{softmax}(h^s_i / T)\bigr)
    - \log \mathrm{softmax}(h^t_i)_y}

  over the pairs i. A head h is the mean over the places, and a linear map. The teacher's heads learn from the labels y,
  the student's from them; the teacher itself does not change.

  Args:
    temperature: T.
    student_at: numbers of the student's taps; -2 is the last but one.
    teacher_at: numbers of the teacher's, one for each.

  Raises:
    ValueError: the two are not equally many; from ``init``, a network gives no such tap; from ``loss``, there are no
      labels.

  >>> tap = jnp.ones((2, 5, 5, 4))
  >>> said = training.Taught(jnp.zeros((2, 3)), (tap, tap))
  >>> params = training.heads().init(jax.random.key(0), said, said)
  >>> len(params['student']), training.heads().loss(params, 0, said, said, Batch(None, jnp.array([0, 1]))).shape
  (1, (2,))

  Source: a form of ours of multi-head knowledge distillation (Wang et al. 2020, arXiv 2012.02911). Its abstract says
  that auxiliary classifiers of teacher and student are compared, and adds terms for the dissimilarity of their outputs,
  which are not here; the classifiers, the weights and T are choices.
  """
  if not (isinstance(student_at, Sequence) and isinstance(teacher_at, Sequence)):
    raise ValueError(
      f'student_at is {as_given(student_at)} and teacher_at {as_given(teacher_at)}: give tuples of numbers'
    )
  if len(student_at) != len(teacher_at) or not student_at:
    given = f'{len(student_at)} taps of the student and {len(teacher_at)} of the teacher'
    raise ValueError(f'there are {given}: give as many of each, at least one')

  def taps(name: str, said: Taught, at: Sequence[int]) -> list[Array]:
    return [_pooled(_tap(name, said, i)) for i in at]

  def init(key: Key, student: Taught, teacher: Taught) -> Params:
    classes, keys = student.logits.shape[-1], iter(jax.random.split(key, 2 * len(student_at)))
    sides = (('student', student, student_at), ('teacher', teacher, teacher_at))
    widths = {name: jax.eval_shape(partial(taps, name, at=at), said) for name, said, at in sides}
    return {name: [_dense(next(keys), each.shape[-1], classes) for each in found] for name, found in widths.items()}

  def loss(params: Params, step: Array | int, student: Taught, teacher: Taught, batch: Any) -> Array:
    del step
    if batch.labels is None:
      raise ValueError('the data have no labels, from which the heads of the teacher learn: give some')
    own, other = taps('student', student, student_at), taps('teacher', teacher, teacher_at)
    total = jnp.zeros(student.logits.shape[:1])
    for mine, theirs, of_student, of_teacher in zip(own, other, params['student'], params['teacher'], strict=True):
      said = _through(of_teacher, theirs)
      total += soft_targets(_through(of_student, mine), said, temperature=temperature)
      total += distillation(said, said, batch.labels, soft_weight=0.0)
    return total / len(own)

  return Criterion(init, loss)


def _tap(name: str, said: Taught, at: int) -> Array:
  number = len(said.taps)
  if not is_count(at):
    raise ValueError(f'tap {as_given(at)} of the {name} is asked for: give a whole number')
  if not -number <= at < number:
    gives = f'{number} taps' if number else 'no taps'
    raise ValueError(
      f'tap {at} of the {name} is asked for, which gives {gives}: let it give logits and a tuple of taps'
    )
  check_floats(f'tap {at} of the {name}', said.taps[at], least_rank=2)
  return said.taps[at]


def _pooled(tap: Array) -> Array:
  return tap.mean(tuple(range(1, tap.ndim - 1))) if tap.ndim > 2 else tap


def _dense(key: Key, inputs: int, outputs: int) -> Params:
  kernel = jax.nn.initializers.lecun_normal()(key, (inputs, outputs))
  return {'kernel': kernel, 'bias': jnp.zeros(outputs)}


def _through(params: Params, features: Array) -> Array:
  made = features.astype(params['kernel'].dtype) @ params['kernel']
  return made + jnp.broadcast_to(params['bias'], made.shape)
