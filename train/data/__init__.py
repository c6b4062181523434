"""Image data sets by name: read, checked and cut into training, validation and test parts."""

from pathlib import Path
from typing import NamedTuple

from train.data import fetch
from train.data.files import naming
from train.data.images import cifar, digits, idx
from train.data.images.images import Dataset, Examples, stratified_order
from train.runtime.errors import UserError

__all__ = ['Dataset', 'Examples', 'load']


class _Known(NamedTuple):
  num_classes: int
  pixel_mean: tuple[float, ...]
  pixel_std: tuple[float, ...]
  augment: bool = False
  validation: float = 0.1  # this part of the training images


def _bytes(*fractions: float) -> tuple[float, ...]:
  return tuple(255 * fraction for fraction in fractions)


_KNOWN = {
  'digits': _Known(10, (8.0,), (8.0,), validation=digits.VALIDATION / (digits.TRAIN + digits.VALIDATION)),
  'mnist': _Known(10, _bytes(0.1307), _bytes(0.3081)),
  'fashion-mnist': _Known(10, _bytes(0.2860), _bytes(0.3530)),
  'cifar10': _Known(10, _bytes(0.5, 0.5, 0.5), _bytes(0.5, 0.5, 0.5), augment=True),
  'cifar100': _Known(100, _bytes(0.5071, 0.4867, 0.4408), _bytes(0.2675, 0.2565, 0.2761), augment=True),
}


def load(name: str, *, data_dir: Path | None = None, train_images: int | None = None) -> Dataset:
  """Reads a set from ``data_dir``, or downloads it.

  Args:
    name: digits, mnist, fashion-mnist, cifar10 or cifar100.
    data_dir: a folder with the published files; None takes them from the cache or the internet.
    train_images: keeps only so many of the official training images, validation included; None keeps all.
  """
  if name not in _KNOWN:
    raise UserError(f'{name}: no such data set; choose one of {", ".join(_KNOWN)}')
  known = _KNOWN[name]
  whole, test = _official_parts(name, data_dir)
  count = len(whole.labels) if train_images is None else train_images
  if not 2 <= count <= len(whole.labels):
    raise UserError(f'{count} training images asked of {name}; choose from 2 to {len(whole.labels)}')
  order = stratified_order(whole.labels)[:count]
  held_out = max(1, round(count * known.validation))
  train, validation = whole.take(order[held_out:]), whole.take(order[:held_out])
  return Dataset(
    name, train, validation, test, known.num_classes, known.pixel_mean, known.pixel_std, augment=known.augment
  )


def _official_parts(name: str, data_dir: Path | None) -> tuple[Examples, Examples]:
  if name == 'digits':
    return digits.load()
  folder = fetch.fetch(name) if data_dir is None else Path(data_dir)
  with naming(folder):
    return (cifar if name.startswith('cifar') else idx).load(name, folder)
