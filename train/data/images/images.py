"""Data sets in memory: raw pixels, labels and how to cut them into parts."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int, Int32, UInt8

from train.runtime.errors import UserError


class Examples(NamedTuple):
  """Raw pixels of images, or characters of texts, each with its class."""

  inputs: UInt8[np.ndarray, 'n ...']
  labels: Int32[np.ndarray, ' n']

  def take(self, rows: Int[np.ndarray, ' m']) -> 'Examples':
    return Examples(self.inputs[rows], self.labels[rows])


class Dataset(NamedTuple):
  """The three parts of a set; mean and deviation are per channel, in units of the raw pixels."""

  name: str
  train: Examples
  validation: Examples
  test: Examples
  num_classes: int
  pixel_mean: tuple[float, ...]
  pixel_std: tuple[float, ...]
  augment: bool
  classes: tuple[str, ...] = ()
  """Their names."""
  brightest: int = 255
  rows: np.ndarray = np.arange(0)
  """The training images' numbers among those that were read, in their order there."""
  read: int = 0
  """How many those were, before any was held out for validation."""


def checked(images: np.ndarray, labels: np.ndarray, *, num_classes: int, source: Path | str) -> Examples:
  """Returns the examples; refuses labels that are missing or out of range, naming the file ``source``."""
  if not len(labels):
    raise UserError(f'{source}: holds no images; get the published file again')
  if labels.max() >= num_classes:
    raise UserError(f'{source}: label {labels.max()} in a set of {num_classes} classes; get the published file again')
  return Examples(np.ascontiguousarray(images), labels.astype(np.int32))


def stratified_order(labels: Int[np.ndarray, ' n']) -> Int[np.ndarray, ' n']:
  """Returns a fixed shuffle, every beginning of which holds the classes in the proportions of the whole."""
  shuffled = np.random.default_rng(0).permutation(len(labels))
  by_class = shuffled[np.argsort(labels[shuffled], kind='stable')]
  counts = np.bincount(labels)
  rank = np.arange(len(labels)) - np.repeat(np.cumsum(counts) - counts, counts)
  place = (rank + 0.5) / np.repeat(counts, counts)
  return by_class[np.argsort(place, kind='stable')]
