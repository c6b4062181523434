"""Runs of the command line in a process of their own, small, counted, and killed on purpose."""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
QUICK_TO_COMPILE = ' '.join(  # compiling is most of a test's time
  (
    '--xla_backend_optimization_level=0',
    '--xla_llvm_disable_expensive_passes=true',
    '--xla_backend_extra_options=xla_cpu_disable_new_fusion_emitters',  # a third of it; later compilers have no other
    '--xla_cpu_parallel_codegen_split_count=1',  # a process of the tests has one core
  )
)
SMALL = ['--activations', 'lma', '--width', '3', '--seeds', '2', '--epochs', '3', '--save-every', '2']

# Counts the calls of one kind into a file, and sends this process a signal before (or after) the call of that number:
# a training step, the save of a checkpoint, a line of metrics, or any other file of the run.
_COUNTED = """
import os, signal, sys
from train import checkpoint, config, run, step
from train.__main__ import program

count_file, kind, after, at, signum, *arguments = sys.argv[1:]

def counted(call):
  def counting(*inputs, **options):
    with open(count_file, 'a') as file:
      file.write('.')
    now = os.path.getsize(count_file) == int(at)
    if now and after == '0':
      os.kill(os.getpid(), int(signum))
    result = call(*inputs, **options)
    if now and after == '1':
      os.kill(os.getpid(), int(signum))
    return result
  return counting

compiled = step.compiled
if kind == 'step':
  step.compiled = lambda function, **options: counted(compiled(function, **options))
if kind == 'save':
  checkpoint.Checkpoints.save = counted(checkpoint.Checkpoints.save)
if kind == 'line':
  run.Run.report = counted(run.Run.report)
if kind == 'file':
  config.write_atomically = run.write_atomically = counted(run.write_atomically)
sys.exit(program(arguments))
"""


def train(*arguments, counted=None, kind='step', after=False, at=0, signum=0, limit=None, devices=1):
  """Runs ``python -m train``; ``counted`` names the file of dots, ``limit`` bounds the size of any file it writes."""
  how = {'kind': kind, 'after': after, 'at': at, 'signum': signum}
  program = ['-m', 'train'] if counted is None else counting(counted, **how)
  return finished(start(*program, *arguments, limit=limit, devices=devices))


def counting(dots, *, kind='step', after=False, at=0, signum=0):
  """The program that counts its calls of a kind into ``dots``, and signals itself at one of them."""
  return ['-c', _COUNTED, dots, kind, int(after), at, int(signum)]


def start(*arguments, limit=None, devices=1, **variables):
  """Starts Python, without waiting for its end."""
  command = [sys.executable, *map(str, arguments)]
  if limit is not None:
    command = ['bash', '-c', f'ulimit -f {limit}; trap "" XFSZ; exec "$@"', 'bash', *command]
  environment = {
    **os.environ,
    'JAX_PLATFORMS': 'cpu',
    'XLA_FLAGS': f'--xla_force_host_platform_device_count={devices} {QUICK_TO_COMPILE}',
    'PYTHONPATH': str(ROOT),
    **variables,
  }
  return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finished(process):
  """Waits for the end of what was started."""
  out, err = process.communicate(timeout=300)
  return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def metrics(folder):
  """The lines of ``metrics.jsonl`` without their wall-clock times."""
  lines = [json.loads(line) for line in (Path(folder) / 'metrics.jsonl').read_text().splitlines()]
  return [{name: value for name, value in line.items() if name != 'seconds'} for line in lines]
