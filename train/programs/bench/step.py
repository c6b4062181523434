"""Benchmarks one training step of the paper's networks, beside the same recipe in PyTorch."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from tqdm.auto import tqdm

from lmajax import models
from lmajax.activations import linen
from lmajax.training import Progress, as_it_is, compiled, distilled, mixed, supervised, teach
from lmajax.types import Batch
from train import build
from train.engine import schedules
from train.engine.cohort import Cohort, Group, Plan, cohort_step
from train.engine.optimizers import adjustable, sgd
from train.programs.bench import networks, peers
from train.programs.bench.config import Step
from train.programs.bench.record import Record, caption, milliseconds, ratio_fields, ratio_text
from train.results.statistics import markdown
from train.runtime import timing

SOFT = {'temperature': 2.0, 'soft_weight': 0.7}
WEIGHT_DECAY = 2.2e-4
_PLAN = Plan(learning_rate=0.01, optimizer=sgd(WEIGHT_DECAY), schedule=schedules.cosine(1), save_every=1)


class Case(NamedTuple):
  """A case to time: a number of students of a network, on hard labels or under the paper's teacher."""

  network: str
  distilled: bool
  students: int

  def fields(self) -> dict[str, Any]:
    return {**self._asdict(), 'labels': 'distilled' if self.distilled else 'hard'}


def measure(config: Step) -> Record:
  """Times the step of every case; its activations and libraries take turns."""
  torch, rows = peers.pytorch(), []
  for case in tqdm(cases(config), desc='step'):
    ours = {label: contestant(case, label, config.batch_size) for label in config.activations}
    theirs, layouts = {}, {}
    for label in config.activations:
      if torch is not None and torch.has(label):
        layouts[label], theirs[label] = timing.best(_theirs(torch, case, label, config.batch_size))
    named = {('JAX', label): call for label, call in ours.items()}
    named |= {('PyTorch', label): call for label, call in theirs.items()}
    samples = timing.interleaved({' '.join(key): call for key, call in named.items()}, rounds=config.rounds)
    for library, label in named:
      seconds = samples[f'{library} {label}']
      row = {**case.fields(), 'activation': label, 'library': library, 'seconds': timing.median(seconds)}
      row['images_per_second'] = case.students * config.batch_size / row['seconds']
      row |= ratio_fields(timing.ratio(seconds, samples[f'JAX {label}']))
      rows.append({**row, 'layout': layouts.get(label) if library == 'PyTorch' else None})
  return {'rows': rows}


def cases(config: Step) -> list[Case]:
  """Lists every network on hard labels, and the paper's students under their teacher, alone and as cohorts."""
  students = [name for name in config.networks if name.startswith('student-')]
  alone = [
    Case(name, distilled, 1) for distilled, names in ((False, config.networks), (True, students)) for name in names
  ]
  return [*alone, *(Case(name, True, count) for name in config.cohort_networks for count in config.cohorts)]


def classes(network: str) -> int:
  return 100 if network.startswith('wrn') else 10


def contestant(case: Case, label: str, batch_size: int) -> timing.Contestant:
  """Compiles the step of a case, as ``walk.stepped`` does."""
  model, batch = networks.network(case.network, label), networks.batch(batch_size, classes(case.network))
  teacher = models.cifar10_teacher(linen.ReLU)
  objective = distilled(model, mixed(**SOFT)) if case.distilled else supervised(model)
  group = Group(model, objective, range(case.students), build.over(model))
  step = compiled(cohort_step(Cohort({'students': group}, _PLAN, teach(teacher) if case.distilled else as_it_is)))
  frozen = networks.variables(teacher, batch.inputs) if case.distilled else None
  progress = {'students': _start(group, batch)}

  def call() -> None:
    nonlocal progress
    progress = jax.block_until_ready(step(progress, frozen, batch))

  return call


def _start(group: Group, batch: Batch) -> Progress:
  tx = adjustable(_PLAN.optimizer)
  states = [networks.state(group.model, tx, batch.inputs, seed=seed) for seed in group.seeds]
  stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)
  rates = jnp.full(len(group.seeds), _PLAN.learning_rate, jnp.float32)
  opt_state = stacked.opt_state._replace(hyperparams={'learning_rate': rates})
  return Progress(stacked._replace(opt_state=opt_state), {'loss': jnp.zeros(len(group.seeds))})


def _theirs(torch: Any, case: Case, label: str, batch_size: int) -> dict[str, timing.Contestant]:
  """Returns the same recipe in PyTorch, in each memory layout."""
  batch = networks.batch(batch_size, classes(case.network))
  students = [networks.peer(torch, networks.network(case.network, label), label) for _ in range(case.students)]
  teacher = networks.peer(torch, models.cifar10_teacher(linen.ReLU), 'relu') if case.distilled else None
  loss = torch.soft_loss(*SOFT.values()) if case.distilled else torch.hard_loss
  theirs = {'lr': _PLAN.learning_rate, 'weight_decay': WEIGHT_DECAY}
  pair = np.array(batch.inputs), np.array(batch.labels)
  return {
    name: torch.training(students, pair, loss, teacher=teacher, layout=name, sgd=theirs) for name in torch.LAYOUTS
  }


_HEAD = ('network', 'labels', 'students', 'activation', 'JAX ms', 'images/s', 'PyTorch ms', 'images/s', 'PyTorch / JAX')


def table(record: Record) -> str:
  """The figures as Markdown."""
  rows = {(*_key(row), row['library']): row for row in record['rows']}
  keys = dict.fromkeys(_key(row) for row in record['rows'])
  lines = [_cells(key, rows[*key, 'JAX'], rows.get((*key, 'PyTorch'))) for key in keys]
  what = f'{record["config"]["batch_size"]} images a step, each counted once for every student'
  return f'{markdown(_HEAD, lines)}\n\n{what}; {caption(record)}'


def _key(row: dict[str, Any]) -> tuple[Any, ...]:
  return row['network'], row['labels'], row['students'], row['activation']


def _cells(key: tuple[Any, ...], ours: dict[str, Any], theirs: dict[str, Any] | None) -> tuple[str, ...]:
  def speed(row: dict[str, Any] | None) -> tuple[str, str]:
    return ('', '') if row is None else (milliseconds(row['seconds']), f'{row["images_per_second"]:,.0f}')

  return (*map(str, key), *speed(ours), *speed(theirs), '' if theirs is None else ratio_text(theirs))
