"""Options of regions, the count of linear regions."""

import dataclasses
from pathlib import Path

from train.activations import ActivationName
from train.data.specs import DataName
from train.programs.regions.pieces import MOST_PIECES
from train.runtime.options import require, require_at_least, require_each_once


@dataclasses.dataclass(frozen=True)
class Regions:
  """Count the linear regions of small networks of equal size, before and after training, and draw a plane of them."""

  data: DataName = 'digits'
  """The images; digits come with scikit-learn, the others from --data-dir or the internet."""
  data_dir: Path | None = None
  """A folder with the published files of the data set."""
  workdir: Path | None = None
  """The run's folder; by default a new one under runs/."""
  resume: bool = False
  """Go on with the run in --workdir; what is not given comes from its config.json."""
  restart: bool = False
  """With --resume: where no checkpoint of a kind of network can be read, train it anew."""
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
  """Raises UserError for what cannot be run, naming the option."""
  require_at_least(config, width=1, depth=1, seeds=1, lines=1, grid=2, epochs=1)
  require_each_once(config, 'segments', 'activations')
  require(min(config.segments) >= 2, 'segments', min(config.segments), 'give 2 or more')
  require(config.activations != ('aplu',) or max(config.segments) > 2, 'segments', 2, 'give aplu 3 or more')
  require(max(config.segments) <= MOST_PIECES, 'segments', max(config.segments), f'give {MOST_PIECES} or fewer')
