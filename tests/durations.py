"""Where the time of the tests goes: a run of them, and tables of their files, functions and programs.

``python -m tests.durations`` takes pytest's options. Of each test it notes the seconds on the clock and on the
processor, those of the processes that it started, and how much of it was JAX: tracing, lowering and compiling, or
reading what another process had compiled. A fixture counts for the first test that asks for it.
"""

import collections
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

NOTES = 'LMAJAX_DURATIONS'  # the folder in which each process keeps its notes
PHASES = {
  '/jax/core/compile/jaxpr_trace_duration': 'trace',
  '/jax/core/compile/jaxpr_to_mlir_module_duration': 'lower',
  '/jax/core/compile/backend_compile_duration': 'compile',  # or what it takes to find it in the cache
}
COLUMNS = ['clock', 'processor', 'children', *PHASES.values(), 'programs', 'found']

spent, programs = collections.Counter(), collections.Counter()


def _heard(event, seconds, **about):
  if event in PHASES:
    spent[PHASES[event]] += seconds
  if PHASES.get(event) == 'compile':
    spent['programs'] += 1
    programs[str(about.get('fun_name'))] += 1


def _counted(event, **about):
  spent['found'] += event == '/jax/compilation_cache/cache_hits'


def _now():
  times = os.times()
  return {
    'clock': times.elapsed,
    'processor': times.user + times.system,
    'children': times.children_user + times.children_system,
  }


def pytest_collection_finish():
  import jax  # after conftest, which must set its flags first

  jax.monitoring.register_event_duration_secs_listener(_heard)
  jax.monitoring.register_event_listener(_counted)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item):
  spent.clear()
  programs.clear()
  before = _now()
  try:
    return (yield)
  finally:
    took = {name: seconds - before[name] for name, seconds in _now().items()}
    row = {'test': item.nodeid, **took, **spent, 'of': programs}
    worker = os.environ.get('PYTEST_XDIST_WORKER', 'alone')
    with (Path(os.environ[NOTES]) / worker).open('a') as file:
      file.write(json.dumps(row) + '\n')


def table(rows, title, count):
  """The sums of the groups that take longest: title of a row -> group."""
  groups = collections.defaultdict(collections.Counter)
  for row in rows:
    for name in ('all', title(row)):
      groups[name].update({column: row.get(column, 0) for column in COLUMNS}, tests=1)
  found = sorted(groups.items(), key=lambda group: -group[1]['processor'] - group[1]['children'])
  width = max(len(name) for name, _ in found)
  yield ' '.join(f'{name:>9}' for name in ('tests', *COLUMNS)).rjust(width + 10 * len(COLUMNS) + 10)
  for name, sums in found[: count + 1]:
    numbers = (f'{sums[column]:9.1f}' if column in COLUMNS[:6] else f'{sums[column]:9}' for column in COLUMNS)
    yield f'{name:{width}} {sums["tests"]:9} ' + ' '.join(numbers)


def main(arguments):
  with tempfile.TemporaryDirectory() as folder:
    command = [sys.executable, '-m', 'pytest', '-p', 'tests.durations', *arguments]
    code = subprocess.run(command, env={**os.environ, NOTES: folder}).returncode
    rows = [json.loads(line) for path in Path(folder).iterdir() for line in path.read_text().splitlines()]
  if rows:
    print(*table(rows, lambda row: row['test'].partition('::')[0], 100), sep='\n', end='\n\n')
    print(*table(rows, lambda row: row['test'].partition('[')[0], 40), sep='\n', end='\n\n')
    made = sum((collections.Counter(row['of']) for row in rows), collections.Counter())
    print(*(f'{number:6} programs of the name {name}' for name, number in made.most_common(30)), sep='\n')
  return code


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
