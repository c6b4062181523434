"""A model in one file that explains itself: packed weights, statistics, and all it takes to build and to feed it."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, NotRequired, TypedDict

import flax.linen as nn
import jax
import jax.numpy as jnp
from msgspec import Meta

from lmajax.compress import pack, unpack
from lmajax.types import Array, ModelStats, Packed
from train import networks
from train.activations import factory
from train.data.batches import normalized
from train.runtime.errors import UserError
from train.runtime.files import write_atomically
from train.runtime.outside import LIMITS, Count, Limits, Name, Number, Segments, most, printable, typed


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


def model(description: dict[str, Any]) -> nn.Module:
  """The network that a description describes."""
  act = factory(description['activation'], description['segments'], description['activation_bits'])
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


def read(path: Path, limits: Limits = LIMITS) -> Shipped:
  """Reads what ``write`` wrote; what is missing, foreign, damaged or too large is said in one line."""
  return of_bytes(read_bytes(path), path, limits)


def of_bytes(content: bytes, path: Path, limits: Limits = LIMITS) -> Shipped:
  """The content of a model file, of which nothing is decoded yet; an error names its path."""
  shipped = opened(content, path, limits)
  check(shipped.description, path, limits)
  return shipped


def opened(content: bytes, path: Path, limits: Limits = LIMITS) -> Shipped:
  """The content of a file of whatever kind of model, with no more weights than the limit."""
  try:
    shipped = Shipped(*unpack(content))
  except ValueError as error:
    raise UserError(f'{path}: {printable(str(error))}; write it anew') from error
  except ImportError as error:
    raise UserError(str(error)) from error
  most(shipped.packed.size(), 'parameters', limits, path)
  return shipped


def check(description: Any, path: Path, limits: Limits = LIMITS) -> None:
  """Whether it is a model's description, within the limits."""
  if isinstance(description, dict) and 'vocabulary_digest' in description:
    raise UserError(f'{path}: holds a network that translates, and takes no images; give its run to translate')
  if not has_names(description, Description):
    raise UserError(f'{path}: without the description of a model, as quantize, compress and export write it')
  typed(description, Description, f'{path}: its description')
  most(math.prod(description['image_shape']), 'pixels', limits, path)
  most(networks.layers(description['network'], description['width']), 'layers', limits, path)


def has_names(description: Any, kind: Any) -> bool:
  """Whether it is an object with the names of a ``TypedDict``."""
  names = set(description) if isinstance(description, dict) else set()
  return kind.__required_keys__ <= names <= kind.__annotations__.keys()


def fitting(shipped: Shipped, path: Path) -> Shipped:
  """Refuses a file whose description and weights do not make one network.

  A codebook's few bytes can stand for any number of weights, and a few numbers describe any network. So both are
  bounded before, and here the network is built of shapes alone: nothing is decoded or computed.
  """
  about = shipped.description
  deep = networks.layers(about['network'], about['width'])

  def answered() -> Array:
    images = jnp.zeros((1, *about['image_shape']), jnp.uint8)
    return logits(about, {'params': shipped.packed.decode(jnp), **shipped.stats}, images)

  answering(answered, (1, len(about['classes'])), deep, shipped.packed, path)
  return shipped


def answering(answered: Callable[[], Any], shape: tuple[int, ...], layers: int, packed: Packed, path: Path) -> None:
  """Refuses a network that does not answer in that shape, and one with more layers than arrays unbuilt."""
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
  """The content of a model file."""
  try:
    return path.read_bytes()
  except OSError as error:
    raise UserError(f'cannot read the model {path}: {error.strerror or error}') from error


def file_name(name: str, seed: int) -> str:
  """Of the packed file of one seed, in the folder of a run."""
  return f'models/{name}-seed{seed}.safetensors'
