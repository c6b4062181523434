"""The encoder–decoder of the LMA paper's translation experiment, with a cache for decoding."""

import math
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from lmajax.models._layers import Decoder, Encoder, Sentences, Values
from lmajax.types import ActivationFactory

_PADDING = 0


class Memory(NamedTuple):
  """Keys and values of the source, of every decoder layer: decoding reads them and never changes them.

  >>> Memory(jnp.ones((2, 5), bool), ()).mask.shape
  (2, 5)
  """

  mask: Bool[Array, 'b s']
  layers: tuple[Values, ...]


class Transformer(nn.Module):
  """Encoder and decoder layers of attention and feed-forward, with the activation in the latter alone.

  Inputs are two arrays of token numbers, the source [b, s] and the target so far [b, t], which begins with a start
  mark; 0 is padding. Padding is not attended to, and no statistics look at it: it changes nothing but the shapes.

  Attributes:
    vocabulary: how many numbers there are, of the source and of the target.
    act: a factory, called in every feed-forward.
    layers: of the encoder and of the decoder, which are the stages in this order.
    features: the width d, even and a multiple of ``heads``.
    units: between the two layers of a feed-forward.
    heads: of every attention.
    dropout: of the embeddings and of what is added to them, in training.
    pre_norm: norms come before what they serve and once at either end, not after each sum.
    tied: one table embeds both sides and makes the logits, which have no bias then.
    projected: an attention ends in a matrix; the authors' does not.
    dtype: of the computation; parameters stay in float32.

  Raises:
    ValueError: the heads do not part the width evenly, or tables of different sizes are to be one.

  >>> model = Transformer((11, 13), LMA, layers=(1, 2), features=8, units=16, heads=2)
  >>> inputs = jnp.array([[5, 7, 2]]), jnp.array([[1, 9]])
  >>> (logits, taps), _ = jax.eval_shape(lambda: model.init_with_output(jax.random.key(0), inputs, train=False))
  >>> logits.shape, len(taps), taps[-1].target.shape
  ((1, 2, 13), 4, (1, 2, 8))

  Source: Vaswani et al. 2017, section 3; the LMA paper's translation experiment, whose code has neither biases nor an
  output matrix in its attention (``projected=False``) and three tables. There embeddings start with deviation 1 and are
  not scaled; here as in Vaswani with d^-1/2 and times d^1/2, which is the same at the start, with the sinusoids of
  Vaswani where theirs have other exponents. Dropout on attention weights is left out.
  """

  vocabulary: tuple[int, int]
  act: ActivationFactory
  layers: tuple[int, int] = (6, 6)
  features: int = 512
  units: int = 2048
  heads: int = 8
  dropout: float = 0.1
  pre_norm: bool = False
  tied: bool = False
  projected: bool = True
  dtype: DTypeLike | None = None

  def setup(self):
    if self.features % self.heads or self.features % 2:
      raise ValueError(f'features are {self.features}, and must be even and a multiple of the {self.heads} heads')
    if self.tied and self.vocabulary[0] != self.vocabulary[1]:
      raise ValueError(f'vocabularies of {self.vocabulary} cannot share a table: tied needs one for both sides')
    how = (self.features, self.units, self.heads, self.act, self.dropout, self.pre_norm, self.projected, self.dtype)
    encoders, decoders = self.layers
    self.stages = [
      *(Encoder(*how, last=i == encoders - 1) for i in range(encoders)),
      *(Decoder(*how) for _ in range(decoders)),
    ]
    self.embed = self._table(0)
    if not self.tied:
      self.target_embed = self._table(1)
      init = nn.initializers.xavier_uniform()
      self.logits = nn.Dense(self.vocabulary[1], kernel_init=init, dtype=self.dtype)
    if self.pre_norm:
      self.norm = nn.LayerNorm(dtype=self.dtype)
    self.drop = nn.Dropout(self.dropout)

  def _table(self, side: int) -> nn.Embed:
    init = nn.initializers.normal(self.features**-0.5)
    return nn.Embed(self.vocabulary[side], self.features, embedding_init=init, dtype=self.dtype)

  def _embedded(self, table: nn.Embed, tokens: Int[Array, 'b t'], positions: Any) -> Float[Array, 'b t d']:
    x = table(tokens) * math.sqrt(self.features)
    return x + positions.astype(x.dtype)[None]

  def stem(self, inputs: tuple[Int[Array, 'b s'], Int[Array, 'b t']], *, train: bool) -> Sentences:
    """Embeds both sides, each token at its place."""
    tables = self.embed, self.embed if self.tied else self.target_embed
    found = [
      self._embedded(each, x, _sinusoids(x.shape[1], self.features)) for each, x in zip(tables, inputs, strict=True)
    ]
    dropped = (self.drop(x, deterministic=not train) for x in found)
    return Sentences(*dropped, *(tokens != _PADDING for tokens in inputs))

  def stage(self, i: int, tap: Sentences, *, train: bool) -> Sentences:
    """Applies layer ``i``, those of the encoder first."""
    return self.stages[i](tap, train=train)

  def head(self, tap: Sentences, *, train: bool) -> Float[Array, 'b t v']:
    """Returns the logits of the token after each of the target's."""
    del train
    x = self.norm(tap.target) if self.pre_norm else tap.target
    return self.embed.attend(x) if self.tied else self.logits(x)

  def __call__(self, inputs: tuple[Int[Array, 'b s'], Int[Array, 'b t']], *, train: bool):
    """Returns the logits and the taps."""
    taps = [self.stem(inputs, train=train)]
    for i in range(len(self.stages)):
      taps.append(self.stage(i, taps[-1], train=train))
    return self.head(taps[-1], train=train), tuple(taps)

  def start(self, source: Int[Array, 'b s'], *, length: int) -> tuple[Memory, tuple[Values, ...]]:
    """Reads the source once, in evaluation mode; returns what ``step`` looks at, and an empty cache of that length."""
    blank = jnp.zeros((len(source), 0), jnp.int32)
    tap, (encoders, _) = self.stem((source, blank), train=False), self.layers
    for layer in self.stages[:encoders]:
      tap = layer(tap, train=False)
    memory = tuple(layer.across.values(tap.source) for layer in self.stages[encoders:])

    def empty(values: Any) -> Any:
      return jnp.zeros((values.shape[0], length, *values.shape[2:]), values.dtype)

    return Memory(tap.source_mask, memory), jax.tree.map(empty, memory)

  def step(
    self, memory: Memory, cache: tuple[Values, ...], tokens: Int[Array, ' n'], position: Int[Array, '']
  ) -> tuple[Float[Array, 'n v'], tuple[Values, ...]]:
    """The logits of the token after those at a position, and the cache with that position filled.

    There are as many tokens for each source: one, or those of its beams side by side.
    """
    table = self.embed if self.tied else self.target_embed
    places = jnp.asarray(_sinusoids(cache[0][0].shape[1], self.features))
    here = jax.lax.dynamic_slice_in_dim(places, position, 1)
    x, filled = self._embedded(table, tokens[:, None], here), []
    for layer, values, known in zip(self.stages[self.layers[0] :], cache, memory.layers, strict=True):
      x, values = layer.step(x, values, known, memory.mask, position)
      filled.append(values)
    blank = jnp.zeros((len(tokens), 0, self.features), x.dtype)
    tap = Sentences(blank, x, jnp.zeros(blank.shape[:2], bool), jnp.ones(x.shape[:2], bool))
    return self.head(tap, train=False)[:, 0], tuple(filled)


def _sinusoids(length: int, features: int) -> np.ndarray:
  """Vaswani's positions, [length, features]: sines, then cosines, of wavelengths from 2π to 10,000 · 2π."""
  waves = np.arange(length)[:, None] / 10_000 ** (np.arange(0, features, 2) / features)[None]
  return np.concatenate([np.sin(waves), np.cos(waves)], axis=1).astype(np.float32)
