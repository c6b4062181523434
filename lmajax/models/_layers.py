"""The layers of a ``Transformer``: attention, feed-forward, and the sums and norms about them."""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from lmajax._arguments import site
from lmajax.types import ActivationFactory

Values = tuple[Float[Array, '_b _s h k'], Float[Array, '_b _s h k']]
"""The keys and the values of an attention; a cache and the source have rows and places of their own numbers."""


class Sentences(NamedTuple):
  """State between the stages of a ``Transformer``: both sides, and the places of each that are no padding.

  >>> Sentences(*(jnp.zeros((2, 5, 8)),) * 2, *(jnp.ones((2, 5), bool),) * 2).source.shape
  (2, 5, 8)
  """

  source: Float[Array, 'b s d']
  target: Float[Array, 'b t d']
  source_mask: Bool[Array, 'b s']
  target_mask: Bool[Array, 'b t']


class Attention(nn.Module):
  """Heads of scaled dot products, without biases."""

  features: int
  heads: int
  projected: bool
  dtype: DTypeLike | None

  def setup(self):
    def heads() -> nn.DenseGeneral:
      split = (self.heads, self.features // self.heads)
      return nn.DenseGeneral(split, use_bias=False, kernel_init=nn.initializers.xavier_uniform(), dtype=self.dtype)

    self.query, self.key, self.value = heads(), heads(), heads()
    if self.projected:
      init = nn.initializers.xavier_uniform()
      self.output = nn.DenseGeneral(self.features, (-2, -1), use_bias=False, kernel_init=init, dtype=self.dtype)

  def values(self, x: Float[Array, 'b s d']) -> Values:
    """Returns the values that are attended to."""
    return self.key(x), self.value(x)

  def __call__(self, x: Float[Array, 'b t d'], values: Values, mask: Bool[Array, '...']) -> Float[Array, 'b t d']:
    # a row without any place gets the mean of all, and no NaN
    found = jax.nn.dot_product_attention(self.query(x), *values, mask=mask[:, None])
    return self.output(found) if self.projected else found.reshape(x.shape)


class FeedForward(nn.Module):
  """Two dense layers about the activation, place by place."""

  features: int
  units: int
  act: ActivationFactory
  dtype: DTypeLike | None

  @nn.compact
  def __call__(self, x: Float[Array, 'b t d'], mask: Bool[Array, 'b t'], *, train: bool) -> Float[Array, 'b t d']:
    init = nn.initializers.xavier_uniform()
    x = nn.Dense(self.units, kernel_init=init, dtype=self.dtype)(x)
    x = site(self.act, 'act')(x, where=mask[..., None], train=train)
    return nn.Dense(self.features, kernel_init=init, dtype=self.dtype)(x)


class Residual(nn.Module):
  """``x + f(x)``, with the norm before f or after the sum."""

  dropout: float
  pre_norm: bool
  dtype: DTypeLike | None

  @nn.compact
  def __call__(self, x: Float[Array, 'b t d'], function: Any, *, train: bool) -> Float[Array, 'b t d']:
    norm = nn.LayerNorm(dtype=self.dtype)
    y = function(norm(x) if self.pre_norm else x)
    x += nn.Dropout(self.dropout, deterministic=not train)(y)
    return x if self.pre_norm else norm(x)


class Layer(nn.Module):
  """Shared parts of encoder and decoder layers."""

  features: int
  units: int
  heads: int
  act: ActivationFactory
  dropout: float
  pre_norm: bool
  projected: bool
  dtype: DTypeLike | None

  def attention(self) -> Attention:
    return Attention(self.features, self.heads, self.projected, self.dtype)

  def feed_forward(self) -> FeedForward:
    return FeedForward(self.features, self.units, self.act, self.dtype)

  def residual(self) -> Residual:
    return Residual(self.dropout, self.pre_norm, self.dtype)


class Encoder(Layer):
  """Attention within the source, and a feed-forward."""

  last: bool = False  # norms what comes out of a stack of sums

  def setup(self):
    self.within, self.dense = self.attention(), self.feed_forward()
    self.add_within, self.add_dense = self.residual(), self.residual()
    if self.last and self.pre_norm:
      self.norm = nn.LayerNorm(dtype=self.dtype)

  def __call__(self, tap: Sentences, *, train: bool) -> Sentences:
    mask = tap.source_mask
    x = self.add_within(tap.source, lambda x: self.within(x, self.within.values(x), mask[:, None]), train=train)
    x = self.add_dense(x, lambda x: self.dense(x, mask, train=train), train=train)
    return tap._replace(source=self.norm(x) if self.last and self.pre_norm else x)


class Decoder(Layer):
  """Attention to the target so far and to the source, and a feed-forward."""

  def setup(self):
    self.within, self.across, self.dense = self.attention(), self.attention(), self.feed_forward()
    self.add_within, self.add_across, self.add_dense = self.residual(), self.residual(), self.residual()

  def __call__(self, tap: Sentences, *, train: bool) -> Sentences:
    mask, length = tap.target_mask, tap.target.shape[1]
    seen = mask[:, None] & jnp.tri(length, dtype=bool)[None]
    memory = self.across.values(tap.source)
    x = self.add_within(tap.target, lambda x: self.within(x, self.within.values(x), seen), train=train)
    x = self.add_across(x, lambda x: self.across(x, memory, tap.source_mask[:, None]), train=train)
    return tap._replace(target=self.add_dense(x, lambda x: self.dense(x, mask, train=train), train=train))

  def step(self, x: Any, cache: Values, memory: Values, mask: Bool[Array, 'b s'], position: Any) -> tuple[Any, Values]:
    """One place [n, 1, d] of n targets, as many for each source; the cache gets its keys and values."""
    beams = len(x) // len(mask), x.shape[-1]

    def within(x: Any) -> Any:
      nonlocal cache
      new = self.within.values(x)
      cache = jax.tree.map(lambda old, k: jax.lax.dynamic_update_slice_in_dim(old, k, position, axis=1), cache, new)
      seen = jnp.arange(cache[0].shape[1]) <= position
      return self.within(x, cache, jnp.broadcast_to(seen[None, None], (1, 1, len(seen))))

    def across(x: Any) -> Any:  # beams of one source are queries to one memory
      return self.across(x.reshape(-1, *beams), memory, mask[:, None]).reshape(x.shape)

    x = self.add_across(self.add_within(x, within, train=False), across, train=False)
    every = jnp.ones(x.shape[:-1], bool)
    return self.add_dense(x, lambda x: self.dense(x, every, train=False), train=False), cache
