"""From trained students to rows: packed into files, read back from them, and scored as they were read."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from lmajax import tree
from train import build, shipped
from train.bench.timing import interleaved, median
from train.build import Arm as Student
from train.config_quantize import Quantize
from train.data import Dataset
from train.distributed import first, wait
from train.errors import UserError
from train.evaluate import measured_again, member, scores
from train.loop import Data, Start
from train.quantizers import FLOAT, Arm
from train.report import TEACHER
from train.report_quantize import Row
from train.run import noted
from train.step import Group

_MEASURING = 100  # training batches that the statistics are measured on, once the weights are final
_SHADOWED = ('uniform', 'noise')  # methods whose theta holds weights that are not shipped
_TIMED = 21  # passes over a batch of test images, of which the median counts


class Trained(NamedTuple):
  """A kind of student after its training: every leaf of ``end`` has a leading axis of seeds."""

  group: Group
  end: Start

  def params(self) -> Any:
    """The weights that would be shipped, of all seeds."""
    decoded = self.group.over(lambda end: self.group.reparam.apply(end.theta, end.code, None))
    return jax.jit(decoded)(self.end)

  def shadow(self) -> Any:
    """The float32 weights behind the quantized ones, of all seeds."""
    return tree.combine(*self.end.theta)


class Scored(NamedTuple):
  """What came of the files of a kind of network, seed by seed."""

  accuracy: list[float]
  validation_accuracy: list[float]
  accuracy_as_trained: list[float]
  bits: float
  bytes: int
  file: str


class Scoring:
  """Packs and scores networks; those of one architecture share their compiled programs."""

  def __init__(self, config: Quantize, dataset: Dataset, data: Data, test: Sequence[Any], folder: Path):
    self._config = config
    self._dataset = dataset
    self._data = data
    self._test = test
    self._folder = folder
    self._programs: dict[int, tuple[Callable, Callable]] = {}

  def teacher(self, trained: Trained) -> Row:
    """The teacher's row, in float32."""
    about = shipped.description(self._config, None, self._dataset)
    scored = self._scored(TEACHER, trained, about)
    size = tree.size(jax.eval_shape(trained.params))
    width = build.width(trained.group.model)
    milliseconds = self._milliseconds('teacher', trained)
    return Row(TEACHER, 'relu', width, None, FLOAT, None, None, *scored, None, size, milliseconds, None, None)

  def student(self, arm: Arm, trained: Trained) -> Row:
    """The row of a kind of student."""
    student = arm.student
    scored = self._scored(arm.name, trained, shipped.description(self._config, student, self._dataset))
    shadow = self._shadow_accuracy(trained) if arm.method in _SHADOWED else None
    size = tree.size(jax.eval_shape(trained.params)) // len(trained.group.seeds)
    kind = f'{student.label}-w{student.width}-a{student.activation_bits}'
    return Row(
      arm.name, student.activation, student.width, student.segments, arm.method, arm.size, student.activation_bits,
      *scored, shadow, size, self._milliseconds(kind, trained), arm.temperature, arm.soft_weight,
    )  # fmt: skip

  def accuracy(self, group: Group, student: Student | None, files: Sequence[Path]) -> list[float]:
    """On the test set, of what lies in the files, which must be of that student, or without one of the teacher."""
    about, found = shipped.description(self._config, student, self._dataset), [shipped.read(file) for file in files]
    for file, each in zip(files, found, strict=True):
      if each.description != about:
        raise UserError(f'{file} holds another network than its name says: restore it, or run quantize --resume')
    return self._right(group, _stacked([each.variables() for each in found]), self._test)

  def _scored(self, name: str, trained: Trained, about: dict[str, Any]) -> Scored:
    own, group = jax.tree.map(jnp.asarray, jax.device_get(trained.end)), trained.group
    seeds = range(len(group.seeds))
    packed = [group.reparam.stored(member(own.theta, i), member(own.code, i)) for i in seeds]
    as_trained = {'params': _stacked([each.decode() for each in packed]), **own.stats}
    stats = jax.device_get(self._measured(group, as_trained))
    stats.pop('params')
    files = [self._folder / file_name(name, i) for i in seeds]
    if first():
      for i, file in enumerate(files):
        shipped.write(file, packed[i], member(stats, i), about, entropy=self._config.entropy)
    wait(f'the files of {name} are written')
    read = _stacked([shipped.read(file).variables() for file in files])
    return Scored(
      self._right(group, read, self._test),
      self._right(group, read, self._data.validation),
      self._right(group, as_trained, self._test),
      packed[0].mean_bits(),
      files[0].stat().st_size,
      file_name(name, 0),
    )

  def _shadow_accuracy(self, trained: Trained) -> list[float]:
    shadow = {'params': trained.shadow(), **trained.end.stats}
    return self._right(trained.group, self._measured(trained.group, shadow), self._test)

  def _right(self, group: Group, variables: Any, batches: Sequence[Any]) -> list[float]:
    return self._of(group)[0]({'': variables}, batches)[''].tolist()

  def _measured(self, group: Group, variables: Any) -> Any:
    batches = (self._data.batches[i] for i in range(_MEASURING))
    return self._of(group)[1]({'': variables}, batches)['']

  def _of(self, group: Group) -> tuple[Callable, Callable]:
    """The programs of an architecture."""
    one = {'': group}
    return self._programs.setdefault(id(group.model), (scores(one), measured_again(one)))

  def _milliseconds(self, kind: str, trained: Trained) -> float:
    """An image's time within a batch of the test set; noted in the folder, so that a resumed run says the same."""
    variables = member({'params': trained.params(), **trained.end.stats}, 0)
    time = partial(timed, trained.group.model, variables, self._test[0][0].inputs)
    return noted(self._folder / 'milliseconds.json', kind, time)


def file_name(name: str, seed: int) -> str:
  """Of the packed file of one seed, in the folder of a run."""
  return f'models/{name}-seed{seed}.safetensors'


def timed(model: nn.Module, variables: Any, inputs: Any) -> float:
  """Milliseconds an image, the median over passes of a whole batch."""
  apply = jax.jit(lambda variables, inputs: model.apply(variables, inputs, train=False)[0])
  samples = interleaved({'': lambda: jax.block_until_ready(apply(variables, inputs))}, rounds=_TIMED)
  return 1000 * median(samples['']) / len(jax.tree.leaves(inputs)[0])


def _stacked(members: Sequence[Any]) -> Any:
  return jax.tree.map(lambda *leaves: np.stack(leaves), *members)
