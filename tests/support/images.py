"""Writes sets of images in their published layouts, and says what is wrong with one."""

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest

from train.data import Examples, load
from train.runtime.errors import UserError

CIFAR_FILES = {
  'cifar10': [f'cifar-10-batches-bin/{part}.bin' for part in (*(f'data_batch_{i}' for i in range(1, 6)), 'test_batch')],
  'cifar100': ['cifar-100-binary/train.bin', 'cifar-100-binary/test.bin'],
}
CIFAR_ARCHIVES = {'cifar10': 'cifar-10-binary.tar.gz', 'cifar100': 'cifar-100-binary.tar.gz'}


def random_images(n, *, size=32, channels=3, classes=10, seed=0) -> Examples:
  draw = np.random.default_rng(seed)
  pixels = draw.integers(0, 256, (n, size, size, channels), np.uint8)
  return Examples(pixels, (np.arange(n) % classes).astype(np.int32))


def same(a: Examples, b: Examples) -> bool:
  return all(x.dtype == y.dtype and np.array_equal(x, y) for x, y in zip(a, b, strict=True))


def idx_file(array) -> bytes:
  shape = b''.join(n.to_bytes(4, 'big') for n in array.shape)
  return bytes((0, 0, 8, array.ndim)) + shape + array.astype(np.uint8).tobytes()


def mnist_files(train: Examples, test: Examples) -> dict[str, bytes]:
  files = {}
  for part, images in (('train', train), ('t10k', test)):
    files[f'{part}-images-idx3-ubyte'] = idx_file(images.inputs[..., 0])
    files[f'{part}-labels-idx1-ubyte'] = idx_file(images.labels)
  return files


def cifar_file(images: Examples, *, superclass=False) -> bytes:
  records = []
  for image, label in zip(*images, strict=True):
    planes = b''.join(image[:, :, channel].tobytes() for channel in range(3))
    records.append(bytes((19, label) if superclass else (label,)) + planes)
  return b''.join(records)


def cifar_files(name, parts: list[Examples]) -> dict[str, bytes]:
  return {
    file: cifar_file(part, superclass=name == 'cifar100') for file, part in zip(CIFAR_FILES[name], parts, strict=True)
  }


def tar_gz(files: dict[str, bytes], links: dict[str, str] | None = None) -> bytes:
  out = io.BytesIO()
  with tarfile.open(fileobj=out, mode='w:gz') as tar:
    for name, body in files.items():
      member = tarfile.TarInfo(name)
      member.size = len(body)
      tar.addfile(member, io.BytesIO(body))
    for name, target in (links or {}).items():
      member = tarfile.TarInfo(name)
      member.type, member.linkname = tarfile.SYMTYPE, target
      tar.addfile(member)
  return out.getvalue()


def write(folder: Path, files: dict[str, bytes]) -> Path:
  for name, body in files.items():
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(body)
  return folder


def error_of(name, folder) -> str:
  with pytest.raises(UserError) as caught:
    load(name, data_dir=folder)
  assert '\n' not in str(caught.value)
  return str(caught.value)
