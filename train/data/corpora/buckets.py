"""Batches sentences of similar length by number of tokens: a step has as many shapes as there are buckets."""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int, Int32

from lmajax.training import placed, replicated
from lmajax.types import Batch
from train.data.corpora.pairs import Corpus, Pairs
from train.data.corpora.vocabulary import END, PADDING, START, Vocabulary
from train.runtime.errors import UserError

Ragged = list[Int32[np.ndarray, ' t']]


class Tokens(NamedTuple):
  """Sentences as numbers, each followed by the end mark; an empty one is the mark alone."""

  source: Ragged
  target: Ragged

  def lengths(self) -> Int[np.ndarray, ' n']:
    """Returns the length of the longer side of each pair."""
    return np.array([max(map(len, pair)) for pair in zip(*self, strict=True)], int)


class Vocabularies(NamedTuple):
  """The vocabulary of each side; the same twice where it is joint."""

  source: Vocabulary
  target: Vocabulary


def numbers(text: str, vocabulary: Vocabulary, most: int) -> Int32[np.ndarray, ' t']:
  """Encodes a sentence as numbers, cut to ``most``, the end mark included."""
  return np.array([*vocabulary.encode(text)[: most - 1], END], np.int32)


def encoded(pairs: Pairs, vocabularies: Vocabularies, most: int) -> Tokens:
  """Encodes every pair as numbers, cut to ``most``."""
  sides = zip(pairs, vocabularies, strict=True)
  return Tokens(*([numbers(text, vocabulary, most) for text in side] for side, vocabulary in sides))


def within(pairs: Pairs, vocabularies: Vocabularies, most: int) -> Tokens:
  """Encodes only the pairs of which no side would be cut: the length filter of training."""
  tokens = encoded(pairs, vocabularies, most + 1)
  kept = np.flatnonzero(tokens.lengths() <= most)
  return Tokens(*([side[row] for row in kept] for side in tokens))


def shapes(lengths: Int[np.ndarray, ' n'], count: int, most: int) -> tuple[int, ...]:
  """Chooses at most ``count`` lengths to pad batches to, multiples of 4 and ``most``, for the least padding."""
  ends = np.array([*range(4, most, 4), most])
  shorter = np.searchsorted(np.sort(lengths), ends, side='right')  # sentences that fit
  cost, ways = shorter * ends, [(int(end),) for end in ends]  # tokens of all that fit, padded, in so many buckets
  for _ in range(count - 1):
    more = cost[:, None] + (shorter[None] - shorter[:, None]) * ends[None]
    more = np.where(ends[:, None] < ends[None], more, len(lengths) * most + 1)
    before, fewer = more.argmin(0), cost
    better = more.min(0) < fewer
    cost = np.where(better, more.min(0), fewer)
    ways = [(*ways[before[i]], int(end)) if better[i] else ways[i] for i, end in enumerate(ends)]
  return ways[-1]


class TokenBatches:
  """Training batches of sentences by step, shuffled anew every epoch within the buckets and among them.

  Every sentence is seen once an epoch: an incomplete batch is filled up with rows of padding, which no loss and no
  statistics count.
  """

  def __init__(
    self,
    tokens: Tokens,
    *,
    batch_tokens: int,
    lengths: Sequence[int],
    seed: int,
    sharding: jax.sharding.NamedSharding | None = None,
  ):
    if not tokens.source:
      raise UserError('no training sentence is as short as --max-length: give a greater one')
    self._tokens, self._seed, self._sharding = tokens, seed, sharding
    self._starts = np.cumsum([0, *map(len, tokens.target)])
    self.size = int(self._starts[-1])
    members = _by_bucket(tokens.lengths(), lengths)
    self._buckets = [
      (length, rows, _rows(batch_tokens, length, sharding))
      for length, rows in zip(lengths, members, strict=True)
      if len(rows)
    ]
    self.steps_per_epoch = sum(-(-len(rows) // count) for _, rows, count in self._buckets)
    self._planned: tuple[int, list] = (-1, [])

  @property
  def blank(self) -> tuple[Array, Array]:
    """A pair of one token each."""
    return jnp.full((1, 1), END, jnp.int32), jnp.full((1, 1), START, jnp.int32)

  @property
  def everywhere(self) -> jax.sharding.NamedSharding | None:
    """The sharding of what is not split, beside the batches: whole on each of their devices."""
    return self._sharding and replicated(self._sharding)

  def __getitem__(self, step: int) -> Batch:
    epoch, position = divmod(step, self.steps_per_epoch)
    length, rows = self._plan(epoch)[position]
    return placed(partial(padded, self._tokens, length), rows, self._sharding)

  def places(self, step: int) -> Int[np.ndarray, 'b t']:
    """Returns the positions of a batch's target tokens among all, sentence after sentence; -1 for padding."""
    epoch, position = divmod(step, self.steps_per_epoch)
    length, rows = self._plan(epoch)[position]
    places = self._starts[rows][:, None] + np.arange(length)[None]
    return np.where(places < self._starts[rows + 1][:, None], places, -1)  # a row -1 begins at the end, and ends at 0

  def _plan(self, epoch: int) -> list[tuple[int, np.ndarray]]:
    if self._planned[0] != epoch:
      draw = np.random.default_rng((self._seed, epoch))
      batches = []
      for length, rows, count in self._buckets:
        shuffled = draw.permutation(rows)
        batches += [(length, _filled(shuffled[i : i + count], count)) for i in range(0, len(rows), count)]
      self._planned = epoch, [batches[i] for i in draw.permutation(len(batches))]
    return self._planned[1]


def evaluation_batches(
  tokens: Tokens, *, batch_tokens: int, lengths: Sequence[int], sharding: jax.sharding.NamedSharding | None = None
) -> Iterator[tuple[Batch, Bool[Array, 'b t']]]:
  """Yields all pairs, bucket by bucket, each batch with a mask of the target's tokens, end marks included."""
  for length, rows in in_order(tokens.lengths(), batch_tokens=batch_tokens, lengths=lengths, sharding=sharding):
    batch = placed(partial(padded, tokens, length), rows, sharding)
    yield batch, batch.labels != PADDING


def in_order(
  sizes: Int[np.ndarray, ' n'],
  *,
  batch_tokens: int,
  lengths: Sequence[int],
  sharding: jax.sharding.NamedSharding | None = None,
) -> Iterator[tuple[int, np.ndarray]]:
  """Yields the length and the rows of each batch, -1 for a row of padding."""
  for length, rows in zip(lengths, _by_bucket(sizes, lengths), strict=True):
    count = _rows(batch_tokens, length, sharding)
    for i in range(0, len(rows), count):
      yield length, _filled(rows[i : i + count], count)


def padded(tokens: Tokens, length: int, rows: Int[np.ndarray, ' b']) -> Batch:
  """Returns rows as a model's inputs, (the source, the target after a start mark), and the target as labels."""
  source, labels = (side_by_side(side, length, rows) for side in tokens)
  shifted = np.concatenate([np.full((len(rows), 1), START, np.int32), labels[:, :-1]], axis=1)
  return Batch._make(((source, np.where(labels == PADDING, PADDING, shifted).astype(np.int32)), labels))


def side_by_side(side: Ragged, length: int, rows: Int[np.ndarray, ' b']) -> Int32[np.ndarray, 'b length']:
  """Stacks sentences, padded at the end; padding alone where a row is -1."""
  found = np.full((len(rows), length), PADDING, np.int32)
  for line, row in zip(found, rows, strict=True):
    if row >= 0:
      line[: len(side[row])] = side[row]
  return found


def _by_bucket(sizes: Int[np.ndarray, ' n'], lengths: Sequence[int]) -> list[np.ndarray]:
  """Returns the rows that fit into each length and not into the one before it."""
  bucket = np.searchsorted(lengths, sizes)
  return [np.flatnonzero(bucket == i) for i in range(len(lengths))]


def _rows(batch_tokens: int, length: int, sharding: jax.sharding.NamedSharding | None) -> int:
  """Returns the number of sentences of a length in a batch: a multiple of the devices."""
  devices = 1 if sharding is None else sharding.mesh.size
  count = batch_tokens // length // devices * devices
  if count < 1:
    raise UserError(
      f'--batch-size {batch_tokens} is less than a sentence of {length} tokens for each of {devices} devices:'
      ' give more, or a smaller --max-length'
    )
  return count


def _filled(rows: Int[np.ndarray, ' m'], count: int) -> Int[np.ndarray, ' b']:
  return np.concatenate([rows, np.full(count - len(rows), -1, rows.dtype)])


class Text(NamedTuple):
  """A corpus with its vocabularies and its parts as numbers."""

  corpus: Corpus
  vocabularies: Vocabularies
  train: Tokens
  validation: Tokens
  test: Tokens
  lengths: tuple[int, ...]  # that batches are padded to
  cut: int  # sentences of validation and test that are longer than may be

  @property
  def sizes(self) -> tuple[int, int]:
    return self.vocabularies.source.size, self.vocabularies.target.size
