"""Passages of the descriptions of data sets that come with scikit-learn: text without a download.

The task is to tell which description a passage is from. It serves to try the programs and is no benchmark: there
are six short texts, the passages of one part overlap each other, and another release may word a description anew.
"""

from importlib import resources
from itertools import pairwise
from pathlib import Path

import numpy as np

from train.data.files import naming
from train.data.texts.tables import Texts

# The longer ones that do not repeat themselves.
FILES = ('breast_cancer', 'digits', 'iris', 'lfw', 'olivetti_faces', 'rcv1')
PASSAGE = 128
_PER_PIECE = 40


def load() -> tuple[Texts, Texts, Texts]:
  """Returns the passages and classes of training, validation and test; no two parts share a character of a file.

  Each file is cut into five pieces: the first, third and fifth are trained on.
  """
  pieces = [_pieces(name) for name in FILES]
  train, validation, test = ([[file[i] for i in part] for file in pieces] for part in ((0, 2, 4), (1,), (3,)))
  return _passages(train), _passages(validation), _passages(test)


def _pieces(name: str) -> list[str]:
  path = resources.files('sklearn.datasets.descr') / f'{name}.rst'
  with naming(Path(str(path))):
    text = ' '.join(path.read_text(encoding='utf-8').split())
  edges = np.linspace(0, len(text), 6).astype(int).tolist()
  return [text[first:last] for first, last in pairwise(edges)]


def _passages(files: list[list[str]]) -> Texts:
  """Takes equally many from every piece, evenly spaced, so that a long description counts no more than a short one."""
  texts, labels = [], []
  for label, pieces in enumerate(files):
    for piece in pieces:
      starts = np.linspace(0, len(piece) - PASSAGE, _PER_PIECE).astype(int).tolist()
      texts += [piece[start : start + PASSAGE] for start in starts]
      labels += [label] * len(starts)
  return Texts(texts, np.array(labels, np.int32))
