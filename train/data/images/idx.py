"""Reads MNIST and Fashion-MNIST: four idx files each, gzipped or not."""

import math
from pathlib import Path

import numpy as np

from train.data.files import read_bytes
from train.data.images.images import Examples, checked
from train.runtime.errors import UserError

_MOST = 2**26  # the published ones: 47,040,016 bytes at most


def load(name: str, data_dir: Path) -> tuple[Examples, Examples]:
  """Reads training and test images from ``data_dir/name`` if there (the sets share file names), else ``data_dir``."""
  folder = data_dir / name if (data_dir / name).is_dir() else data_dir
  return _part(folder, 'train'), _part(folder, 't10k')


def _part(folder: Path, part: str) -> Examples:
  images_path = _find(folder, f'{part}-images-idx3-ubyte')
  labels_path = _find(folder, f'{part}-labels-idx1-ubyte')
  images, labels = _array(images_path, rank=3), _array(labels_path, rank=1)
  if images.shape[1:] != (28, 28):
    raise UserError(f'{images_path}: images of {images.shape[1]}x{images.shape[2]} pixels where the set has 28x28')
  if len(images) != len(labels):
    raise UserError(
      f'{labels_path}: {len(labels)} labels for the {len(images)} images in {images_path.name}; get both files again'
    )
  return checked(images[..., None], labels, num_classes=10, source=labels_path)


def _find(folder: Path, name: str) -> Path:
  for path in (folder / name, folder / f'{name}.gz'):
    if path.is_file():
      return path
  raise UserError(f'{folder / name}: no such file, nor with .gz; --data-dir must hold the four idx files of the set')


def _array(path: Path, *, rank: int) -> np.ndarray:
  raw = read_bytes(path, _MOST)
  header = 4 + 4 * rank
  if len(raw) < header or raw[:4] != bytes((0, 0, 8, rank)):
    raise UserError(f'{path}: does not begin like an idx file of bytes in {rank} axes; get the published file again')
  shape = tuple(np.frombuffer(raw, '>u4', count=rank, offset=4).tolist())
  if len(raw) != header + math.prod(shape):
    raise UserError(
      f'{path}: {len(raw)} bytes where its header promises {header + math.prod(shape)}; get the published file again'
    )
  return np.frombuffer(raw, np.uint8, offset=header).reshape(shape)
