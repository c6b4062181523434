"""The version of lmajax, the lowest ones of JAX and Flax that are enough, and what those call otherwise."""

from collections.abc import Sequence
from typing import Any

import flax
import jax

OWN = '0.1.0'
_LOWEST = {'JAX': (jax.__version__, '0.7.2'), 'Flax': (flax.__version__, '0.12.0')}


def check(name: str, found: str, lowest: str) -> None:
  """Refuses a version that is too old; of a part that is no number, as of 0.8.0.dev3, what is before it counts."""

  def numbers(version: str) -> list[int]:
    parts = version.split('.')[:3]
    return [int(part) if part.isdigit() else 0 for part in parts]

  if numbers(found) < numbers(lowest):
    raise ImportError(f'lmajax needs {name} {lowest} or newer, and this is {found}: pip install -U {name.lower()}')


for _name, _versions in _LOWEST.items():
  check(_name, *_versions)


def varying(array: Any) -> frozenset[str]:
  """Returns the axes of ``shard_map`` over which an array varies."""
  kind: Any = jax.typeof(array)
  return kind.manual_axis_type.varying if hasattr(kind, 'manual_axis_type') else kind.vma  # before JAX 0.10


def as_varying(array: Any, axes: Sequence[str]) -> Any:
  """Returns an array as one that varies over axes of ``shard_map``."""
  lax: Any = jax.lax
  if hasattr(lax, 'pcast'):
    return lax.pcast(array, tuple(axes), to='varying')
  return lax.pvary(array, tuple(axes))  # before JAX 0.8
