"""Options of lit-text, for students of texts shallower than their teacher."""

import dataclasses
from typing import Any, Literal

from train.programs.lit.config import Shallow
from train.runtime.options import require, text

TextName = Literal['descriptions', 'ag-news', 'csv']


@dataclasses.dataclass(frozen=True)
class LitText(Shallow):
  """Train students as lit does, on texts read character by character."""

  data: TextName = 'descriptions'
  """The texts; descriptions, passages from those of data sets, come with scikit-learn, the others lie in --data-dir: a
  train.csv and a test.csv, gzipped or not, of rows that begin with a class from 1."""
  train_texts: int | None = None
  """Keep only so many of the training texts, validation included; by default all, but 12000 for ag-news."""
  length: int | None = None
  """Characters of a text: longer ones are cut, shorter ones padded; by default 128 for descriptions, 256 for ag-news
  and 1014 for csv."""
  columns: tuple[int, ...] = ()
  """Which make the text: 1 is the first after the class, -1 the last; by default the last of ag-news, else all."""
  teacher: str = 'vdcnn-17'
  """The family vdcnn, and a depth: 9, 17, 29 or 49."""
  student: str = 'vdcnn-9'
  """The same, with fewer layers."""
  width: tuple[int, ...] = (8, 16, 16, 32)
  """The channels of the four sections, of teacher and student alike; by default 16 16 32 32 for ag-news; the paper's
  are 64 128 256 512."""
  units: tuple[int, ...] = (64, 64)
  """Of the hidden dense layers, of teacher and student alike; the paper's are 2048 2048, beside which channels as few
  as these would vanish."""
  beta: float = 0.05
  """The weight of the soft targets and labels in the first phase of lit; the stages' errors get the rest, each."""
  epochs: int = 12
  """Of the first phase; by default 8 for ag-news."""
  finetune_epochs: int = 4
  """Of the fine-tuning by kd; by default 3 for ag-news."""
  teacher_epochs: int | None = None
  """Epochs of the teacher; by default those of both phases, but 40 for ag-news."""
  learning_rate: float = 0.05
  """At the start of all but fine-tuning; by default 0.01 for ag-news."""
  finetune_learning_rate: float = 0.005
  """At the start of fine-tuning; by default 0.01 for ag-news."""
  batch_size: int = 64
  """Texts a step, over all devices; by default 32 for ag-news and 128 for csv."""
  save_every: int = 20
  """Epochs between checkpoints; by default 1 for all data but descriptions."""


_BY_DATA: dict[TextName, dict[str, Any]] = {
  'descriptions': {},
  'ag-news': {
    'train_texts': 12_000, 'width': (16, 16, 32, 32), 'batch_size': 32, 'save_every': 1, 'learning_rate': 0.01,
    'finetune_learning_rate': 0.01, 'epochs': 8, 'finetune_epochs': 3, 'teacher_epochs': 40,
  },
  'csv': {'batch_size': 128, 'save_every': 1},
}  # fmt: skip


def defaults(data: TextName) -> LitText:
  """Default options for a data set."""
  return LitText(data=data, **_BY_DATA[data])


def check_texts(config: LitText) -> None:
  """Refuses what cannot be asked of texts, naming the option."""
  require(len(config.width) == 4, 'width', text(config.width), 'give four numbers')
  require(min(config.units, default=1) >= 1, 'units', text(config.units), 'give positive numbers')
  require(config.length is None or config.length >= 1, 'length', config.length, 'give a positive number')
  packaged = config.data == 'descriptions'
  require(not (packaged and config.columns), 'columns', text(config.columns), 'descriptions have none')
