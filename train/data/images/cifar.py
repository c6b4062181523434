"""Reads CIFAR-10 and CIFAR-100 in the published binary layout: label bytes, then red, green, blue planes of 32x32."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from train.data.files import read_bytes, read_tar
from train.data.images.images import Examples, checked
from train.runtime.errors import UserError

_PIXELS = 3 * 32 * 32
_MOST = 2**28  # the published ones: some 185 MB, all members together


class _Layout(NamedTuple):
  folder: str
  archive: str
  pickled: tuple[str, str]
  train: tuple[str, ...]
  test: str
  label_bytes: int  # the last of them is the class; CIFAR-100 has the superclass before it
  num_classes: int


_LAYOUTS = {
  'cifar10': _Layout(
    folder='cifar-10-batches-bin',
    archive='cifar-10-binary.tar.gz',
    pickled=('cifar-10-batches-py', 'cifar-10-python.tar.gz'),
    train=tuple(f'data_batch_{i}.bin' for i in range(1, 6)),
    test='test_batch.bin',
    label_bytes=1,
    num_classes=10,
  ),
  'cifar100': _Layout(
    folder='cifar-100-binary',
    archive='cifar-100-binary.tar.gz',
    pickled=('cifar-100-python', 'cifar-100-python.tar.gz'),
    train=('train.bin',),
    test='test.bin',
    label_bytes=2,
    num_classes=100,
  ),
}


def load(name: str, data_dir: Path) -> tuple[Examples, Examples]:
  """Reads training and test images from the unpacked folder, or else from the archive."""
  layout = _LAYOUTS[name]
  contents = _contents(data_dir, layout)
  *train, test = (_records(path, raw, layout) for path, raw in contents.items())
  return Examples(*(np.concatenate(arrays) for arrays in zip(*train, strict=True))), test


def _contents(data_dir: Path, layout: _Layout) -> dict[Path, bytes]:
  names = [f'{layout.folder}/{file}' for file in (*layout.train, layout.test)]
  if (data_dir / layout.folder).is_dir():
    return {data_dir / name: read_bytes(data_dir / name, _MOST) for name in names}
  archive = data_dir / layout.archive
  if archive.is_file():
    members = read_tar(archive, names, _MOST)
    return {archive / name: members[name] for name in names}
  for pickled in layout.pickled:
    if (data_dir / pickled).exists():
      raise UserError(f'{data_dir / pickled}: pickles can run code and are not read; get {layout.archive} instead')
  raise UserError(f'{data_dir}: --data-dir must hold {layout.folder}/ or {layout.archive}, and holds neither')


def _records(path: Path, raw: bytes, layout: _Layout) -> Examples:
  size = layout.label_bytes + _PIXELS
  if len(raw) % size:
    raise UserError(
      f'{path}: {len(raw)} bytes are no whole number of {size}-byte records; get the published file again'
    )
  records = np.frombuffer(raw, np.uint8).reshape(-1, size)
  images = records[:, layout.label_bytes :].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
  return checked(images, records[:, layout.label_bytes - 1], num_classes=layout.num_classes, source=path)
