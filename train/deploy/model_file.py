"""Writes, reads and checks model files: packed weights, statistics and all it takes to build and to feed the model."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, NotRequired, TypedDict

import flax.linen as nn
import jax
import jax.numpy as jnp
from msgspec import Meta

from lmajax.compress import pack, unpack
from lmajax.training import logits_of
from lmajax.types import Array, ModelStats, Packed
from train import networks
from train.activations import factory
from train.data.batches import normalized
from train.runtime.errors import UserError
from train.runtime.files import write_atomically
from train.runtime.outside import LIMITS, Count, Limits, Name, Number, Segments, most, printable, typed


class Shipped(NamedTuple):
  """Content of a model file."""

  packed: Packed
  stats: ModelStats
  description: dict[str, Any]
  own: str | None = None
  """MODULE:FACTORY that a person gave for the network, where the description builds none."""

  def variables(self) -> dict[str, Any]:
    """Returns the decoded variables for ``model.apply``."""
    return {'params': self.packed.decode(), **self.stats}


class Description(TypedDict):
  """Description of the network that a file must have, as JSON values."""

  data: Name
  network: Name
  width: list[Count]
  coupled: bool
  thinned: list[Count] | None
  activation: Name
  segments: Segments | None
  activation_bits: Annotated[int, Meta(ge=1, le=8)] | None
  dtype: Literal['float32', 'bfloat16']
  classes: Annotated[list[Name], Meta(min_length=1)]
  image_shape: Annotated[list[Count], Meta(min_length=3, max_length=3)]
  pixel_mean: list[Number]
  pixel_std: list[Number]
  brightest: Annotated[int, Meta(ge=1, le=255)]
  made_by: NotRequired[Name]  # sha256 of the configuration of the run, with the name of the file


def model(description: dict[str, Any], own: str | None = None) -> nn.Module:
  """Builds the network of a description.

  Args:
    description: of a model file.
    own: MODULE:FACTORY that a person gave; a name in a file imports nothing.
  """
  act = factory(description['activation'], description['segments'], description['activation_bits'])
  how = {'num_classes': len(description['classes']), 'width': tuple(description['width'])}
  dtype = jnp.dtype(description['dtype'])
  if own is not None and networks.is_own(description['network']):
    whole = networks.own(own, act, **how, dtype=dtype)
  else:
    whole = networks.build(description['network'], act, **how, coupled=description['coupled'], dtype=dtype)
  return whole if description['thinned'] is None else whole.thinned(tuple(description['thinned']))


def logits(description: dict[str, Any], variables: Any, images: Array, own: str | None = None) -> Array:
  """Computes float32 logits [b, classes] from raw pixels [b, h, w, c]."""
  inputs = normalized(images, description['pixel_mean'], description['pixel_std'])
  output = model(description, own).apply(jax.tree.map(jnp.asarray, variables), inputs, train=False)
  return logits_of(output).astype(jnp.float32)


def write(path: Path, packed: Packed, stats: ModelStats, description: dict[str, Any], *, entropy: bool = False) -> int:
  """Writes a model file atomically and returns its size in bytes."""
  try:
    content = pack(packed, stats, description, entropy=entropy)
  except ValueError as error:
    raise UserError(f'{path} is not written: {error}') from error
  path.parent.mkdir(parents=True, exist_ok=True)
  write_atomically(path, content)
  return len(content)


def read(path: Path, limits: Limits = LIMITS) -> Shipped:
  """Reads a model file; refuses a missing, foreign, damaged or too large one in one line."""
  return of_bytes(read_bytes(path), path, limits)


def of_bytes(content: bytes, path: Path, limits: Limits = LIMITS) -> Shipped:
  """Parses and checks the bytes of a model file without decoding its weights; an error names its path."""
  shipped = opened(content, path, limits)
  check(shipped.description, path, limits)
  return shipped


def opened(content: bytes, path: Path, limits: Limits = LIMITS) -> Shipped:
  """Parses the bytes of a file of any kind of model; refuses more weights than the limit."""
  try:
    shipped = Shipped(*unpack(content))
  except ValueError as error:
    raise UserError(f'{path}: {printable(str(error))}; write it anew') from error
  except ImportError as error:
    raise UserError(str(error)) from error
  most(shipped.packed.size(), 'parameters', limits, path)
  return shipped


def check(description: Any, path: Path, limits: Limits = LIMITS) -> None:
  """Refuses what is not a model's description within the limits."""
  if isinstance(description, dict) and 'vocabulary_digest' in description:
    raise UserError(f'{path}: holds a network that translates, and takes no images; give its run to translate')
  if not has_names(description, Description):
    raise UserError(f'{path}: without the description of a model, as quantize, compress and export write it')
  typed(description, Description, f'{path}: its description')
  most(math.prod(description['image_shape']), 'pixels', limits, path)
  most(networks.layers(description['network'], description['width']), 'layers', limits, path)


def has_names(description: Any, kind: Any) -> bool:
  """Returns whether it is an object with the fields of a ``TypedDict``."""
  names = set(description) if isinstance(description, dict) else set()
  return kind.__required_keys__ <= names <= kind.__annotations__.keys()


def fitting(shipped: Shipped, path: Path, own: str | None = None) -> Shipped:
  """Refuses a file whose description and weights do not make one network.

  A codebook's few bytes can stand for any number of weights, and a few numbers describe any network. So both are
  limited beforehand, and here the network is built from shapes alone: nothing is decoded or computed.
  """
  about = shipped.description
  if networks.is_own(about['network']) and own is None:
    name = printable(about['network'])
    mend = f'give --student {name} (of a teacher --teacher, to export --network)'
    raise UserError(f'{path} holds a network of your own, which it does not describe: {mend}')
  deep = networks.layers(about['network'], about['width'])

  def answered() -> Array:
    images = jnp.zeros((1, *about['image_shape']), jnp.uint8)
    return logits(about, {'params': shipped.packed.decode(jnp), **shipped.stats}, images, own)

  answering(answered, (1, len(about['classes'])), deep, shipped.packed, path)
  return shipped._replace(own=own)


def answering(answered: Callable[[], Any], shape: tuple[int, ...], layers: int, packed: Packed, path: Path) -> None:
  """Refuses a network with another output shape and, before building it, one with more layers than arrays."""
  said = f'{path}: its description does not fit its weights'
  if layers > (arrays := len(jax.tree.leaves(packed.tensors))):
    raise UserError(f'{said} ({layers} layers of {arrays} arrays)')
  try:
    found = jax.eval_shape(answered).shape
  except Exception as error:  # whatever a forged description makes a network of
    raise UserError(f'{said} ({type(error).__name__})') from error
  if found != shape:
    raise UserError(f'{said} (its answers are of {found}, and {shape} is described)')


def read_bytes(path: Path) -> bytes:
  """Reads the bytes of a model file."""
  try:
    return path.read_bytes()
  except OSError as error:
    raise UserError(f'cannot read the model {path}: {error.strerror or error}') from error


def file_name(name: str, seed: int) -> str:
  """Returns the path of one seed's packed file within a run's folder."""
  return f'models/{name}-seed{seed}.safetensors'
