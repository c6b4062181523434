"""Orbax checkpoints with a digest per leaf: a damaged one is named, and the one before it is used."""

import contextlib
import gc
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
from train.distributed import first, lost
from train.errors import UserError

_DESCRIPTION_BYTES = 64 * 1024  # what Orbax writes beside the arrays
_policies = ocp.training.preservation_policies


class Checkpoints:
  """The checkpoints of one phase: the latest ``keep`` and the highest ``score``; ``reading`` alters none."""

  def __init__(self, folder: Path, *, keep: int = 2, reading: bool = False):
    best = _policies.BestN(get_metric_fn=lambda metrics: metrics['score'], n=1)
    policy: Any = _policies.AnyPreservationPolicy([_policies.LatestN(keep), best])
    self.folder = folder
    with _writing(folder):
      self._orbax = ocp.training.Checkpointer(
        str(folder.absolute()), preservation_policy=policy, cleanup_tmp_directories=not reading
      )

  def save(self, step: int, state: Any, *, history: dict[str, Any], score: float) -> None:
    """Writes atomically; a checkpoint of that step that turned out to be damaged is replaced."""
    metadata = {'digests': {**digests(state), 'history': _digest_json(history)}, 'history': history}
    with _writing(self.folder):
      if first():
        _try_room(self.folder / '.room', 2 * nbytes(state) + _DESCRIPTION_BYTES)
      self._orbax.save(step, state, force=True, overwrite=True, metrics={'score': score}, custom_metadata=metadata)

  def restore(self, abstract: Callable[[], Any]) -> tuple[Any, dict[str, Any]] | None:
    """Returns the newest whole state and its history, or None; ``abstract`` makes the shapes, with shardings."""
    for checkpoint in sorted(self._orbax.checkpoints, key=lambda c: c.step, reverse=True):
      try:
        return self._whole(checkpoint.step, abstract())
      except Exception as error:  # whatever a damaged file makes Orbax raise
        if lost(error):
          raise
        reason = ' '.join(str(error).split())[:300]
      _sweep()
      folder = self.folder / str(checkpoint.step)
      if first():
        warnings.warn(f'checkpoint {folder} is damaged and passed over: {reason}', stacklevel=2)
    return None

  def _whole(self, step: int, abstract: Any) -> tuple[Any, dict[str, Any]]:
    state = self._orbax.load(step, abstract)
    metadata: Any = self._orbax.metadata(step).custom_metadata
    found = {**digests(state), 'history': _digest_json(metadata['history'])}
    altered = [path for path, digest in found.items() if metadata['digests'].get(path) != digest]
    if altered:
      raise ValueError(f'the content of {altered[0]} does not fit its digest')
    return state, metadata['history']

  def close(self) -> None:
    self._orbax.close()


def digests(tree: Any) -> dict[str, str]:
  """Path of a leaf -> sha256 of its type, shape and bytes."""
  return {jax.tree_util.keystr(path): _digest(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def _digest_json(value: Any) -> str:
  return hashlib.sha256(json.dumps(value).encode()).hexdigest()


def _digest(leaf: Any) -> str:
  if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
    leaf = jax.random.key_data(leaf)
  array = np.asarray(leaf)
  return hashlib.sha256(f'{array.dtype} {array.shape}'.encode() + array.tobytes()).hexdigest()


def _try_room(probe: Path, size: int) -> None:
  """Asks for the room first: where the disk is full, Orbax's threads would print a trace each."""
  try:
    with probe.open('wb') as file:
      os.posix_fallocate(file.fileno(), 0, size) if hasattr(os, 'posix_fallocate') else file.write(bytes(size))
  finally:
    probe.unlink(missing_ok=True)


def _sweep() -> None:
  """A load that failed leaves coroutines that nobody awaited; unswept, each would warn at some later moment."""
  with warnings.catch_warnings():
    warnings.simplefilter('ignore', RuntimeWarning)
    gc.collect()


@contextlib.contextmanager
def _writing(folder: Path) -> Iterator[None]:
  """Turns what a full or unwritable disk makes Orbax raise into one line; what was saved before is untouched."""
  try:
    yield
  except Exception as error:
    if lost(error):
      raise
    reason = ' '.join(str(getattr(error, 'strerror', None) or error).split())[:300]
    raise UserError(f'cannot write checkpoints to {folder}: {reason} (make room there, then --resume)') from error
