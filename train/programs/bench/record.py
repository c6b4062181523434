"""Writes and reads the record of a benchmark: one JSON file, from which its table and its plot are made."""

import dataclasses
import importlib
import json
import time
from importlib import metadata, util
from pathlib import Path
from typing import Any

from train.runtime.errors import UserError
from train.runtime.files import environment, write_atomically
from train.runtime.outside import read_json
from train.runtime.timing import Ratio

Record = dict[str, Any]


def name_of(config: Any) -> str:
  """Returns the benchmark's name, on the command line and of its files."""
  return type(config).__name__.lower()


def folder_of(config: Any) -> Path:
  """Makes the folder that a benchmark writes into, before anything is measured."""
  folder = config.out or Path('runs') / f'bench-{name_of(config)}-{time.strftime("%Y%m%d-%H%M%S")}'
  try:
    folder.mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise UserError(f'cannot make the folder {folder}: {error.strerror}; choose another --out') from error
  return folder


def record(config: Any, measured: Record) -> Record:
  """Returns the figures with the options and the machine that they were measured with."""
  options = {name: value for name, value in dataclasses.asdict(config).items() if name != 'out'}
  torch = metadata.version('torch') if util.find_spec('torch') else None
  machine = {**environment(), 'torch': torch, 'date': time.strftime('%Y-%m-%d')}
  return {'recipe': f'bench-{name_of(config)}', 'config': options, 'environment': machine, **measured}


def write(path: Path, values: Record) -> None:
  write_atomically(path, json.dumps(values, indent=1) + '\n')


def read(path: Path) -> Record:
  """Reads what ``write`` wrote."""
  values = read_json(path)
  if not isinstance(values, dict) or not str(values.get('recipe', '')).startswith('bench-'):
    raise UserError(f'{path} does not hold the figures of a benchmark')
  return values


def caption(record: Record) -> str:
  """Returns the line under every table: how, where and when it was measured."""
  machine = record['environment']
  torch = f', PyTorch {machine["torch"]} (eager)' if machine['torch'] else ''
  where = f'{machine["device"]}, {machine["cores"]} cores, JAX {machine["jax"]}{torch}, {machine["date"]}'
  rounds = record['config']['rounds']
  return f'medians of {rounds} rounds, ratios with their 10th and 90th percentiles; {where}.'


def ratio_fields(ratio: Ratio) -> dict[str, float]:
  """A ratio as columns of a row."""
  return {'ratio': ratio.median, 'ratio_low': ratio.low, 'ratio_high': ratio.high}


def ratio_text(row: dict[str, Any]) -> str:
  """Formats the ratio of a row with its spread."""
  return f'{row["ratio"]:.2f} ({row["ratio_low"]:.2f} … {row["ratio_high"]:.2f})'


def over_relu(row: dict[str, Any], rows: list[dict[str, Any]], name: str) -> float | None:
  """What a compiled program takes over what ReLU's does there; None where nothing is known of one of them."""
  same = {'activation': 'relu', 'part': row['part'].removesuffix(', measured')}
  same |= {field: row[field] for field in ('target', 'program', 'network', 'dtype')}
  relu = next((other[name] for other in rows if same.items() <= other.items()), None)
  return row[name] / relu if relu and row[name] is not None else None


def milliseconds(seconds: float) -> str:
  """Formats seconds as milliseconds with three significant digits."""
  value = 1e3 * seconds
  return (
    f'{value:.3f}' if value < 1 else f'{value:.2f}' if value < 10 else f'{value:.1f}' if value < 100 else f'{value:.0f}'
  )


def megabytes(count: float | None) -> str:
  return '' if count is None else f'{count / 2**20:,.1f}'


def benchmark(name: str) -> Any:
  """Imports the module of a benchmark: ``measure(config)`` and ``table(record)``."""
  return importlib.import_module(f'train.programs.bench.{name}')
