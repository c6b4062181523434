"""Orbax checkpoints with a digest per leaf: a damaged one is named, and the one before it is used."""

import hashlib
import warnings
from pathlib import Path
from typing import Any

import jax
import numpy as np
from orbax.checkpoint import v1 as ocp

from train.errors import UserError

_policies = ocp.training.preservation_policies


class Checkpoints:
  """The checkpoints of one phase: the latest ``keep`` and the one with the highest ``score``."""

  def __init__(self, folder: Path, *, keep: int = 2):
    best = _policies.BestN(get_metric_fn=lambda metrics: metrics['score'], n=1)
    policy = _policies.AnyPreservationPolicy([_policies.LatestN(keep), best])
    self.folder = folder
    with _writing(folder):
      self._orbax = ocp.training.Checkpointer(folder, preservation_policy=policy, cleanup_tmp_directories=True)

  def save(self, step: int, state: Any, *, history: dict[str, Any], score: float) -> None:
    """Writes atomically; a checkpoint of that step that turned out to be damaged is replaced."""
    metadata = {'digests': digests(state), 'history': history}
    with _writing(self.folder):
      self._orbax.save(
        step, state, force=True, overwrite=True, metrics={'score': score}, custom_metadata=metadata
      )

  def restore(self, abstract: Any) -> tuple[Any, dict[str, Any]] | None:
    """Returns the newest state that is whole and its history, or None where there is none."""
    for checkpoint in sorted(self._orbax.checkpoints, key=lambda c: c.step, reverse=True):
      try:
        state = self._orbax.load(checkpoint.step, abstract)
        metadata = self._orbax.metadata(checkpoint.step).custom_metadata
        _verify(state, metadata['digests'])
        return state, metadata['history']
      except Exception as error:  # whatever a damaged file makes Orbax raise
        reason = ' '.join(str(error).split())[:300]
        warnings.warn(
          f'checkpoint {self.folder / str(checkpoint.step)} is damaged and passed over: {reason}', stacklevel=2
        )
    return None

  def close(self) -> None:
    self._orbax.close()


def digests(tree: Any) -> dict[str, str]:
  """Path of a leaf -> sha256 of its type, shape and bytes."""
  return {jax.tree_util.keystr(path): _digest(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def _digest(leaf: Any) -> str:
  if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
    leaf = jax.random.key_data(leaf)
  array = np.asarray(leaf)
  return hashlib.sha256(f'{array.dtype} {array.shape}'.encode() + array.tobytes()).hexdigest()


def _verify(state: Any, expected: dict[str, str]) -> None:
  altered = [path for path, digest in digests(state).items() if expected.get(path) != digest]
  if altered:
    raise ValueError(f'the content of {altered[0]} does not fit its digest')


class _writing:
  """Turns what a full or unwritable disk makes Orbax raise into one line; what was saved before is untouched."""

  def __init__(self, folder: Path):
    self.folder = folder

  def __enter__(self) -> None:
    pass

  def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
    if isinstance(error, Exception):
      reason = ' '.join(str(error).split())[:300]
      raise UserError(f'cannot write checkpoints to {self.folder}: {reason} (make room there, then --resume)') from error
