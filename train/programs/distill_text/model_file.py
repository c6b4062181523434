"""Model files of networks that translate: packed weights, statistics, and a description to build the network from."""

from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired, TypedDict

import jax.numpy as jnp
from msgspec import Meta

from lmajax.models import Transformer
from train.activations import factory
from train.deploy import model_file as shipped
from train.runtime.errors import UserError
from train.runtime.outside import LIMITS, Count, Limits, Name, Segments, most, typed

_Two = Annotated[list[Count], Meta(min_length=2, max_length=2)]
_PROBE = 2  # tokens, of which a network's shapes are seen


class Description(TypedDict):
  """Description of a network in its model file, in JSON's types; of the vocabulary it holds the digest alone."""

  data: Name
  source: Name
  target: Name
  vocabulary: _Two  # sizes
  vocabulary_digest: Name
  max_length: Count
  layers: _Two
  width: Count
  units: Count
  heads: Count
  pre_norm: bool
  tied: bool
  activation: Name
  segments: Segments | None
  dtype: Literal['float32', 'bfloat16']
  made_by: NotRequired[Name]  # as in the files of images


def model(description: dict[str, Any], *, dropout: float = 0.0) -> Transformer:
  """Builds the network of a description."""
  source, target = description['vocabulary']
  encoders, decoders = description['layers']
  return Transformer(
    (source, target),
    factory(description['activation'], description['segments']),
    (encoders, decoders),
    *(description[name] for name in ('width', 'units', 'heads')),
    dropout=dropout,
    pre_norm=description['pre_norm'],
    tied=description['tied'],
    dtype=jnp.dtype(description['dtype']),
  )


def read(path: Path, limits: Limits = LIMITS) -> shipped.Shipped:
  """Reads a model file of distill-text; raises a one-line UserError if it is missing, foreign, damaged or too large."""
  return of_bytes(shipped.read_bytes(path), path, limits)


def of_bytes(content: bytes, path: Path, limits: Limits = LIMITS) -> shipped.Shipped:
  """Parses the content of a model file of distill-text, with the limits of image models; errors name the path."""
  found = shipped.opened(content, path, limits)
  about = found.description
  if not shipped.has_names(about, Description):
    raise UserError(f'{path}: without the description of a network that translates, as distill-text writes it')
  typed(about, Description, f'{path}: its description')
  most(sum(about['layers']), 'layers', limits, path)
  most(about['max_length'] * about['width'], 'pixels', limits, path)
  return found


def fitting(found: shipped.Shipped, path: Path) -> shipped.Shipped:
  """Raises UserError if the weights do not fit the description, as for image models; returns the file."""
  about = found.description

  def answered() -> Any:
    tokens = jnp.ones((1, _PROBE), jnp.int32)
    variables = {'params': found.packed.decode(jnp), **found.stats}
    return model(about).apply(variables, (tokens, tokens), train=False)[0]

  shape = (1, _PROBE, about['vocabulary'][1])
  shipped.answering(answered, shape, sum(about['layers']), found.packed, path)
  return found
