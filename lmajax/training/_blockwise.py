"""Training block by block against a teacher's representations: FitNets' hints, and LIT."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lmajax._arguments import as_given, is_between
from lmajax.losses import representation_error
from lmajax.training._objectives import Taught
from lmajax.types import Array, EndToEnd, Key, ModelStats, Objective, Params, Tap

_FED = 0xFED  # keeps the noise of the representations apart from the dropout's


class Parts(NamedTuple):
  """Parameters and statistics with which the parts of a ``Staged`` model run, one after another.

  >>> model, x = MLP((2, 2), 3, linen.ReLU), jnp.ones((1, 4))
  >>> variables = model.init(jax.random.key(0), x, train=False)
  >>> params = variables.pop('params')
  >>> stem, parts = Parts(params, variables, jax.random.key(0)).run(model, 'stem', x, train=True)
  >>> taps, parts = parts.through(model, stem, 2)
  >>> [tap.shape for tap in taps]
  [(1, 4), (1, 2), (1, 2)]
  """

  params: Params
  stats: ModelStats
  key: Key

  def run(self, model: Any, part: str, *args: Any, train: bool) -> tuple[Any, 'Parts']:
    """The output of ``stem``, ``stage`` or ``head``, and the statistics as that part moves them in training."""
    variables, dropout = {'params': self.params, **self.stats}, {'dropout': self.key}
    options = {'method': part, 'train': train, 'rngs': dropout, 'mutable': list(self.stats)}
    output, moved = model.apply(variables, *args, **options)
    return output, self._replace(stats=moved if train else self.stats)

  def through(self, model: Any, stem: Tap, stages: int) -> tuple[tuple[Tap, ...], 'Parts']:
    """The taps from that of the stem on, each stage in training mode on what the one before it gave."""
    taps, kept = [stem], self
    for i in range(stages):
      tap, kept = kept.run(model, 'stage', i, taps[-1], train=True)
      taps.append(tap)
    return tuple(taps), kept


Distance = Callable[[Array, Array], Array]


def hint(student: Any, stage: int, *, distance: Distance = optax.losses.squared_error) -> Objective:
  """Trains the stages up to one against the teacher's output of it: the first phase of FitNets.

  Args:
    student: a ``Staged`` module as wide as its teacher.
    stage: the number of the last stage that runs, on the student's own activations.
    distance: elementwise, as of ``losses.representation_error``.

  Returns:
    The objective; frozen is ``Taught``.

  >>> model, batch = MLP((2,), 3, linen.ReLU), Batch(jnp.ones((1, 4)), jnp.array([0]))
  >>> variables = model.init(jax.random.key(0), batch.inputs, train=False)
  >>> params, stats = variables['params'], {'batch_stats': variables['batch_stats']}
  >>> logits, taps = model.apply(variables, batch.inputs, train=False)
  >>> hint(model, 0)(params, stats, Taught(logits, taps), batch, jax.random.key(0))[0].shape
  ()

  Source: Romero et al. 2015 (FitNets), equation 3, without a regressor, since both are as wide.
  """

  def objective(params: Params, stats: ModelStats, frozen: Taught, batch: Any, key: Key):
    stem, kept = Parts(params, stats, key).run(student, 'stem', batch.inputs, train=True)
    taps, kept = kept.through(student, stem, stage + 1)
    return representation_error(taps[-1], frozen.taps[stage + 1], distance=distance).mean(), (kept.stats, {})

  return objective


class Stages(NamedTuple):
  """Names the stages of a student that are given the teacher's representations, and those that are compared with them.

  >>> Stages(beta=0.5, fed=(0, 1, 2), compared=(0, 1, 2)).noise
  0.0
  """

  beta: float
  """β, the weight of the loss of the student's own logits, from 0 to 1."""
  fed: Sequence[int]
  """Stages that take the teacher's output of the stage before."""
  compared: Sequence[int]
  """Stages whose output is held against the teacher's."""
  noise: float = 0.0
  """The deviation of Gaussian noise on what is fed."""


def blockwise(
  student: Any, end_to_end: EndToEnd, stages: Stages, *, distance: Distance = optax.losses.squared_error
) -> Objective:
  r"""Trains a student stage by stage on what its teacher's stages are given and give (LIT).

  .. math:: \beta\,L(z) + (1 - \beta) \sum_{i} \overline{d\bigl(S_i(t_{i-1}), t_i\bigr)}

  The ``fed`` stages take the teacher's output of the stage before (with Gaussian noise of that deviation); the others
  go on from what the stage before them gave, and those before the first that is fed are the student's own, from its
  inputs. The outputs of the ``compared`` ones are held against the teacher's; no stage runs for nothing. Stem and head
  run in evaluation mode: they are the teacher's, statistics and all. Statistics move first under the student's own
  activations, then stage by stage under the teacher's, as in the authors' CIFAR code.

  Args:
    student: a ``Staged`` module as wide as its teacher, whose stem and head it has (``with_ends``).
    end_to_end: L, a loss of the student's own logits z, ``Taught`` and the batch.
    stages: β, and which stages are fed and compared.
    distance: d, elementwise.

  Returns:
    The objective, whose metrics are ``error_i`` of each stage; frozen is ``Taught``.

  Raises:
    ValueError: β is outside [0, 1].

  >>> model, batch = MLP((2,), 3, linen.ReLU), Batch(jnp.ones((1, 4)), jnp.array([0]))
  >>> variables = model.init(jax.random.key(0), batch.inputs, train=False)
  >>> params, stats = variables['params'], {'batch_stats': variables['batch_stats']}
  >>> logits, taps = model.apply(variables, batch.inputs, train=False)
  >>> objective = blockwise(model, mixed(temperature=2.0, soft_weight=1.0), Stages(0.0, fed=(0,), compared=(0,)))
  >>> loss, (_, metrics) = objective(params, stats, Taught(logits, taps), batch, jax.random.key(0))
  >>> bool(loss == metrics['error_0'])
  True

  Source: Koratana et al. 2019 (LIT), section 3.
  """
  beta, fed, compared, noise = stages
  if not is_between(beta, 0.0, 1.0):
    raise ValueError(f'beta is {as_given(beta)}, and must lie between 0 and 1')
  fed_at = {i: max((f for f in fed if f <= i), default=-1) for i in compared} if beta < 1 else {}
  own = [i for i, f in fed_at.items() if f < 0]
  taught = sorted({i for last, f in fed_at.items() if f >= 0 for i in range(f, last + 1)})

  def objective(params: Params, stats: ModelStats, frozen: Taught, batch: Any, key: Key):
    kept, loss, given = Parts(params, stats, key), jnp.zeros(()), {}
    if beta > 0 or own:
      stem, kept = kept.run(student, 'stem', batch.inputs, train=False)
      taps, kept = kept.through(student, stem, len(frozen.taps) - 1 if beta > 0 else max(own) + 1)
      given = {i: taps[i + 1] for i in own}
      if beta > 0:
        logits, kept = kept.run(student, 'head', taps[-1], train=False)
        loss += beta * end_to_end(logits, frozen, batch)
    for i in taught:
      tap = _noisy(frozen.taps[i], noise, jax.random.fold_in(key, _FED + i)) if i in fed else given[i - 1]
      given[i], kept = kept.run(student, 'stage', i, tap, train=True)
    errors = [representation_error(given[i], frozen.taps[i + 1], distance=distance).mean() for i in fed_at]
    metrics = {f'error_{i}': error for i, error in zip(fed_at, errors, strict=True)}
    return loss + (1 - beta) * sum(errors), (kept.stats, metrics)

  return objective


def _noisy(tap: Array, deviation: float, key: Key) -> Array:
  """Adds Gaussian noise to a representation."""
  return tap + deviation * jax.random.normal(key, tap.shape, tap.dtype) if deviation else tap
