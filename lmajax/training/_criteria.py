"""Criteria: what a student and its teacher give, compared, with what is trained beside the student for it."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lmajax._arguments import as_given, is_between, shown
from lmajax.losses import distillation
from lmajax.training._beside import WithBeside, without_count
from lmajax.training._forward import logits_of, network_of, parted, taps_of
from lmajax.training._objectives import Taught
from lmajax.training._step import Progress
from lmajax.types import Array, Key, ModelStats, Objective, Params

_MOST = float(np.finfo(np.float32).max)
_BESIDE = 0xBE51DE  # keeps these draws apart from the weights'


class Criterion(NamedTuple):
  """A loss of all that a student and its teacher give, and of parameters that are trained beside the student.

  Attributes:
    init: (key, student, teacher) -> the parameters, from the shapes of what the two give.
    loss: (parameters, step, student, teacher, batch) -> a scalar, or a number for each example.

  >>> teacher = MLP((8,), 3, LMA)
  >>> variables = teacher.init(jax.random.key(0), jnp.ones((5, 4)), train=False)
  >>> alike = training.criterion(lambda s, t, batch: losses.similarity_preserving(s.taps[-1], t.taps[-1]))
  >>> loss = training.weighted((1.0, training.of_labels()), (3000.0, alike))
  >>> training.distill(MLP((4,), 3, LMA), training.linen(teacher, variables), loss=loss).said is None
  True
  """

  init: Callable[[Key, Taught, Taught], Params]
  loss: Callable[[Params, Array | int, Taught, Taught, Any], Array]


Examples = Callable[[Taught, Taught, Any], Array]
"""(student, teacher, batch) -> a scalar, or a number for each example."""
Schedule = Callable[[Any], Any]
"""The step, from 0 -> a number: as optax's schedules."""


def criterion(loss: Examples) -> Criterion:
  """Makes a criterion of a loss that trains nothing of its own.

  Args:
    loss: (student, teacher, batch) -> a scalar, or a number for each example, of which the mean counts.

  >>> kl = training.criterion(lambda student, teacher, batch: losses.soft_targets(student.logits, teacher.logits))
  >>> z = training.Taught(jnp.zeros((1, 2)), ())
  >>> round(float(kl.loss((), 0, z, training.Taught(jnp.array([[9., -9.]]), ()), None)[0]), 4)  # log 2
  0.6931

  Source: not in the paper.
  """
  if not callable(loss):
    raise ValueError(f'loss is {shown(loss)}: give a function of what student and teacher give, and the batch')
  return Criterion(lambda key, student, teacher: (), lambda params, step, *given: loss(*given))


def of_labels() -> Criterion:
  """Makes the criterion of the labels alone: the mean cross-entropy.

  >>> batch = Batch(None, jnp.array([0]))
  >>> z = training.Taught(jnp.zeros((1, 2)), ())
  >>> round(float(training.of_labels().loss((), 0, z, z, batch)[0]), 4)  # log 2
  0.6931

  Source: not in the paper.
  """

  def loss(student: Taught, teacher: Taught, batch: Any) -> Array:
    del teacher
    if batch.labels is None:
      raise ValueError('the data have no labels: give some, or criteria that need none')
    return distillation(student.logits, student.logits, batch.labels, soft_weight=0.0)

  return criterion(loss)


def weighted(*parts: tuple[float | Schedule, Criterion]) -> Criterion:
  r"""Adds criteria up, each with a weight.

  .. math:: \sum_i w_i(\mathrm{step})\,L_i

  Args:
    parts: pairs of a weight and a criterion; a weight may be a schedule of optax's, a function of the step.

  Raises:
    ValueError: there is none, or a weight is neither a number nor a function.

  >>> both = training.weighted((0.5, training.of_labels()), (optax.linear_schedule(0.0, 1.0, 10), training.of_labels()))
  >>> z = training.Taught(jnp.zeros((1, 2)), ())
  >>> round(float(both.loss(((), ()), 5, z, z, Batch(None, jnp.array([0])))), 4)  # log 2
  0.6931

  Source: not in the paper.
  """
  if not parts:
    raise ValueError('there are no parts: give at least one pair of a weight and a criterion')
  for part in parts:
    if isinstance(part, Criterion) or not (isinstance(part, tuple) and len(part) == 2):
      raise ValueError(f'a part is {shown(part)}: give pairs of a weight and a criterion')
    weight, of = part
    if not callable(weight) and not is_between(weight, -_MOST, _MOST):
      raise ValueError(f'a weight is {as_given(weight)}: give a finite number, or a function of the step')
    if not isinstance(of, Criterion):
      raise ValueError(f'a part is of {shown(of)}: give a criterion; criterion(…) makes one of a function')

  def init(key: Key, student: Taught, teacher: Taught) -> Params:
    return tuple(part.init(jax.random.fold_in(key, i), student, teacher) for i, (_, part) in enumerate(parts))

  def loss(params: Params, step: Array | int, student: Taught, teacher: Taught, batch: Any) -> Array:
    total = jnp.zeros(())
    for own, (weight, part) in zip(params, parts, strict=True):
      total += (weight(step) if callable(weight) else weight) * part.loss(own, step, student, teacher, batch).mean()
    return total

  return Criterion(init, loss)


def scheduled(make: Callable[[Any], Criterion]) -> Criterion:
  """Makes a criterion anew at each step, as with a temperature that falls.

  Args:
    make: the step, from 0 -> a criterion, always of the same parameters.

  >>> falling = optax.linear_schedule(4.0, 1.0, 100)
  >>> def at(step):
  ...   kl = partial(losses.soft_targets, temperature=falling(step))
  ...   return training.criterion(lambda student, teacher, batch: kl(student.logits, teacher.logits))
  >>> z = training.Taught(jnp.zeros((1, 2)), ())
  >>> float(training.scheduled(at).loss((), jnp.int32(3), z, z, None).sum())
  0.0

  Source: schedules of the temperature as in annealing distillation, Jafari et al. 2021; any function here.
  """
  return Criterion(
    lambda *given: make(0).init(*given), lambda params, step, *given: make(step).loss(params, step, *given)
  )


def compared(student: Any, loss: Criterion) -> Objective:
  """Trains a student by a criterion, and with it what the criterion trains beside it.

  Args:
    student: a Linen module or a ``Network`` that gives logits, and, where the criterion looks at them, taps.
    loss: what is trained by.

  Returns:
    The objective of ``WithBeside`` parameters, which ``accompanied`` makes; frozen is ``Taught``, which
    ``teach`` shares.

  >>> model, batch = MLP((2,), 3, LMA), Batch(jnp.ones((1, 4)), jnp.array([0]))
  >>> tx = optax.sgd(0.1)
  >>> begun = training.begin(model, tx, compress.identity(), jax.random.key(0), batch.inputs)
  >>> drawn = training.beside(model, model, training.of_labels())(jax.random.key(0), batch.inputs)
  >>> state = training.accompanied(begun, tx, drawn).state
  >>> objective, said = training.compared(model, training.of_labels()), training.Taught(jnp.zeros((1, 3)), ())
  >>> _, (stats, _) = objective(state.params, state.stats, said, batch, jax.random.key(1))
  >>> int(stats['beside']['step'])  # it counts, for schedules
  1

  Source: not in the paper.
  """
  network = network_of(student)

  def objective(params: WithBeside, stats: ModelStats, frozen: Taught, batch: Any, key: Key):
    output, moved = network.apply(params.student, without_count(stats), batch.inputs, key)
    step = stats['beside']['step']
    found = loss.loss(params.beside, step, said(output), frozen, batch)
    if not hasattr(found, 'dtype'):
      raise ValueError(f'the criterion gives {shown(found)}: let it give an array')
    return found.mean(), ({**moved, 'beside': {'step': step + 1}}, {})

  return objective


def accompanied(progress: Progress, tx: optax.GradientTransformation, beside: Params) -> Progress:
  """Puts parameters that a criterion trains beside a student that has begun.

  Args:
    progress: as ``begin`` makes it.
    tx: moves both.
    beside: as the function that ``beside`` makes draws them.

  Returns:
    The same with ``WithBeside`` parameters, and with statistics that count the steps under ``beside``.

  >>> model, tx = MLP((2,), 3, LMA), optax.sgd(0.1)
  >>> begun = begin(model, tx, compress.identity(), jax.random.key(0), jnp.zeros((1, 4)))
  >>> state = accompanied(begun, tx, {'kernel': jnp.ones((2, 3))}).state
  >>> state.params.beside['kernel'].shape, sorted(state.stats)
  ((2, 3), ['batch_stats', 'beside'])

  Source: not in the paper.
  """
  params = WithBeside(progress.state.params, beside)
  stats = {**progress.state.stats, 'beside': {'step': jnp.zeros((), jnp.int32)}}
  return progress._replace(state=progress.state._replace(params=params, stats=stats, opt_state=tx.init(params)))


def beside(student: Any, teacher: Any, loss: Criterion) -> Callable[[Key, Any], Params]:
  """Makes the function that draws what a criterion trains beside a student: (key, inputs) -> parameters.

  Args:
    student: a Linen module or a ``Network``.
    teacher: likewise.
    loss: whose parameters they are.

  >>> student, teacher = MLP((2,), 3, LMA), MLP((8,), 3, LMA)
  >>> training.beside(student, teacher, training.projected())(jax.random.key(0), jnp.ones((1, 4)))['kernel'].shape
  (2, 8)

  Source: not in the paper.
  """
  networks = [network_of(each) for each in (student, teacher)]

  def drawn(key: Key, inputs: Any) -> Params:
    key = jax.random.fold_in(key, _BESIDE)

    def gives(network: Any) -> Taught:
      return said(network.apply(*parted(network.variables(key, inputs)), inputs, None)[0])

    own, other = (jax.eval_shape(partial(gives, network)) for network in networks)
    return loss.init(key, own, other)

  return drawn


def said(output: Any) -> Taught:
  """Takes logits and taps out of what a model gives."""
  return Taught(logits_of(output), taps_of(output))
