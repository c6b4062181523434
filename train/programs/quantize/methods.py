"""The methods of quantize, one table: what weights are made from, where a student starts, what it is compared with."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import jax.numpy as jnp

from lmajax.compress import identity, masked, noise, points, uniform
from lmajax.types import Reparam

FLOAT, LEFT_OUT = 'float', 'left-out'


class Method(NamedTuple):
  """A way to quantize a student."""

  weights: Callable[[Any, Any, Any], Reparam] | None
  """(options, size, shares) -> what the weights are made from; None: codebooks, layer by layer."""
  against: str | None
  """The method that it is compared with."""
  marker: str | None = None
  """Of its points in pictures; None: it is in none, and no option asks for it."""
  size: Literal['bits', 'centroids'] | None = 'bits'
  """The option with its sizes."""
  origin: str | None = None
  """The method of the student that it starts from; None: it is trained from new weights."""
  trained_at_bits: bool = False
  """Whether training sees the bits, by which its soft targets are then chosen."""
  shadowed: bool = False
  """Whether theta holds weights that are not shipped."""


def _uniform(config: Any, bits: int, shares: Any) -> Reparam:
  del shares
  return masked(uniform(bits, bucket_size=config.bucket_size))


def _noise(config: Any, bits: int, shares: Any) -> Reparam:
  del shares
  return masked(noise(uniform(bits, bucket_size=config.bucket_size), config.noise_rate))


def _points(config: Any, bits: int, shares: Any) -> Reparam:
  return masked(points(bits, bucket_size=config.bucket_size, shares=shares))


def _left_out(config: Any, size: None, shares: Any) -> Reparam:
  del size, shares
  left_out = noise(identity(), config.product_noise_rate, block_size=config.block_size, replacement=jnp.zeros_like)
  return masked(left_out)


METHODS = {
  FLOAT: Method(lambda config, size, shares: identity(), None, size=None),
  LEFT_OUT: Method(_left_out, FLOAT, size=None),
  'post-training': Method(_uniform, FLOAT, 'v', origin=FLOAT),
  'uniform': Method(_uniform, 'post-training', 'o', trained_at_bits=True, shadowed=True),
  'noise': Method(_noise, 'uniform', 's', trained_at_bits=True, shadowed=True),
  'points': Method(_points, 'uniform', '^', origin=FLOAT, trained_at_bits=True),
  'product': Method(None, FLOAT, 'D', 'centroids', origin=FLOAT),
  'product-noise': Method(None, 'product', 'd', 'centroids', origin=LEFT_OUT),
}

if TYPE_CHECKING:
  MethodName = str
else:
  MethodName = Literal[tuple(name for name, method in METHODS.items() if method.marker)]
