"""Loads image data sets by name: reads, checks and cuts them into training, validation and test parts."""

import importlib
from pathlib import Path

from train.data import fetch
from train.data.files import naming
from train.data.images.images import Dataset, Examples, stratified_order
from train.data.specs import SPECS
from train.runtime.errors import UserError

__all__ = ['Dataset', 'Examples', 'load']


def load(name: str, *, data_dir: Path | None = None, train_images: int | None = None) -> Dataset:
  """Reads a set from ``data_dir``, or downloads it.

  Args:
    name: one of ``SPECS``.
    data_dir: a folder with the published files; None takes them from the cache or the internet.
    train_images: keeps only so many of the official training images, validation included; None keeps all.
  """
  if name not in SPECS:
    raise UserError(f'{name}: no such data set; choose one of {", ".join(SPECS)}')
  known = SPECS[name]
  whole, test = _official_parts(name, data_dir)
  count = len(whole.labels) if train_images is None else train_images
  if not 2 <= count <= len(whole.labels):
    raise UserError(f'{count} training images asked of {name}; choose from 2 to {len(whole.labels)}')
  order = stratified_order(whole.labels)[:count]
  held_out = max(1, round(count * known.validation))
  train, validation = whole.take(order[held_out:]), whole.take(order[:held_out])
  return Dataset(
    name, train, validation, test, len(known.classes), known.pixel_mean, known.pixel_std, augment=known.augment
  )


def _official_parts(name: str, data_dir: Path | None) -> tuple[Examples, Examples]:
  known = SPECS[name]
  reader = importlib.import_module(f'train.data.images.{known.reader}')
  folder = data_dir or (fetch.fetch(name, known.url, known.files) if known.url else Path())
  with naming(folder):
    return reader.load(name, Path(folder))
