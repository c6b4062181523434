"""The model files of networks that translate: packed weights, statistics, and what it takes to build them."""

from pathlib import Path
from typing import Any, TypedDict

import jax.numpy as jnp

from lmajax.models import Transformer
from train import build, shipped
from train.errors import UserError


class Description(TypedDict):
  """All that a file must say of its network, but for the vocabulary, which it knows by its digest; of JSON's types."""

  data: str
  source: str
  target: str
  vocabulary: list[int]  # sizes
  vocabulary_digest: str
  max_length: int
  layers: list[int]
  width: int
  units: int
  heads: int
  pre_norm: bool
  tied: bool
  activation: str
  segments: int | None
  dtype: str


def model(description: dict[str, Any], *, dropout: float = 0.0) -> Transformer:
  """The network that a description describes."""
  source, target = description['vocabulary']
  encoders, decoders = description['layers']
  return Transformer(
    (source, target),
    build.activation(description['activation'], description['segments']),
    (encoders, decoders),
    *(description[name] for name in ('width', 'units', 'heads')),
    dropout=dropout,
    pre_norm=description['pre_norm'],
    tied=description['tied'],
    dtype=jnp.dtype(description['dtype']),
  )


def read(path: Path) -> shipped.Shipped:
  """Reads a model file of distill-text; what is missing, foreign or damaged is said in one line."""
  return of_bytes(shipped.read_bytes(path), path)


def of_bytes(content: bytes, path: Path) -> shipped.Shipped:
  """The content of a model file of distill-text; an error names its path."""
  found = shipped.opened(content, path)
  if not isinstance(found.description, dict) or set(found.description) != Description.__required_keys__:
    raise UserError(f'{path}: without the description of a network that translates, as distill-text writes it')
  return found
