"""Builds networks, cohorts, plans, batches and descriptions from a configuration."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from lmajax import models
from lmajax.activations import linen
from lmajax.training import over_all_devices, supervised, unrolled, vmapped
from lmajax.types import ActivationFactory
from train import networks
from train.activations import chosen, factory, labelled
from train.config import TEACHER, Images, Named, Taught, Training
from train.data import Dataset, Examples, load
from train.data.batches import Batches, characters, evaluation_batches, pixels
from train.data.images.augment import mixup
from train.data.specs import OWN, spec
from train.engine.cohort import Cohort, Group, Plan
from train.engine.logits_cache import digest
from train.engine.optimizers import sgd
from train.engine.schedules import schedule
from train.engine.walk import Data, looped, stepped
from train.runtime.errors import UserError
from train.teaching import KD, Losses, named


class Arm(NamedTuple):
  """One row of the table: a kind of student, trained over all seeds."""

  activation: str
  segments: int | None
  width: int  # 0: that of an own network
  hard_label: bool
  activation_bits: int | None = None
  loss: str = KD

  label = labelled

  @property
  def name(self) -> str:
    taught = 'hard' if self.hard_label else 'distilled' if self.loss == KD else self.loss
    return f'{self.label}-{f"w{self.width}-" if self.width else ""}{taught}'


def read(config: Images) -> tuple[Any, Dataset]:
  """Reads the data set of a configuration; returns the configuration with the digest of own images, which it checks."""
  how = {'data_dir': config.data_dir, 'train_images': config.train_images, 'image_size': config.image_size}
  dataset = load(config.data, **how)
  if spec(config.data) is not OWN:
    return config, dataset
  found = digest([*dataset.train, *dataset.validation, *dataset.test, np.asarray(dataset.classes)])
  if config.data_digest not in ('', found):
    raise UserError(f'{config.data_dir} holds other images than this run began with: restore them')
  return dataclasses.replace(config, data_digest=found), dataset


def arms(config: Named) -> Iterator[Arm]:
  """Yields every kind of student that a configuration asks for."""
  for width in _widths(config):
    for activation, segments in chosen(config):
      for loss in named(config) if isinstance(config, Losses) else (KD,):
        yield Arm(activation, segments, width, False, loss=loss)
      yield Arm(activation, segments, width, True)


def _widths(config: Named) -> tuple[int, ...]:
  name = config.student or ''
  try:
    return config.width if not networks.is_own(name) or networks.takes(name, 'width') else (0,)
  except ValueError as error:
    raise UserError(f'--student is {name}: {error}') from error


class Network(NamedTuple):
  """A network's name in ``networks`` and its width, as in a model file."""

  name: str
  width: tuple[int, ...]

  def built(self, act: ActivationFactory, num_classes: int, dtype: str) -> nn.Module:
    """Builds the module."""
    make = networks.own if networks.is_own(self.name) else networks.build
    return make(self.name, act, num_classes=num_classes, width=self.width, dtype=jnp.dtype(dtype))


def teacher(config: Named) -> Network:
  """Returns the teacher that is asked for, or the data set's default; all have ReLU."""
  name, width = spec(config.data).teacher
  return Network(config.teacher or name, config.teacher_width or (() if config.teacher else width))


def teacher_network(config: Named, dataset: Dataset, inputs: Any) -> nn.Module:
  """Builds the teacher's module and tries it on inputs."""
  own = teacher(config)
  classes = dataset.num_classes
  make = partial(own.built, linen.ReLU, classes, config.dtype)
  return networks.tried('teacher', own.name, make, inputs, num_classes=classes)


def teachers(config: Taught, model: nn.Module) -> Cohort:
  """Builds a cohort of the teacher alone, trained on the labels alone."""
  objective = supervised(model, label_smoothing=config.teacher_label_smoothing)
  return Cohort({TEACHER: Group(model, objective, (0,), unrolled)}, teacher_plan(config))


def teacher_plan(config: Taught) -> Plan:
  """Returns the optimizer's part of a teacher's recipe: its own, or else the students'."""
  own = {
    name: value
    for name in ('learning_rate', 'weight_decay', 'schedule')
    if (value := getattr(config, f'teacher_{name}')) is not None
  }
  return plan(dataclasses.replace(config, **own), config.teacher_epochs or config.epochs)


def student(config: Named, arm: Arm, dataset: Dataset, inputs: Any) -> nn.Module:
  """Builds the student of an arm; tries an own one on inputs."""
  act, classes = factory(arm.activation, arm.segments, arm.activation_bits), dataset.num_classes
  own = student_network(config, arm.width)
  if config.student is None:
    return own.built(act, classes, config.dtype)
  calls = []

  def noting(**how: Any) -> Any:
    calls.append(how)
    return act(**how)

  networks.tried('student', own.name, partial(own.built, noting, classes, config.dtype), inputs, num_classes=classes)
  if not calls:
    raise UserError(f'--student is {own.name}: it never calls act, and all its activations would be one')
  return own.built(act, classes, config.dtype)


def student_network(config: Named, width: int) -> Network:
  """Returns the students' network: the one that is asked for, or the data set's."""
  known = config.student or spec(config.data).student
  if not isinstance(known, str):
    if width not in known:
      *first, last = map(str, known)
      raise UserError(f'--width {width}: the {config.data} students have {", ".join(first)} or {last} channels first')
    return Network(known[width], ())
  name = known.format(width=width)
  if name != known:
    return Network(name, ())
  if networks.is_own(name):
    return Network(name, (width,) if width else ())
  return Network(name, networks.scaled(name, width, 'student'))


_MLP = {'toy': (128, 128), 'gray': (300, 100)}  # a digits perceptron with fewer cannot be hashed to a fiftieth


def shaped_network(config: Named) -> Network:
  """Returns the one network of all students, of which the options give every width."""
  size = spec(config.data).size
  name = config.student or ('cnn' if size == 'color' else 'mlp')
  try:
    family, _ = networks.parsed(name)
  except ValueError as error:
    raise UserError(f'--student is {name}: {error}') from error
  return Network(name, config.width or (_MLP.get(size, family.width) if name == 'mlp' else family.width))


def width(model: nn.Module) -> int:
  """Returns the width in the table's column: the widening factor, or the first channels or units; 0: it says none."""
  found: Any = next((getattr(model, name) for name in ('widen', 'channels', 'units') if hasattr(model, name)), 0)
  first = found[0] if isinstance(found, tuple) and found else found
  return first if isinstance(first, int) else 0


def over(model: nn.Module) -> Callable[[Callable], Callable]:
  """Chooses the fastest way to run a cohort: on the CPU, convolutions seed after seed, matrix products together."""
  return vmapped if isinstance(model, models.MLP) or jax.default_backend() != 'cpu' else unrolled


def plan(config: Training, epochs: int) -> Plan:
  """Returns the optimizer's part of a configuration."""
  return Plan(config.learning_rate, sgd(config.weight_decay), schedule(config.schedule, epochs), config.save_every)


def data(config: Training, dataset: Dataset) -> tuple[Data, list]:
  """Returns the data of the phases, and the test set as batches with masks."""
  how = _how(config, dataset)
  walk = stepped if jax.default_backend() == 'cpu' else looped
  batches = Batches(dataset.train, batch_size=config.batch_size, seed=0, **how)
  return Data(batches, scored(config, dataset, dataset.validation), how['sharding'], walk), test(config, dataset)


def test(config: Training, dataset: Dataset) -> list:
  """Returns the test set as batches with masks."""
  return scored(config, dataset, dataset.test)


def scored(config: Training, dataset: Dataset, examples: Examples) -> list:
  """Returns a part of the data as batches with masks, in order."""
  return list(evaluation_batches(examples, batch_size=8 * config.batch_size, **_how(config, dataset)))


def teacher_data(config: Taught, dataset: Dataset, data: Data) -> Data:
  """Returns the data of the teacher's phase: the students', in batches of its own size."""
  if config.teacher_batch_size is None:
    return data
  return data._replace(
    batches=Batches(dataset.train, batch_size=config.teacher_batch_size, seed=0, **_how(config, dataset))
  )


def students_data(config: Training, dataset: Dataset, data: Data, *, alpha: float | None) -> Data:
  """Returns the data of the students' phases: with the α of ``mixup``, batches of mixed images."""
  if alpha is None:
    return data
  mix = partial(mixup, alpha=alpha, num_classes=dataset.num_classes)
  batches = Batches(dataset.train, batch_size=config.batch_size, seed=0, mix=mix, **_how(config, dataset))
  return data._replace(batches=batches)


def _how(config: Training, dataset: Dataset) -> dict[str, Any]:
  images = pixels(dataset.pixel_mean, dataset.pixel_std, augment=dataset.augment)
  return {'prepare': images if dataset.pixel_mean else characters, 'sharding': over_all_devices()}


def described(config: Named, arm: Arm | None, dataset: Dataset) -> dict[str, Any]:
  """Describes the student of an arm, or the teacher where there is none, for a model file."""
  if arm is None:
    return of_network(config, dataset, *teacher(config), 'relu', None)
  network = student_network(config, arm.width)
  found = of_network(config, dataset, *network, arm.activation, arm.segments)
  return {**found, 'activation_bits': arm.activation_bits}


def of_thin(
  config: Any, dataset: Dataset, activation: str, segments: int | None, widths: Sequence[int] | None
) -> dict[str, Any]:
  """Describes a network thinned to ``widths`` channels, or the original where they are None."""
  found = of_network(config, dataset, config.network, config.width, activation, segments)
  return {**found, 'coupled': config.coupled, 'thinned': widths and list(widths)}


def of_data(config: Training, dataset: Dataset) -> dict[str, Any]:
  """Describes the images that a network takes and what they show."""
  return {
    'data': config.data,
    'classes': list(dataset.classes),
    'image_shape': list(dataset.test.inputs.shape[1:]),
    'pixel_mean': list(dataset.pixel_mean),
    'pixel_std': list(dataset.pixel_std),
    'brightest': dataset.brightest,
  }


def of_network(
  config: Training, dataset: Dataset, network: str, width: Sequence[int], activation: str, segments: int | None
) -> dict[str, Any]:
  """Describes a network by its name in ``networks``."""
  known: Any = {
    **of_data(config, dataset),
    'network': network,
    'width': list(width),
    'coupled': False,
    'thinned': None,
    'activation': activation,
    'segments': segments,
    'activation_bits': None,
    'dtype': config.dtype,
  }
  return known
