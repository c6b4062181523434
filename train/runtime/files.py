"""Reads and writes the files of a run: atomic writes, careful reads, files made again where they can be."""

import json
import math
import os
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import jax

from train.runtime.distributed import first
from train.runtime.errors import UserError
from train.runtime.outside import read_json


def environment() -> dict[str, Any]:
  """Returns the versions and devices behind a run's numbers."""
  versions = {name: metadata.version(name) for name in ('jax', 'flax', 'optax', 'numpy')}
  return {**versions, 'device': jax.devices()[0].device_kind, 'devices': jax.device_count(), 'cores': os.cpu_count()}


def without_nan(value: Any) -> Any:
  """Replaces numbers that are not finite by None, JSON's null."""
  if isinstance(value, dict):
    return {name: without_nan(each) for name, each in value.items()}
  if isinstance(value, list | tuple):
    return [without_nan(each) for each in value]
  return None if isinstance(value, float) and not math.isfinite(value) else value


def environments(folder: Path) -> list[Any]:
  """Returns the environments that a run was trained on, as far as its folder still records them."""
  return _kept(folder / 'environment.json', list[Any]) or []


def write_atomically(path: Path, content: str | bytes) -> None:
  """Writes a file beside ``path`` and renames it, so that no reader ever sees half of it."""
  part = path.with_name(path.name + '.part')
  try:
    with part.open('wb') as file:
      file.write(content.encode() if isinstance(content, str) else content)
      file.flush()
      os.fsync(file.fileno())
    part.replace(path)
  except OSError as error:
    part.unlink(missing_ok=True)
    raise UserError(f'cannot write {path}: {error.strerror or error}') from error


def noted(path: Path, name: str, make: Callable[[], Any]) -> Any:
  """Returns the value under a name in a run's file; where it is missing makes and writes it, so a resume agrees."""
  known = _kept(path, dict[str, Any]) or {}
  if name not in known:
    known[name] = make()
    if first():
      write_atomically(path, json.dumps(known, indent=1) + '\n')
  return known[name]


def _kept(path: Path, kind: Any) -> Any:
  """Reads a file that can be made again; returns None where it is missing or torn."""
  try:
    return read_json(path, kind)
  except UserError:
    return None


def within(folder: Path, name: Any, said_by: Path) -> Path:
  """Returns the path of a run's file that JSON names; with links resolved it must lie in the run's own folder.

  Raises:
    UserError: it is no name, or leads out of the folder.
  """
  parts = Path(name).parts if isinstance(name, str) else ()
  leads_out = not parts or '..' in parts or not all(part.isprintable() for part in parts)
  if leads_out or not (folder / name).resolve().is_relative_to(folder.resolve()):
    raise UserError(f'{said_by} names {name!r}, which is no file of {folder}: restore it')
  return folder / name
