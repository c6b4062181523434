"""Reads a user's own images: a folder of classes with image files, or a file of NumPy arrays."""

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from tqdm import tqdm

from train.data.images.images import Examples, stratified_order
from train.data.images.picture import FORMATS, opened
from train.runtime.errors import UserError
from train.runtime.outside import printable

_TEST = 0.2  # of the images of each class, where no part is called test; a choice
_MOST = 2**32  # bytes of all pixels; a choice
_CHANNELS = 4  # at most
_PARTS = ('train', 'validation', 'test')


class Own(NamedTuple):
  """A user's images as they are read: the names of the classes, and the parts; validation may be None."""

  classes: tuple[str, ...]
  train: Examples
  validation: Examples | None
  test: Examples
  rows: np.ndarray
  """The numbers of the training images among those that were read as such, of which a part may be the test now."""
  read: int
  """How many those were."""


def load(path: Path, image_size: int | None) -> Own:
  """Reads own images.

  Args:
    path: a folder of folders of image files, one a class, or of such folders under train, test and maybe validation;
      or FILE.npz with the arrays train_images (uint8, [n, height, width] or with channels behind) and train_labels
      (class numbers), and, if there are any, those of test and validation, and ``classes``, their names.
    image_size: pixels on each side, to which image files are resized; None: they are of one size.

  Raises:
    UserError: there are no such images.
  """
  parts, classes = _of_file(path, image_size) if path.suffix == '.npz' else _of_folder(path, image_size)
  shapes = {part.inputs.shape[1:] for part in parts.values()}
  if len(shapes) > 1:
    raise UserError(f'{path}: the images of its parts are of {" and ".join(map(str, sorted(shapes)))}; give one shape')
  whole = parts['train']
  rows = np.arange(len(whole.labels))
  if 'test' not in parts:
    order = stratified_order(whole.labels)
    rows, held = np.split(order, [len(order) - round(_TEST * len(order))])
    parts |= {'train': whole.take(rows), 'test': whole.take(held)}
  if not all(len(part.labels) for part in parts.values()):
    raise UserError(f'{path} has too few images to hold some back for the test')
  counts = np.bincount(parts['train'].labels, minlength=len(classes))
  if not counts.all():
    name = printable(classes[int(counts.argmin())])
    raise UserError(
      f'{path} has no image of class {name} to train on: give some, or leave the class out (numbers from 0 on)'
    )
  return Own(classes, parts['train'], parts.get('validation'), parts['test'], rows, len(whole.labels))


def _of_folder(path: Path, size: int | None) -> tuple[dict[str, Examples], tuple[str, ...]]:
  parted = (path / 'train').is_dir() and (path / 'test').is_dir()
  folders = {name: path / name for name in _PARTS if (path / name).is_dir()} if parted else {'train': path}
  classes = tuple(each.name for each in _within(folders['train']) if each.is_dir())
  if not classes:
    raise UserError(f'{folders["train"]} has no folders: give one for each class, with its images')
  files: dict[str, list[tuple[Path, int]]] = {}
  for name, folder in folders.items():
    named = [each.name for each in _within(folder) if each.is_dir()]
    if strange := [each for each in named if each not in classes]:
      raise UserError(f'{folder / strange[0]} is a class that {folders["train"]} does not have')
    files[name] = [(file, i) for i, each in enumerate(classes) for file in _files(folder / each)]
  everything = [pair for pairs in files.values() for pair in pairs]
  pixels = _pixels([file for file, _ in everything], size)
  parts, start = {}, 0
  for name, pairs in files.items():
    labels = np.asarray([label for _, label in pairs], np.int32)
    parts[name] = Examples(pixels[start : start + len(pairs)], labels)
    start += len(pairs)
  return parts, classes


def _within(folder: Path) -> list[Path]:
  try:
    return sorted(each for each in folder.iterdir() if not each.name.startswith('.'))
  except OSError as error:
    raise UserError(f'cannot read {folder}: {error.strerror or error}') from error


def _files(folder: Path) -> list[Path]:
  if not folder.is_dir():
    return []
  known = {suffix for suffix, kind in Image.registered_extensions().items() if kind in FORMATS}
  return [each for each in _within(folder) if each.is_file() and each.suffix.lower() in known]


def _pixels(files: Sequence[Path], size: int | None) -> np.ndarray:
  """Reads image files into one array; gray ones have one channel where all are gray."""
  if not files:
    raise UserError('there are no images in these folders')
  images: list[np.ndarray] = []
  for file in tqdm(files, desc='images', leave=False, disable=None):
    image = opened(file)
    if size is not None and image.size != (size, size):
      image = image.resize((size, size), Image.Resampling.BILINEAR)
    images.append(np.asarray(image))
    if images[-1].shape[:2] != images[0].shape[:2]:
      shapes = [' x '.join(map(str, each.shape[1::-1])) for each in (images[0], images[-1])]
      raise UserError(f'{files[0]} has {shapes[0]} pixels and {file} {shapes[1]}: give --image-size, to which all go')
    _check_size(images[-1].nbytes * len(files), file)
  channels = max(1 if image.ndim == 2 else 3 for image in images)
  alike = [np.repeat(image[..., None], channels, -1) if image.ndim == 2 else image for image in images]
  return np.stack(alike)


def _check_size(size: int, path: Path) -> None:
  if size > _MOST:
    raise UserError(f'{path}: all images take {size:,} bytes, and {_MOST:,} are the most: give a lower --image-size')


def _of_file(path: Path, size: int | None) -> tuple[dict[str, Examples], tuple[str, ...]]:
  if size is not None:
    raise UserError(f'--image-size is {size}: the images of {path} have their size; leave it out')
  arrays = _arrays(path)
  parts = {name: _part(arrays, name, path) for name in _PARTS if f'{name}_images' in arrays}
  if 'train' not in parts:
    raise UserError(f'{path} has {printable(", ".join(arrays)) or "nothing"}: give train_images and train_labels')
  highest = max(int(part.labels.max(initial=0)) for part in parts.values())
  names = arrays.get('classes', np.arange(highest + 1))
  if names.ndim != 1 or len(names) <= highest:
    raise UserError(f'{path} has a label {highest}, and {len(np.atleast_1d(names))} classes')
  return parts, tuple(str(name) for name in names)


def _arrays(path: Path) -> dict[str, np.ndarray]:
  try:
    with zipfile.ZipFile(path) as archive:
      _check_size(sum(member.file_size for member in archive.infolist()), path)
    with np.load(path, allow_pickle=False) as found:
      return {name: found[name] for name in found.files}
  except (OSError, ValueError, EOFError, MemoryError, zipfile.BadZipFile) as error:
    reason = getattr(error, 'strerror', None) or ' '.join(str(error).split())[:200]
    raise UserError(f'{path}: cannot be read ({reason}); write it by numpy.savez') from error


def _part(arrays: dict[str, np.ndarray], name: str, path: Path) -> Examples:
  images, labels = arrays[f'{name}_images'], arrays.get(f'{name}_labels')
  images = images[..., None] if images.ndim == 3 else images
  if images.dtype != np.uint8 or images.ndim != 4 or 0 in images.shape or images.shape[-1] > _CHANNELS:
    mend = 'give uint8 [n, height, width, channels], from 0 to 255'
    raise UserError(f'{path}: {name}_images is {images.dtype}{list(images.shape)}; {mend}')
  if labels is None or labels.dtype.kind not in 'iu' or labels.shape != images.shape[:1] or labels.min() < 0:
    found = 'missing' if labels is None else f'{labels.dtype}{list(labels.shape)}'
    raise UserError(f'{path}: {name}_labels is {found}; give a class number from 0 on for each of {len(images)} images')
  return Examples(np.ascontiguousarray(images), labels.astype(np.int32))
