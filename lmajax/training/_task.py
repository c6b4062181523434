"""What is trained, and by what, as one value: a network on its labels, or a student under a teacher."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp

from lmajax._arguments import check_floats, shown
from lmajax.training._criteria import Criterion, beside, compared
from lmajax.training._forward import Network, network_of
from lmajax.training._objectives import Taught, distilled, mixed, supervised, teach
from lmajax.training._step import as_it_is
from lmajax.types import Array, EndToEnd, Frozen, Key, Objective, Params, Share


class Told(NamedTuple):
  """A batch with what a teacher, who is not here, said of it: logits, or what they are made from.

  >>> Told._fields
  ('inputs', 'labels', 'said')
  """

  inputs: Any
  labels: Any
  said: Any


class Task(NamedTuple):
  """What ``fit`` trains, and by what: a network, its objective, and what the objective looks at.

  ``distill`` makes the usual one; a network alone is trained on its labels.

  Attributes:
    network: is trained.
    objective: (params, stats, frozen, batch, key) -> (loss, (stats, metrics)), where frozen is what ``share`` makes.
    share: (frozen, batch) -> what the objective looks at.
    frozen: what nothing trains, as a teacher's variables.
    said: an array with a row for each example of the data, which comes with each batch as ``batch.said``.
    beside: draws what the objective trains beside the network.

  >>> model = MLP((2,), 3, LMA)
  >>> on_sparse_weights = training.penalized(supervised(model), lambda path, leaf: path.endswith('kernel'), 1e-4)
  >>> Task(training.linen(model), on_sparse_weights).frozen is None
  True
  """

  network: Network
  objective: Objective
  share: Share = as_it_is
  frozen: Frozen = None
  said: Array | None = None
  beside: Callable[[Key, Any], Params] | None = None


class _Logits(NamedTuple):
  of_examples: Array


def logits(of_examples: Any) -> _Logits:
  """Stands for a teacher that is not here, by its logits of the training examples.

  They are those of the examples as they are: where inputs are augmented, the teacher does not see how.

  Args:
    of_examples: [n, classes] floats, in the order of the data.

  Raises:
    ValueError: it is no such array.

  >>> task = training.distill(MLP((2,), 3, LMA), training.logits(np.zeros((5, 3), np.float32)))
  >>> task.said.shape
  (5, 3)

  Source: not in the paper.
  """
  check_floats('logits', of_examples, least_rank=2)
  return _Logits(of_examples)


def distill(student: Any, teacher: Any, *, loss: EndToEnd | Criterion | None = None) -> Task:
  """Makes the task of training a student under a teacher.

  Args:
    student: a Linen module or a ``Network``.
    teacher: a ``Network`` that holds its weights (``linen(module, variables)``, ``nnx(module)``,
      ``function(apply, params)``), what ``fit`` gave, or its ``logits`` of the training examples.
    loss: of the student's logits, ``Taught`` and the batch; or a ``Criterion``, which looks at taps too and may train
      parameters of its own. By default ``mixed`` with the paper's T of 2 and weight of .7, and of data without labels
      the soft targets alone.

  Raises:
    ValueError: one is no network, the teacher holds no weights, or is ``logits`` where a criterion is given.

  >>> model = MLP((2,), 3, LMA)
  >>> variables = model.init(jax.random.key(0), jnp.ones((1, 4)), train=False)
  >>> task = training.distill(model, training.linen(model, variables))
  >>> sorted(task.frozen)
  ['batch_stats', 'params']

  Source: Hinton et al. 2015, section 2; the LMA paper, equation 5.
  """
  network = network_of(student)
  with_beside = isinstance(loss, Criterion)
  if loss is not None and not with_beside and not callable(loss):
    raise ValueError(f'loss is {shown(loss)}: give a function of logits, Taught and the batch, or a criterion')
  if isinstance(teacher, _Logits):
    if with_beside:
      raise ValueError(
        'loss is a criterion, and the teacher is its logits alone: give a loss of logits, or the teacher'
      )
    return Task(network, distilled(network, loss or _usual), _told, None, teacher.of_examples)
  of_teacher = network_of(getattr(teacher, 'fixed', teacher))
  frozen = of_teacher.variables()
  if with_beside:
    return Task(network, compared(network, loss), teach(of_teacher), frozen, None, beside(network, of_teacher, loss))
  return Task(network, distilled(network, loss or _usual), teach(of_teacher), frozen)


def task_of(task: Any) -> Task:
  """Returns a task as it is, and makes one of a network: to be trained on its labels.

  >>> task_of(MLP((2,), 3, LMA)).said is None
  True

  Raises:
    ValueError: it is neither a task nor a network.

  Source: not in the paper.
  """
  if isinstance(task, Task):
    return task
  network = network_of(task)
  return Task(network, supervised(network))


def _usual(logits: Array, taught: Taught, batch: Any) -> Array:
  return mixed(temperature=2.0, soft_weight=1.0 if batch.labels is None else 0.7)(logits, taught, batch)


def _told(frozen: Frozen, batch: Any) -> Taught:
  del frozen
  return Taught(batch.said.astype(jnp.float32), ())
