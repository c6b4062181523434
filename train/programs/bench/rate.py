"""Benchmarks bits against error: how near files of Laplacian weights come to the rate-distortion function."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tqdm.auto import tqdm

from lmajax.compress import from_stream, keep, magnitude, sparse, to_stream, uniform
from lmajax.types import Packed
from train.programs.bench.config import Rate
from train.programs.bench.record import Record
from train.results.statistics import markdown

BITS = range(2, 9)  # of quantized weights; of 1 bit the error is larger than of none at all


def measure(config: Rate) -> Record:
  """Counts the bits and the mean absolute error a weight of every kind of file."""
  params = {'w': jnp.asarray(np.random.default_rng(0).laplace(size=config.weights), jnp.float32)}
  host = jax.device_get(params)
  rows = []
  for density in tqdm(config.densities, desc='rate'):
    for step in config.steps:
      stream = to_stream(host, step=step, density=density)
      rows.append(_row(f'stream, d = {step:g}', density, host, 8 * len(stream), from_stream(stream)))
    cut = sparse(bits=4, start=lambda weights, density=density: keep(magnitude(weights), density))
    rows.append(_of('sparse, 4 bits', density, host, cut.stored(*cut.init(params, jax.random.key(0)))))
  for bits in BITS:
    packed = uniform(bits).stored(*uniform(bits).init(params, jax.random.key(0)))
    rows.append(_of('uniform', 1.0, host, packed))
  return {'rows': rows}


def _of(kind: str, density: float, host: Any, packed: Packed) -> dict[str, Any]:
  return _row(kind, density, host, packed.bits(), packed.decode())


def _row(kind: str, density: float, host: Any, bits: int, found: Any) -> dict[str, Any]:
  error = float(np.abs(np.asarray(found['w'], np.float64) - host['w']).mean())
  count = host['w'].size
  return {'kind': kind, 'density': density, 'error': error, 'bits': bits / count, 'least': least(error)}


def least(error: float) -> float:
  r"""Gives :math:`R(D) = -\log_2 D`, bits a weight, of Laplacian weights with a mean size of 1 and an L1 error of D."""
  return max(0.0, float(-np.log2(error)))


def table(record: Record) -> str:
  """The figures as Markdown."""
  head = ('file', 'share of weights', 'error', 'bits a weight', 'R(D)', '× R(D)')
  lines = [
    (
      row['kind'], f'{row["density"]:g}', f'{row["error"]:.3f}', f'{row["bits"]:.3f}', f'{row["least"]:.3f}',
      f'{row["bits"] / row["least"]:.2f}' if row['least'] else '',
    )
    for row in record['rows']
  ]  # fmt: skip
  count = record['config']['weights']
  return f'{markdown(head, lines)}\n\n{count:,} weights of a Laplacian distribution whose mean size is 1; error is L1.'
