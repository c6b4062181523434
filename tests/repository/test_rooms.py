"""The rules of train/: arrows between rooms point down, no cycle, few floors, and nothing is there twice."""

import ast
from collections import defaultdict
from functools import cache
from itertools import pairwise

import pytest

from tests import ROOT
from tests.repository.test_house import module_name

SOURCES = {module_name(path): path for path in sorted((ROOT / 'train').rglob('*.py'))}
TREES = {name: ast.parse(path.read_text(encoding='utf-8')) for name, path in SOURCES.items()}
ROOMS = [
  'runtime',
  'activations networks data teaching',
  'config',
  'engine',
  'build',
  'deploy',
  'results',
  'programs',
  'commands',
]
FLOOR = {room: number for number, rooms in enumerate([*ROOMS, '__main__']) for room in rooms.split()}
# Programs that go on from another one.
NEIGHBOURS = {('compress', 'slim'), ('lit_gan', 'lit'), ('bench', 'distill_text'), ('hash', 'prune')}
MOST_FLOORS, MOST_AT_THE_TOP = 9, 14


def inner(tree):
  """The modules of train/ that a tree imports, also within functions and for types alone."""
  for node in ast.walk(tree):
    if isinstance(node, ast.Import):
      named = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom) and node.module:
      named = [f'{node.module}.{alias.name}' for alias in node.names]
      named = [name if name in SOURCES else node.module for name in named]
    else:
      continue
    yield from (name for name in named if name in SOURCES)


ARROWS = {name: {other for other in inner(tree) if other != name} for name, tree in TREES.items()}


def room(name):
  return [*name.split('.'), ''][1]


@cache
def floor(name):
  """1 where nothing of train/ is imported; a cycle has no floor."""
  return 1 + max(map(floor, ARROWS[name]), default=0)


@pytest.mark.parametrize('name', [name for name in SOURCES if room(name)])
def test_arrows_between_rooms_point_down(name):
  for other in ARROWS[name] - {'train'}:
    assert FLOOR[room(other)] <= FLOOR[room(name)], f'{name} imports {other}'
    alike = FLOOR[room(other)] == FLOOR[room(name)]
    assert not alike or room(other) == room(name), f'{name} imports {other}'


def test_programs_know_few_others():
  found = defaultdict(set)
  for name, others in ARROWS.items():
    for other in others:
      pair = tuple(each.split('.')[2] for each in (name, other) if each.startswith('train.programs.'))
      if len(pair) == 2 and pair[0] != pair[1]:
        found[pair].add(f'{name} imports {other}')
  assert set(found) == NEIGHBOURS, dict(found)


def test_there_is_no_cycle_and_few_floors():
  heights = {name: floor(name) for name in SOURCES}
  assert max(heights.values()) <= MOST_FLOORS, {
    name: height for name, height in heights.items() if height > MOST_FLOORS
  }
  assert floor('train.__main__') == max(heights.values())


def test_few_names_stand_at_the_top():
  top = {path.name for path in (ROOT / 'train').iterdir() if not path.name.startswith(('.', '__pycache__'))}
  assert len(top) <= MOST_AT_THE_TOP, sorted(top)


def test_no_folder_holds_a_family_of_prefixes():
  """Files that differ by what they are of, as config_slim and config_lit: each belongs into a folder."""
  for folder in {path.parent for path in SOURCES.values()}:
    names = sorted(path.stem for path in folder.glob('*.py') if not path.stem.startswith('__'))
    for ends in (names, sorted(name[::-1] for name in names)):
      for one, other in pairwise(ends):
        assert '_' not in other or one.split('_')[0] != other.split('_')[0], f'{folder}: {one}, {other}'


def test_nothing_is_defined_twice():
  bodies = defaultdict(list)
  for name, tree in TREES.items():
    for node in ast.walk(tree):
      if isinstance(node, ast.FunctionDef):
        body = node.body[1:] if ast.get_docstring(node) else node.body
        text = '\n'.join(map(ast.dump, body))
        if len(body) > 1 or len(text) > 600:
          bodies[ast.dump(node.args), text].append(f'{name}.{node.name}')
  twice = [names for names in bodies.values() if len(names) > 1]
  assert not twice, twice
