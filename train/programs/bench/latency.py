"""Benchmarks the latency of a deployed network: variables are constants of the program, and statistics are fixed."""

from typing import Any

import jax
import numpy as np
from tqdm.auto import tqdm

from train.programs.bench import networks, peers
from train.programs.bench.config import Latency
from train.programs.bench.record import Record, caption, milliseconds, ratio_fields, ratio_text
from train.results.statistics import markdown
from train.runtime import timing


def measure(config: Latency) -> Record:
  """Times every network at every batch size; activations and libraries take turns."""
  torch, rows = peers.pytorch(), []
  groups = [(name, size) for name in config.networks for size in config.batch_sizes]
  for name, size in tqdm(groups, desc='latency'):
    named = {('JAX', label): _ours(name, label, size) for label in config.activations}
    if torch is not None:
      known = [label for label in config.activations if torch.has(label)]
      named |= {('PyTorch', label): _theirs(torch, name, label, size) for label in known}
    samples = timing.interleaved({' '.join(key): call for key, call in named.items()}, rounds=config.rounds)
    for library, label in named:
      seconds = samples[f'{library} {label}']
      row = {'network': name, 'batch': size, 'activation': label, 'library': library}
      row |= {'seconds': timing.median(seconds)}
      rows.append(row | ratio_fields(timing.ratio(seconds, samples[f'{library} relu'])))
  return {'rows': rows}


def _ours(name: str, label: str, batch_size: int) -> timing.Contestant:
  model, images = networks.network(name, label), networks.batch(batch_size).inputs
  variables = networks.variables(model, images)
  infer = jax.jit(lambda images: model.apply(variables, images, train=False)[0])
  return lambda: jax.block_until_ready(infer(images))


def _theirs(torch: Any, name: str, label: str, batch_size: int) -> timing.Contestant:
  network = networks.peer(torch, networks.network(name, label), label)
  images = np.array(networks.batch(batch_size).inputs)
  return timing.best({layout: torch.inference(network, images, layout=layout) for layout in torch.LAYOUTS})[1]


def table(record: Record) -> str:
  """The figures as Markdown; each ratio is to ReLU in the same library."""
  sizes = list(dict.fromkeys(row['batch'] for row in record['rows']))
  libraries = list(dict.fromkeys(row['library'] for row in record['rows']))
  rows = {(r['network'], r['activation'], r['batch'], r['library']): r for r in record['rows']}
  columns = [(size, library) for size in sizes for library in libraries]
  head = [text for size, library in columns for text in (f'{library}, batch {size}: ms', '× ReLU')]
  lines = []
  for key in dict.fromkeys(key[:2] for key in rows):
    lines.append((*key, *(cell for column in columns for cell in _cells(rows.get((*key, *column))))))
  whole = markdown(('network', 'activation', *head), lines)
  return f'{whole}\n\n× ReLU is within a library; {caption(record)}'


def _cells(row: dict[str, Any] | None) -> tuple[str, str]:
  return ('', '') if row is None else (milliseconds(row['seconds']), ratio_text(row))
