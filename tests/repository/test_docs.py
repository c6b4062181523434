"""The pages that docs/made.py makes leave nothing out: modules, names, commands and options; Sphinx is not needed."""

import ast
import contextlib
import importlib
import importlib.util
import inspect
import io
import re
import types

import pytest
import tyro

import lmajax
from lmajax import losses
from lmajax import types as contracts
from lmajax.activations import linen, nnx
from tests import ROOT
from train.__main__ import Command
from train.config import command


def _loaded(name):
  spec = importlib.util.spec_from_file_location(name, ROOT / 'docs' / f'{name}.py')
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


MADE = _loaded('made')
PAGE = MADE.command_line()
COMMANDS = [command(options) for options in MADE.COMMANDS]


def test_every_public_module_stands_in_the_reference():
  listed = (ROOT / 'docs' / 'reference' / 'index.md').read_text('utf-8')
  assert set(re.findall(r'^lmajax\.(\S+)$', listed, re.MULTILINE)) == set(MADE.MODULES) >= set(lmajax.__all__) & MODULES


MODULES = {each for each in lmajax.__all__ if inspect.ismodule(getattr(lmajax, each))}


@pytest.mark.parametrize('name', MADE.MODULES)
def test_a_page_shows_what_its_module_defines(name):
  module = importlib.import_module(f'lmajax.{name}')
  shown = MADE.public(name)
  assert shown and all(said.strip() for said in shown.values()), f'without a text: {shown}'
  own = {
    each
    for each, value in vars(module).items()
    if not each.startswith('_') and getattr(value, '__module__', '') == module.__name__
  }
  assert own <= set(shown)


def test_every_name_of_the_package_stands_on_a_page():
  shown = {
    id(getattr(importlib.import_module(f'lmajax.{name}'), each)) for name in MADE.MODULES for each in MADE.public(name)
  }
  names = {each: getattr(lmajax, each) for each in lmajax.__all__}
  assert [each for each, value in names.items() if not inspect.ismodule(value) and id(value) not in shown] == []


def test_an_alias_stands_as_its_source_has_it():
  page = MADE.module('types')
  assert '.. py:data:: Where\n   :value: Callable[[str, Array], bool]\n\n   (path, leaf) -> whether' in page
  assert '.. autoclass:: Reparam' in page and '.. autoclass:: Where' not in page


def _help(*arguments):
  said = io.StringIO()
  with contextlib.redirect_stdout(said), pytest.raises(SystemExit):
    tyro.cli(Command, args=[*arguments, '--help'])
  return said.getvalue()


def _sections():
  """The part of the page below each title, by its title."""
  parts = re.split(r'^##+ (.*)$', PAGE, flags=re.MULTILINE)
  return dict(zip(parts[1::2], parts[2::2], strict=True))


SECTIONS = _sections()


def test_every_command_has_its_place_on_the_page():
  commands = re.search(r'\{(.*?)\}', re.sub(r'\s', '', _help()))[1].split(',')
  assert sorted(COMMANDS) == sorted(commands)
  benchmarks = re.search(r'\{(.*?)\}', re.sub(r'\s', '', _help('bench')))[1].split(',')
  assert list(SECTIONS) == [
    part for each in COMMANDS for part in (each, *([f'bench {name}' for name in benchmarks] if each == 'bench' else []))
  ]


@pytest.mark.parametrize('title', SECTIONS)
def test_the_page_has_the_options_that_help_prints(title):
  said = _help(*title.split())
  printed = re.findall(r'^  (--\w[\w.-]+)(?:, (--[\w.-]+))?', said, re.MULTILINE)
  terms = [line for line in SECTIONS[title].splitlines() if line.startswith('`')]
  shown = [name for line in terms for name in re.findall(r'`(--[\w.-]+)', line.partition(' (default')[0])]
  assert shown == [name for names in printed for name in names if name]
  for line in terms:
    default = re.search(r' \(default: `(.*)`\)$', line)
    if default:  # and in the words of the help, however they are wrapped
      assert f'(default:{default[1]})'.replace(' ', '') in re.sub(r'\s', '', said), line


def test_choices_and_kinds_stand_beside_an_option():
  assert '`--dtype float32|bfloat16` (default: `float32`)' in SECTIONS['distill']
  assert '`--resume`, `--no-resume`' in SECTIONS['distill']
  assert re.search(r'^`--loss …` .*\n: .* Any of `kd`, `jsd`, .*, `heads`\.$', SECTIONS['distill'], re.MULTILINE)
  assert '`--first-seed INT` (default: `0`)' in SECTIONS['distill']
  assert '`--limits.layers INT` (default: `1000`)' in SECTIONS['export']


def _signature(found, what='function'):
  return MADE.signature(None, what, '', found, None, 'own', 'returns')


def test_signatures_are_as_the_source_has_them():
  assert _signature(lmajax.update_stats) == (
    '(running: RunningStats, batch: Stats, *, decay: float)',
    'RunningStats',
  )
  assert _signature(lmajax.batch_norm_stats)[0].endswith('*, count: int, epsilon: float = 1e-5)')
  assert _signature(linen.Swish, 'class') == ('()', None)
  assert _signature(linen.LMA, 'class')[0].startswith('(num_segments: int = 8, joined: bool = False, ')
  assert _signature(nnx.Swish, 'class')[0] == '(num_features: int, *, rngs: nnx.Rngs | None = None)'
  assert _signature(linen.Swish.__call__, 'method')[0].startswith('(x: Values, *, where: Mask = None')
  assert _signature(contracts.Activation, 'class') == ('', None)
  assert _signature(lmajax.training.UnfitError, 'class') is None
  assert _signature(types.SimpleNamespace) == ('own', 'returns')
  inherited = _signature(lmajax.models.ResNeXt, 'class')[0]
  assert 'cardinality' in inherited and 'depth' in inherited
  assert _signature(losses.soft_targets)[0].count('*, ') == 1


def test_no_returned_value_is_taken_for_its_type():
  """Napoleon takes what stands before a colon in the first line for a type."""
  wrong = []
  for file in sorted((ROOT / 'lmajax').rglob('*.py')):
    for each in ast.walk(ast.parse(file.read_text('utf-8'))):
      if isinstance(each, ast.FunctionDef | ast.ClassDef) and not each.name.startswith('_'):
        found = re.search(r'^Returns:\n(.*)$', ast.get_docstring(each) or '', re.MULTILINE)
        if found and ':' in re.sub('``.*?``', '', found[1]):
          wrong.append(f'{file.name}: {each.name}')
  assert wrong == []


def test_badges_and_notebooks_are_local():
  notebook = (ROOT / 'colab' / '1_lma_in_ten_minutes.ipynb').read_text('utf-8')
  source = [f'[x](../../colab/1_lma_in_ten_minutes.ipynb) {notebook}']
  MADE.links(None, '', source)
  assert source[0].startswith('[x](/tutorials/1_lma') and '[Open in Colab](https://colab.' in source[0]
  assert not re.search(r'!\[[^]]*\]\(https?:', source[0])


@pytest.mark.slow
def test_the_picture_of_the_readme_can_be_drawn(tmp_path):
  picture = _loaded('picture')
  picture.draw(tmp_path / 'lma.png', epochs=1)
  assert (tmp_path / 'lma.png').read_bytes().startswith(b'\x89PNG')
