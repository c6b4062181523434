"""Options of trees, the compression of a classifier into one small decision tree."""

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

import tyro

from train.runtime.options import require, require_at_least, require_each_once

TeacherName = Literal['forest', 'networks']
WeightsName = Literal['balanced', 'none']
TABLES = 'iris', 'wine', 'breast-cancer'


@dataclasses.dataclass(frozen=True)
class Trees:
  """Compress a forest and an ensemble of LMA networks into small decision trees, by what the two believe."""

  data: str = 'tables'
  """tables: iris, wine and breast-cancer of scikit-learn; or one of these, or digits; or FILE.csv of your own."""
  target: str | None = None
  """Of FILE.csv: the column of the classes by its name in the first row, or by its number (1, 2, …) where there is no
  such row."""
  workdir: Path | None = None
  """The run's folder; by default a new one under runs/."""
  resume: bool = False
  """Go on with the run in --workdir; what is not given comes from its config.json."""
  data_digest: Annotated[str, tyro.conf.Suppress] = ''
  """sha256 of FILE.csv, noted when the run begins: a resumed run insists on it."""
  teachers: tuple[TeacherName, ...] = ('forest', 'networks')
  """forest: 100 trees of depth 12; networks: five perceptrons of 64 and 64 units with LMA, of which the mean softmax
  counts."""
  weights: tuple[WeightsName, ...] = ('balanced', 'none')
  """balanced: the classes weigh alike in the students' trees; none: the examples do."""
  depth: int = 4
  """Of the students' trees."""
  thresholds: int = 32
  """At the most, of the beliefs; a tree is trained at each."""
  folds: int = 5
  """Parts of a table, each the test set once."""
  repeats: int = 3
  """How often the parts are drawn anew."""
  epochs: int = 60
  """Of the networks."""


def defaults(data: str) -> Trees:
  """Returns the default options."""
  return Trees(data=data)


def check(config: Trees) -> None:
  """Raises UserError for what cannot be run, naming the option."""
  require_each_once(config, 'teachers', 'weights')
  require_at_least(config, depth=1, thresholds=3, folds=2, repeats=1, epochs=1)
  own = Path(config.data).suffix == '.csv'
  require(own or config.target is None, 'target', config.target, 'it goes with FILE.csv')
