"""Reads the weights of a user's own teacher: an Orbax checkpoint, Flax's msgpack, or safetensors."""

import hashlib
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import serialization
from orbax.checkpoint import v1 as ocp

from lmajax import tree
from lmajax.training import quiet
from train.engine.logits_cache import digest
from train.runtime.errors import UserError

_SHOWN = 3  # leaves that differ, of which an error names so many


def load(path: Path, model: Any, inputs: Any) -> tuple[dict[str, Any], str]:
  """Returns the variables of a Linen model in a file or folder, and their digest.

  Args:
    path: an Orbax checkpoint (also a folder of them by their steps: the latest), FILE.msgpack as ``flax.serialization``
      writes it, or FILE.safetensors with the names of the leaves, their keys parted by / or a dot. They hold ``params``
      and the collections beside them, or the parameters alone where the model has no others.
    model: of Linen.
    inputs: one example's.

  Raises:
    UserError: it cannot be read, or does not fit; the line names the first leaves that differ.
  """
  found = _read(path)
  wanted = jax.eval_shape(lambda: model.init(jax.random.key(0), inputs, train=False))
  if isinstance(found, dict) and 'params' not in found:
    found = {'params': found}
  given = {name: part for name, part in found.items() if name in wanted} if isinstance(found, dict) else {}
  leaves, expected = tree.by_path(given), tree.by_path(wanted)
  differences = [
    f'{name} is {_shown(leaves.get(name))} there and {_shown(expected.get(name))} in the network'
    for name in [*expected, *leaves]
    if _shape(leaves.get(name)) != _shape(expected.get(name))
  ]
  if differences:
    more = f' (and {len(differences) - _SHOWN} more)' if len(differences) > _SHOWN else ''
    raise UserError(f'{path} does not fit the teacher: {"; ".join(dict.fromkeys(differences[:_SHOWN]))}{more}')
  fitting = tree.map_with_path(lambda name, leaf: np.asarray(leaves[name], leaf.dtype), wanted)
  of = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else digest(fitting)
  return fitting, of


def _read(path: Path) -> Any:
  try:
    with quiet():
      if path.is_dir():
        return ocp.load(str(_checkpoint(path).resolve()))
      if path.suffix == '.safetensors':
        from safetensors.numpy import load_file

        return tree.nested({name.replace('.', '/'): leaf for name, leaf in load_file(path).items()})
      return serialization.msgpack_restore(path.read_bytes())
  except Exception as error:  # whatever a foreign file makes its reader raise
    reason = getattr(error, 'strerror', None) or ' '.join(str(error).split())[:150] or type(error).__name__
    raise UserError(
      f'--teacher-checkpoint is {path}: it cannot be read ({reason}); give an Orbax checkpoint, msgpack or safetensors'
    ) from error


def _checkpoint(path: Path) -> Path:
  """Returns the latest step of a folder of them, and the checkpoint whose one item is given."""
  steps = [each for each in path.iterdir() if each.is_dir() and each.name.isdigit()]
  if steps:
    return max(steps, key=lambda each: int(each.name))
  return path.parent if path.name in ('default', 'state') else path


def _shape(leaf: Any) -> Any:
  return None if leaf is None else tuple(jnp.shape(leaf))


def _shown(leaf: Any) -> str:
  return 'missing' if leaf is None else str(list(jnp.shape(leaf)))
