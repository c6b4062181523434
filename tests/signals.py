"""Runs that are ended by SIGKILL and SIGTERM in turn at random moments, and must end with the bits of whole ones.

``python -m tests.signals --times 20 --seed 0 lit slim compress lit-gan lit-text distill-text`` prints a line for each
program. Whatever the moment is (imports, data, compilations, steps, checkpoints, scores, files), every resume must go
on, nothing but one line stands on standard error beside the bar, and at the end all must be as in a run left alone.
"""

import argparse
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.programs import CASES
from tests.support.processes import LONGEST, start
from tests.support.runs import assert_same_run

SIGNALS = {'distill-text': (signal.SIGTERM,)}
BOTH = (signal.SIGKILL, signal.SIGTERM)


def started(program, folder, options, resume):
  how = ['--resume'] if resume else options
  return start('-m', 'train', program, '--workdir', folder, *how)


def whole(program, folder, options):
  """Runs to the end; returns the seconds it took."""
  began = time.monotonic()
  process = started(program, folder, options, resume=(folder / 'config.json').exists())
  _, err = process.communicate(timeout=LONGEST)
  assert process.returncode == 0, err
  said(err)
  return time.monotonic() - began


def said(err):
  """The lines of standard error beside the bar."""
  lines = [
    line for line in err.replace('\r', '\n').split('\n') if line.strip() and not re.search('step/s|s/step', line)
  ]
  lines = [line for line in lines if not line.startswith('warning: checkpoint')]
  assert len(lines) <= 1 and 'Traceback' not in err, err
  return lines


def interrupted(program, folder, options, times, draw, length):
  """Ends it so often at a random moment; a run that came to its end is begun anew. Returns how often it did."""
  ends = 0
  for number in range(times):
    process = started(program, folder, options, resume=(folder / 'config.json').exists())
    signum = SIGNALS.get(program, BOTH)[number % len(SIGNALS.get(program, BOTH))]
    try:
      process.wait(draw.uniform(0, length))
    except subprocess.TimeoutExpired:
      process.send_signal(signum)
    _, err = process.communicate(timeout=LONGEST)
    lines = said(err)
    # before a run begins, a signal ends the process as it ends any other
    assert process.returncode in (0, -signum, 128 + signum), err
    if process.returncode == 128 + signum:
      assert lines[0].startswith('stopped by SIGTERM; go on with --resume --workdir '), err
    if process.returncode == 0:
      ends += 1
      shutil.rmtree(folder)
  return ends


def main(arguments):
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('programs', nargs='*', default=[*CASES], choices=[*CASES, []])
  parser.add_argument('--times', type=int, default=20)
  parser.add_argument('--seed', type=int, default=0)
  asked = parser.parse_args(arguments)
  with tempfile.TemporaryDirectory() as name:
    place = Path(name)
    os.environ['JAX_COMPILATION_CACHE_DIR'] = str(place / 'compiled')
    os.environ['JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS'] = '0'
    for program in asked.programs:
      (place / program).mkdir()
      options = CASES[program].options(place / program)
      whole(program, place / program / 'compiling', options)
      length = whole(program, place / program / 'whole', options)
      folder = place / program / 'interrupted'
      ends = interrupted(program, folder, options, asked.times, random.Random(asked.seed), length)
      whole(program, folder, options)
      assert_same_run(folder, place / program / 'whole')
      print(f'{program}: {asked.times} signals within {length:.0f} s, {ends} ends, the same bits', flush=True)


if __name__ == '__main__':
  main(sys.argv[1:])
