"""Benchmarks a training step over devices, processes and batch sizes, and LMA over its number of segments."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from train.programs.bench import activation, networks, step
from train.programs.bench.config import Scaling
from train.programs.bench.record import Record, caption, milliseconds, ratio_fields, ratio_text
from train.programs.bench.worker import DONE
from train.results.statistics import markdown
from train.runtime import timing
from train.runtime.errors import UserError

Row = dict[str, Any]
_ROOT = Path(__file__).parents[3]


def measure(config: Scaling) -> Record:
  """Times the three scalings one after another: devices, segments and batch sizes."""
  parts = {'devices': on_devices, 'segments': by_segments, 'batches': by_batch}
  return {name: part(config) for name, part in tqdm(parts.items(), desc='scaling')}


def on_devices(config: Scaling) -> list[Row]:
  """Times one step, its batch shared by virtual devices of one process or by processes of one device each."""
  ways = [(1, devices) for devices in config.devices] + [(processes, processes) for processes in config.processes]
  with ExitStack() as stack:
    teams = {way: stack.enter_context(_team(config, *way)) for way in dict.fromkeys([(1, 1), *ways])}
    samples = timing.interleaved({str(way): call for way, call in teams.items()}, rounds=config.rounds)
  rows = []
  for processes, devices in teams:
    seconds = samples[str((processes, devices))]
    row = {'processes': processes, 'devices': devices, **_speed(seconds, config.batch_size)}
    rows.append(row | ratio_fields(timing.ratio(seconds, samples[str((1, 1))])))
  return rows


@contextmanager
def _team(config: Scaling, processes: int, devices: int) -> Iterator[timing.Contestant]:
  """Starts processes that take a step together at every call, and kills them in the end."""
  meeting = ['--coordinator-address', f'localhost:{_free_port()}', '--num-processes', str(processes)]
  options = ['--network', config.network, '--batch-size', str(config.batch_size)]
  places = [[*meeting, '--process-id', str(i)] for i in range(processes)] if processes > 1 else [[]]
  team = [_started([*options, *place], devices // processes) for place in places]
  try:
    yield lambda: _ask(team)
  finally:
    for process in team:
      process.kill()
    for process in team:
      process.communicate()


def _started(options: Sequence[str], devices: int) -> subprocess.Popen[str]:
  flags = f'--xla_force_host_platform_device_count={devices}'
  environment = {**os.environ, 'JAX_PLATFORMS': 'cpu', 'XLA_FLAGS': flags}
  command = [sys.executable, '-m', 'train.programs.bench.worker', *options]
  pipes = {'stdin': subprocess.PIPE, 'stdout': subprocess.PIPE, 'text': True}
  return subprocess.Popen(command, env=environment, cwd=_ROOT, **pipes)


def _ask(team: Sequence[subprocess.Popen[str]]) -> None:
  """Takes one step of all processes; whatever else they print is ignored."""
  for process in team:
    if process.poll() is None and process.stdin is not None:
      process.stdin.write('step\n')
      process.stdin.flush()
  for process in team:
    if not any(line.strip() == DONE for line in process.stdout or ()):
      raise UserError(f'a worker of the benchmark ended with exit code {process.wait()}, for the reason above')


def _free_port() -> int:
  with socket.socket() as free:
    free.bind(('localhost', 0))
    return free.getsockname()[1]


def by_segments(config: Scaling) -> list[Row]:
  """Times LMA alone at each number of segments, beside ReLU."""
  labels, rows = ['relu', *(f'lma-{k}' for k in config.segments)], []
  for size in config.sizes:
    x, g = activation.arrays(size, 'float32')
    for which in activation.PASSES:
      found = {label: activation.alone(networks.labelled(label)(), x, g, which) for label in labels}
      samples = timing.interleaved({label: one.call for label, one in found.items()}, rounds=config.rounds)
      for k in config.segments:
        row = {'elements': size, 'pass': which, 'segments': k, 'seconds': timing.median(samples[f'lma-{k}'])}
        rows.append(row | ratio_fields(timing.ratio(samples[f'lma-{k}'], samples['relu'])))
  return rows


def by_batch(config: Scaling) -> list[Row]:
  """Times one step at each batch size, with ReLU and with LMA-8."""
  case, rows = step.Case(config.network, distilled=False, students=1), []
  for size in config.batch_sizes:
    calls = {label: step.contestant(case, label, size) for label in ('relu', 'lma-8')}
    samples = timing.interleaved(calls, rounds=config.rounds)
    for label, seconds in samples.items():
      row = {'batch': size, 'activation': label, **_speed(seconds, size)}
      rows.append(row | ratio_fields(timing.ratio(seconds, samples['relu'])))
  return rows


def _speed(seconds: Sequence[float], images: int) -> Row:
  middle = timing.median(seconds)
  return {'seconds': middle, 'images_per_second': images / middle}


def table(record: Record) -> str:
  """Three tables as Markdown; the ratio of times is to one device, and to ReLU."""

  def speed(row: Row) -> tuple[str, ...]:
    return milliseconds(row['seconds']), f'{row["images_per_second"]:,.0f}', ratio_text(row)

  devices = [(f'{r["processes"]} of {r["devices"] // r["processes"]}', *speed(r)) for r in record['devices']]
  segments = [
    (str(r['segments']), f'{r["elements"]:,}', r['pass'], milliseconds(r['seconds']), ratio_text(r))
    for r in record['segments']
  ]
  batches = [(str(r['batch']), r['activation'], *speed(r)) for r in record['batches']]
  return '\n\n'.join(
    (
      markdown(('processes of devices', 'ms', 'images/s', '× one device'), devices),
      markdown(('segments', 'elements', 'pass', 'ms', '× ReLU'), segments),
      markdown(('images a step', 'activation', 'ms', 'images/s', '× ReLU'), batches),
      caption(record),
    )
  )
