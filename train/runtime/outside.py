"""Checks types and bounds of everything from outside (options, JSON, model files) before it is used."""

import contextlib
import dataclasses
import io
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from train.runtime.errors import UserError

Count = Annotated[int, Meta(ge=1, le=10**9)]
Number = Annotated[float, Meta(ge=-1e9, le=1e9)]
Plain = str | int | float | bool | None
Config = dict[str, Plain | list[Plain]]
Name = Annotated[str, Meta(max_length=1000)]


@dataclasses.dataclass(frozen=True)
class Limits:
  """Limits on the network in a model file, whose few bytes can describe a very large one. All are choices."""

  parameters: int = 2**28
  """Weights, once they are decoded: 1 GiB of float32."""
  layers: int = 1000
  """Layers in all."""
  pixels: int = 2**22
  """Numbers in an image, or, of a network that translates, in its table of positions."""


LIMITS = Limits()

MOST = {
  'segments': 4096, 'width': 65_536, 'teacher_width': 65_536, 'units': 65_536, 'teacher_units': 65_536, 'layers': 256,
  'teacher_layers': 256, 'depth': 256, 'seeds': 4096, 'length': 65_536, 'max_length': 65_536, 'buckets': 256,
  'beams': 256, 'folds': 100, 'repeats': 1000, 'thresholds': 10_000,
  'grid': 2000, 'lines': 100_000, 'batch_size': 10**6, 'teacher_batch_size': 10**6, 'sizes': 2**28,
}  # fmt: skip
"""Above these an option's number asks for more memory than any use of it; all are choices."""

Segments = Annotated[int, Meta(ge=2, le=MOST['segments'])]


def bounded(options: Any) -> Any:
  """Returns a command's options unchanged; refuses a whole number beyond its bound."""
  for field in dataclasses.fields(options):
    value = getattr(options, field.name)
    if dataclasses.is_dataclass(value) and not isinstance(value, Limits):
      bounded(value)
    bound = MOST.get(field.name, 10**9)
    for number in value if isinstance(value, tuple) else (value,):
      if isinstance(number, int) and number > bound:
        raise UserError(f'--{field.name.replace("_", "-")} is {number}: give {bound} or less')
  return options


def read_json(path: Path, kind: Any = Any) -> Any:
  """Reads a JSON file of the given type, or raises a UserError that says in one line why not."""
  try:
    content = path.read_bytes()
  except OSError as error:
    raise UserError(f'cannot read {path}: {error.strerror or error}; is {path.parent} the folder of a run?') from error
  try:
    return typed(json.loads(content.decode()), kind, path)
  except RecursionError as error:
    raise UserError(f'{path} is not JSON that can be read: it is too deep') from error
  except ValueError as error:  # torn, or no UTF-8
    raise UserError(f'{path} is not JSON: {error}') from error


def typed(value: Any, kind: Any, where: object) -> Any:
  """Returns the value itself if it is of a type, within its bounds and without names unknown to a ``TypedDict``."""
  made(value, kind, where)
  known = getattr(kind, '__annotations__', None)
  if isinstance(value, dict) and known and (extra := sorted(set(value) - set(known))):
    raise UserError(f'{where}: the name {printable(extra[0])} is unknown')
  return value


def made(value: Any, kind: Any, where: object) -> Any:
  """Converts a JSON value to a type: an object to a dataclass, a string to a path."""
  try:
    return msgspec.convert(value, kind, dec_hook=_path)
  except msgspec.ValidationError as error:
    raise UserError(f'{where}: {said(error)}') from error


def _path(kind: type[Path], value: Any) -> Path:
  if not isinstance(value, str):
    raise ValueError(f'Expected `str`, got `{type(value).__name__}`')
  return kind(value)


def said(error: msgspec.ValidationError) -> str:
  """Returns where a value is wrong, and how: as in "width[0]: expected `int`, got `str`"."""
  what, _, place = str(error).partition(' - at `$')
  return f'{printable(place.strip("`.")) or "the content"}: {what[0].lower()}{what[1:]}'


def most(holds: int, name: str, limits: Limits, where: object) -> None:
  """Refuses a network beyond a limit, naming the option that raises it."""
  limit = getattr(limits, name)
  if holds > limit:
    raise UserError(
      f'{where}: its network has {holds:,} {name}, more than {limit:,}: '
      f'if you trust it, raise the limit where the command has --limits.{name}'
    )


def printable(text: str) -> str:
  """Escapes a text's control characters, which a terminal would obey."""
  return ''.join(each if each.isprintable() else ascii(each)[1:-1] for each in text)


@contextlib.contextmanager
def in_one_line() -> Iterator[None]:
  """Turns tyro's box about wrong options into a UserError of one line."""
  said = io.StringIO()
  try:
    with contextlib.redirect_stderr(said):
      yield
  except SystemExit as stopped:
    if not stopped.code:
      raise
    lines = [line.strip('│╭╰╮╯|+ ') for line in said.getvalue().splitlines()[1:]]
    lines = list(itertools.dropwhile(_is_rule, lines))
    what = ' '.join(itertools.takewhile(lambda line: not _is_rule(line), lines))
    meant = lines[lines.index('Perhaps you meant:') + 1] if 'Perhaps you meant:' in lines else ''
    name = meant.partition(' ')[0]  # of another command it may be the very one that was given
    raise UserError(
      f'{what}{f", perhaps {meant} was meant" if name and name not in what else ""}; see python -m train --help'
    ) from stopped


def _is_rule(line: str) -> bool:
  return not line.strip('─- ')
