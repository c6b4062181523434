"""Compiles activations and training steps for accelerators that are not here, and says what they would move."""

import itertools
from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from tqdm.auto import tqdm

from lmajax import models
from lmajax.activations import linen
from lmajax.training import Traffic, chips, distilled, mixed, supervised, teach, traffic, train_step, vmapped
from lmajax.training import compiled as jitted
from lmajax.training import sharing as with_share
from lmajax.types import Batch, Objective
from train.engine.optimizers import sgd
from train.programs.bench import activation, networks, step, translation
from train.programs.bench.config import Compiled, Translation
from train.programs.bench.record import Record, over_relu
from train.programs.distill_text.decode import of_labels, word_level
from train.results.statistics import markdown
from train.runtime.errors import UserError, mendable

Row = dict[str, Any]
SHAPE = (64, 32, 32, 128)  # of the input of an activation alone
PARTS = {
  'activation': (*activation.PASSES, 'backward', 'forward and backward, measured'),
  'step': ('hard',),
  'distill': ('distilled',),
  'translation': ('hard', 'distilled'),
}


class Case(NamedTuple):
  """What is compiled; ``part`` is a pass of an activation, or the labels of a step."""

  target: str
  program: str
  network: str
  part: str
  dtype: str
  activation: str


class Program(NamedTuple):
  """A function under ``jax.jit``, the shapes of its arguments, and how each of them lies on the chips.

  An argument is ``whole`` on every chip, ``spread`` over them by its examples, or in ``shards``.
  """

  function: Any
  arguments: tuple[tuple[str, Any], ...]
  unit: int = 0  # bytes of the input of an activation


def measure(config: Compiled) -> Record:
  """Compiles every case for its target, one after another; nothing runs."""
  jax.config.update('jax_platforms', 'cpu')  # else JAX looks for the accelerators themselves
  with mendable():
    meshes = {target: Mesh(np.array(chips(target)), ('data',)) for target in config.targets}
  rows = []
  for case in tqdm(cases(config), desc='compiled'):
    mesh = meshes[case.target]
    one = program(case, config, mesh.size)
    arguments = [_placed(argument, how, mesh) for how, argument in one.arguments]
    try:
      found = counted(one.function.lower(*arguments), case)
    except jax.errors.JaxRuntimeError as error:
      tqdm.write(f'left out: {" ".join(filter(None, case))}, which XLA cannot compile: {str(error).splitlines()[0]}')
      continue
    rows.append({**case._asdict(), 'chips': mesh.size, 'unit': one.unit, **found._asdict()})
  if not rows:
    raise UserError('XLA compiled none of these programs: give others, or another version of JAX')
  return {'rows': rows}


def counted(lowered: jax.stages.Lowered, case: Case) -> Traffic:
  """Compiles a program; some of a Transformer's products JAX 0.10.2 leaves to no kernel of Triton's without a card."""
  without = case.program == 'translation' and case.target.startswith('h100')
  return traffic(lowered.compile({'xla_gpu_enable_triton_gemm': False} if without else {}))


def cases(config: Compiled) -> list[Case]:
  """Lists what is compiled; only LMA measures, so ReLU stands beside it in the pass without."""

  def of(program: str) -> Iterator[tuple[str, ...]]:
    nets = {'activation': ('',), 'translation': ('student',)}.get(program, config.networks)
    return itertools.product(nets, PARTS[program])

  return [
    Case(target, name, network, part, dtype, label)
    for target, name in itertools.product(config.targets, config.programs)
    for network, part in of(name)
    for dtype, label in itertools.product(config.dtypes, config.activations)
    if not part.endswith('measured') or label.startswith('lma')
  ]


def program(case: Case, config: Compiled, count: int) -> Program:
  """Builds the function of a case for a number of chips; nothing is computed, only shapes."""
  if case.program == 'activation':
    return _alone(case, count)
  size = config.batch_size * count
  if case.program == 'translation':
    how = Translation()
    model, teacher = (translation.network(how, *one) for one in (('student', case.activation), ('teacher', 'relu')))
    batch = jax.eval_shape(lambda: translation.batch(size, how.length, how.vocabulary))
    hard, soft = partial(distilled, end_to_end=of_labels(0.1)), word_level(**step.SOFT)
  else:
    classes = step.classes(case.network)
    model = networks.network(case.network, case.activation)
    teacher = models.WideResNet(16, 10, 100, linen.ReLU) if classes == 100 else models.cifar10_teacher(linen.ReLU)
    batch = jax.eval_shape(lambda: networks.batch(size, classes))
    hard, soft = supervised, mixed(**step.SOFT)
  model, teacher = (network.clone(dtype=jnp.dtype(case.dtype)) for network in (model, teacher))
  if case.part == 'hard':
    return _stepping(hard(model), model, batch, config.students)
  return _stepping(distilled(model, soft), model, batch, config.students, teacher, shards=config.shard_teacher)


def _alone(case: Case, count: int) -> Program:
  """One activation: with given statistics, or measuring its own."""
  act = networks.labelled(case.activation)()
  x = jax.ShapeDtypeStruct((SHAPE[0] * count, *SHAPE[1:]), jnp.dtype(case.dtype))
  values = jax.eval_shape(lambda: networks.variables(act, jnp.zeros((1, *SHAPE[1:]))))
  params, stats = ('whole', values['params']), ('whole', {'batch_stats': values['batch_stats']})
  which, _, measured = case.part.partition(', ')
  function = jax.jit(activation.passes(act, train=bool(measured))[which])
  given = (params, ('spread', x), stats) if which == 'forward' else (params, ('spread', x), stats, ('spread', x))
  return Program(function, given, x.size // count * x.dtype.itemsize)


def _stepping(
  objective: Objective, model: Any, batch: Batch, students: int, teacher: Any = None, *, shards: bool = False
) -> Program:
  """One step of one student, or of several at once, on hard labels or under a teacher."""
  tx = sgd(step.WEIGHT_DECAY)(jnp.float32(0.01))
  few = jax.tree.map(lambda leaf: jnp.zeros((2, *leaf.shape[1:]), leaf.dtype), batch.inputs)
  state = jax.eval_shape(lambda: networks.state(model, tx, few))
  move = train_step(objective, tx)
  if students > 1:
    move = vmapped(move)
    state = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((students, *leaf.shape), leaf.dtype), state)
  if teacher is None:
    return Program(jitted(move), (('whole', state), ('whole', None), ('spread', batch)))
  frozen = jax.eval_shape(lambda: networks.variables(teacher, few))
  how = 'shards' if shards else 'whole'
  return Program(jitted(with_share(move, teach(teacher))), (('whole', state), (how, frozen), ('spread', batch)))


def _placed(shapes: Any, how: str, mesh: Mesh) -> Any:
  """Shapes on the chips; in shards each along its longest axis that they divide, else whole."""

  def axis(leaf: Any) -> int | None:
    if how != 'shards':
      return 0 if how == 'spread' else None
    return max((i for i, n in enumerate(leaf.shape) if n % mesh.size == 0), key=lambda i: leaf.shape[i], default=None)

  def one(leaf: Any) -> jax.ShapeDtypeStruct:
    along = axis(leaf)
    spec = PartitionSpec() if along is None else PartitionSpec(*[None] * along, 'data')
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=NamedSharding(mesh, spec))

  return jax.tree.map(one, shapes)


_ALONE = ('target', 'pass', 'type', 'activation', 'bytes / x', 'kernels', 'temporaries / x', 'M cycles', '× ReLU')
_STEPS = (
  'target', 'chips', 'network', 'labels', 'type', 'activation', 'MB', '× ReLU', 'kernels', 'temporaries, MB', '× ReLU',
  'peak, MB', 'M cycles', '× ReLU', 'collectives', 'MB sent',
)  # fmt: skip


def table(record: Record) -> str:
  """The figures as Markdown: of activations alone, and of steps."""
  rows, config, machine = record['rows'], record['config'], record['environment']

  def times(row: Row, name: str) -> str:
    value = over_relu(row, rows, name)
    return '' if value is None else f'{value:.2f}'

  alone = [
    (
      r['target'], r['part'], r['dtype'], r['activation'], f'{r["bytes"] / r["unit"]:.2f}', str(r['kernels']),
      f'{r["temporaries"] / r["unit"]:.2f}', _millions(r['cycles']), times(r, 'cycles'),
    )
    for r in rows
    if r['unit']
  ]  # fmt: skip
  steps = [
    (
      r['target'], str(r['chips']), f'{r["network"]}{", translation" if r["program"] == "translation" else ""}',
      r['part'], r['dtype'], r['activation'], _millions(r['bytes']), times(r, 'bytes'), str(r['kernels']),
      _millions(r['temporaries']), times(r, 'temporaries'), _millions(r['peak']), _millions(r['cycles']),
      times(r, 'cycles'), str(sum(r['collectives'].values())), _millions(r['collective_bytes']),
    )
    for r in rows
    if not r['unit']
  ]  # fmt: skip
  what = f'x of {list(SHAPE)} a chip' if alone else ''
  size = f'{config["batch_size"]} examples a chip, {config["students"]} student(s) at once' if steps else ''
  shards = ', the teacher in shards' if config['shard_teacher'] and steps else ''
  where = f'compiled, not run; JAX {machine["jax"]}, {machine["date"]}.'
  tables = [markdown(head, lines) for head, lines in ((_ALONE, alone), (_STEPS, steps)) if lines]
  return '\n\n'.join((*tables, '; '.join(filter(None, (what, size + shards, where)))))


def _millions(count: float | None) -> str:
  if count is None:
    return ''
  value = count / 1e6
  return f'{value:,.0f}' if value >= 100 else f'{value:.1f}' if value >= 10 else f'{value:.2f}'
