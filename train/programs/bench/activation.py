"""Benchmarks the activations alone: time, memory traffic, and the temporary memory of a whole training step."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from tqdm.auto import tqdm

import lmajax
from lmajax.training import supervised, train_step
from lmajax.types import Array
from train.engine.optimizers import adjustable, sgd
from train.programs.bench import networks, peers
from train.programs.bench.config import CHANNELS, Activation
from train.programs.bench.record import Record, caption, megabytes, milliseconds, ratio_fields, ratio_text
from train.results.statistics import markdown
from train.runtime import timing

PASSES = ('forward', 'forward and backward')
# Arrays of x's size that have to cross the memory: x and y; then x, g, y and dx, in one program that reads x once.
MOVED = {'forward': 2, 'forward and backward': 4}
_COLUMNS = ('ms', '× ReLU', '% of copy', 'temp MB')


class Compiled(NamedTuple):
  """A compiled program and its compiler's memory figures."""

  call: timing.Contestant
  moved: int | None  # how many arrays of x's size have to cross the memory
  bytes_accessed: float | None = None
  temp_bytes: int | None = None


def measure(config: Activation) -> Record:
  """Times every activation at every size, and compiles the training step with each."""
  torch = peers.pytorch()
  groups = [(dtype, size) for dtype in config.dtypes for size in config.sizes]
  rows = []
  for dtype, size in tqdm(groups, desc='activation'):
    x, g = arrays(size, dtype)
    for which in PASSES:
      found = contestants(config.activations, x, g, which)
      if torch is not None:
        found |= _peers(torch, config.activations, size, dtype, which)
      samples = timing.interleaved({name: c.call for name, c in found.items()}, rounds=config.rounds)
      shared = {'dtype': dtype, 'pass': which, 'elements': size}
      rows += [{**shared, **_row(name, found[name], samples)} for name in found]
  memory = {label: step_memory(config, label) for label in tqdm(config.activations, desc='memory')}
  return {'rows': rows, 'memory': memory}


def arrays(size: int, dtype: str) -> tuple[Array, Array]:
  """Draws an input as after batch norm, and a cotangent."""
  draws = np.random.default_rng(0).standard_normal((2, size // CHANNELS, CHANNELS), np.float32)
  return jnp.asarray(draws[0], dtype), jnp.asarray(draws[1], dtype)


def contestants(labels: Sequence[str], x: Array, g: Array, which: str) -> dict[str, Compiled]:
  """Compiles the activations with given statistics, LMA-8 also with its own, the statistics alone, and a copy."""
  found = {label: alone(networks.labelled(label)(), x, g, which) for label in labels}
  if 'lma-8' in labels:
    found['lma-8, measuring'] = alone(networks.labelled('lma-8')(), x, g, which, train=True)
  if 'lma-8' in labels and which == 'forward':
    found['measure'] = compiled(lmajax.measure, x, moved=None)  # the statistics by themselves
  found['copy'] = compiled(lambda x, zero: x + zero, x, jnp.zeros((), x.dtype), moved=2)
  return found


def passes(act: Any, *, train: bool) -> dict[str, Callable[..., Any]]:
  """The passes of an activation, as functions of (params, x, stats), and of g where they go backward."""

  def forward(params: Any, x: Array, stats: Any) -> Array:
    return act.apply({'params': params, **stats}, x, train=train, mutable=['batch_stats'])[0]

  def both(params: Any, x: Array, stats: Any, g: Array) -> Any:
    y, pullback = jax.vjp(lambda params, x: forward(params, x, stats), params, x)
    return y, pullback(g)

  def backward(params: Any, x: Array, stats: Any, g: Array) -> Any:
    return both(params, x, stats, g)[1]

  return {**dict(zip(PASSES, (forward, both), strict=True)), 'backward': backward}


def alone(act: Any, x: Array, g: Array, which: str, *, train: bool = False) -> Compiled:
  values, function = networks.variables(act, x), passes(act, train=train)[which]
  given = values['params'], x, {'batch_stats': values['batch_stats']}
  return compiled(function, *given, *(() if which == 'forward' else (g,)), moved=MOVED[which])


def compiled(function: Callable[..., Any], *arguments: Any, moved: int | None) -> Compiled:
  """Compiles a function for its arguments."""
  program = jax.jit(function).lower(*arguments).compile()
  memory, cost = program.memory_analysis(), program.cost_analysis() or {}
  temp_bytes = None if memory is None else int(memory.temp_size_in_bytes)
  return Compiled(lambda: jax.block_until_ready(program(*arguments)), moved, cost.get('bytes accessed'), temp_bytes)


def _peers(torch: Any, labels: Sequence[str], size: int, dtype: str, which: str) -> dict[str, Compiled]:
  """Returns PyTorch's ReLU, and an LMA that measures its statistics, as one writes it in PyTorch."""
  x, g = (np.array(array) for array in arrays(size, 'float32'))
  names = {'relu': 'PyTorch relu', 'lma-8': 'PyTorch lma-8, measuring'}
  calls = {name: torch.alone(label, x, g, dtype) for label, name in names.items() if label in labels}
  return {name: Compiled(call[PASSES.index(which)], MOVED[which]) for name, call in calls.items()}


def _row(name: str, one: Compiled, samples: dict[str, list[float]]) -> dict[str, Any]:
  seconds, copy = timing.median(samples[name]), timing.median(samples['copy'])
  return {
    'name': name,
    'seconds': seconds,
    **ratio_fields(timing.ratio(samples[name], samples['relu'])),
    'bandwidth_share': one.moved and one.moved / 2 * copy / seconds,
    'bytes_accessed': one.bytes_accessed,
    'temp_bytes': one.temp_bytes,
  }


def step_memory(config: Activation, label: str) -> int | None:
  """Returns the bytes a training step needs beside its arguments and results; it is compiled, not run."""
  model, tx = networks.network(config.network, label), adjustable(sgd(0.0))
  batch = networks.batch(config.batch_size)
  state = networks.state(model, tx, batch.inputs)
  return compiled(train_step(supervised(model), tx), state, None, batch, moved=None).temp_bytes


_HEAD = ('activation', 'type', *(f'{w}{c}' for w in ('forward ', 'with backward ') for c in _COLUMNS), 'step MB')


def table(record: Record) -> str:
  """The figures at the largest size as Markdown."""
  largest = max(row['elements'] for row in record['rows'])
  rows = {(r['name'], r['dtype'], r['pass']): r for r in record['rows'] if r['elements'] == largest}
  lines = []
  for name, dtype in dict.fromkeys(key[:2] for key in rows):
    memory = record['memory'].get(name) if dtype == 'float32' else None
    cells = [cell for which in PASSES for cell in _cells(rows.get((name, dtype, which)))]
    lines.append((name, dtype, *cells, megabytes(memory)))
  config = record['config']
  what = f'{largest:,} elements; "step MB" is of {config["network"]}, {config["batch_size"]} images'
  return f'{markdown(_HEAD, lines)}\n\n{what}; {caption(record)}'


def _cells(row: dict[str, Any] | None) -> tuple[str, ...]:
  if row is None:
    return ('',) * len(_COLUMNS)
  share = row['bandwidth_share']
  return (
    milliseconds(row['seconds']),
    ratio_text(row),
    '' if share is None else f'{100 * share:.0f}',
    megabytes(row['temp_bytes']),
  )
