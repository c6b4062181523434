"""Runs of the command line in a process of their own, small, counted, and killed on purpose."""

import atexit
import functools
import json
import os
import platform
import select
import subprocess
import sys
import tempfile
from pathlib import Path

from tests import ROOT

QUICK_TO_COMPILE = ' '.join(  # compiling is most of a test's time
  (
    '--xla_backend_optimization_level=0',
    '--xla_llvm_disable_expensive_passes=true',
    '--xla_backend_extra_options=xla_cpu_disable_new_fusion_emitters',  # a third of it; later compilers have no other
    '--xla_cpu_parallel_codegen_split_count=1',  # a process of the tests has one core
    *(['--xla_cpu_max_isa=AVX'] if platform.machine() == 'x86_64' else []),  # those fuse x · y + z wherever they can
  )
)
LONGEST = 300  # seconds that a program may take
SMALL = ['--activations', 'lma', '--width', '3', '--seeds', '2', '--epochs', '3', '--save-every', '2']

# Imports what all programs import, once, and forks for each: JAX has no backend yet, and takes one in the fork.
_FORKING = """
import importlib, json, os, pkgutil, resource, sys, warnings
import train

for module in pkgutil.walk_packages(train.__path__, 'train.'):
  if not module.name.startswith('train.programs.bench') and not module.name.endswith('__main__'):
    importlib.import_module(module.name)
import train.__main__

warnings.filterwarnings('ignore', message='.*fork')  # numpy's threads, which know of it
for line in sys.stdin:
  asked = json.loads(line)
  child = os.fork()
  if not child:
    break
  print(os.waitpid(child, 0)[1], flush=True)
else:
  os._exit(0)
os.environ.clear()
os.environ.update(asked['environment'])
for number, name in ((0, os.devnull), (1, asked['out']), (2, asked['err'])):
  os.dup2(os.open(name, os.O_RDWR | os.O_CREAT, 0o600), number)
if asked['limit'] is not None:
  resource.setrlimit(resource.RLIMIT_FSIZE, 2 * (1024 * asked['limit'],))
sys.argv = asked['argv']
exec(asked['code'])
"""

_PLAIN = """
import sys
from train.__main__ import program

sys.exit(program(sys.argv[1:]))
"""

# Counts the calls of one kind into a file, and sends this process a signal before (or after) the call of that number:
# a training step, the save of a checkpoint, a line of metrics, or any other file of the run.
_COUNTED = """
import os, signal, sys
from lmajax.training import Checkpoints
from train.engine import walk
from train.runtime import run
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

compiled = walk.compiled
if kind == 'step':
  walk.compiled = lambda function, **options: counted(compiled(function, **options))
if kind == 'save':
  Checkpoints.save = counted(Checkpoints.save)
if kind == 'line':
  run.Run.report = counted(run.Run.report)
if kind == 'file':
  write = run.write_atomically
  for module in [*sys.modules.values()]:
    if getattr(module, 'write_atomically', None) is write:
      module.write_atomically = counted(write)
sys.exit(program(arguments))
"""


def train(*arguments, counted=None, kind='step', after=False, at=0, signum=0, limit=None, devices=1):
  """Runs ``python -m train``; ``counted`` names the file of dots, ``limit`` bounds the size of any file it writes."""
  argv = ['-c', *([] if counted is None else _how(counted, kind, after, at, signum)), *map(str, arguments)]
  with tempfile.TemporaryDirectory() as folder:
    out, err = Path(folder) / 'out', Path(folder) / 'err'
    asked = {
      'code': _PLAIN if counted is None else _COUNTED,
      'argv': argv,
      'environment': environment(devices),
      'limit': limit,
      'out': str(out),
      'err': str(err),
    }
    code = os.waitstatus_to_exitcode(_forked(asked))
    return subprocess.CompletedProcess(argv, code, out.read_text(), err.read_text())


def counting(dots, *, kind='step', after=False, at=0, signum=0):
  """The program that counts its calls of a kind into ``dots``, and signals itself at one of them."""
  return ['-c', _COUNTED, *_how(dots, kind, after, at, signum)]


def _how(dots, kind, after, at, signum):
  return [str(dots), kind, str(int(after)), str(at), str(int(signum))]


@functools.cache
def _forking():
  command = [sys.executable, '-c', _FORKING]
  server = subprocess.Popen(
    command, cwd=ROOT, env=environment(1), stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
  )
  atexit.register(server.communicate)
  return server


def _forked(asked):
  server = _forking()
  server.stdin.write(json.dumps(asked).encode() + b'\n')
  server.stdin.flush()
  if not select.select([server.stdout], [], [], LONGEST)[0]:
    os.killpg(server.pid, 9)
    _forking.cache_clear()
    raise subprocess.TimeoutExpired(asked['argv'], LONGEST)
  return int(server.stdout.readline())


def start(*arguments, devices=1, **variables):
  """Starts Python, without waiting for its end."""
  command = [sys.executable, *map(str, arguments)]
  pipes = {'stdout': subprocess.PIPE, 'stderr': subprocess.PIPE}
  return subprocess.Popen(command, cwd=ROOT, env={**environment(devices), **variables}, text=True, **pipes)


def environment(devices):
  """Of a process that sees so many devices."""
  return {
    **os.environ,
    'JAX_PLATFORMS': 'cpu',
    'XLA_FLAGS': f'--xla_force_host_platform_device_count={devices} {QUICK_TO_COMPILE}',
    'PYTHONPATH': str(ROOT),
  }


def finished(process):
  """Waits for the end of what was started."""
  out, err = process.communicate(timeout=LONGEST)
  return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def metrics(folder):
  """The lines of ``metrics.jsonl`` without their wall-clock times."""
  lines = [json.loads(line) for line in (Path(folder) / 'metrics.jsonl').read_text().splitlines()]
  return [{name: value for name, value in line.items() if name != 'seconds'} for line in lines]
