"""Classifies image files with an exported model."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from train.commands.config import Predict
from train.data.images.picture import opened
from train.deploy.serve import Served, load
from train.runtime.errors import UserError
from train.runtime.outside import printable

_AT_ONCE = 256
_TOP = 3


def lines(command: Predict) -> Iterator[str]:
  """Yields one line per file: its best class with the probability, then the best three."""
  files = command.files
  if not files:
    raise UserError('predict needs at least one image file')
  served = load(command.model, command.limits, command.student)
  for start in range(0, len(files), _AT_ONCE):
    some = files[start : start + _AT_ONCE]
    images = np.stack([pixels(file, served.description) for file in some])
    for file, chances in zip(some, _probabilities(served, images), strict=True):
      yield f'{file}: {_said(served.description["classes"], chances)}'


def pixels(path: Path, description: dict[str, Any]) -> np.ndarray:
  """Reads an image file in the channels, size and pixel range that a model takes; uint8 [h, w, c]."""
  height, width, channels = description['image_shape']
  image = opened(path, 'L' if channels == 1 else 'RGB')
  if image.size != (width, height):
    print(f'{path}: resized from {image.width} x {image.height} to {width} x {height} pixels', file=sys.stderr)
    image = image.resize((width, height), Image.Resampling.BILINEAR)
  scaled = np.asarray(image, np.float32) * (description['brightest'] / 255)
  return np.rint(scaled).astype(np.uint8).reshape(height, width, channels)


def _probabilities(served: Served, images: np.ndarray) -> np.ndarray:
  logits = served.logits(images).astype(np.float64)
  parts = np.exp(logits - logits.max(axis=-1, keepdims=True))
  return parts / parts.sum(axis=-1, keepdims=True)


def _said(classes: list[str], chances: np.ndarray) -> str:
  best = np.argsort(-chances, kind='stable')[:_TOP]
  first, *_ = named = [f'{printable(classes[i])} {100 * chances[i]:.1f} %' for i in best]
  return f'{first} ({", ".join(named)})'
