"""Benchmarks block-wise training: the gradient of all stages in one program, against one program for each."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import numpy as np
from tqdm.auto import tqdm

from lmajax import models, training
from lmajax.activations import linen
from lmajax.training import blockwise, teach
from lmajax.types import Array
from train.programs.bench import networks
from train.programs.bench.config import Stages
from train.programs.bench.record import Record, caption, milliseconds, ratio_fields, ratio_text
from train.results.statistics import markdown
from train.runtime import timing

# The student as deep as its name says, and the teacher whose taps it is fed.
_PAIRS = {
  'wrn-10-1': (partial(models.WideResNet, 10, 1, 10), partial(models.WideResNet, 16, 1, 10)),
  'wrn-16-1': (partial(models.WideResNet, 16, 1, 10), partial(models.WideResNet, 28, 1, 10)),
}


def measure(config: Stages) -> Record:
  """Times each network's stages, together and one by one; they take turns."""
  rows = []
  for name in tqdm(config.networks, desc='stages'):
    samples = timing.interleaved(contestants(name, config.batch_size), rounds=config.rounds)
    together = samples.pop('together')
    one_by_one = np.sum(list(samples.values()), axis=0).tolist()
    row = {'network': name, 'seconds': timing.median(together), 'sum_seconds': timing.median(one_by_one)}
    row['stage_seconds'] = [timing.median(stage) for stage in samples.values()]
    rows.append(row | ratio_fields(timing.ratio(together, one_by_one)))
  return {'rows': rows}


def contestants(name: str, batch_size: int) -> dict[str, timing.Contestant]:
  """Compiles the errors and gradient of all stages together, and of each; the teacher's taps are given."""
  student, teacher = (build(linen.ReLU) for build in _PAIRS[name])
  batch = networks.batch(batch_size)
  frozen = jax.jit(teach(teacher))(networks.variables(teacher, batch.inputs), batch)
  stats = networks.variables(student, batch.inputs)
  arguments = stats.pop('params'), stats, frozen, batch, jax.random.key(0)
  stages = range(len(frozen.taps) - 1)
  named = {'together': tuple(stages), **{f'stage {i}': (i,) for i in stages}}
  return {what: _gradient(student, which, arguments) for what, which in named.items()}


def _gradient(student: Any, which: Sequence[int], arguments: Any) -> timing.Contestant:
  objective = blockwise(student, _no_logits, training.Stages(0.0, which, which))
  program = jax.jit(jax.value_and_grad(objective, has_aux=True)).lower(*arguments).compile()
  return lambda: jax.block_until_ready(program(*arguments))


def _no_logits(*_: Any) -> Array:
  raise AssertionError('the stages alone are timed')


def table(record: Record) -> str:
  """The figures as Markdown; the ratio is taken round by round."""
  lines = [
    (
      row['network'],
      milliseconds(row['seconds']),
      ' + '.join(map(milliseconds, row['stage_seconds'])),
      milliseconds(row['sum_seconds']),
      ratio_text(row),
    )
    for row in record['rows']
  ]
  head = ('network', 'together, ms', 'one by one, ms', 'their sum, ms', 'together / sum')
  return f'{markdown(head, lines)}\n\n{record["config"]["batch_size"]} images a step; {caption(record)}'
