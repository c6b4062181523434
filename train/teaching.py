"""How students are taught: options that commands share, and losses by name, with the weights of their sources."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lmajax import losses
from lmajax.compress import identity
from lmajax.training import (
  Criterion,
  Taught,
  accompanied,
  begin,
  beside,
  compared,
  criterion,
  distilled,
  heads,
  mixed,
  network_of,
  of_labels,
  projected,
  teach,
  weighted,
)
from lmajax.types import Array, Batch, EndToEnd, Key, Objective, Params
from train.runtime.errors import UserError
from train.runtime.options import require, text

OfLogits = Callable[[Array, Array, Array, Array | None], Array]
"""(student, teacher, labels, which count) -> a number for each example or token."""


class Loss(NamedTuple):
  """A loss of students under a teacher, beside the labels, as it was published."""

  labels: float  # the weight of the labels
  weight: float  # that of the next
  of: OfLogits | Criterion  # compares logits, or taps too
  numbers: bool = False  # whether it asks for class numbers, which mixed images have not


def of_logits(loss: Callable[..., Array], **how: Any) -> OfLogits:
  """Makes a loss that does not look at the labels."""
  return lambda student, teacher, labels, where: loss(student, teacher, where=where, **how)


def _standardized(student: Array, teacher: Array, labels: Array, where: Array | None) -> Array:
  both = (losses.standardized(z, where=where) for z in (student, teacher))
  return losses.soft_targets(*both, temperature=2.0, where=where)


def _last(loss: Callable[[Array, Array], Array], *, pooled: bool = False) -> Criterion:
  """Compares the last taps, averaged over their places where a source has features without any."""

  def features(said: Taught) -> Array:
    if not said.taps:
      raise ValueError('a network gives no taps')
    tap = said.taps[-1]
    return tap.mean(tuple(range(1, tap.ndim - 1))) if pooled and tap.ndim > 2 else tap

  return criterion(lambda student, teacher, batch: loss(features(student), features(teacher)))


def _maps(loss: Callable[[Array, Array], Array]) -> Criterion:
  """Adds a loss up over the pairs of maps."""

  def total(student: Taught, teacher: Taught, batch: Any) -> Array:
    found = [(own, other) for own, other in pairs(student, teacher) if student.taps[own].ndim > 2]
    if not found:
      raise ValueError('it compares maps, and the two networks have none of one size')
    return jnp.stack([loss(student.taps[own], teacher.taps[other]) for own, other in found]).sum(0)

  return criterion(total)


def _by_shape(make: Callable[[list[tuple[int, int]]], Criterion]) -> Criterion:
  """Makes the criterion of a pair of networks by the numbers of the taps that can be compared."""

  def of(student: Taught, teacher: Taught) -> Criterion:
    found = pairs(student, teacher)
    if not found:
      raise ValueError('the two networks have no taps that can be compared')
    return make(found)

  return Criterion(
    lambda key, student, teacher: of(student, teacher).init(key, student, teacher),
    lambda params, step, student, teacher, batch: of(student, teacher).loss(params, step, student, teacher, batch),
  )


def pairs(student: Taught, teacher: Taught) -> list[tuple[int, int]]:
  """Lists the numbers of taps to compare, from the input on: of maps, the last of each size that both networks have.

  Where a network has no maps, its hidden layers are paired from the last one back. The first tap, which is before all
  stages, is left out.
  """

  def last(said: Taught) -> dict[tuple[int, ...], int]:
    return {tap.shape[1:-1]: i for i, tap in enumerate(said.taps) if i and tap.ndim > 2}

  own, other = last(student), last(teacher)
  if own and other:
    return [(own[size], other[size]) for size in own if size in other]
  hidden = [[i for i, tap in enumerate(said.taps) if i and tap.ndim == 2] for said in (student, teacher)]
  return list(zip(*(each[::-1] for each in hidden), strict=False))[::-1]


def _hint(found: list[tuple[int, int]]) -> Criterion:
  own, other = found[len(found) // 2]
  return projected(student_at=own, teacher_at=other)


def _heads(found: list[tuple[int, int]]) -> Criterion:
  own, other = zip(*(found[:-1] or found), strict=True)
  return heads(student_at=own, teacher_at=other)


_SOFT = criterion(lambda s, t, batch: losses.soft_targets(s.logits, t.logits, temperature=4.0))
_RKD = weighted(
  (25.0, _last(losses.relational_distance, pooled=True)), (50.0, _last(losses.relational_angle, pooled=True))
)

LOSSES = {
  'jsd': Loss(0.1, 0.9, of_logits(losses.jensen_shannon, temperature=4.0)),
  'reverse-kl': Loss(0.1, 0.9, of_logits(losses.jensen_shannon, share=1.0, temperature=4.0)),
  'standardized': Loss(0.1, 9.0, _standardized),
  'decoupled': Loss(1.0, 1.0, lambda s, t, y, where: losses.decoupled(s, t, y, where=where), numbers=True),
  'dist': Loss(1.0, 2.0, of_logits(losses.dist)),
  'value': Loss(1.0, 2.0, of_logits(losses.value_agreement)),
  'rank': Loss(1.0, 2.0, of_logits(losses.rank_agreement)),
  'hint': Loss(1.0, 100.0, _by_shape(_hint)),
  'attention': Loss(1.0, 1000.0, _maps(losses.attention_transfer)),
  'selectivity': Loss(1.0, 50.0, _maps(losses.neuron_selectivity)),
  'similarity': Loss(1.0, 3000.0, _last(losses.similarity_preserving)),
  'relational': Loss(1.0, 1.0, _RKD),
  'probabilistic': Loss(1.0, 30_000.0, _last(losses.probabilistic_transfer, pooled=True)),
  'heads': Loss(0.1, 1.0, weighted((0.9, _SOFT), (1.0, _by_shape(_heads)))),
}
"""Losses by name, beside kd, which has the T and the weight of the options. A new one is a line.

The weights are RepDistiller's on CIFAR-100, and the authors' for decoupled (without its warm-up), standardized, dist,
value and rank (R2KD). Those of jsd, reverse-kl and heads are a choice: RepDistiller's of kd."""

KD = 'kd'
LOGITS = (KD, *(name for name, loss in LOSSES.items() if not isinstance(loss.of, Criterion)))
"""Those that look at logits alone."""
if TYPE_CHECKING:
  LossName = str
else:
  LossName = Literal[(KD, *LOSSES)]


class Teaching(NamedTuple):
  """An objective of a student under a teacher, and what draws the parameters that it trains beside the student."""

  objective: Objective
  beside: Callable[[Key, Any], Params] | None = None


def teaching(
  asked: str, student: Any, teacher: Any, inputs: Any, *, temperature: float, soft_weight: float
) -> Teaching:
  """Returns what a loss, as ``named`` writes it, trains a student by; refuses one that does not fit the networks."""
  name, scale = parted(asked)
  if name in LOGITS:
    return Teaching(distilled(student, end_to_end(asked, temperature=temperature, soft_weight=soft_weight)))
  loss = LOSSES[name]
  assert isinstance(loss.of, Criterion)
  whole = weighted((loss.labels, of_labels()), (scale * loss.weight, loss.of))
  found = Teaching(compared(student, whole), beside(student, teacher, whole))
  try:
    jax.eval_shape(partial(_tried, found, student, teacher), inputs)
  except ValueError as error:
    raise UserError(f'--loss is {name}, which does not fit these networks: {" ".join(str(error).split())}') from error
  return found


def _tried(found: Teaching, student: Any, teacher: Any, inputs: Any) -> Array:
  assert found.beside is not None
  key, batch = jax.random.key(0), Batch(inputs, jnp.zeros(len(inputs), jnp.int32))
  tx = optax.identity()
  state = accompanied(begin(student, tx, identity(), key, inputs), tx, found.beside(key, inputs)).state
  said = teach(teacher)(network_of(teacher).variables(key, inputs), batch)
  return found.objective(state.params, state.stats, said, batch, key)[0]


def end_to_end(asked: str, *, temperature: float, soft_weight: float) -> EndToEnd:
  """Returns a loss of logits: the mean over the examples; kd has the temperature and the weight."""
  if asked == KD:
    return mixed(temperature=temperature, soft_weight=soft_weight)
  each = per_label(asked)
  return lambda logits, taught, batch: each(logits, taught.logits, batch.labels, None).mean()


def per_label(asked: str) -> OfLogits:
  """Returns a loss of logits with its labels, for each example or token."""
  name, scale = parted(asked)
  loss = LOSSES[name]
  assert not isinstance(loss.of, Criterion)
  of = loss.of

  def both(student: Array, teacher: Array, labels: Array, where: Array | None) -> Array:
    hard = losses.distillation(student, teacher, labels, soft_weight=0.0, where=where)
    return loss.labels * hard + scale * loss.weight * of(student, teacher, labels, where)

  return both


@dataclasses.dataclass(frozen=True)
class Losses:
  """The option of the commands that compare losses."""

  loss: tuple[LossName, ...] = (KD,)
  """What students are trained by under their teacher, a kind of student for each: kd, which has --temperature and
  --soft-weight; or others as they were published, with weights of their own, of logits (jsd, reverse-kl, standardized,
  decoupled, dist, value, rank) or of what leaves the stages (hint, attention, selectivity, similarity, relational,
  probabilistic, heads)."""
  loss_weights: tuple[float, ...] = ()
  """Of each of these, times the weight it was published with; by default 1. That of kd is --soft-weight."""


@dataclasses.dataclass(frozen=True)
class Mixed:
  """The option of the commands whose students may see mixed images."""

  mixup: float | None = None
  """Mix each image with another of its batch, and their labels alike, by weights from Beta(ALPHA, ALPHA); 1 draws them
  evenly. The teacher sees what its students see; where it is trained first, then on images as they are."""


@dataclasses.dataclass(frozen=True)
class CachedLogits:
  """The option of the commands whose students learn from the logits of a teacher of images, or of texts as a whole."""

  cached_logits: int | None = None
  """Keep so many of the teacher's largest logits of every example (0: all) in half precision in the run's folder, and
  train the students on them without running it again, but where they take more of it than these: 4 bytes each (0: 2),
  for the CIFARs, whose images are augmented, and with --mixup, times the epochs of those who train longest."""


def check_soft_targets(temperatures: Sequence[float], soft_weights: Sequence[float]) -> None:
  for temperature in temperatures:
    require(0 < temperature <= 1e6, 'temperature', temperature, 'give a positive number, at most a million')
  for weight in soft_weights:
    require(0 <= weight <= 1, 'soft_weight', weight, 'give a number between 0 and 1')


def named(config: Any) -> tuple[str, ...]:
  """Returns the losses of a configuration as rows name them: with their weight, where it is not 1."""
  weights = config.loss_weights or (1.0,) * len(config.loss)
  pairs = zip(config.loss, weights, strict=True)
  return tuple(name if weight == 1 else f'{name}-x{str(weight).removesuffix(".0")}' for name, weight in pairs)


def parted(asked: str) -> tuple[str, float]:
  """Parts a loss as ``named`` writes it into its name and its weight."""
  name, _, weight = asked.partition('-x')
  return name, float(weight or 1)


def check_losses(config: Any) -> None:
  """Refuses losses that are given twice, and those that what the other options ask for leaves out."""
  require(bool(config.loss), 'loss', 'empty', 'give at least one')
  weights = config.loss_weights
  require(len(weights) in (0, len(config.loss)), 'loss_weights', text(weights), 'give one for each --loss')
  for weight in weights:
    require(0 < weight < math.inf, 'loss_weights', weight, 'give positive numbers')
  require(
    len(set(named(config))) == len(config.loss), 'loss', text(config.loss), 'give each once, or with other weights'
  )
  require(KD not in config.loss or KD in named(config), 'loss_weights', text(weights), f'give {KD} the weight 1')
  for name in () if KD in config.loss else ('temperature', 'soft_weight'):
    given, default = getattr(config, name), type(config).__dataclass_fields__[name].default
    require(given == default, name, text(given), f'it is of {KD} alone, and --loss is {text(config.loss)}')
  for name in set(config.loss) - {KD}:
    heard = [getattr(config, option, None) for option in ('cached_logits', 'teacher_logits')]
    mend = f'the teacher is its logits alone here; give {text(LOGITS)}'
    require(name in LOGITS or heard == [None, None], 'loss', name, mend)
    numbers = LOSSES[name].numbers and getattr(config, 'mixup', None) is not None
    require(not numbers, 'loss', name, 'it asks for class numbers, and --mixup leaves none')


def check_mixup(config: Mixed) -> None:
  value = config.mixup
  require(value is None or 1e-6 <= value <= 1e6, 'mixup', value, 'give a number from 1e-6 to 1e6')


def check_cached_logits(config: CachedLogits, *, classes: float = math.inf) -> None:
  count = config.cached_logits or 0
  require(count >= 0, 'cached_logits', count, 'give 0 or more')
  require(count <= classes, 'cached_logits', count, f'there are {classes} classes; give no more, or 0')
