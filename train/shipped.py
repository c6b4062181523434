"""A model in one file that explains itself: packed weights, statistics, and all it takes to build and to feed it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypedDict

import flax.linen as nn
import jax
import jax.numpy as jnp

from lmajax.compress import pack, unpack
from lmajax.types import Array, ModelStats, Packed
from train import build, networks
from train.build import Arm
from train.config import Named, Training
from train.config_slim import Slimmed
from train.data import Dataset
from train.data.batches import normalized
from train.data.classes import BRIGHTEST, NAMES
from train.errors import UserError
from train.run import write_atomically


class Shipped(NamedTuple):
  """What a model file holds."""

  packed: Packed
  stats: ModelStats
  description: dict[str, Any]

  def variables(self) -> dict[str, Any]:
    """What the model is applied to."""
    return {'params': self.packed.decode(), **self.stats}


class Description(TypedDict):
  """All that a file must say of its network; of JSON's types."""

  data: str
  network: str
  width: list[int]
  coupled: bool
  thinned: list[int] | None
  activation: str
  segments: int | None
  activation_bits: int | None
  dtype: str
  classes: list[str]
  image_shape: list[int]
  pixel_mean: list[float]
  pixel_std: list[float]
  brightest: int


def description(config: Named, arm: Arm | None, dataset: Dataset) -> dict[str, Any]:
  """That of the student of an arm, or without one of the teacher."""
  if arm is None:
    return of_network(config, dataset, *build.teacher(config), 'relu', None)
  network = build.student_network(config.data, arm.width)
  found = of_network(config, dataset, *network, arm.activation, arm.segments)
  return {**found, 'activation_bits': arm.activation_bits}


def of_thin(
  config: Slimmed, dataset: Dataset, activation: str, segments: int | None, widths: Sequence[int] | None
) -> dict[str, Any]:
  """That of a network with so many of its original's channels, or of the original."""
  found = of_network(config, dataset, config.network, config.width, activation, segments)
  return {**found, 'coupled': config.coupled, 'thinned': widths and list(widths)}


def of_data(config: Training, dataset: Dataset) -> dict[str, Any]:
  """The part that says what images a network takes and what they show."""
  return {
    'data': config.data,
    'classes': list(NAMES[config.data]),
    'image_shape': list(dataset.test.inputs.shape[1:]),
    'pixel_mean': list(dataset.pixel_mean),
    'pixel_std': list(dataset.pixel_std),
    'brightest': BRIGHTEST[config.data],
  }


def of_network(
  config: Training, dataset: Dataset, network: str, width: Sequence[int], activation: str, segments: int | None
) -> dict[str, Any]:
  """That of a network by its name in ``networks``."""
  known: Any = {
    **of_data(config, dataset),
    'network': network,
    'width': list(width),
    'coupled': False,
    'thinned': None,
    'activation': activation,
    'segments': segments,
    'activation_bits': None,
    'dtype': config.dtype,
  }
  return known


def model(description: dict[str, Any]) -> nn.Module:
  """The network that a description describes."""
  act = build.activation(description['activation'], description['segments'], description['activation_bits'])
  whole = networks.build(
    description['network'],
    act,
    num_classes=len(description['classes']),
    width=tuple(description['width']),
    coupled=description['coupled'],
    dtype=jnp.dtype(description['dtype']),
  )
  return whole if description['thinned'] is None else whole.thinned(tuple(description['thinned']))


def logits(description: dict[str, Any], variables: Any, images: Array) -> Array:
  """From raw pixels [b, h, w, c] to float32 logits [b, classes]."""
  inputs = normalized(images, description['pixel_mean'], description['pixel_std'])
  output, _ = model(description).apply(jax.tree.map(jnp.asarray, variables), inputs, train=False)
  return output.astype(jnp.float32)


def write(path: Path, packed: Packed, stats: ModelStats, description: dict[str, Any], *, entropy: bool = False) -> int:
  """Writes a model file, whole or not at all, and counts its bytes."""
  try:
    content = pack(packed, stats, description, entropy=entropy)
  except ValueError as error:
    raise UserError(f'{path} is not written: {error}') from error
  path.parent.mkdir(parents=True, exist_ok=True)
  write_atomically(path, content)
  return len(content)


def read(path: Path) -> Shipped:
  """Reads what ``write`` wrote; what is missing, foreign or damaged is said in one line."""
  return of_bytes(read_bytes(path), path)


def of_bytes(content: bytes, path: Path) -> Shipped:
  """The content of a model file; an error names its path."""
  shipped = opened(content, path)
  check(shipped.description, path)
  return shipped


def opened(content: bytes, path: Path) -> Shipped:
  """The content of a file of whatever kind of model."""
  try:
    return Shipped(*unpack(content))
  except ValueError as error:
    raise UserError(f'{path}: {error}; write it anew') from error
  except ImportError as error:
    raise UserError(str(error)) from error


def check(description: Any, path: Path) -> None:
  """Whether it has the fields of a model's description."""
  if isinstance(description, dict) and 'vocabulary_digest' in description:
    raise UserError(f'{path}: holds a network that translates, and takes no images; give its run to translate')
  if not isinstance(description, dict) or set(description) != Description.__required_keys__:
    raise UserError(f'{path}: without the description of a model, as quantize, compress and export write it')


def fitting(shipped: Shipped, path: Path) -> Shipped:
  """Whether description, weights and statistics make one network: seen from shapes, before anything is decoded.

  A codebook's few bytes can stand for any number of weights; those of a network that is described cannot.
  """

  def answered() -> Array:
    images = jnp.zeros((1, *shipped.description['image_shape']), jnp.uint8)
    return logits(shipped.description, {'params': shipped.packed.decode(jnp), **shipped.stats}, images)

  try:
    jax.eval_shape(answered)
  except Exception as error:  # whatever a forged description makes a network of
    raise UserError(f'{path}: its description does not fit its weights ({type(error).__name__})') from error
  return shipped


def read_bytes(path: Path) -> bytes:
  """The content of a model file."""
  try:
    return path.read_bytes()
  except OSError as error:
    raise UserError(f'cannot read the model {path}: {error.strerror or error}') from error
