"""Sentences from a model that gives one token after the other: greedily, or as the best of several beams."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from lmajax._arguments import check_count

Cache = Any
"""A pytree of arrays, the batch first: what a decoder carries from token to token, and what it reads of the source."""
DecodeStep = Callable[[Cache, Int[Array, ' b'], Int[Array, '']], tuple[Float[Array, 'b v'], Cache]]
"""(cache, the last tokens, their position from 0) -> (logits of the next token, cache); no row looks at another."""


class Marks(NamedTuple):
  """The numbers of the symbols that are no words.

  >>> Marks(end=3)
  Marks(padding=0, start=1, end=3)
  """

  padding: int = 0
  start: int = 1
  end: int = 2


class Beams(NamedTuple):
  """Result of a beam search for each row, best first: tokens with their end mark, then padding; and scores.

  >>> Beams(jnp.zeros((1, 5, 100), jnp.int32), jnp.zeros((1, 5))).tokens[:, 0].shape
  (1, 100)
  """

  tokens: Int[Array, 'b w length']
  scores: Float[Array, 'b w']


class _Search(NamedTuple):
  position: Int[Array, '']
  last: Int[Array, ' bw']
  cache: Cache
  alive: Beams  # with sums of log p, best first; -inf where there is none
  finished: Beams  # with scores, best first; -inf where the place is free
  done: Bool[Array, ' b']


_MARKS = Marks()


def greedy(step: DecodeStep, cache: Cache, *, length: int, marks: Marks = _MARKS) -> Int[Array, 'b length']:
  r"""Decodes with the likeliest token at each position.

  .. math:: y_t = \arg\max_y \log p(y \mid y_1, \dots, y_{t-1})

  Padding and start are never generated. It stops when every row has ended; a row does not depend on the others.

  Args:
    step: one step of the decoder; the first call gets ``marks.start`` at position 0.
    cache: before the first step, the batch as the leading axis of each leaf.
    length: the most tokens of a row, end mark included, at least 1.
    marks: numbers of padding, start and end.

  Returns:
    Tokens without the start, with the end mark, then padding; without an end mark where the length did not suffice.

  Raises:
    ValueError: the length is less than 1, the marks are not three symbols of the vocabulary, or the leaves of the cache
      have no common leading axis.

  >>> table = jax.nn.one_hot(jnp.array([0, 3, 0, 4, 2]), 5)  # start, 3, 4, end
  >>> greedy(lambda cache, tokens, position: (table[tokens], cache), jnp.zeros(1), length=5).tolist()
  [[3, 4, 2, 0, 0]]

  Source: the beam search of Vaswani et al. 2017, section 6.1, with one beam.
  """
  rows = _checked(cache, length)

  def goes_on(state: tuple[Any, ...]) -> Array:
    position, *_, done = state
    return (position < length) & ~done.all()

  def grown(state: tuple[Any, ...]) -> tuple[Any, ...]:
    position, last, cache, tokens, done = state
    logits, cache = _masked(step, cache, last, position, marks)
    last = jnp.where(done, marks.padding, jnp.argmax(logits, axis=-1)).astype(jnp.int32)
    return position + 1, last, cache, tokens.at[:, position].set(last), done | (last == marks.end)

  tokens = jnp.full((rows, length), marks.padding, jnp.int32)
  first = jnp.full(rows, marks.start, jnp.int32)
  return jax.lax.while_loop(goes_on, grown, (jnp.int32(0), first, cache, tokens, jnp.zeros(rows, bool)))[3]


def beam_search(
  step: DecodeStep, cache: Cache, *, beams: int, length: int, length_penalty: float = 1.0, marks: Marks = _MARKS
) -> Beams:
  r"""Decodes with several hypotheses at a time, and scores those that have ended by their mean log-probability.

  .. math:: \text{score}(y) = \frac{1}{|y|^\alpha} \sum_{t=1}^{|y|} \log p(y_t \mid y_1, \dots, y_{t-1})

  Of all continuations of the w hypotheses alive, the 2w with the greatest sums are looked at. Ends among the first w of
  them are finished, of which the w best are kept, and the first w others go on. A row is done when w hypotheses are
  finished and none alive is ahead of the best of them at its present length; then nothing of it changes. (w ends alone
  do not stop it: beside a sharp distribution the other candidates are noise, ends among them.) At the length limit,
  hypotheses that are alive take the places left free, the best first. Of equal sums that of the better hypothesis comes
  first, then the token with the greater logit, then the lower number: with one beam the tokens are those of ``greedy``.
  A row does not depend on the others.

  Args:
    step: one step of the decoder, called with b·w tokens, the hypotheses of a row next to each other; the first call
      gets ``marks.start`` at position 0.
    cache: before the first step, b the leading axis of each leaf; repeated w times here, and reordered in each step.
    beams: w, at least 1.
    length: the most tokens of a hypothesis, end mark included, at least 1.
    length_penalty: the exponent α; 0 compares the sums.
    marks: numbers of padding, start and end.

  Returns:
    Tokens as ``greedy`` returns them, and float32 scores, the best first; where fewer than w hypotheses are possible,
    the rest is padding of score -inf.

  Raises:
    ValueError: as ``greedy`` does, or there is less than one beam.

  >>> table = jnp.log(jnp.array([[0, 0, .4, .6], [0, 0, .4, .6], [0, 0, .4, .6], [0, 0, .9, .1]]))
  >>> step = lambda cache, tokens, position: (table[tokens], cache)
  >>> found = beam_search(step, jnp.zeros(1), beams=2, length=4)
  >>> found.tokens.tolist()
  [[[3, 2, 0, 0], [2, 0, 0, 0]]]
  >>> [round(float(score), 4) for score in found.scores[0]]  # log(0.6 · 0.9) / 2, log 0.4
  [-0.3081, -0.9163]

  Source: Vaswani et al. 2017, section 6.1, with a length penalty after Wu et al. 2016, equation 14, who divide by
  ``((5 + |y|) / 6)^α``; we choose ``|y|^α``, of which 1 gives the mean and 0 no penalty. When to stop is our choice
  too: the first only say "early when possible".
  """
  check_count('beams', beams, 1)
  rows = _checked(cache, length)

  def scored(sums: Array, tokens: Array) -> Array:
    # Not a division, which XLA may turn into this one or not by the size of the batch.
    return sums * tokens.astype(jnp.float32) ** -length_penalty

  def goes_on(state: _Search) -> Array:
    return (state.position < length) & ~state.done.all()

  def grown(state: _Search) -> _Search:
    logits, cache = _masked(step, state.cache, state.last, state.position, marks)
    scores, parents, tokens = _candidates(logits, state.alive.scores)
    ends, position = tokens == marks.end, state.position + 1
    longer = jnp.take_along_axis(state.alive.tokens, parents[..., None], axis=1).at[:, :, state.position].set(tokens)
    # One beam is greedy because an end behind the first w does not count.
    counts = ends[:, :beams] & ~state.done[:, None]
    ended = Beams(longer[:, :beams], jnp.where(counts, scored(scores[:, :beams], position), -jnp.inf))
    finished = _best(state.finished, ended)
    others = jnp.argsort(ends, axis=1)[:, :beams]
    alive = _taken(Beams(longer, scores), others)
    origins = beams * jnp.arange(rows)[:, None] + jnp.take_along_axis(parents, others, axis=1)
    cache = jax.tree.map(lambda leaf: leaf[origins.reshape(-1)], cache)
    last = jnp.take_along_axis(tokens, others, axis=1).reshape(-1)
    ahead = scored(alive.scores, position).max(axis=1) > finished.scores.max(axis=1)
    done = (_real(finished.scores).all(axis=1) & ~ahead) | ~_real(alive.scores).any(axis=1)
    return _Search(position, last, cache, alive, finished, state.done | done)

  empty = jnp.full((rows, beams, length), marks.padding, jnp.int32)
  none = jnp.full((rows, beams), -jnp.inf, jnp.float32)
  first = jnp.full(rows * beams, marks.start, jnp.int32)
  cache = jax.tree.map(lambda leaf: jnp.repeat(leaf, beams, axis=0), cache)
  start = _Search(
    jnp.int32(0), first, cache, Beams(empty, none.at[:, 0].set(0.0)), Beams(empty, none), jnp.zeros(rows, bool)
  )
  state = jax.lax.while_loop(goes_on, grown, start)
  alive = state.alive._replace(scores=scored(state.alive.scores, state.position))
  found = _placed(state.finished, alive)
  return _taken(found, jax.lax.top_k(found.scores, beams)[1])


def _checked(cache: Cache, length: int) -> int:
  """The number of rows."""
  check_count('length', length, 1)
  sizes = {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves(cache)}
  if len(sizes) != 1 or () in sizes:
    raise ValueError('the leaves of the cache must be arrays with the batch as their first axis, and at least one')
  return sizes.pop()[0]


def _masked(step: DecodeStep, cache: Cache, tokens: Array, position: Array, marks: Marks) -> tuple[Array, Cache]:
  logits, cache = step(cache, tokens, position)
  if len(set(marks)) < 3 or min(marks) < 0 or max(marks) >= logits.shape[-1]:
    raise ValueError(f'marks are {tuple(marks)}, and must be three different ones of {logits.shape[-1]} symbols')
  never = jnp.array([marks.padding, marks.start])
  return logits.astype(jnp.float32).at[:, never].set(-jnp.inf), cache


def _real(scores: Float[Array, 'b w']) -> Bool[Array, 'b w']:
  return scores != -jnp.inf


def _candidates(logits: Float[Array, 'bw v'], sums: Float[Array, 'b w']) -> tuple[Array, Array, Array]:
  """The 2w best continuations of each row: their sums, the hypotheses that they continue, their last tokens."""
  rows, beams = sums.shape
  # First within each hypothesis: the greater logit must stay in front where rounding makes the sums equal.
  tokens = jax.lax.top_k(logits, min(2 * beams, logits.shape[-1]))[1]
  log_p = jnp.take_along_axis(jax.nn.log_softmax(logits), tokens, axis=-1)
  log_p, tokens = log_p.reshape(rows, beams, -1), tokens.reshape(rows, beams, -1)
  # A hypothesis that is none may well hold NaN.
  sums = jnp.where(_real(sums)[..., None], sums[..., None] + log_p, -jnp.inf).reshape(rows, -1)
  sums, index = jax.lax.top_k(sums, 2 * beams)
  return sums, index // log_p.shape[-1], jnp.take_along_axis(tokens.reshape(rows, -1), index, axis=1)


def _best(finished: Beams, found: Beams) -> Beams:
  """Keeps the best of two sets of hypotheses, as many as the first has; of equal ones those of the first."""
  both = jax.tree.map(lambda old, new: jnp.concatenate([old, new], axis=1), finished, found)
  return _taken(both, jax.lax.top_k(both.scores, finished.scores.shape[1])[1])


def _placed(finished: Beams, found: Beams) -> Beams:
  """Puts what was found on the places that are free, in its order; a row without one stays as it is."""
  where = _real(found.scores)
  rows, beams = where.shape
  places = _real(finished.scores).sum(axis=1, keepdims=True) + jnp.cumsum(where, axis=1) - 1
  at = jnp.arange(rows)[:, None], jnp.where(where, places, beams)
  return jax.tree.map(lambda old, new: old.at[at].set(new, mode='drop'), finished, found)


def _taken(beams: Beams, index: Int[Array, 'b w']) -> Beams:
  tokens = jnp.take_along_axis(beams.tokens, index[..., None], axis=1)
  return Beams(tokens, jnp.take_along_axis(beams.scores, index, axis=1))
