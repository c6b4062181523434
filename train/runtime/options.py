"""Refuses values of options in one line that names the option."""

from typing import Any

from train.runtime.errors import UserError


def require(holds: bool, name: str, value: Any, mend: str) -> None:
  """Refuses a value, naming its option."""
  if not holds:
    raise UserError(f'--{option(name)} is {value}: {mend}')


def require_each_once(config: Any, *names: str) -> None:
  """Refuses options of several values that are empty, or have one twice."""
  for name in names:
    values = getattr(config, name)
    require(bool(values), name, 'empty', 'give at least one')
    require(len(set(values)) == len(values), name, text(values), 'give each once')


def require_at_least(config: Any, **least: int) -> None:
  """Refuses options below their least values."""
  for name, bound in least.items():
    require(getattr(config, name) >= bound, name, getattr(config, name), f'give {bound} or more')


def option(name: str) -> str:
  """Returns a field's name on the command line."""
  return name.replace('_', '-')


def text(value: Any) -> str:
  """Formats a value as it is given on the command line."""
  return ' '.join(map(str, value)) if isinstance(value, tuple | list) else str(value)
