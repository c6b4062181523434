"""Caches a teacher's logits on the training set in a run's folder, so that students need not run it again.

Each label, of an image or a token, has a row: float16 log-probabilities of its likeliest classes and their indices, 4
bytes a class, 6 from 65,537 classes on; or log-probabilities of all classes in order, 2 bytes a class. An augmented
or mixed image differs in each epoch, by the seed of its step, and has a row for each: the bytes grow with the epochs.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from lmajax.losses import TopK, from_top_k, top_k
from lmajax.training import Taught, Told, digests, placed
from lmajax.types import Batch, Frozen, Share
from train.data import Dataset
from train.data.batches import Steps
from train.engine.walk import Data, stepped
from train.runtime.distributed import first, wait
from train.runtime.errors import UserError
from train.runtime.files import write_atomically
from train.runtime.run import Run

FOLDER = 'teacher-logits'
_ABOUT, _FILES = 'about.json', ('log-probabilities.npy', 'classes.npy')
_LEAST = float(np.finfo(np.float16).min)


class Lesson(NamedTuple):
  """Holds what students are trained by: batches, what is shared of each, and the teacher, if it is run."""

  data: Data
  share: Share
  teacher: Frozen = None


class Kept(NamedTuple):
  """Contents of the cache: number of largest logits (0: all), number of epochs, and digests of what they depend on."""

  logits: int
  epochs: int
  augmented: bool
  of: dict[str, str]


class Cached:
  """Training batches with the teacher's cached output: each is a ``Told``."""

  def __init__(self, data: Data, augmented: bool, files: list[np.ndarray]):
    self._batches, self._augmented, self._sharding = data.batches, augmented, data.sharding
    self._read = lambda rows: [np.asarray(file[rows]) for file in files]
    self.steps_per_epoch, self.size = data.batches.steps_per_epoch, data.batches.size

  @property
  def blank(self) -> Any:
    """Same as the wrapped batches'."""
    return self._batches.blank

  @property
  def everywhere(self) -> jax.sharding.NamedSharding | None:
    """Same as the wrapped batches'."""
    return self._batches.everywhere

  def places(self, step: int) -> Int[np.ndarray, 'b ...']:
    """Same as the wrapped batches'."""
    return self._batches.places(step)

  def __getitem__(self, step: int) -> Any:
    said = placed(self._read, rows(self._batches, step, self._augmented), self._sharding)
    return Told(*self._batches[step], said[0] if len(said) == 1 else TopK(*said))


def heard(num_classes: int) -> Share:
  """Replaces ``teach``: reads what all students share from a ``Told`` batch instead of running the teacher."""

  def share(frozen: Frozen, batch: Any) -> Taught:
    del frozen
    top = isinstance(batch.said, TopK)
    return Taught(from_top_k(batch.said, num_classes) if top else batch.said.astype(jnp.float32), ())

  return share


def remembered(
  run: Run,
  lesson: Lesson,
  dataset: Dataset,
  logits: int | None,
  epochs: int,
  *,
  mixup: float | None = None,
  folder: str = FOLDER,
) -> Lesson:
  """Replaces the teacher by its cached logits for the first ``epochs`` of a data set; None: nothing is replaced.

  Every fit begins with step 0, so that those of fewer epochs read a part of the rows of the longest.
  """
  if logits is None:
    return lesson
  examples = digest([*dataset.train, np.array(dataset.pixel_mean), np.array(dataset.pixel_std)])
  places = lesson.data.batches.places(0)
  batches = digest(places if mixup is None else [places, np.array(mixup)])
  of = {'teacher': digest(lesson.teacher), 'data': examples, 'batches': batches}
  kept = Kept(logits, epochs, dataset.augment or mixup is not None, of)
  told = cached(run, lesson.share, lesson.teacher, lesson.data, kept, folder=folder)
  return Lesson(told, heard(dataset.num_classes))


def digest(tree: Any) -> str:
  """Returns one sha256 of all arrays of a tree."""
  return hashlib.sha256(json.dumps(digests(tree)).encode()).hexdigest()


def rows(batches: Steps, step: int, augmented: bool) -> Int[np.ndarray, 'b ...']:
  """Returns the file rows of a batch's labels, by example and, if augmented, by epoch; -1 for padding."""
  places = batches.places(step)
  variant = step // batches.steps_per_epoch if augmented else 0
  return np.where(places < 0, -1, places + variant * batches.size)


def cached(run: Run, share: Share, teacher: Frozen, data: Data, kept: Kept, *, folder: str = FOLDER) -> Data:
  """Returns the data with ``Told`` batches from the run's cache, which the teacher writes first if there is none."""
  path, of = run.folder / folder, {**kept.of, 'logits': str(kept.logits), 'epochs': str(kept.epochs)}
  if not path.exists():
    run.bar.set_description(folder)
    part = path.with_name(path.name + '.part')
    say = jax.jit(_saying(share, kept.logits), out_shardings=data.batches.everywhere)
    files = _asked(run, part, lambda step: say(teacher, data.batches[step]), data.batches, kept)
    if first():
      _finish(part, path, files, of)
    wait('the logits of the teacher are written')
  return data._replace(batches=Cached(data, kept.augmented, _opened(path, of)), walk=stepped)


def _saying(share: Share, count: int) -> Callable[[Frozen, Batch], Any]:
  """Returns the function that computes what is cached of a batch."""

  def say(teacher: Frozen, batch: Batch) -> Any:
    logits = share(teacher, batch).logits
    if not count:
      return _half(jax.nn.log_softmax(logits.astype(jnp.float32)))
    top, number = top_k(logits, count), jnp.uint16 if logits.shape[-1] <= 2**16 else jnp.uint32
    return TopK(_half(top.log_probabilities), top.classes.astype(number))

  return say


def _half(log_probabilities: Array) -> Array:
  return jnp.maximum(log_probabilities, _LEAST).astype(jnp.float16)


def _asked(run: Run, part: Path, say: Callable[[int], Any], batches: Steps, kept: Kept) -> list[np.memmap]:
  """Runs the teacher on each training batch that has an unknown row, and writes the rows."""
  known, files = np.zeros(batches.size * (kept.epochs if kept.augmented else 1), bool), []
  for step in range(kept.epochs * batches.steps_per_epoch):
    at = rows(batches, step, kept.augmented)
    new = (at >= 0) & ~known[at]
    if not new.any():
      continue
    if run.stopping():
      run.stop()
    said = jax.tree.leaves(jax.device_get(say(step)))
    if first():
      files = files or _blank(part, said, len(known))
      for file, each in zip(files, said, strict=True):
        file[at[new]] = each[new]
    known[at[new]] = True
  return files


def _blank(folder: Path, said: list[np.ndarray], count: int) -> list[np.memmap]:
  """Creates files of ``count`` rows and allocates them: a disk full beneath a mapped file would kill the process."""
  shutil.rmtree(folder, ignore_errors=True)
  files = []
  try:
    folder.mkdir()
    for name, each in zip(_FILES, said, strict=False):
      files.append(np.lib.format.open_memmap(folder / name, 'w+', each.dtype, (count, each.shape[-1])))
      with (folder / name).open('r+b') as file:
        if hasattr(os, 'posix_fallocate'):
          os.posix_fallocate(file.fileno(), 0, (folder / name).stat().st_size)
  except OSError as error:
    shutil.rmtree(folder, ignore_errors=True)
    raise UserError(f'cannot write {folder}: {error.strerror or error} (make room there, then --resume)') from error
  return files


def _finish(part: Path, path: Path, files: list[np.memmap], of: dict[str, str]) -> None:
  """Writes the digests, then renames the folder, so that nobody ever sees half of it."""
  for file in files:
    file.flush()
  names = _FILES[: len(files)]
  about = {'of': of, 'files': {name: _file_digest(part / name) for name in names}}
  write_atomically(part / _ABOUT, json.dumps(about, indent=1) + '\n')
  part.rename(path)


def _opened(path: Path, of: dict[str, str]) -> list[np.ndarray]:
  """Verifies the files and maps them into memory, since they may be larger than it."""
  try:
    about = json.loads((path / _ABOUT).read_text())
    other = [name for name, value in of.items() if about['of'][name] != value]
    names = _FILES[: len(about['files'])]
    altered = [name for name in names if _file_digest(path / name) != about['files'][name]]
    files = [] if altered else [np.load(path / name, mmap_mode='r', allow_pickle=False) for name in names]
  except (OSError, ValueError, LookupError, TypeError) as error:
    raise UserError(f'{path} is damaged ({" ".join(str(error).split())}): delete it, then --resume') from error
  if other:
    raise UserError(f'{path} is of another run, which differs in: {", ".join(other)}; delete it, then --resume')
  if altered:
    raise UserError(f'{path / altered[0]} is damaged: delete {path}, then --resume')
  return files


def _file_digest(path: Path) -> str:
  with path.open('rb') as file:
    return hashlib.file_digest(file, 'sha256').hexdigest()
