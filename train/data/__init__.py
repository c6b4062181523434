"""Loads image data sets by name: reads, checks and cuts them into training, validation and test parts."""

import importlib
from pathlib import Path

import numpy as np

from train.data import fetch
from train.data.files import naming
from train.data.images import own
from train.data.images.images import Dataset, Examples, stratified_order
from train.data.images.own import Own
from train.data.specs import OWN, SPECS, spec
from train.runtime.errors import UserError

__all__ = ['Dataset', 'Examples', 'load']


def load(
  name: str, *, data_dir: Path | None = None, train_images: int | None = None, image_size: int | None = None
) -> Dataset:
  """Reads a set from ``data_dir``, or downloads it.

  Args:
    name: one of ``SPECS``, or any other of a user's own images in ``data_dir``.
    data_dir: a folder with the published files, or own images (``train.data.images.own``); None takes the published
      ones from the cache or the internet.
    train_images: keeps only so many of the official training images, validation included; None keeps all.
    image_size: of own images, pixels on each side.
  """
  known = spec(name)
  if known is OWN and data_dir is None:
    raise UserError(f'{name}: no such data set; choose one of {", ".join(SPECS)}, a folder of images, or a FILE.npz')
  if known is not OWN and image_size is not None:
    raise UserError(f'--image-size is {image_size}: the images of {name} have their size; leave it out')
  found = own.load(Path(data_dir or ''), image_size) if known is OWN else _official(name, data_dir)
  whole = found.train
  count = len(whole.labels) if train_images is None else train_images
  if not 2 <= count <= len(whole.labels):
    raise UserError(f'{count} training images asked of {name}; choose from 2 to {len(whole.labels)}')
  order = stratified_order(whole.labels)[:count]
  held_out = max(1, round(count * known.validation)) if found.validation is None else 0
  train, validation = whole.take(order[held_out:]), found.validation or whole.take(order[:held_out])
  mean, std = (known.pixel_mean, known.pixel_std) if known.pixel_mean else _measured(train.inputs)
  return Dataset(
    name, train, validation, found.test, len(found.classes), mean, std, known.augment, found.classes,
    known.brightest, found.rows[order[held_out:]], found.read,
  )  # fmt: skip


def _measured(images: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
  """Returns each channel's mean and deviation, in units of the pixels."""
  counts = np.stack([np.bincount(images[..., i].ravel(), minlength=256) for i in range(images.shape[-1])])
  levels = np.arange(256.0)
  mean = (counts * levels).sum(1) / counts.sum(1)
  std = np.sqrt((counts * (levels - mean[:, None]) ** 2).sum(1) / counts.sum(1))
  return tuple(mean.tolist()), tuple(np.maximum(std, 1.0).tolist())


def _official(name: str, data_dir: Path | None) -> Own:
  known = SPECS[name]
  reader = importlib.import_module(f'train.data.images.{known.reader}')
  folder = data_dir or (fetch.fetch(name, known.url, known.files) if known.url else Path())
  with naming(folder):
    train, test = reader.load(name, Path(folder))
  return Own(known.classes, train, None, test, np.arange(len(train.labels)), len(train.labels))
