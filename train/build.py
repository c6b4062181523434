"""From a configuration to objects: the one table from names to things."""

import dataclasses
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from lmajax import LMA, models
from lmajax.activations import linen
from lmajax.training import supervised, unrolled, vmapped
from lmajax.types import ActivationFactory
from train import networks
from train.config import Named, Taught, Training, label
from train.config import text as text_of
from train.data import Dataset, load
from train.data.batches import Batches, characters, evaluation_batches, pixels
from train.data.texts import text
from train.engine import schedules
from train.engine.cohort import Cohort, Group, Plan
from train.engine.optimizers import sgd
from train.engine.walk import Data, looped, stepped
from train.programs.lit.config import Lit, Shallow
from train.programs.lit.config_text import LitText
from train.programs.regions.config import Regions
from train.programs.slim.config import Slimmed
from train.results.report import TEACHER
from train.runtime.errors import UserError

_ACTIVATIONS: dict[str, Callable[[int], ActivationFactory]] = {
  'relu': lambda segments: linen.ReLU,
  'identity': lambda segments: linen.Identity,
  'prelu': lambda segments: linen.PReLU,
  'swish': lambda segments: linen.Swish,
  'aplu': lambda segments: partial(linen.APLU, num_segments=segments),
  'lma': lambda segments: partial(LMA, num_segments=segments),
  'lma-joined': lambda segments: partial(LMA, num_segments=segments, joined=True),
}
SEGMENTED = ('aplu', 'lma', 'lma-joined')

_SCHEDULES = {
  'cosine': schedules.cosine,
  'warmup-cosine': schedules.warmup_cosine,
  'plateau': schedules.plateau,
  'steps': schedules.steps,
  'constant': schedules.constant,
}
_CIFAR10_STUDENTS = {75: 1, 50: 2, 25: 3}
_TEACHERS = {
  'digits': ('mlp', (64, 64)),
  'mnist': ('mlp', (256, 256)),
  'fashion-mnist': ('mlp', (256, 256)),
  'cifar10': ('cifar10-teacher', ()),
  'cifar100': ('wide-resnet-16-10', ()),
}
"""The teacher where none is named: the paper's for its data, else a perceptron that is wide beside its students."""


class Arm(NamedTuple):
  """One row of the table: a kind of student, trained over all seeds."""

  activation: str
  segments: int | None
  width: int
  hard_label: bool
  activation_bits: int | None = None

  @property
  def label(self) -> str:
    return label(self.activation, self.segments)

  @property
  def name(self) -> str:
    return f'{self.label}-w{self.width}-{"hard" if self.hard_label else "distilled"}'


def arms(config: Training) -> Iterator[Arm]:
  """Every kind of student that a configuration asks for."""
  for width in config.width:
    for activation, segments in kinds(config):
      for hard_label in (False, True):
        yield Arm(activation, segments, width, hard_label)


def kinds(config: Training | Regions) -> Iterator[tuple[str, int | None]]:
  """The activations that a configuration asks for, those that have segments with each number of them."""
  for activation in config.activations:
    for segments in config.segments if activation in SEGMENTED else (None,):
      if (activation, segments) != ('aplu', 2):  # it has no hinge: it is ReLU
        yield activation, segments


def activation(name: str, segments: int | None, bits: int | None = None) -> ActivationFactory:
  """The factory behind a name; ``segments`` is None for those that have none, ``bits`` where nothing is quantized."""
  act = _ACTIVATIONS[name](segments or 2)
  return act if bits is None else partial(linen.Quantized, act, bits=bits)


class Network(NamedTuple):
  """A network by its name in ``networks``, as a model file says it."""

  name: str
  width: tuple[int, ...]

  def built(self, act: ActivationFactory, num_classes: int, dtype: str) -> nn.Module:
    """The module."""
    return networks.build(self.name, act, num_classes=num_classes, width=self.width, dtype=jnp.dtype(dtype))


def teacher(config: Named) -> Network:
  """The teacher that is asked for, or that of the data; all have ReLU."""
  name, width = _TEACHERS[config.data]
  return Network(config.teacher or name, config.teacher_width or (() if config.teacher else width))


def teacher_network(config: Named, dataset: Dataset, inputs: Any) -> nn.Module:
  """The teacher's module, tried on inputs."""
  own = teacher(config)
  return networks.tried('teacher', own.name, lambda: own.built(linen.ReLU, dataset.num_classes, config.dtype), inputs)


def teachers(config: Taught, model: nn.Module) -> Cohort:
  """A teacher as a cohort of its own, on the labels alone."""
  objective = supervised(model, label_smoothing=config.teacher_label_smoothing)
  return Cohort({TEACHER: Group(model, objective, (0,), unrolled)}, teacher_plan(config))


def teacher_plan(config: Taught) -> Plan:
  """The optimizer's part of a teacher's recipe: the students', where it has none of its own."""
  own = {
    name: value
    for name in ('learning_rate', 'weight_decay', 'schedule')
    if (value := getattr(config, f'teacher_{name}')) is not None
  }
  return plan(dataclasses.replace(config, **own), config.teacher_epochs or config.epochs)


def student(config: Training, arm: Arm, num_classes: int) -> nn.Module:
  """The student of an arm."""
  return network(config, activation(arm.activation, arm.segments, arm.activation_bits), arm.width, num_classes)


def network(config: Training, act: ActivationFactory, width: int, num_classes: int) -> nn.Module:
  """The students' network for a data set, with any activation; of the configuration, the data and the dtype count."""
  return student_network(config.data, width).built(act, num_classes, config.dtype)


def student_network(data: str, width: int) -> Network:
  """The students' network for a data set."""
  if data == 'cifar10':
    if width not in _CIFAR10_STUDENTS:
      raise UserError(f'--width {width}: the cifar10 students have 75, 50 or 25 channels first')
    return Network(f'cifar10-student-{_CIFAR10_STUDENTS[width]}', ())
  if data == 'cifar100':
    return Network(f'wide-resnet-10-{width}', ())
  return Network('mlp', (width,))


def families(config: Shallow) -> dict[str, Callable[..., Any]]:
  """The staged networks that take a configuration's data: of VDCNN's head, k stays the paper's 8."""
  if isinstance(config, LitText):
    return {'vdcnn': partial(models.VDCNN, vocabulary=text.VOCABULARY, units=config.units)}
  return {name: networks.FAMILIES[name].make for name in ('resnet', 'resnext')}


def staged(config: Shallow, option: str, act: ActivationFactory, *, num_classes: int, inputs: Any) -> Any:
  """The network that an option names, a family and a depth; tried on inputs, without computing."""
  name, known = getattr(config, option), families(config)
  family, _, depth = name.rpartition('-')
  if family not in known or not depth.isdecimal():
    example = getattr(type(config), option)
    raise UserError(f'--{option} is {name}: give {" or ".join(known)} and a depth, as in {example}')
  width = 'channels' if isinstance(config, LitText) else 'width'
  how = {'num_classes': num_classes, 'act': act, 'dtype': jnp.dtype(config.dtype), width: config.width}
  return networks.tried(option, name, lambda: known[family](int(depth), **how), inputs)


def slimmable(config: Slimmed, act: ActivationFactory, *, num_classes: int, inputs: Any) -> Any:
  """The network that ``--network`` and ``--width`` name; tried on inputs, without computing."""
  name, width = config.network, config.width
  family, _, depth = name.partition('-')
  if name not in ('mlp', 'cnn', 'vgg-16') and not (family == 'resnet' and depth.isdecimal()):
    raise UserError(f'--network is {name}: give mlp, cnn, vgg-16, or resnet and a depth, as in resnet-20')
  how = {'num_classes': num_classes, 'width': width, 'coupled': config.coupled, 'dtype': jnp.dtype(config.dtype)}
  said = f'--network {name} --width {text_of(width)}'
  return networks.tried('network', name, lambda: networks.build(name, act, **how), inputs, said=said)


def width(model: nn.Module) -> int:
  """The number that stands in the table's column: first units, first channels, or the widening factor."""
  if isinstance(model, models.WideResNet):
    return model.widen
  return model.units[0] if isinstance(model, models.MLP) else model.channels[0]


def over(model: nn.Module) -> Callable[[Callable], Callable]:
  """How a cohort of seeds runs fastest: on the CPU, convolutions one seed after another, matrix products together."""
  return vmapped if isinstance(model, models.MLP) or jax.default_backend() != 'cpu' else unrolled


def plan(config: Training, epochs: int) -> Plan:
  """The optimizer's part of a configuration."""
  return Plan(config.learning_rate, sgd(config.weight_decay), schedule(config.schedule, epochs), config.save_every)


def schedule(name: str, epochs: int) -> schedules.Schedule:
  """The rates of so many epochs."""
  return _SCHEDULES[name](epochs)


def sharding() -> NamedSharding:
  """Batches spread over all devices; Auto axes, so that Flax and optax run as they are."""
  mesh = jax.make_mesh((jax.device_count(),), ('data',), axis_types=(AxisType.Auto,))
  return NamedSharding(mesh, PartitionSpec('data'))


def read(config: Lit | LitText) -> Dataset:
  """The data set of a configuration."""
  if isinstance(config, LitText):
    how = {'train_examples': config.train_texts, 'length': config.length, 'columns': config.columns or None}
    return text.load(config.data, data_dir=config.data_dir, **how)
  return load(config.data, data_dir=config.data_dir, train_images=config.train_images)


def data(config: Training, dataset: Dataset) -> tuple[Data, list]:
  """What the phases read, and the test set as batches with masks."""
  how = _how(config, dataset)
  evaluated = partial(evaluation_batches, batch_size=8 * config.batch_size, **how)
  walk = stepped if jax.default_backend() == 'cpu' else looped
  batches = Batches(dataset.train, batch_size=config.batch_size, seed=0, **how)
  return Data(batches, list(evaluated(dataset.validation)), how['sharding'], walk), list(evaluated(dataset.test))


def teacher_data(config: Taught, dataset: Dataset, data: Data) -> Data:
  """What the teacher's phase reads: the students' data in batches of its own size."""
  if config.teacher_batch_size is None:
    return data
  return data._replace(
    batches=Batches(dataset.train, batch_size=config.teacher_batch_size, seed=0, **_how(config, dataset))
  )


def _how(config: Training, dataset: Dataset) -> dict[str, Any]:
  images = pixels(dataset.pixel_mean, dataset.pixel_std, augment=dataset.augment)
  return {'prepare': characters if isinstance(config, LitText) else images, 'sharding': sharding()}
