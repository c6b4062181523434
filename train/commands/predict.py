"""Classifies image files with an exported model."""

import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from train.deploy.serve import Served, load
from train.runtime.errors import UserError
from train.runtime.outside import LIMITS, Limits, printable

_AT_ONCE = 256
_TOP = 3


def lines(model: Path, files: Sequence[Path], limits: Limits = LIMITS) -> Iterator[str]:
  """Yields one line per file: its best class with the probability, then the best three."""
  if not files:
    raise UserError('predict needs at least one image file')
  served = load(model, limits)
  for start in range(0, len(files), _AT_ONCE):
    some = files[start : start + _AT_ONCE]
    images = np.stack([pixels(file, served.description) for file in some])
    for file, chances in zip(some, _probabilities(served, images), strict=True):
      yield f'{file}: {_said(served.description["classes"], chances)}'


def pixels(path: Path, description: dict[str, Any]) -> np.ndarray:
  """Reads an image file in the channels, size and pixel range that a model takes; uint8 [h, w, c]."""
  height, width, channels = description['image_shape']
  image = _opened(path, 'L' if channels == 1 else 'RGB')
  if image.size != (width, height):
    print(f'{path}: resized from {image.width} x {image.height} to {width} x {height} pixels', file=sys.stderr)
    image = image.resize((width, height), Image.Resampling.BILINEAR)
  scaled = np.asarray(image, np.float32) * (description['brightest'] / 255)
  return np.rint(scaled).astype(np.uint8).reshape(height, width, channels)


def _opened(path: Path, mode: str) -> Image.Image:
  """Opens an image file in a colour mode, rotated by its EXIF orientation."""
  if path.exists() and not path.is_file():
    raise UserError(f'{path} is no image file')
  try:
    with warnings.catch_warnings(action='ignore'):
      warnings.simplefilter('error', Image.DecompressionBombWarning)
      with Image.open(path) as file:
        _check(path, file)
        return ImageOps.exif_transpose(file).convert(mode)
  except UserError:
    raise
  except UnidentifiedImageError as error:
    raise UserError(f'{path} is not an image that can be read; give PNG, JPEG or the like') from error
  except MemoryError as error:
    raise UserError(f'cannot read the image {path}: it is too large') from error
  except Exception as error:  # the decoders raise whatever a damaged file leads them to
    reason = getattr(error, 'strerror', None) or ' '.join(str(error).split()) or type(error).__name__
    raise UserError(f'cannot read the image {path}: {reason}') from error


def _check(path: Path, image: Image.Image) -> None:
  """Refuses an image that the conversion would clip or guess at."""
  if (frames := getattr(image, 'n_frames', 1)) > 1:
    raise UserError(f'{path} has {frames} frames: give an image of one')
  if image.mode.startswith(('I', 'F')):
    raise UserError(f'{path} has more than 8 bits a pixel: give an image of 8')
  if image.has_transparency_data and np.asarray(image.convert('RGBA'))[..., 3].min() < 255:
    raise UserError(f'{path} is transparent in part: give an opaque image')


def _probabilities(served: Served, images: np.ndarray) -> np.ndarray:
  logits = served.logits(images).astype(np.float64)
  parts = np.exp(logits - logits.max(axis=-1, keepdims=True))
  return parts / parts.sum(axis=-1, keepdims=True)


def _said(classes: list[str], chances: np.ndarray) -> str:
  best = np.argsort(-chances, kind='stable')[:_TOP]
  first, *_ = named = [f'{printable(classes[i])} {100 * chances[i]:.1f} %' for i in best]
  return f'{first} ({", ".join(named)})'
