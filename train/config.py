"""Options of the programs as plain dataclasses, of which tyro makes the command line."""

import dataclasses
import json
import math
import re
from pathlib import Path
from typing import Annotated, Any, Literal

import jax
import tyro

from train.activations import ActivationName
from train.data.specs import SPECS
from train.runtime.errors import UserError
from train.runtime.files import write_atomically
from train.runtime.options import option, require, require_each_once, text
from train.runtime.outside import made, read_json

TEACHER = 'teacher'
"""The name of its row, its phase and its files."""
ScheduleName = Literal['cosine', 'warmup-cosine', 'plateau', 'steps', 'constant']


@dataclasses.dataclass(frozen=True)
class Training:
  """Options of every command that trains a teacher and its students."""

  data: str
  """The data set."""
  data_dir: Path | None = None
  """A folder with the published files of the data set."""
  workdir: Path | None = None
  """The run's folder; by default a new one under runs/."""
  config: Path | None = None
  """A file of options, as config.json of a run's folder is; what is given besides goes before it."""
  resume: bool = False
  """Go on with the run in --workdir; what is not given comes from its config.json."""
  restart: bool = False
  """With --resume: where no checkpoint of a phase can be read, train it anew."""
  seeds: int = 10
  """How many paired seeds; 5 by default where the data are not digits."""
  first_seed: int = 0
  """The first of them: runs that differ in their seeds alone can be reported together."""
  activations: tuple[ActivationName, ...] = ('relu', 'prelu', 'swish', 'aplu', 'lma', 'lma-joined')
  """The students' activations; identity is a control."""
  segments: tuple[int, ...] = (8,)
  """K, the segments of APLU (from 3) and LMA, one student for each."""
  width: tuple[int, ...] = (3, 5)
  """The students' widths: hidden units for digits (3 5) and the MNISTs (6); channels of the first convolution for
  cifar10 (75 50 25: students 1, 2, 3 of the paper); the widening factor for cifar100 (4 2: its students 1, 2)."""
  epochs: int = 60
  """Epochs of each student; by default 20 for the MNISTs and the paper's 200 for the CIFARs."""
  teacher_epochs: int | None = None
  """Epochs of the teacher; by default those of the students."""
  teacher_from: tuple[Path, ...] = ()
  """Train no teacher, take this one: that of a finished run, given by its folder, or a model file. Where its students
  are made of it (slim, compress, lit), its network and widths are theirs, whatever else is asked for."""
  teacher_digests: Annotated[tuple[str, ...], tyro.conf.Suppress] = ()
  """sha256 of these files, noted when the run begins: a resumed run insists on them."""
  schedule: ScheduleName = 'cosine'
  """Of the learning rate; warmup-cosine rises for a tenth of the epochs first. By default the paper's for cifar10
  (plateau) and cifar100 (steps)."""
  learning_rate: float = 0.05
  """At the start; by default the paper's for cifar10 (0.01) and cifar100 (0.1)."""
  weight_decay: float = 2.2e-4
  """L2 on all parameters; by default 5e-4 for cifar100, both the paper's."""
  batch_size: int = 64
  """Examples a step, over all devices; by default 128 for the MNISTs and cifar100."""
  dtype: Literal['float32', 'bfloat16'] = 'float32'
  """Of the computation; parameters and statistics stay in float32."""
  save_every: int = 20
  """Epochs between checkpoints; by default 5 for the MNISTs and 1 for the CIFARs."""
  coordinator_address: str | None = None
  """HOST:PORT of process 0, where JAX cannot detect the cluster; goes with the next two."""
  num_processes: int | None = None
  """How many processes there are; 1 without the other two: stay out of whatever cluster is detected."""
  process_id: int | None = None
  """Which of them this is, from 0."""

  @property
  def all_seeds(self) -> range:
    """The seeds of the students."""
    return range(self.first_seed, self.first_seed + self.seeds)


@dataclasses.dataclass(frozen=True)
class Images(Training):
  """Further options of the commands for images."""

  data: str = 'digits'
  """The images: digits, which come with scikit-learn; mnist, fashion-mnist, cifar10 or cifar100, from --data-dir or the
  internet; or your own: a folder of folders of image files, one a class (under train and test, or a fifth is held
  back), or FILE.npz with train_images, train_labels and, if you have them, those of test and validation."""
  train_images: int | None = None
  """Keep only so many of the training images, validation included; by default all."""
  image_size: int | None = None
  """Resize own image files to so many pixels on each side; by default they must be of one size."""
  data_digest: Annotated[str, tyro.conf.Suppress] = ''
  """sha256 of own images, noted when the run begins: a resumed run insists on it."""

  def __post_init__(self) -> None:
    """Takes a path as data apart: the name is the run's, the folder the machine's."""
    path = Path(self.data)
    if self.data_dir is None and self.data not in SPECS and (path.is_dir() or path.suffix == '.npz'):
      name = path.resolve().stem
      object.__setattr__(self, 'data', f'own-{name}' if name in SPECS else name)
      object.__setattr__(self, 'data_dir', path.resolve())


@dataclasses.dataclass(frozen=True)
class Taught(Images):
  """Options of a teacher of images that has a recipe of its own; the students keep theirs."""

  teacher_learning_rate: float | None = None
  """The teacher's learning rate at the start; by default that of the students."""
  teacher_schedule: ScheduleName | None = None
  """Of the teacher's learning rate; by default that of the students."""
  teacher_weight_decay: float | None = None
  """L2 on all parameters of the teacher; by default that of the students."""
  teacher_batch_size: int | None = None
  """Examples a step of the teacher; by default that of the students."""
  teacher_label_smoothing: float = 0.0
  """The part of each of the teacher's labels that is spread evenly over all classes."""


@dataclasses.dataclass(frozen=True)
class Named(Taught):
  """Options of a teacher whose network the students do not share."""

  teacher: str | None = None
  """The teacher's network: mlp, cnn, vgg-16, cifar10-teacher, cifar10-student-3, or resnet-20, resnext-20,
  wide-resnet-16-10 and others of their depths; or MODULE:FACTORY, a function of yours that takes act and num_classes
  and gives a module of flax.linen. By default the paper's for the CIFARs, a cnn for own images, else an mlp."""
  teacher_checkpoint: Path | None = None
  """Train no teacher, take these weights of the network that --teacher names: an Orbax checkpoint, FILE.msgpack as
  flax.serialization writes it, or FILE.safetensors with the names of the leaves."""
  student: str | None = None
  """The students' network, named as a teacher is, with --width for its first layer or stage; by default the paper's for
  the CIFARs, an mlp for the other sets, and resnet-8 for images of your own."""
  teacher_width: tuple[int, ...] = ()
  """Its units or channels, where its name does not say them; by default the published ones."""


def check_taught(config: Taught) -> None:
  size = config.image_size
  require(size is None or size > 0, 'image_size', size, 'give a positive number')
  taken = [name for name in ('teacher_from', 'teacher_checkpoint', 'teacher_logits') if getattr(config, name, None)]
  mend = f'--{option(taken[-1])} gives one already; leave it out' if len(taken) > 1 else ''
  require(len(taken) < 2, taken[0] if taken else '', text(getattr(config, taken[0])) if taken else '', mend)
  named = ('teacher', 'teacher_width') if taken == ['teacher_checkpoint'] else ()
  if taken == ['teacher_from'] and ':' in (getattr(config, 'teacher', None) or ''):
    named = ('teacher',)  # which its file does not describe
  own = [name for name in vars(config) if name.startswith('teacher') and name not in (*taken, *named, *_HIDDEN)]
  for name in own if taken else ():
    given, default = getattr(config, name), type(config).__dataclass_fields__[name].default
    mend = f'with --{option(taken[0])} nothing of a teacher is trained; leave it out'
    require(given == default, name, text(given), mend)
  for name in ('teacher_learning_rate', 'teacher_batch_size'):
    value = getattr(config, name)
    require(value is None or 0 < value < math.inf, name, value, 'give a positive number')
  decay, smoothing = config.teacher_weight_decay, config.teacher_label_smoothing
  require(decay is None or 0 <= decay < math.inf, 'teacher_weight_decay', decay, 'give 0 or more')
  require(0 <= smoothing < 1, 'teacher_label_smoothing', smoothing, 'give 0 or more, below 1')
  if isinstance(config, Named):
    least = min(config.teacher_width, default=1)
    require(least >= 1, 'teacher_width', least, 'give positive numbers')


def check_training(config: Training) -> None:
  numbers = vars(config)
  for name in ('seeds', 'epochs', 'batch_size', 'save_every', 'learning_rate'):
    require(0 < numbers[name] < math.inf, name, numbers[name], 'give a positive number')
  teacher_epochs = config.teacher_epochs
  require(teacher_epochs is None or teacher_epochs > 0, 'teacher_epochs', teacher_epochs, 'give a positive number')
  require(bool(config.width), 'width', 'empty', 'give at least one')
  require_each_once(config, 'segments', 'activations')
  require(min(config.segments) >= 2, 'segments', min(config.segments), 'give 2 or more')
  require(config.first_seed >= 0, 'first_seed', config.first_seed, 'give 0 or more')
  known = [getattr(config, name, None) for name in ('teacher_from', 'teacher_checkpoint', 'teacher_logits')]
  require(not config.teacher_digests or any(known), 'teacher_from', 'missing', 'a run knows its digest')
  require(min(config.width) >= 1, 'width', min(config.width), 'give positive numbers')
  require(0 <= config.weight_decay < math.inf, 'weight_decay', config.weight_decay, 'give 0 or more')
  require(config.activations != ('aplu',) or max(config.segments) > 2, 'segments', 2, 'give aplu 3 or more')
  packaged = config.data in ('descriptions', 'numbers') or (config.data in SPECS and not SPECS[config.data].url)
  require(not packaged or config.data_dir is None, 'data_dir', config.data_dir, f'{config.data} need none')


NOT_SAVED = ('config', 'workdir', 'resume', 'restart', 'coordinator_address', 'num_processes', 'process_id')
_OF_THE_MACHINE = ('data_dir', 'teacher_from', 'teacher_checkpoint', 'teacher_logits')
_HIDDEN = ('teacher_digests', 'data_digest')  # no option


def published(config: Any) -> dict[str, Any]:
  """Returns everything that decides a run's numbers, without the folders of the machine it ran on."""
  values = dataclasses.asdict(config)
  return {name: value for name, value in values.items() if name not in (*NOT_SAVED, *_OF_THE_MACHINE)}


def save(config: Any, folder: Path) -> None:
  """Writes ``config.json``."""
  values = {'recipe': recipe(config), **published(config)}
  for name in _OF_THE_MACHINE:
    if hasattr(config, name):
      values[name] = jax.tree.map(lambda path: str(path.resolve()), getattr(config, name))
  write_atomically(folder / 'config.json', json.dumps(values, indent=2) + '\n')


def recipe(config: Any) -> str:
  """Returns the command that a configuration belongs to."""
  return command(type(config))


def command(kind: type[Any]) -> str:
  """Returns the command line's name of a configuration class."""
  return re.sub('(?<=[a-z])(?=[A-Z])', '-', kind.__name__).lower()


def recipe_of(folder: Path) -> str:
  """Returns the command that made a run's folder."""
  values = read_json(folder / 'config.json')
  found = values.get('recipe') if isinstance(values, dict) else None
  if not isinstance(found, str):
    raise UserError(f'{folder / "config.json"} does not say which command made it')
  return found


def load(kind: type[Any], folder: Path) -> Any:
  """Reads the ``config.json`` of a run of that kind; an error names the invalid value."""
  return dataclasses.replace(read(kind, folder / 'config.json'), workdir=folder)


def read(kind: type[Any], path: Path) -> Any:
  """Reads a file of options of a command."""
  values = read_json(path)
  names = {field.name for field in dataclasses.fields(kind)} - set(NOT_SAVED)
  if not isinstance(values, dict) or values.pop('recipe', None) != command(kind) or set(values) != names:
    raise UserError(f'{path} is not the configuration of a {command(kind)} run')
  return made(values, kind, path)


def made_by(folder: Path) -> dict[str, Any]:
  """Returns the saved configuration values that decide a run's numbers; empty where the folder has none."""
  path = folder / 'config.json'
  values = read_json(path, dict[str, Any]) if path.exists() else {}
  return {name: value for name, value in values.items() if name not in _OF_THE_MACHINE}
