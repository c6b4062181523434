"""Makes the pages that are not written by hand: notebooks, a page for each public module, the programs' options."""

import ast
import dataclasses
import importlib
import inspect
import shutil
import textwrap
from pathlib import Path
from typing import Any

from train.__main__ import _FINISHED
from train.config import command
from train.programs import PROGRAMS
from train.runtime.options import option, text

MODULES = (
  'activations',
  'activations.linen',
  'activations.nnx',
  'compress',
  'export',
  'losses',
  'models',
  'training',
  'tree',
  'types',
)
_NOTE = '% Made by docs/made.py.\n\n'


def pages(docs: Path) -> None:
  """Writes all of them, where git ignores them."""
  for notebook in (docs.parent / 'colab').glob('*.ipynb'):
    shutil.copyfile(notebook, docs / 'tutorials' / notebook.name)
  for name in MODULES:
    _write(docs / 'reference' / f'lmajax.{name}.md', module(name))
  _write(docs / 'reference' / 'command-line.md', command_line())


def module(name: str) -> str:
  """Returns the page of a public module, whose docstrings Sphinx reads."""
  return f'# lmajax.{name}\n\n```{{eval-rst}}\n.. automodule:: lmajax.{name}\n```\n'


def command_line() -> str:
  """Returns the page of the programs' options."""
  options = [*(program.options for program in PROGRAMS.values()), *_FINISHED]
  about = (
    'Every command and its options, as `python -m train COMMAND --help` prints them. The defaults are those for the'
    ' data set that a program has by default; its other data sets have some of their own, which the texts name.'
  )
  return '\n\n'.join(['# Command line', about, *map(_command, options)]) + '\n'


def _command(options: type[Any]) -> str:
  said = ' '.join(inspect.getdoc(options).split())
  return '\n\n'.join([f'## {command(options)}', said, *_options(options)])


def _options(options: type[Any], prefix: str = '') -> list[str]:
  texts, found = _texts(options), []
  for field in dataclasses.fields(options):
    annotation, said = texts[field.name]
    if 'Suppress' in annotation:
      continue
    if dataclasses.is_dataclass(field.default):
      found += _options(type(field.default), f'{option(field.name)}.')
      continue
    if 'Positional' in annotation:
      found.append(f'`{field.name.upper()}`\n: {said}')
      continue
    default = '' if field.default is dataclasses.MISSING else _default(field.default)
    found.append(f'`--{prefix}{option(field.name).removeprefix("--")}`{default}\n: {said}')
  return found


def _default(value: Any) -> str:
  shown = text(value)
  return f' (default: `{shown}`)' if shown and value is not None else ''


def _texts(options: type[Any]) -> dict[str, tuple[str, str]]:
  """Returns annotation and text of each field, which is the string behind it, of a class and those it inherits from."""
  found: dict[str, tuple[str, str]] = {}
  for each in reversed(options.__mro__[:-1]):
    body = ast.parse(textwrap.dedent(inspect.getsource(each))).body[0].body  # type: ignore[attr-defined]
    for line, after in zip(body, [*body[1:], None], strict=True):
      if isinstance(line, ast.AnnAssign):
        name, said = ast.unparse(line.target), found.get(ast.unparse(line.target), ('', ''))[1]
        if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
          said = ' '.join(str(after.value.value).split())
        found[name] = ast.unparse(line.annotation), said
  return found


def _write(path: Path, content: str) -> None:
  if not path.exists() or path.read_text(encoding='utf-8') != _NOTE + content:
    path.write_text(_NOTE + content, encoding='utf-8')


def links(app: Any, name: str, source: list[str]) -> None:
  """Leads links to notebooks, which stand in colab/ for who reads on GitHub, to their pages here."""
  del app
  source[0] = source[0].replace('](../../colab/', '](/tutorials/')


def signature(app: Any, what: str, name: str, found: Any, options: Any, own: str, returns: str) -> Any:
  """Returns arguments and result as the source has them."""
  del app, options
  try:
    (tree,) = ast.parse(textwrap.dedent(inspect.getsource(inspect.unwrap(found)))).body
  except (OSError, TypeError, SyntaxError, ValueError):
    return own, returns
  if isinstance(tree, ast.ClassDef):
    begins = [each for each in tree.body if isinstance(each, ast.FunctionDef) and each.name == '__init__']
    if not begins:
      fields = [each for each in tree.body if isinstance(each, ast.AnnAssign)]
      return f'({", ".join(map(ast.unparse, fields))})' if fields else own, None
    tree = begins[0]
  if not isinstance(tree, ast.FunctionDef):
    return own, returns
  known = tree.args
  if what in ('class', 'method') and known.args and known.args[0].arg in ('self', 'cls'):
    known.args = known.args[1:]
  result = ast.unparse(tree.returns) if tree.returns and what != 'class' else None
  return f'({ast.unparse(known)})', result


def skipped(app: Any, what: str, name: str, found: Any, skip: bool, options: Any) -> bool | None:
  """Leaves out the fields of named tuples, which their classes' texts explain."""
  del app, what, options
  said = getattr(found, '__doc__', None) or ''
  return True if said.startswith('Alias for field number') else None


def public(name: str) -> list[str]:
  """Lists the public names of a module."""
  return list(importlib.import_module(f'lmajax.{name}').__all__)
