"""What a person may ask for, as plain dataclasses; tyro makes the command line of them."""

import dataclasses
import json
from pathlib import Path
from typing import Any, Literal

from train.errors import UserError
from train.run import read_json, write_atomically

DataName = Literal['digits', 'mnist', 'fashion-mnist', 'cifar10', 'cifar100']
ActivationName = Literal['relu', 'prelu', 'swish', 'aplu', 'lma', 'lma-joined']


@dataclasses.dataclass(frozen=True)
class Distill:
  """Distil a teacher into students of equal size, one per activation and seed, and show what came of it."""

  data: DataName = 'digits'
  """The images; digits come with scikit-learn, the others from --data-dir or the internet."""
  data_dir: Path | None = None
  """A folder with the published files of the data set."""
  train_images: int | None = None
  """Keep only so many of the training images, validation included; by default all."""
  workdir: Path | None = None
  """The run's folder; by default a new one under runs/."""
  resume: bool = False
  """Go on with the run in --workdir; what is not given comes from its config.json."""
  seeds: int | None = None
  """How many paired seeds; by default 10 for digits and 5 for the others."""
  activations: tuple[ActivationName, ...] = ('relu', 'prelu', 'swish', 'aplu', 'lma', 'lma-joined')
  """The students' activations."""
  segments: tuple[int, ...] = (8,)
  """K, the segments of APLU and LMA, one student for each."""
  width: tuple[int, ...] | None = None
  """The students' widths: hidden units for digits and the MNISTs; channels of the first convolution for cifar10
  (75, 50, 25: students 1, 2, 3 of the paper); the widening factor for cifar100 (4, 2: its students 1, 2)."""
  temperature: float = 2.0
  """T, of the soft targets."""
  soft_weight: float = 0.7
  """The weight of the soft targets; the labels get the rest."""
  epochs: int | None = None
  """Epochs of each student; by default the paper's 200, and fewer for digits and the MNISTs."""
  teacher_epochs: int | None = None
  """Epochs of the teacher; by default those of the students."""
  schedule: Literal['cosine', 'plateau', 'steps'] | None = None
  """The learning rate's; by default the paper's (cifar10 plateau, cifar100 steps), and cosine elsewhere."""
  learning_rate: float | None = None
  """At the start; by default the paper's, and 0.05 for digits and the MNISTs."""
  weight_decay: float | None = None
  """L2 on all parameters; by default the paper's."""
  batch_size: int | None = None
  """Images a step, over all devices; by default the paper's."""
  dtype: Literal['float32', 'bfloat16'] = 'float32'
  """Of the computation; parameters and statistics stay in float32."""
  save_every: int | None = None
  """Epochs between checkpoints."""


_DEFAULTS: dict[str, dict[str, Any]] = {
  'digits': {'seeds': 10, 'width': (3, 5), 'epochs': 60, 'save_every': 20, 'batch_size': 64},
  'mnist': {'width': (6,), 'epochs': 20, 'save_every': 5, 'batch_size': 128},
  'fashion-mnist': {'width': (6,), 'epochs': 20, 'save_every': 5, 'batch_size': 128},
  'cifar10': {'width': (75, 50, 25), 'batch_size': 64, 'schedule': 'plateau', 'learning_rate': 0.01},
  'cifar100': {
    'width': (4, 2), 'batch_size': 128, 'schedule': 'steps', 'learning_rate': 0.1, 'weight_decay': 5e-4
  },
}  # fmt: skip
_COMMON = {
  'seeds': 5, 'epochs': 200, 'schedule': 'cosine', 'learning_rate': 0.05, 'weight_decay': 2.2e-4, 'save_every': 1
}  # fmt: skip


def resolved(config: Distill) -> Distill:
  """Fills in what depends on the data set, and refuses what cannot be run."""
  defaults = {**_COMMON, **_DEFAULTS[config.data]}
  missing = {name: value for name, value in defaults.items() if getattr(config, name) is None}
  config = dataclasses.replace(config, **missing)
  config = dataclasses.replace(
    config,
    teacher_epochs=config.teacher_epochs or config.epochs,
    data_dir=None if config.data_dir is None else config.data_dir.resolve(),
  )
  _check(config)
  return config


def _check(config: Distill) -> None:
  numbers = vars(config)
  for name in ('seeds', 'epochs', 'teacher_epochs', 'batch_size', 'save_every', 'learning_rate', 'temperature'):
    _require(numbers[name] > 0, name, numbers[name], 'give a positive number')
  for name in ('width', 'segments', 'activations'):
    _require(bool(numbers[name]), name, 'empty', 'give at least one')
    _require(len(set(numbers[name])) == len(numbers[name]), name, numbers[name], 'give each once')
  least = 3 if 'aplu' in config.activations else 2
  _require(min(config.segments) >= least, 'segments', min(config.segments), f'give {least} or more')
  _require(min(config.width or (0,)) >= 1, 'width', config.width, 'give positive numbers')
  _require(0 <= config.soft_weight <= 1, 'soft_weight', config.soft_weight, 'give a number between 0 and 1')
  _require(config.weight_decay is not None and config.weight_decay >= 0, 'weight_decay', config.weight_decay, 'give 0 or more')


def _require(holds: bool, name: str, value: Any, mend: str) -> None:
  if not holds:
    raise UserError(f'--{option(name)} is {value}: {mend}')


def option(name: str) -> str:
  """A field's name on the command line."""
  return name.replace('_', '-')


_NOT_SAVED = ('workdir', 'resume')


def save(config: Distill, folder: Path) -> None:
  """Writes ``config.json``: everything that decides a run's numbers."""
  values = {name: value for name, value in dataclasses.asdict(config).items() if name not in _NOT_SAVED}
  values['data_dir'] = None if config.data_dir is None else str(config.data_dir)
  write_atomically(folder / 'config.json', json.dumps(values, indent=2) + '\n')


def load(folder: Path) -> Distill:
  """Reads the ``config.json`` of a run."""
  values = read_json(folder / 'config.json')
  known = {field.name for field in dataclasses.fields(Distill)}
  if not isinstance(values, dict) or not set(values) <= known:
    raise UserError(f'{folder / "config.json"} is not the configuration of a distill run')
  values = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
  values['data_dir'] = None if values.get('data_dir') is None else Path(values['data_dir'])
  return Distill(**values, workdir=folder)


def refuse_differences(given: Distill, saved: Distill) -> None:
  """A resumed run keeps its configuration: an option that differs is named with both values."""
  for field in dataclasses.fields(Distill):
    asked, kept = getattr(given, field.name), getattr(saved, field.name)
    if isinstance(asked, Path):
      asked = asked.resolve()
    if field.name not in _NOT_SAVED and asked != kept:
      raise UserError(
        f'--{option(field.name)} {_text(asked)} differs from the run in {saved.workdir}, which has {_text(kept)}:'
        ' leave it out, or choose another --workdir'
      )


def _text(value: Any) -> str:
  return ' '.join(map(str, value)) if isinstance(value, tuple) else str(value)
