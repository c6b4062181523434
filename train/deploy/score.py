"""Packs trained students into files, reads them back and scores what was read."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from lmajax import tree
from lmajax.training import Start, parted
from train.config import made_by
from train.deploy import model_file as shipped
from train.deploy.model_file import file_name
from train.engine.cohort import Group
from train.engine.evaluate import measured_again, member, scores, stacked
from train.engine.walk import Data
from train.runtime.distributed import first, wait
from train.runtime.errors import UserError
from train.runtime.files import noted
from train.runtime.timing import interleaved, median

# Training batches that the statistics are measured on, once the weights are final; five times as many of a user's own
# network, whose batch norms may have Flax's own momentum of .99.
MEASURING = 100
_TIMED = 21  # passes over a batch of test images, of which the median counts


class Trained(NamedTuple):
  """A trained group of students: every leaf of ``end`` has a leading axis of seeds."""

  group: Group
  end: Start

  def params(self) -> Any:
    """Returns the weights that would be shipped, of all seeds."""
    decoded = self.group.over(lambda end: self.group.reparam.apply(end.theta, end.code, None))
    return jax.jit(decoded)(self.end)

  def variables(self) -> Any:
    """Returns the variables for ``model.apply``, of all seeds."""
    return {'params': self.params(), **self.end.stats}

  def shadow(self) -> Any:
    """Returns the float32 weights behind the quantized ones, of all seeds."""
    return tree.combine(*self.end.theta)


class Written(NamedTuple):
  """Files of a group of networks: the packed weights with training statistics, and what is read back.

  Variables are of all seeds; a student that has diverged has no file, and NaN stands for it.
  """

  as_trained: Any  # with the statistics of the training
  read: Any
  bits: float
  bytes: int
  file: str


class Files:
  """Packs networks with statistics measured under the packed weights; those of one architecture share a program.

  Without data the statistics stay as they are.
  """

  def __init__(self, data: Data | None, folder: Path, read: Callable[[Path], shipped.Shipped] = shipped.read):
    self._data = data
    self._folder = folder
    self._read = read
    self._programs: dict[int, Callable] = {}

  def written(self, name: str, trained: Trained, about: dict[str, Any], *, entropy: bool = False) -> Written:
    """Packs the networks of all seeds and reads their files back."""
    own, group = jax.tree.map(jnp.asarray, jax.device_get(trained.end)), trained.group
    each = [(member(own.theta, i), member(own.code, i)) for i in range(len(group.seeds))]
    packed = {i: group.reparam.stored(*pair) for i, pair in enumerate(each) if _finite(pair)}
    lost = jax.device_get(trained.params()) if len(packed) < len(each) else None
    decoded = [packed[i].decode() if i in packed else member(lost, i) for i in range(len(each))]
    as_trained = {'params': stacked(decoded), **own.stats}
    measured = jax.device_get(self.measured(group, as_trained))
    files = {i: self._folder / file_name(name, group.seeds[i]) for i in packed}
    if first():
      for i, file in files.items():
        _, stats = parted(member(measured, i))
        shipped.write(file, packed[i], stats, self._bound(about, file), entropy=entropy)
    wait(f'the files of {name} are written')
    if not files:
      return Written(as_trained, measured, 0.0, 0, '')
    read = dict(zip(files, self.read(about, [*files.values()]), strict=True))
    variables = [read.get(i) or member(measured, i) for i in range(len(group.seeds))]
    i = next(iter(files))
    size = files[i].stat().st_size
    return Written(as_trained, stacked(variables), packed[i].mean_bits(), size, file_name(name, group.seeds[i]))

  def read(self, about: dict[str, Any], files: Sequence[Path]) -> list[Any]:
    """Reads the variables in files; refuses a file of another network, run, row or seed than is described."""
    found = [self._read(file) for file in files]
    for file, each in zip(files, found, strict=True):
      if each.description != self._bound(about, file):
        raise UserError(f'{file} holds another network than its name says: restore it, or go on by --resume')
    return [each.variables() for each in found]

  def _bound(self, about: dict[str, Any], file: Path) -> dict[str, Any]:
    """Binds a description to its run and file, so that the file cannot replace another."""
    made = json.dumps([made_by(self._folder), file.name], sort_keys=True)
    return {**about, 'made_by': hashlib.sha256(made.encode()).hexdigest()}

  def measured(self, group: Group, variables: Any) -> Any:
    """Returns the variables with running statistics measured again."""
    if self._data is None or set(variables) == {'params'}:
      return variables
    data = self._data
    program = self._programs.setdefault(id(group.model), measured_again({'': group}))
    own = not type(group.model).__module__.startswith('lmajax.')
    batches = (data.batches[i] for i in range(5 * MEASURING if own else MEASURING))
    return program({'': variables}, batches)['']


class Scored(NamedTuple):
  """Accuracies of a group's files, seed by seed, and their size."""

  accuracy: list[float]
  validation_accuracy: list[float]
  accuracy_as_trained: list[float]
  bits: float
  bytes: int
  file: str


class Scoring:
  """Packs and scores networks, without data on the test set alone; those of one architecture share their programs."""

  def __init__(self, data: Data | None, test: Sequence[Any], folder: Path):
    self._data = data
    self._test = test
    self._folder = folder
    self._files = Files(data, folder)
    self._programs: dict[int, Callable] = {}

  def again(self, name: str, group: Group, about: dict[str, Any], before: Sequence[float]) -> list[float]:
    """Scores existing files, which must be of the described network, on the test set.

    A seed whose accuracy was NaN before has diverged and has no file.
    """
    kept = [i for i, accuracy in enumerate(before) if np.isfinite(accuracy)]
    files = [self._folder / file_name(name, group.seeds[i]) for i in kept]
    if not files:
      return [*before]
    found = self._right(group, stacked(self._files.read(about, files)), self._test)
    return [found[kept.index(i)] if i in kept else accuracy for i, accuracy in enumerate(before)]

  def rows_again(self, rows: Sequence[Any], known: Mapping[str, tuple[Group, dict[str, Any]]]) -> list[Any]:
    """Returns the rows of a finished run with the accuracies of its files as they are now.

    ``known`` has the group and the description of every network of the run, by the name of its row.
    """
    for row in rows:
      if row.name not in known:
        path = self._folder / 'results.json'
        raise UserError(f'{path} has {row.name}, which is not among the students of its config.json')
    return [row._replace(accuracy=self.again(row.name, *known[row.name], row.accuracy)) for row in rows]

  def scored(self, name: str, trained: Trained, about: dict[str, Any], *, entropy: bool = False) -> Scored:
    """Packs the networks of all seeds, with statistics of the packed weights, and scores what the files hold."""
    written, group = self._files.written(name, trained, about, entropy=entropy), trained.group
    return Scored(
      self._right(group, written.read, self._test),
      [] if self._data is None else self._right(group, written.read, self._data.validation),
      self._right(group, written.as_trained, self._test),
      written.bits,
      written.bytes,
      written.file,
    )

  def with_params(self, trained: Trained, params: Any) -> list[float]:
    """Returns the test accuracy of other weights in the place of those trained, with statistics of their own."""
    variables = {'params': params, **trained.end.stats}
    return self._right(trained.group, self._files.measured(trained.group, variables), self._test)

  def _right(self, group: Group, variables: Any, batches: Sequence[Any]) -> list[float]:
    program = self._programs.setdefault(id(group.model), scores({'': group}))
    return program({'': variables}, batches)[''].tolist()

  def milliseconds(self, kind: str, trained: Trained) -> float:
    """Returns the time per image in a test batch; saved in the folder, so that a resumed run reports the same."""
    variables = member(trained.variables(), 0)
    time = partial(timed, trained.group.model, variables, self._test[0][0].inputs)
    return noted(self._folder / 'milliseconds.json', kind, time)


def timed(model: nn.Module, variables: Any, inputs: Any) -> float:
  """Returns milliseconds per image, the median over passes of a whole batch."""
  apply = jax.jit(lambda variables, inputs: model.apply(variables, inputs, train=False)[0])
  samples = interleaved({'': lambda: jax.block_until_ready(apply(variables, inputs))}, rounds=_TIMED)
  return 1000 * median(samples['']) / len(jax.tree.leaves(inputs)[0])


def _finite(tree: Any) -> bool:
  return all(np.isfinite(np.asarray(leaf, np.float32)).all() for leaf in jax.tree.leaves(tree))
