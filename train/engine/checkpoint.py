"""Saves and restores Orbax checkpoints with a digest per leaf; names a damaged one and uses the one before it."""

import contextlib
import hashlib
import json
import os
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from orbax.checkpoint import v1 as ocp

from lmajax.tree import nbytes
from train.runtime.distributed import first, lost, wait
from train.runtime.errors import UserError
from train.runtime.quiet import quiet

_DESCRIPTION_BYTES = 64 * 1024  # what Orbax writes beside the arrays
_policies = ocp.training.preservation_policies


class Checkpoints:
  """Keeps the latest ``keep`` checkpoints of one phase and that of the highest ``score``; only ``save`` alters any.

  Args:
    folder: of the phase.
    made_by: the settings that decide the numbers, as JSON values; a checkpoint is restored only under the same ones.
    keep: number of latest checkpoints to keep.
  """

  def __init__(self, folder: Path, made_by: dict[str, Any] | None = None, *, keep: int = 2):
    self.folder = folder
    self._made_by = made_by or {}
    self._keep = keep
    self._orbax: Any = None

  def save(self, step: int, state: Any, *, history: dict[str, Any], score: float) -> None:
    """Saves a checkpoint atomically; replaces one of that step that turned out to be damaged."""
    metadata = {
      'digests': {**digests(state), 'history': _digest_json(history)},
      'history': history,
      'kinds': _kinds(state),
      'made_by': self._made_by,
      'about': _digest_json([_kinds(state), self._made_by]),
    }
    with _writing(self.folder):
      self._orbax = self._orbax or self._opened()
      if first():
        _try_room(self.folder / '.room', 2 * nbytes(state) + _DESCRIPTION_BYTES)
      self._orbax.save(step, state, force=True, overwrite=True, metrics={'score': score}, custom_metadata=metadata)

  def restore(self, abstract: Callable[[], Any], *, restart: bool = False) -> tuple[Any, dict[str, Any]] | None:
    """Restores the newest undamaged checkpoint.

    Args:
      abstract: returns the shapes of the expected state, with shardings.
      restart: if all checkpoints are damaged, return None instead of raising.

    Returns:
      The state and its history; None if nothing was saved.

    Raises:
      UserError: an undamaged checkpoint has another configuration or other types or shapes; or all are damaged.
    """
    steps = sorted((int(path.name) for path in self.folder.glob('*') if path.name.isdigit()), reverse=True)
    wanted = abstract() if steps else None
    damaged = []
    for step in steps:
      try:
        with quiet():
          metadata = self._metadata(step)
      except Exception as error:  # whatever a damaged file makes Orbax raise
        damaged.append(self._passed_over(step, error))
        continue
      self._check(step, metadata, wanted)
      try:
        with quiet():
          found = self._whole(step, wanted, metadata)
      except Exception as error:
        damaged.append(self._passed_over(step, error))
        continue
      return found
    if damaged and not restart:
      raise UserError(
        f'{self.folder}: none of its checkpoints can be read; restore one, or train anew by --resume --restart'
      )
    return None

  def _passed_over(self, step: int, error: Exception) -> int:
    if lost(error):
      raise error
    reason = ' '.join(str(error).split())[:300]
    if first():
      warnings.warn(f'checkpoint {self.folder / str(step)} is damaged and passed over: {reason}', stacklevel=3)
    return step

  def _check(self, step: int, metadata: dict[str, Any], wanted: Any) -> None:
    """Refuses an undamaged checkpoint that does not fit, so that nobody trains over it."""
    where = f'checkpoint {self.folder / str(step)}'
    made_by = metadata['made_by']
    for name in [*made_by, *self._made_by]:
      old, new = made_by.get(name), self._made_by.get(name)
      if old != new:
        raise UserError(f'{where} was made with {name} {old}, and config.json says {new}: restore config.json')
    kinds = _kinds(wanted)
    for path in [*metadata['kinds'], *kinds]:
      old, new = metadata['kinds'].get(path), kinds.get(path)
      if old != new:
        raise UserError(
          f'{where} does not fit this environment: {path} is {old} there and {new} here; go on as the run was begun'
          ' (environment.json; JAX_ENABLE_X64), or in another --workdir'
        )

  def _metadata(self, step: int) -> dict[str, Any]:
    metadata: Any = ocp.metadata(str((self.folder / str(step)).absolute())).custom_metadata
    digest = _digest_json([metadata['kinds'], metadata['made_by']])
    if metadata['about'] != digest:
      raise ValueError('the content of its description does not fit its digest')
    return metadata

  def _whole(self, step: int, wanted: Any, metadata: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    state = ocp.load(str((self.folder / str(step)).absolute()), wanted)
    found = {**digests(state), 'history': _digest_json(metadata['history'])}
    altered = [path for path, digest in found.items() if metadata['digests'].get(path) != digest]
    if altered:
      raise ValueError(f'the content of {altered[0]} does not fit its digest')
    return state, metadata['history']

  def _opened(self) -> Any:
    """Opens the folder with Orbax; deletes unreadable scores first, since with one Orbax would open nothing."""
    for path in self.folder.glob('*/metrics/metrics') if first() else ():
      try:
        json.loads(path.read_bytes())
      except ValueError:
        path.unlink()
    wait('the scores are read')
    best = _policies.BestN(get_metric_fn=lambda metrics: metrics['score'], n=1)
    policy: Any = _policies.AnyPreservationPolicy([_policies.LatestN(self._keep), best])
    return ocp.training.Checkpointer(str(self.folder.absolute()), preservation_policy=policy)

  def close(self) -> None:
    if self._orbax is not None:
      self._orbax.close()


def digests(tree: Any) -> dict[str, str]:
  """Maps each leaf's path to the sha256 of its type, shape and bytes."""
  return {jax.tree_util.keystr(path): _digest(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def _kinds(tree: Any) -> dict[str, str]:
  """Maps each leaf's path to its type and shape."""
  leaves = jax.tree_util.tree_leaves_with_path(tree)
  return {jax.tree_util.keystr(path): f'{leaf.dtype}{list(leaf.shape)}' for path, leaf in leaves}


def _digest_json(value: Any) -> str:
  return hashlib.sha256(json.dumps(value).encode()).hexdigest()


def _digest(leaf: Any) -> str:
  if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
    leaf = jax.random.key_data(leaf)
  array = np.asarray(leaf)
  return hashlib.sha256(f'{array.dtype} {array.shape}'.encode() + array.tobytes()).hexdigest()


def _try_room(probe: Path, size: int) -> None:
  """Checks for disk space before Orbax writes: on a full disk its threads would print a trace each."""
  try:
    with probe.open('wb') as file:
      os.posix_fallocate(file.fileno(), 0, size) if hasattr(os, 'posix_fallocate') else file.write(bytes(size))
  finally:
    probe.unlink(missing_ok=True)


@contextlib.contextmanager
def _writing(folder: Path) -> Iterator[None]:
  """Turns Orbax's errors on a full or unwritable disk into one line; earlier checkpoints are untouched."""
  try:
    yield
  except Exception as error:
    if lost(error):
      raise
    reason = ' '.join(str(getattr(error, 'strerror', None) or error).split())[:300]
    mend = ' (make room there, then --resume)' if isinstance(error, OSError) else ''
    raise UserError(f'cannot write checkpoints to {folder}: {reason}{mend}') from error
