"""Some twenty lines broken on purpose, to see that the tests turn red: the same ones before and after a change of them.

``python -m tests.breaks`` draws them by a seed, at least one in each folder of ``lmajax`` and ``train`` and one in each
program: an operator, a constant or a condition in one line. Each is made in a copy of the repository, in which the
tests run that judge the line. To run all of them twenty times would take hours, so these are the files that import the
broken module, directly or through others; those that start programs (``tests.support``) are taken to import them all.
The nearest run first, each until its first failure, and the slow ones with the others. A break is red once a file
fails; it is green if none does, and unknown if the time given to one break is over.

    python -m tests.breaks [--tree FOLDER] [--only 1 5 ...] [--seconds 600] [--out found.json] [--found FILE]

``--tree`` judges by the tests of another checkout. What was drawn lies in ``breaks.json``, since another line of the
code is another draw; ``--draw --tree FOLDER`` draws anew, of the lines that both checkouts hold, and judges nothing.
``--found`` takes what ``--out`` wrote for another checkout: the file that turned red there goes first here.
"""

import argparse
import ast
import collections
import copy
import functools
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests import ROOT

DRAWN = Path(__file__).with_suffix('.json')
SEED, COUNT = 2026, 20
PROGRAMS = [
  *(f'train/programs/{name}/run.py' for name in ('distill', 'quantize', 'lit', 'lit_gan', 'distill_text', 'compress')),
  *(f'train/programs/{name}/run.py' for name in ('slim', 'regions', 'bench')),
  *(f'train/commands/{name}.py' for name in ('report', 'tables', 'export', 'predict')),
  'train/programs/distill_text/translate.py',
]
OTHERS = {  # what takes the place of an operator
  ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult, ast.Mod: ast.Mult,
  ast.Pow: ast.Mult, ast.MatMult: ast.Add, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd, ast.Lt: ast.GtE,
  ast.LtE: ast.Gt, ast.Gt: ast.LtE, ast.GtE: ast.Lt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq, ast.Is: ast.IsNot,
  ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In, ast.And: ast.Or, ast.Or: ast.And,
}  # fmt: skip


def broken(node):
  """The kind of break that a node allows, and the node after it; None where it allows none."""
  new = copy.deepcopy(node)
  if isinstance(node, ast.BinOp) and type(node.op) in OTHERS:
    new.op = OTHERS[type(node.op)]()
    return 'operator', new
  if isinstance(node, ast.BoolOp):
    new.op = OTHERS[type(node.op)]()
    return 'operator', new
  if isinstance(node, ast.Compare) and type(node.ops[0]) in OTHERS:
    new.ops[0] = OTHERS[type(node.ops[0])]()
    return 'condition', new
  if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
    return 'condition', new.operand
  if isinstance(node, ast.Constant) and isinstance(node.value, bool):
    new.value = not node.value
    return 'constant', new
  if isinstance(node, ast.Constant) and isinstance(node.value, int | float):
    new.value = node.value + 1
    return 'constant', new
  return None


def judged(tree):
  """The nodes of the bodies of functions: neither types nor defaults nor the text of an error."""
  stack = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
  seen = set()
  while stack:
    function = stack.pop()
    inner = [part for statement in function.body for part in ast.iter_child_nodes(statement)] + list(function.body)
    while inner:
      node = inner.pop()
      if id(node) in seen or isinstance(node, ast.Raise | ast.JoinedStr | ast.FunctionDef | ast.ClassDef):
        continue
      seen.add(id(node))
      yield node
      skipped = {id(getattr(node, 'annotation', None))}
      inner += [child for child in ast.iter_child_nodes(node) if id(child) not in skipped]


def places(path, other):
  """All the breaks of a file in lines that the other checkout has, too: line, kind, the line before and after."""
  text = (ROOT / path).read_text(encoding='utf-8')
  there = other / path
  lines, found = text.splitlines(), {}
  common = collections.Counter(map(str.strip, there.read_text(encoding='utf-8').splitlines() if there.exists() else ()))
  for node in judged(ast.parse(text)):
    change = broken(node)
    if change is None or node.lineno != node.end_lineno or common[lines[node.lineno - 1].strip()] != 1:
      continue
    line = lines[node.lineno - 1].encode()
    kind, new = change
    made = line[: node.col_offset] + f'({ast.unparse(new)})'.encode() + line[node.end_col_offset :]
    spot = node.lineno, node.col_offset, node.end_col_offset
    found[spot] = {
      'file': str(path), 'line': node.lineno, 'kind': kind, 'from': line.decode().strip(), 'to': made.decode().strip(),
    }  # fmt: skip
  return [found[spot] for spot in sorted(found)]


def drawn(other):
  """The breaks, in an order that the seed alone decides, of lines that the other checkout has once, too."""
  draw = random.Random(SEED)
  files = sorted(str(path.relative_to(ROOT)) for top in ('lmajax', 'train') for path in (ROOT / top).rglob('*.py'))
  every = {path: found for path in files if (found := places(path, other))}
  folders = sorted({str(Path(path).parent) for path in every})
  chosen = [path for path in PROGRAMS if path in every]
  for folder in folders:
    inside = [path for path in every if str(Path(path).parent) == folder]
    if not any(path in inside for path in chosen):
      chosen.append(draw.choice(inside))
  rest = [path for path in every if path not in chosen]
  chosen += draw.sample(rest, max(0, COUNT - len(chosen)))
  return [draw.choice(every[path]) for path in chosen]


def imported(path):
  """The modules that a file names in its imports."""
  for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
    if isinstance(node, ast.Import):
      yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
      yield str(node.module)
      yield from (f'{node.module}.{alias.name}' for alias in node.names)


@functools.cache
def graph(root):
  """Module -> the modules of the repository that it imports."""
  paths = {}
  for top in ('lmajax', 'train', 'tests'):
    for path in (root / top).rglob('*.py'):
      parts = path.relative_to(root).with_suffix('').parts
      paths['.'.join(parts[:-1] if parts[-1] == '__init__' else parts)] = path
  edges = {name: {other for other in imported(path) if other in paths} for name, path in paths.items()}
  edges['tests.support.processes'].add('train.__main__')
  for name in paths:
    if name.startswith('tests.programs.'):
      edges[name].add('tests.programs.conftest')  # its fixture starts programs
  edges['train.__main__'] |= {name for name in paths if name.startswith('train.programs.')}
  edges['tests.repository.test_house'] |= {name for name in paths if name.startswith('lmajax')}  # its examples
  return edges


def judges(root, path):
  """The test files that reach a module: its own first, then by the number of steps to it, then the small ones."""
  module = '.'.join(Path(path).with_suffix('').parts).removesuffix('.__init__')
  edges, found = graph(root), []
  for name in edges:
    if not name.rpartition('.')[2].startswith('test_'):
      continue
    distance, layer, seen = 0, {name}, {name}
    while layer and module not in layer:
      layer = {other for one in layer for other in edges[one]} - seen
      seen |= layer
      distance += 1
    if layer:
      file = root / (name.replace('.', '/') + '.py')
      about = file.stem.removeprefix('test_')
      named = about in Path(path).stem or about.startswith(Path(path).stem)
      starts = bool({'tests.support.processes', 'tests.support.runs', 'tests.programs.conftest'} & edges[name])
      found.append((not named, distance, starts, file.stat().st_size, str(file.relative_to(root))))
  return [file for *_, file in sorted(found)]


def judged_by(root, change, seconds, first=None):
  """Red and by which test, green, or unknown; and the seconds that it took to know. One file may go first."""
  began = time.monotonic()
  with tempfile.TemporaryDirectory() as folder:
    there = Path(folder) / 'broken'
    shutil.copytree(root, there, ignore=shutil.ignore_patterns('.git', '__pycache__', '.*cache'))
    path = there / change['file']
    lines = path.read_text(encoding='utf-8').split('\n')
    at = next(i for i, line in enumerate(lines) if line.strip() == change['from'])
    lines[at] = lines[at].replace(change['from'], change['to'])
    path.write_text('\n'.join(lines), encoding='utf-8')
    for file in sorted(judges(root, change['file']), key=lambda file: file != first):
      left = seconds - (time.monotonic() - began)
      command = [sys.executable, '-m', 'pytest', '-p', 'no:cacheprovider', '-n', '0', '-x', '-m', '', file]
      try:
        done = subprocess.run(
          command, cwd=there, env={**os.environ, 'PYTHONPATH': str(there)}, capture_output=True, text=True, timeout=left
        )
      except (subprocess.TimeoutExpired, ValueError):
        return 'unknown', file, round(time.monotonic() - began)
      if done.returncode not in (0, 5):
        failed = [line for line in done.stdout.splitlines() if line.startswith(('FAILED ', 'ERROR '))]
        name = failed[0].split(' - ')[0].split(' ', 1)[1] if failed else file
        return 'red', name, round(time.monotonic() - began)
  return 'green', '', round(time.monotonic() - began)


def main():
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
  parser.add_argument('--tree', type=Path, default=ROOT)
  parser.add_argument('--only', type=int, nargs='*')
  parser.add_argument('--seconds', type=float, default=600)
  parser.add_argument('--out', type=Path)
  parser.add_argument('--draw', action='store_true')
  parser.add_argument('--found', type=Path)
  options = parser.parse_args()
  if options.draw:
    DRAWN.write_text(json.dumps(drawn(options.tree.resolve()), indent=1) + '\n', encoding='utf-8')
    return
  changes = json.loads(DRAWN.read_text(encoding='utf-8'))
  found = json.loads(options.found.read_text(encoding='utf-8')) if options.found else []
  firsts = {row['number']: row['by'].partition('::')[0] for row in found}
  counts, rows = collections.Counter(), []
  for number, change in enumerate(changes, start=1):
    print(f'{number:2} {change["file"]}:{change["line"]} {change["kind"]}\n   - {change["from"]}\n   + {change["to"]}')
    if options.only is not None and number not in options.only:
      continue
    verdict, by, seconds = judged_by(options.tree.resolve(), change, options.seconds, firsts.get(number))
    print(f'   {verdict} after {seconds} s {by}', flush=True)
    counts[verdict] += 1
    rows.append({'number': number, **change, 'verdict': verdict, 'by': by, 'seconds': seconds})
    if options.out:
      options.out.write_text(json.dumps(rows, indent=1) + '\n', encoding='utf-8')
  print(dict(counts))


if __name__ == '__main__':
  main()
