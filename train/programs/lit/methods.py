"""Defines the methods of lit: the phases of each, and what it trains in them."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lmajax.training import Stages, blockwise, check_boundaries, distilled, hint, in_stages, mixed, supervised
from train import build, teaching
from train.activations import chosen, factory
from train.config import TEACHER
from train.engine import schedules
from train.engine.cohort import Group, Plan
from train.programs.lit.config import Shallow
from train.programs.lit.networks import staged
from train.programs.lit.table import Arm
from train.runtime.errors import mendable

BORN_AGAIN, HINT, MERGING = 'born-again', 'hint', 'lit-merging'
_STAGES = ('lit', 'lit-own-inputs', 'lit-one-boundary', 'lit-beta-0', 'lit-beta-1', 'lit-noise')
_WHOLE = ('hard', 'kd', BORN_AGAIN, 'lit-only')
_HINTS, _FINETUNE = 'hints', 'finetune'
UNTAUGHT = (TEACHER, 'hard')
"""Methods that train on the labels alone."""
TRANSPLANTED = (*_STAGES, MERGING, 'lit-only')
"""Methods whose students take over their teacher's stem and head."""
_DISTANCES = {
  'squared': optax.losses.squared_error,
  'absolute': lambda predictions, targets: jnp.abs(predictions - targets),
  'huber': optax.losses.huber_loss,
}


def arms(config: Shallow) -> Iterator[Arm]:
  """Yields every row that a configuration asks for, each activation's teacher first."""
  for activation, segments in chosen(config):
    for method in (TEACHER, *config.methods):
      yield Arm(method, activation, segments)


def named(config: Shallow, arm: Arm) -> str:
  """Returns the name of an arm's network, as its option gives it."""
  return config.teacher if arm.method in (TEACHER, BORN_AGAIN) else config.student


class Pair(NamedTuple):
  """A teacher and a student of the same width."""

  teacher: Any
  student: Any
  stages: int
  stem: tuple[str, ...]  # the student's parameters before its first stage

  def of(self, arm: Arm) -> Any:
    """Returns the network that an arm trains."""
    return self.teacher if arm.method in (TEACHER, BORN_AGAIN) else self.student

  @property
  def middle(self) -> int:
    """The stage whose output is the hint."""
    return (self.stages - 1) // 2


def pair(config: Shallow, arm: Arm, num_classes: int, inputs: Any) -> Pair:
  """Builds teacher and student of an arm's activation; their representations must have the same shapes."""
  act = factory(arm.activation, arm.segments)
  teacher, student = (
    staged(config, option, act, num_classes=num_classes, inputs=inputs) for option in ('teacher', 'student')
  )
  with mendable():
    check_boundaries(student, teacher, inputs)
  start: Any = jax.eval_shape(lambda: student.init(jax.random.key(0), inputs, method='stem', train=False))
  return Pair(teacher, student, len(config.width), tuple(start['params']))


class Phase(NamedTuple):
  """A fit that the students of some methods go through together."""

  name: str
  methods: tuple[str, ...]
  epochs: int
  plan: Plan


def phases(config: Shallow, stages: int) -> list[Phase]:
  """Lists the phases in order; every method trains for the same number of epochs.

  Hints only initialize, so they get the few epochs and distillation the many: their student has a fresh head.
  """
  long, short = config.epochs, config.finetune_epochs
  own = config.teacher_epochs or long + short
  slow = replace(config, learning_rate=config.finetune_learning_rate)
  found = [
    Phase(TEACHER, (TEACHER,), own, build.plan(config, own)),
    Phase('whole', _WHOLE, long + short, build.plan(config, long + short)),
    Phase(_HINTS, (HINT,), short, build.plan(config, short)),
    Phase('stages', (*_STAGES, HINT), long, build.plan(config, long)),
    *_mergings(build.plan(config, long), long, stages),
    Phase(_FINETUNE, (*_STAGES, MERGING), short, build.plan(slow, short)),
  ]
  return [phase for phase in found if {TEACHER, *config.methods} & {*phase.methods}]


def _mergings(plan: Plan, epochs: int, stages: int) -> Iterator[Phase]:
  """Yields one fit per stage; together they follow one schedule."""
  bounds = [epochs * i // stages for i in range(stages + 1)]
  for number, (first, end) in enumerate(pairwise(bounds), start=1):
    part = plan._replace(schedule=schedules.part(plan.schedule, first, end - first))
    yield Phase(f'merging-{number}', (MERGING,), end - first, part)


def switches(config: Shallow, method: str, phase: str, pair: Pair) -> Stages:
  """Returns LIT's settings with the one change that a method makes."""
  every = range(pair.stages)
  plain = Stages(config.beta, every, every)
  if method == MERGING:
    left = pair.stages + 1 - int(phase.rpartition('-')[2])  # blocks; the last of them is the stages that are merged
    return plain._replace(fed=range(left), compared=(*range(left - 1), pair.stages - 1))
  changes: dict[str, dict[str, Any]] = {
    'lit-own-inputs': {'fed': ()},
    'lit-one-boundary': {'compared': (pair.middle,)},
    'lit-beta-0': {'beta': 0.0},
    'lit-beta-1': {'beta': 1.0},
    'lit-noise': {'noise': config.noise},
  }
  return plain._replace(**changes.get(method, {}))


def end_to_end(arm: Arm, phase: str) -> bool:
  """Tells whether students look at no more of their teacher than its logits in a phase."""
  return phase == _FINETUNE or (phase != _HINTS and arm.method not in TRANSPLANTED)


def group(config: Shallow, arm: Arm, phase: str, pair: Pair) -> Group:
  """Returns what the students of an arm train in a phase, and by which objective."""
  model = pair.of(arm)
  how = {'temperature': config.temperature, 'soft_weight': config.soft_weight}
  seeds = (0,) if arm.method == TEACHER else config.all_seeds
  plain = Group(model, distilled(model, teaching.end_to_end(config.loss, **how)), seeds, build.over(model))
  if arm.method in UNTAUGHT:
    return plain._replace(objective=supervised(model))
  if phase == _HINTS:
    below = (*pair.stem, *(f'stages_{i}' for i in range(pair.middle + 1)))
    objective = hint(model, pair.middle, distance=_DISTANCES[config.error])
    return plain._replace(objective=objective, trained=lambda path, leaf: path.split('/')[0] in below)
  if end_to_end(arm, phase):
    return plain
  given = switches(config, arm.method, phase, pair)
  objective = blockwise(model, mixed(**how), given, distance=_DISTANCES[config.error])
  metrics = tuple(f'error_{i}' for i in given.compared) if given.beta < 1 else ()
  return plain._replace(objective=objective, trained=in_stages(model), metrics=metrics)
