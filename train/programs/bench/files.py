"""Benchmarks model files: the bytes that the same weights take in each kind, and the time to write and to read them."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from tqdm.auto import tqdm

from lmajax import tree
from lmajax.compress import (
  from_stream,
  identity,
  keep,
  kernels,
  lamp,
  masked,
  multi_hash,
  pack,
  sparse,
  to_stream,
  uniform,
  unpack,
)
from lmajax.types import Reparam
from train.programs.bench import networks
from train.programs.bench.config import Files
from train.programs.bench.record import Record, caption, milliseconds, ratio_fields, ratio_text
from train.results.statistics import markdown
from train.runtime import timing

BASE = 'float32, safetensors alone'


class Kind(NamedTuple):
  """How weights become bytes, and bytes weights in NumPy's arrays."""

  write: Callable[[], bytes]
  read: Callable[[bytes], Any]


def measure(config: Files) -> Record:
  """Times every kind of file; writing and reading take turns in one run."""
  rows = []
  for name in tqdm(config.networks, desc='files'):
    model = networks.network(name, 'lma-8')
    variables = networks.variables(model, networks.batch(1).inputs)
    known = kinds(variables.pop('params'), variables)
    contents = {kind: each.write() for kind, each in known.items()}
    calls = {f'write {kind}': each.write for kind, each in known.items()}
    calls |= {f'read {kind}': partial(each.read, contents[kind]) for kind, each in known.items()}
    samples = timing.interleaved(calls, rounds=config.rounds)
    for kind, content in contents.items():
      row = {'network': name, 'file': kind, 'bytes': len(content)}
      row |= {f'{way}_seconds': timing.median(samples[f'{way} {kind}']) for way in ('write', 'read')}
      rows.append(row | ratio_fields(timing.ratio(samples[f'read {kind}'], samples[f'read {BASE}'])))
  return {'rows': rows}


def kinds(params: Any, stats: Any) -> dict[str, Kind]:
  """Returns what is timed: name -> how it is written and read."""
  flat = {path: np.asarray(leaf) for path, leaf in tree.by_path({'params': params, **stats}).items()}
  selected = jax.tree.map(np.asarray, tree.partition(params, kernels)[0])

  def tenth(weights: Any) -> Any:
    return keep(lamp(weights), 0.1)

  return {
    BASE: Kind(lambda: safetensors.numpy.save(flat), safetensors.numpy.load),
    'float32': _packed(identity(), params, stats),
    'uniform, 4 bits': _packed(uniform(4), params, stats),
    'uniform, 4 bits, Huffman': _packed(uniform(4), params, stats, entropy=True),
    'sparse, 10 %': _packed(sparse(start=tenth), params, stats),
    'sparse, 10 %, 4 bits': _packed(sparse(bits=4, start=tenth), params, stats),
    'multi-hash, 10 %': _packed(multi_hash(0.1), params, stats),
    'stream of kernels, 10 %': Kind(lambda: to_stream(selected, density=0.1), from_stream),
  }


def _packed(inner: Reparam, params: Any, stats: Any, *, entropy: bool = False) -> Kind:
  reparam = masked(inner)
  theta, code = reparam.init(jax.tree.map(jnp.asarray, params), jax.random.key(0))

  def write() -> bytes:
    return pack(reparam.stored(theta, code), stats, {}, entropy=entropy)

  return Kind(write, lambda data: unpack(data).packed.decode())


def table(record: Record) -> str:
  """The figures as Markdown; reading ends with float32 weights in NumPy's arrays."""
  rows = record['rows']
  whole = {row['network']: row['bytes'] for row in rows if row['file'] == BASE}
  head = ('network', 'file', 'bytes', '× smaller', 'write: ms', 'read: ms', f'× {BASE}')
  lines = [
    (
      row['network'], row['file'], f'{row["bytes"]:,}', f'{whole[row["network"]] / row["bytes"]:.1f}',
      milliseconds(row['write_seconds']), milliseconds(row['read_seconds']), ratio_text(row),
    )
    for row in rows
  ]  # fmt: skip
  return f'{markdown(head, lines)}\n\n× is the time to read; {caption(record)}'
