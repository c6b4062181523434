"""What a person may ask of the count of linear regions."""

import dataclasses
import json
from pathlib import Path
from typing import Any, Literal

from train.config import ActivationName, option
from train.errors import UserError
from train.pieces import MOST_PIECES
from train.run import read_json, write_atomically


@dataclasses.dataclass(frozen=True)
class Regions:
  """Count the linear regions of small networks of equal size, before and after training, and draw a plane of them."""

  data: Literal['digits', 'mnist', 'fashion-mnist'] = 'digits'
  """The images; digits come with scikit-learn, the others from --data-dir or the internet."""
  data_dir: Path | None = None
  """A folder with the published files of the data set."""
  workdir: Path | None = None
  """The run's folder; by default a new one under runs/."""
  resume: bool = False
  """Go on with the run in --workdir; what is not given comes from its config.json."""
  activations: tuple[ActivationName, ...] = ('relu', 'prelu', 'swish', 'aplu', 'lma', 'lma-joined')
  """The networks' activations."""
  segments: tuple[int, ...] = (4, 8, 16)
  """K, the segments of APLU (from 3) and LMA, one kind of network for each."""
  width: int = 8
  """Units of each hidden layer, the same for all activations."""
  depth: int = 2
  """Hidden layers."""
  seeds: int = 3
  """How many networks of each kind."""
  lines: int = 32
  """Segments between random pairs of test images, the same for all networks."""
  grid: int = 400
  """Points along each side of the plane through three test images."""
  epochs: int = 20
  """Epochs of training; rate, decay and batch size are those of distill's students."""


def check(config: Regions) -> None:
  """Refuses what cannot be run, naming the option."""
  numbers = vars(config)
  for name, least in {'width': 1, 'depth': 1, 'seeds': 1, 'lines': 1, 'grid': 2, 'epochs': 1}.items():
    _require(numbers[name] >= least, name, numbers[name], f'give {least} or more')
  for name in ('segments', 'activations'):
    _require(bool(numbers[name]), name, 'empty', 'give at least one')
    _require(len(set(numbers[name])) == len(numbers[name]), name, ' '.join(map(str, numbers[name])), 'give each once')
  _require(min(config.segments) >= 2, 'segments', min(config.segments), 'give 2 or more')
  _require(config.activations != ('aplu',) or max(config.segments) > 2, 'segments', 2, 'give aplu 3 or more')
  _require(max(config.segments) <= MOST_PIECES, 'segments', max(config.segments), f'give {MOST_PIECES} or fewer')


def _require(holds: bool, name: str, value: object, mend: str) -> None:
  if not holds:
    raise UserError(f'--{option(name)} is {value}: {mend}')


_NOT_SAVED = ('workdir', 'resume')


def published(config: Regions) -> dict[str, Any]:
  """Everything that decides a run's numbers, without the folders of the machine it ran on."""
  values = dataclasses.asdict(config)
  return {name: value for name, value in values.items() if name not in (*_NOT_SAVED, 'data_dir')}


def save(config: Regions, folder: Path) -> None:
  """Writes ``config.json``."""
  data_dir = None if config.data_dir is None else str(config.data_dir.resolve())
  write_atomically(folder / 'config.json', json.dumps({**published(config), 'data_dir': data_dir}, indent=2) + '\n')


def load(folder: Path) -> Regions:
  """Reads the ``config.json`` of a run."""
  values = read_json(folder / 'config.json')
  names = {field.name for field in dataclasses.fields(Regions)} - set(_NOT_SAVED)
  if not isinstance(values, dict) or set(values) != names:
    raise UserError(f'{folder / "config.json"} is not the configuration of a regions run')
  values = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
  values['data_dir'] = None if values['data_dir'] is None else Path(values['data_dir'])
  return Regions(**values, workdir=folder)
