"""Makes the pages that are not written by hand: notebooks, a page for each public module, the programs' options."""

import ast
import dataclasses
import importlib
import inspect
import pkgutil
import shutil
import textwrap
import types
import typing
from functools import partial
from pathlib import Path
from typing import Any

import tyro

import lmajax
from train.__main__ import Command
from train.config import command
from train.runtime.options import option, text

MODULES = tuple(
  each.name.removeprefix('lmajax.')
  for each in pkgutil.walk_packages(lmajax.__path__, 'lmajax.')
  if '._' not in each.name
)
COMMANDS = tuple(typing.get_args(each)[0] for each in typing.get_args(Command))
_NOTE = '% Made by docs/made.py.\n\n'
_BADGE = '![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)'
_FEW = 40
"""Characters of an option's values that stand beside its name; longer lists follow its text."""


def pages(docs: Path) -> None:
  """Writes all of them, where git ignores them."""
  for notebook in (docs.parent / 'colab').glob('*.ipynb'):
    shutil.copyfile(notebook, docs / 'tutorials' / notebook.name)
  for name in MODULES:
    _write(docs / 'reference' / f'lmajax.{name}.md', module(name))
  _write(docs / 'reference' / 'command-line.md', command_line())


def module(name: str) -> str:
  """Returns the page of a public module: a table of its names, and their docstrings, which Sphinx reads."""
  named, values = public(name), _aliases(name)
  rows = [f'* - :py:obj:`{each} <lmajax.{name}.{each}>`\n  - {_first(said)}' for each, said in named.items()]
  table = ['.. list-table::', '   :class: names', '', *(textwrap.indent(row, '   ') for row in rows)]
  lines = [f'.. automodule:: lmajax.{name}', *(['   :no-members:'] if values else []), '']
  lines += textwrap.indent('\n'.join(table), '   ').split('\n')
  if values:  # autodoc writes aliases out, and napoleon takes what stands before a colon for a type
    lines += ['', f'.. py:currentmodule:: lmajax.{name}']
    for each, said in named.items():
      own = [f'.. py:data:: {each}', f'   :value: {values.get(each)}', '', f'   {said}']
      lines += ['', *(own if each in values else [f'.. autoclass:: {each}'])]
  return '\n'.join([f'# lmajax.{name}', '', '```{eval-rst}', *lines, '```', ''])


def public(name: str) -> dict[str, str]:
  """Returns the public names of a module that are no modules, in their order, each with what is said of it."""
  found = importlib.import_module(f'lmajax.{name}')
  body = ast.parse(inspect.getsource(found)).body
  names = getattr(found, '__all__', None) or [
    each.name if isinstance(each, ast.FunctionDef | ast.ClassDef) else ast.unparse(each.targets[0])
    for each in body
    if isinstance(each, ast.FunctionDef | ast.ClassDef | ast.Assign)
  ]
  said = {ast.unparse(each.targets[0]): after for each, after in _documented(body) if isinstance(each, ast.Assign)}
  return {
    each: said.get(each) or inspect.getdoc(getattr(found, each)) or ''
    for each in names
    if not each.startswith('_') and not inspect.ismodule(getattr(found, each))
  }


def _aliases(name: str) -> dict[str, str]:
  """Returns what the names that a module assigns stand for, as its source has it."""
  body = ast.parse(inspect.getsource(importlib.import_module(f'lmajax.{name}'))).body
  found = {ast.unparse(each.targets[0]): ast.unparse(each.value) for each in body if isinstance(each, ast.Assign)}
  return {each: value for each, value in found.items() if not each.startswith('_')}


def _documented(body: list[ast.stmt]) -> list[tuple[ast.stmt, str]]:
  """Pairs each statement with the string behind it."""
  pairs = zip(body, [*body[1:], None], strict=True)
  return [
    (line, ' '.join(str(after.value.value).split()))
    for line, after in pairs
    if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
  ]


def _first(said: str) -> str:
  """Returns the first sentence of a text."""
  paragraph = ' '.join(said.split('\n\n')[0].split())
  return paragraph[: paragraph.index('. ') + 1] if '. ' in paragraph else paragraph


def command_line() -> str:
  """Returns the page of the programs' options."""
  about = (
    'Every command and its options, as `python -m train COMMAND --help` prints them. The defaults are those for the'
    ' data set that a program has by default; its other data sets have some of their own, which the texts name.'
  )
  return '\n\n'.join(['# Command line', about, *map(_command, COMMANDS)]) + '\n'


def _command(options: type[Any]) -> str:
  return '\n\n'.join([f'## {command(options)}', _said(options), *_options(options)])


def _said(options: type[Any]) -> str:
  return ' '.join((inspect.getdoc(options) or '').split())


def _options(options: type[Any], prefix: str = '') -> list[str]:
  said, found = _texts(options), []
  hints = typing.get_type_hints(options, include_extras=True)
  for field in dataclasses.fields(options):
    kind, marks = _bare(hints[field.name])
    if tyro.conf.Suppress in marks:
      continue
    if dataclasses.is_dataclass(kind):
      found += _options(kind, f'{option(field.name)}.')
    elif commands := [each for each in map(_bare, typing.get_args(kind)) if dataclasses.is_dataclass(each[0])]:
      for each, (named,) in commands:
        found += [f'### {command(options)} {named.name}', _said(each), *_options(each)]
    else:
      found.append(_option(field, kind, said[field.name], prefix, named=tyro.conf.Positional not in marks))
  return found


def _option(field: dataclasses.Field, kind: Any, said: str, prefix: str, *, named: bool) -> str:
  value, several = _value(kind)
  name = f'--{prefix}{option(field.name)}' if named else field.name.upper()
  if kind is bool:
    shown = f'`{name}`, `--{prefix}no-{option(field.name)}`'
  else:
    beside = value if len(value) <= _FEW else ''
    shown = f'`{" ".join(filter(None, (name, beside if named else "", several)))}`'
  unsaid = any(field.default is each for each in (dataclasses.MISSING, None, False, ()))
  default = '' if unsaid else f' (default: `{text(field.default)}`)'
  values = f' {"Any" if several else "One"} of `{value.replace("|", "`, `")}`.' if len(value) > _FEW else ''
  return f'{shown}{default}\n: {said}{values}'


def _value(kind: Any) -> tuple[str, str]:
  """Returns what an option takes, and dots where it takes several of it."""
  inner = [each for each in typing.get_args(kind) if each not in (type(None), Ellipsis)]
  if typing.get_origin(kind) is typing.Literal:
    return '|'.join(map(str, inner)), ''
  if typing.get_origin(kind) is tuple:
    return _value(inner[0])[0], '…'
  if typing.get_origin(kind) in (typing.Union, types.UnionType):
    found = [_value(each) for each in inner]
    return '|'.join(dict.fromkeys(value for value, _ in found)), max(several for _, several in found)
  return {bool: 'True|False', str: 'TEXT', int: 'INT', float: 'NUMBER', Path: 'PATH'}[kind], ''


def _bare(hint: Any) -> tuple[Any, tuple[Any, ...]]:
  """Parts a type from what annotates it."""
  if typing.get_origin(hint) is not typing.Annotated:
    return hint, ()
  kind, *marks = typing.get_args(hint)
  return kind, tuple(marks)


def _texts(options: type[Any]) -> dict[str, str]:
  """Returns the text of each field, which is the string behind it, of a class and those it inherits from."""
  found: dict[str, str] = {}
  for each in reversed(options.__mro__[:-1]):
    _, tree = _source(each)
    assert isinstance(tree, ast.ClassDef)
    found |= {
      ast.unparse(line.target): said for line, said in _documented(tree.body) if isinstance(line, ast.AnnAssign)
    }
  return found


def _write(path: Path, content: str) -> None:
  if not path.exists() or path.read_text(encoding='utf-8') != _NOTE + content:
    path.write_text(_NOTE + content, encoding='utf-8')


def links(app: Any, name: str, source: list[str]) -> None:
  """Leads links to notebooks, which stand in colab/ for who reads on GitHub, to their pages here.

  A badge, which would be fetched from the net, becomes words.
  """
  del app, name
  source[0] = source[0].replace('](../../colab/', '](/tutorials/').replace(_BADGE, 'Open in Colab')


def signature(app: Any, what: str, name: str, found: Any, options: Any, own: str, returns: str) -> Any:
  """Returns arguments and result as the source has them."""
  del app, name, options
  try:
    source, tree = _source(inspect.unwrap(found))
  except (OSError, TypeError, SyntaxError, ValueError):
    return own, returns
  if isinstance(tree, ast.ClassDef):
    begins = [each for each in tree.body if isinstance(each, ast.FunctionDef) and each.name == '__init__']
    if not begins:
      return None if issubclass(found, BaseException) else (_fields(found), None)
    tree = begins[0]
  if not isinstance(tree, ast.FunctionDef):
    return own, returns
  arguments = _arguments(tree.args, source)
  if what in ('class', 'method') and arguments and arguments[0] in ('self', 'cls'):
    arguments = arguments[1:]
  result = _as_written(tree.returns, source) if tree.returns and what != 'class' else None
  return f'({", ".join(arguments)})', result


def _source(found: Any) -> tuple[str, ast.stmt]:
  source = textwrap.dedent(inspect.getsource(found))
  return source, ast.parse(source).body[0]


def _as_written(node: ast.AST, source: str) -> str:
  return ' '.join((ast.get_source_segment(source, node) or '').split())


def _arguments(known: ast.arguments, source: str) -> list[str]:
  said = partial(_as_written, source=source)
  plain = [*known.posonlyargs, *known.args]
  defaults = [*[None] * (len(plain) - len(known.defaults)), *known.defaults]
  found = [said(each) + (f' = {said(value)}' if value else '') for each, value in zip(plain, defaults, strict=True)]
  if known.posonlyargs:
    found.insert(len(known.posonlyargs), '/')
  if known.vararg or known.kwonlyargs:
    found.append(f'*{said(known.vararg) if known.vararg else ""}')
  pairs = zip(known.kwonlyargs, known.kw_defaults, strict=True)
  found += [said(each) + (f' = {said(value)}' if value else '') for each, value in pairs]
  return [*found, f'**{said(known.kwarg)}'] if known.kwarg else found


def _fields(found: type[Any]) -> str:
  """Returns the fields of a class and of those of ours that it inherits from; of a contract nothing."""
  if getattr(found, '_is_protocol', False):
    return ''
  fields: dict[str, str] = {}
  for each in reversed(found.__mro__):
    if each.__module__.startswith('lmajax'):
      source, tree = _source(each)
      assert isinstance(tree, ast.ClassDef)
      written = [line for line in tree.body if isinstance(line, ast.AnnAssign)]
      fields |= {_as_written(line.target, source): _as_written(line, source) for line in written}
  return f'({", ".join(said for name, said in fields.items() if not name.startswith("_"))})'


def skipped(app: Any, what: str, name: str, found: Any, skip: bool, options: Any) -> bool | None:
  """Leaves out the fields of named tuples, which their classes' texts explain."""
  del app, what, name, skip, options
  said = getattr(found, '__doc__', None) or ''
  return True if said.startswith('Alias for field number') else None
