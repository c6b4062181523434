"""One limited process in which many commands are run, each of which ends before it trains."""

import json
import select
import subprocess
import sys
import time
from typing import NamedTuple

from tests import ROOT
from tests.support.processes import environment

SECONDS, GIB = 10.0, 2

_PROGRAM = """
import contextlib, io, json, os, resource, sys, traceback, warnings
import train.__main__ as program
import train.programs.distill_text.translate, train.programs.regions.run
import train.commands.export, train.commands.predict, train.commands.report, train.deploy.serve
from train.runtime.quiet import one_line_warnings
import jax
for known in program.PROGRAMS.values():
  known.run()
jax.jit(lambda x: x + 1)(1.0)

class Ended(SystemExit):
  pass

def ended(*arguments, **options):
  raise Ended(0)

program.Run.__enter__ = ended  # here a command would begin to train

with open('/proc/self/statm') as file:
  now = int(file.read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (now + {most}, now + {most}))
said, real = os.dup(2), os.dup(1)
one_line_warnings()
print('ready', flush=True)
for line in sys.stdin:
  arguments = json.loads(line)
  out, err = os.memfd_create('out'), os.memfd_create('err')
  os.dup2(out, 1)
  os.dup2(err, 2)
  trace = ''
  try:
    code = program.main(arguments)
  except SystemExit as stopped:
    code = stopped.code
  except BaseException:
    code, trace = None, traceback.format_exc()
  sys.stdout.flush()
  sys.stderr.flush()
  os.dup2(real, 1)
  os.dup2(said, 2)
  text = os.pread(err, 10**6, 0).decode(errors='replace')
  os.close(out)
  os.close(err)
  print(json.dumps([code, text, trace]), flush=True)
"""


class Ended(NamedTuple):
  """How a command ended."""

  code: int | None
  said: str
  """On standard error."""
  trace: str
  seconds: float


class Limited:
  """The process; a new one is started where it was ended."""

  def __init__(self):
    self._process = None

  def main(self, *arguments):
    """Runs a command in it."""
    process = self._process = self._process or self._started()
    process.stdin.write(json.dumps([str(each) for each in arguments]).encode() + b'\n')
    process.stdin.flush()
    began = time.monotonic()
    answered = select.select([process.stdout], [], [], SECONDS)[0]
    line = process.stdout.readline() if answered else b''
    if not line:
      self.close()
      return Ended(None, '', 'was killed' if answered else f'took more than {SECONDS} s', SECONDS)
    return Ended(*json.loads(line), time.monotonic() - began)

  def _started(self):
    program = _PROGRAM.replace('{most}', str(GIB * 2**30))
    pipes = {'stdin': subprocess.PIPE, 'stdout': subprocess.PIPE}
    process = subprocess.Popen([sys.executable, '-c', program], cwd=ROOT, env=environment(1), **pipes)
    assert process.stdout.readline() == b'ready\n'
    return process

  def close(self):
    """Ends the process."""
    if self._process is not None:
      self._process.kill()
      self._process.communicate()
      self._process = None
