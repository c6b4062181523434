"""Orbax checkpoints with a digest per leaf: a damaged one is named, and the one before it is used."""

import contextlib
import hashlib
import json
import os
import warnings
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from lmajax._arguments import check_count
from lmajax._quiet import silenced
from lmajax.tree import nbytes

_DESCRIPTION_BYTES = 64 * 1024  # what Orbax writes beside the arrays


class UnfitError(ValueError):
  """A whole checkpoint is of another run: of other settings, or of other types or shapes.

  >>> issubclass(UnfitError, ValueError)
  True

  Source: not in the paper.
  """


class DamagedError(ValueError):
  """There are checkpoints, and none of them can be read.

  >>> issubclass(DamagedError, ValueError)
  True

  Source: not in the paper.
  """


class Checkpoints:
  """Keeps the latest ``keep`` checkpoints of a training and that of the highest ``score``; only ``save`` alters any.

  Args:
    folder: of these checkpoints alone.
    made_by: the settings that decide the numbers, as JSON values; a checkpoint is restored only under the same ones.
    keep: number of latest checkpoints to keep.

  >>> import tempfile
  >>> checkpoints = Checkpoints(Path(tempfile.mkdtemp()) / 'checkpoints', {'learning_rate': 0.1})
  >>> checkpoints.restore(lambda: {'w': jnp.ones(2)}) is None
  True
  >>> checkpoints.save(3, {'w': jnp.ones(2)}, history={'losses': [0.5]}, score=0.9)
  >>> checkpoints.close()
  >>> state, history = checkpoints.restore(lambda: {'w': jnp.zeros(2)})
  >>> state['w'].tolist(), history
  ([1.0, 1.0], {'losses': [0.5]})

  Source: not in the paper.
  """

  def __init__(self, folder: Path | str, made_by: dict[str, Any] | None = None, *, keep: int = 2):
    check_count('keep', keep, 1)
    _orbax()
    self.folder = Path(folder)
    self._made_by = json.loads(json.dumps(made_by or {}))  # as it will be read back: a tuple is a list
    self._keep = keep
    self._orbax: Any = None

  def save(self, step: int, state: Any, *, history: dict[str, Any], score: float) -> None:
    """Saves a checkpoint atomically; replaces one of that step that turned out to be damaged.

    Args:
      step: its number.
      state: a tree of arrays.
      history: JSON values that belong to it.
      score: the checkpoint of the highest one is kept.

    Raises:
      OSError: the disk is full, or cannot be written to; earlier checkpoints are untouched.
    """
    metadata = {
      'digests': {**digests(state), 'history': _digest_json(history)},
      'history': history,
      'kinds': _kinds(state),
      'made_by': self._made_by,
      'about': _digest_json([_kinds(state), self._made_by]),
    }
    with _writing(self.folder):
      self._orbax = self._orbax or self._opened()
      if _writes():
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
      UnfitError: an undamaged checkpoint has other settings, or other types or shapes.
      DamagedError: all are damaged.
    """
    steps = sorted((int(path.name) for path in self.folder.glob('*') if path.name.isdigit()), reverse=True)
    wanted = abstract() if steps else None
    damaged = []
    for step in steps:
      try:
        with silenced():
          metadata = self._metadata(step)
      except Exception as error:  # whatever a damaged file makes Orbax raise
        damaged.append(self._passed_over(step, error))
        continue
      self._check(step, metadata, wanted)
      try:
        with silenced():
          found = self._whole(step, wanted, metadata)
      except Exception as error:
        damaged.append(self._passed_over(step, error))
        continue
      return found
    if damaged and not restart:
      raise DamagedError(f'{self.folder}: none of its checkpoints can be read')
    return None

  def _passed_over(self, step: int, error: Exception) -> int:
    if lost_process(error):
      raise error
    reason = ' '.join(str(error).split())[:300]
    if _writes():
      warnings.warn(f'checkpoint {self.folder / str(step)} is damaged and passed over: {reason}', stacklevel=3)
    return step

  def _check(self, step: int, metadata: dict[str, Any], wanted: Any) -> None:
    """Refuses an undamaged checkpoint that does not fit, so that nobody trains over it."""
    where = f'checkpoint {self.folder / str(step)}'
    made_by = metadata['made_by']
    for name in [*made_by, *self._made_by]:
      old, new = made_by.get(name), self._made_by.get(name)
      if old != new:
        raise UnfitError(f'{where} was made with {name} {old}, not {new}')
    kinds = _kinds(wanted)
    for path in [*metadata['kinds'], *kinds]:
      old, new = metadata['kinds'].get(path), kinds.get(path)
      if old != new:
        raise UnfitError(f'{where} does not fit: {path} is {old} there and {new} here')

  def _metadata(self, step: int) -> dict[str, Any]:
    metadata: Any = _orbax().metadata(str((self.folder / str(step)).absolute())).custom_metadata
    digest = _digest_json([metadata['kinds'], metadata['made_by']])
    if metadata['about'] != digest:
      raise ValueError('the content of its description does not fit its digest')
    return metadata

  def _whole(self, step: int, wanted: Any, metadata: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    state = _orbax().load(str((self.folder / str(step)).absolute()), wanted)
    found = {**digests(state), 'history': _digest_json(metadata['history'])}
    altered = [path for path, digest in found.items() if metadata['digests'].get(path) != digest]
    if altered:
      raise ValueError(f'the content of {altered[0]} does not fit its digest')
    return state, metadata['history']

  def _opened(self) -> Any:
    """Opens the folder with Orbax; deletes unreadable scores first, since with one Orbax would open nothing."""
    for path in self.folder.glob('*/metrics/metrics') if _writes() else ():
      try:
        json.loads(path.read_bytes())
      except ValueError:
        path.unlink()
    multihost_utils.sync_global_devices('the scores are read')
    policies = _orbax().training.preservation_policies
    best = policies.BestN(get_metric_fn=lambda metrics: metrics['score'], n=1)
    policy: Any = policies.AnyPreservationPolicy([policies.LatestN(self._keep), best])
    return _orbax().training.Checkpointer(str(self.folder.absolute()), preservation_policy=policy)

  def close(self) -> None:
    if self._orbax is not None:
      self._orbax.close()


def digests(tree: Any) -> dict[str, str]:
  """Maps each leaf's path to the sha256 of its type, shape and bytes.

  >>> {path: digest[:8] for path, digest in digests({'w': jnp.ones(2)}).items()}
  {"['w']": '...'}

  Source: not in the paper.
  """
  return {jax.tree_util.keystr(path): _digest(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def lost_process(error: BaseException) -> bool:
  """Returns whether an error shows that another process of ``jax.distributed`` ended.

  >>> lost_process(ValueError('of our own'))
  False

  Source: not in the paper; Gloo reports it as a ValueError.
  """
  return jax.distributed.is_initialized() and (isinstance(error, jax.errors.JaxRuntimeError) or 'Gloo' in str(error))


def _orbax() -> Any:
  """Imports what an Orbax may be too old for, which nothing but checkpoints needs."""
  try:
    from orbax.checkpoint import v1
  except ImportError:
    v1 = None
  if not (hasattr(v1, 'load') and hasattr(v1, 'metadata')):
    found = version('orbax-checkpoint')
    raise ImportError(f'checkpoints need orbax-checkpoint 0.12 or newer, and this is {found}: pip install -U it')
  return v1


def _writes() -> bool:
  return jax.process_index() == 0


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
  """Turns what Orbax says of a full or unwritable disk into one line."""
  try:
    yield
  except Exception as error:
    if lost_process(error):
      raise
    reason = ' '.join(str(getattr(error, 'strerror', None) or error).split())[:300]
    raise OSError(f'cannot write checkpoints to {folder}: {reason}') from error
