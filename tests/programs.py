"""Runs of the command line in a process of their own, small, counted, and killed on purpose."""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
SMALL = ['--activations', 'relu', 'lma', '--width', '3', '--seeds', '2', '--epochs', '3', '--save-every', '2']

# Counts the training steps into a file, and sends this process a signal before the step of that number.
_COUNTED = """
import os, signal, sys
from train import loop
from train.__main__ import main

count_file, at, signum, *arguments = sys.argv[1:]
make = loop.make_train_step

def counting(*args, **options):
  step = make(*args, **options)
  def counted(*inputs):
    with open(count_file, 'a') as file:
      file.write('.')
    if os.path.getsize(count_file) == int(at):
      os.kill(os.getpid(), int(signum))
    return step(*inputs)
  return counted

loop.make_train_step = counting
sys.exit(main(arguments))
"""


def train(*arguments, counted=None, at=0, signum=0, limit=None):
  """Runs ``python -m train``; ``counted`` names the file of dots, ``limit`` bounds the size of any file it writes."""
  program = ['-m', 'train'] if counted is None else ['-c', _COUNTED, str(counted), str(at), str(int(signum))]
  command = [sys.executable, *program, *map(str, arguments)]
  if limit is not None:
    command = ['bash', '-c', f'ulimit -f {limit}; trap "" XFSZ; exec "$@"', 'bash', *command]
  environment = {**os.environ, 'JAX_PLATFORMS': 'cpu', 'XLA_FLAGS': '', 'PYTHONPATH': str(ROOT)}
  return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=300)


def metrics(folder):
  """The lines of ``metrics.jsonl`` without their wall-clock times."""
  lines = [json.loads(line) for line in (Path(folder) / 'metrics.jsonl').read_text().splitlines()]
  return [{name: value for name, value in line.items() if name != 'seconds'} for line in lines]
