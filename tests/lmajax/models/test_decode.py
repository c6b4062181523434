"""Greedy and beam search: against lists of hypotheses, with caches that must follow theirs, and row by row."""

import functools
import math
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmajax.models import Beams, Marks, beam_search, greedy
from tests import oracles

LENGTH, DEPTH, ROWS = 7, 6, 24
MARKS = Marks()


def tables(seed, symbols, *, rows=ROWS, length=LENGTH, end=0.0, scale=2.0):
  """For each row logits by position and last token, themselves the cache."""
  logits = scale * np.random.default_rng(seed).normal(size=(rows, length, symbols, symbols))
  logits[..., MARKS.end] += end
  return logits.astype(np.float32)


def table_step(cache, tokens, position):
  return cache[jnp.arange(len(tokens)), position, tokens], cache


def table_prefix(table):
  return lambda prefix: table[len(prefix) - 1, prefix[-1]]


def recurrent(seed, symbols):
  """A recurrent network for each row, whose state tells every prefix apart: the cache, and a row's logits."""
  rng = np.random.default_rng(seed)
  shapes = {'h': (DEPTH,), 'a': (DEPTH, DEPTH), 'embedding': (symbols, DEPTH), 'out': (DEPTH, symbols)}
  arrays = {name: rng.normal(size=(ROWS, *shape)).astype(np.float32) for name, shape in shapes.items()}

  def prefix(row):
    h, a, embedding, out = (arrays[name][row].astype(np.float64) for name in shapes)

    def logits(tokens):
      state = h
      for token in tokens:
        state = np.tanh(state @ a + embedding[token])
      return state @ out

    return logits

  return {'state': arrays['h'], 'weights': {name: arrays[name] for name in ('a', 'embedding', 'out')}}, prefix


def recurrent_step(cache, tokens, position):
  """Row after row, so that not even the rounding of this model depends on the batch."""

  def one(row):
    h, weights, token = row
    h = jnp.tanh(h @ weights['a'] + weights['embedding'][token])
    return h, h @ weights['out']

  state, logits = jax.lax.map(one, (cache['state'], cache['weights'], tokens))
  return logits, cache | {'state': state}


@functools.cache
def compiled(search, step, **options):
  return jax.jit(functools.partial(search, step, **options))


def searched(cache, *, beams, step=table_step, length=LENGTH, length_penalty=1.0, **options):
  return compiled(beam_search, step, beams=beams, length=length, length_penalty=length_penalty, **options)(cache)


def chosen(cache, *, step=table_step, length=LENGTH, **options):
  return compiled(greedy, step, length=length, **options)(cache)


def judge(found, prefixes, **options):
  for row, prefix in enumerate(prefixes):
    tokens, scores = oracles.beam_search(prefix, length=found.tokens.shape[-1], **{'marks': MARKS, **options})
    np.testing.assert_array_equal(found.tokens[row], tokens)
    np.testing.assert_allclose(found.scores[row], scores, atol=1e-5)


def same(found, expected):
  jax.tree.map(np.testing.assert_array_equal, found, expected)


def only(tree, rows):
  return jax.tree.map(lambda leaf: leaf[rows], tree)


def laid_out(tokens, *, marks=MARKS):
  """The words, an end or none at the length limit, and padding: nothing else."""
  for row in np.asarray(tokens).reshape(-1, tokens.shape[-1]).tolist():
    count = row.index(marks.end) + 1 if marks.end in row else len(row)
    assert not {marks.padding, marks.start} & set(row[:count])
    assert row[count:] == [marks.padding] * (len(row) - count)


class TestBeamSearch:
  @pytest.mark.parametrize(
    'beams, penalty, symbols',
    [(1, 1.0, 5), (2, 0.0, 5), (2, 1.0, 5), (3, 0.6, 5), (4, 2.0, 5), (5, 1.0, 5), (3, 0.6, 11), (5, 0.0, 11)],
  )
  def test_equals_its_oracle(self, beams, penalty, symbols):
    options = {'beams': beams, 'length_penalty': penalty}
    for seed, end in ((0, 0.0), (1, -2.0), (2, 3.0)):
      cache = tables(seed, symbols, end=end)
      found = searched(cache, **options)
      judge(found, map(table_prefix, cache), **options)
      laid_out(found.tokens)

  @pytest.mark.parametrize('beams, penalty, symbols', [(2, 0.6, 8), (5, 1.0, 8)])
  def test_the_cache_follows_its_hypothesis(self, beams, penalty, symbols):
    for seed in range(4):
      cache, prefix = recurrent(seed, symbols)
      found = searched(cache, step=recurrent_step, beams=beams, length_penalty=penalty)
      judge(found, map(prefix, range(ROWS)), beams=beams, length_penalty=penalty)
      laid_out(found.tokens)

  def test_by_hand(self):
    """Start gives 3 or the end, and 3 gives 4 or the end: two are finished, but 4 is ahead, and is waited for."""
    p = np.full((5, 5), 1e-30)
    p[1, [3, 2]], p[3, [4, 2]], p[4, 2] = [0.6, 0.4], [0.7, 0.3], 1.0
    cache = np.log(np.tile(p, (ROWS, LENGTH, 1, 1))).astype(np.float32)
    best, long, short = [3, 4, 2, 0, 0, 0, 0], [3, 2, 0, 0, 0, 0, 0], [2, 0, 0, 0, 0, 0, 0]
    found = searched(cache, beams=2, length_penalty=1.0)
    assert found.tokens[0].tolist() == [best, long]
    np.testing.assert_allclose(found.scores[0], [math.log(0.42) / 3, math.log(0.18) / 2], rtol=1e-5)
    found = searched(cache, beams=2, length_penalty=0.0)
    assert found.tokens[0].tolist() == [best, short]
    np.testing.assert_allclose(found.scores[0], [math.log(0.42), math.log(0.4)], rtol=1e-5)

  def test_the_noise_beside_a_sharp_distribution_stops_nothing(self):
    """Each word is sure, and all else, the end too, as likely as the rest: the ends that come first are noise."""
    symbols, words = 9, [3, 4, 5, 6, 7, 2]
    p = np.full((LENGTH, symbols, symbols), 0.02)
    for position, word in enumerate(words):
      p[position, :, word] = 0.86
    cache = np.log(np.tile(p, (ROWS, 1, 1, 1))).astype(np.float32)
    found = searched(cache, beams=4, length_penalty=1.0)
    assert [row[0] for row in found.tokens.tolist()] == [[*words, 0]] * ROWS

  def test_marks_may_be_any_symbols(self):
    marks = Marks(padding=4, start=0, end=5)
    cache = tables(3, 6)
    found = searched(cache, beams=3, length_penalty=1.0, marks=marks)
    judge(found, map(table_prefix, cache), beams=3, length_penalty=1.0, marks=marks)
    laid_out(found.tokens, marks=marks)
    for row, tokens in zip(cache, chosen(cache, marks=marks), strict=True):
      assert tokens.tolist() == oracles.greedy(table_prefix(row), length=LENGTH, marks=marks)

  def test_score_is_that_of_the_teacher_forced_tokens(self):
    cache, prefix = recurrent(9, 8)
    for beams, penalty in ((2, 0.6), (5, 1.0)):
      found = searched(cache, step=recurrent_step, beams=beams, length_penalty=penalty)
      for row in range(ROWS):
        for tokens, score in zip(found.tokens[row].tolist(), np.asarray(found.scores[row]), strict=True):
          words = [token for token in tokens if token != MARKS.padding]
          steps = [oracles.next_tokens(prefix(row), words[:i], MARKS)[token] for i, token in enumerate(words)]
          np.testing.assert_allclose(score, sum(steps) / len(words) ** penalty, rtol=1e-5)

  def test_wide_enough_it_finds_the_best_of_all(self):
    """Every sequence of 3 tokens of 2 words and the end, by enumeration."""
    cache = tables(4, 5, length=3)
    found = searched(cache, length=3, beams=15, length_penalty=0.0)
    for row, table in enumerate(cache):
      every = [[]]
      for _ in range(3):
        every += [[*y, token] for y in every for token in (2, 3, 4) if 2 not in y and [*y, token] not in every]
      whole = [y for y in every if y and (2 in y or len(y) == 3)]
      assert len(whole) == 15
      totals = [
        sum(oracles.next_tokens(table_prefix(table), y[:i], MARKS)[token] for i, token in enumerate(y)) for y in whole
      ]
      np.testing.assert_allclose(found.scores[row], sorted(totals, reverse=True), atol=1e-5)
      best = whole[int(np.argmax(totals))]
      assert found.tokens[row, 0].tolist() == best + [0] * (3 - len(best))

  def test_of_one_token(self):
    cache = tables(5, 9, length=1)
    found = searched(cache, length=1, beams=4)
    judge(found, map(table_prefix, cache), beams=4, length_penalty=1.0)
    assert found.tokens.shape == (ROWS, 4, 1) and (found.tokens >= 2).all()

  def test_where_few_hypotheses_are_possible(self):
    """With three symbols only the end can come; what there is not has score -inf and only padding."""
    found = searched(tables(6, 3), beams=3, length_penalty=1.0)
    np.testing.assert_array_equal(found.tokens, np.tile([[2] + [0] * 6, [0] * 7, [0] * 7], (ROWS, 1, 1)))
    np.testing.assert_array_equal(found.scores, np.tile([0.0, -np.inf, -np.inf], (ROWS, 1)))

  def test_what_a_model_forbids_is_in_no_hypothesis(self):
    cache = tables(7, 5)
    cache[:, :, :, 3] = -np.inf
    cache[: ROWS // 2, :, 4, 2] = -np.inf
    found = searched(cache, beams=3, length_penalty=0.6)
    judge(found, map(table_prefix, cache), beams=3, length_penalty=0.6)
    assert not (found.tokens == 3).any()
    assert np.isneginf(found.scores[: ROWS // 2, 2]).all() and np.isfinite(found.scores[ROWS // 2 :]).all()

  def test_not_a_number_after_what_is_no_hypothesis_does_not_matter(self):
    """A model may well have no answer to padding, which beams that are none are fed."""
    cache = tables(8, 5)
    expected = searched(cache, beams=5, length_penalty=1.0)
    cache[:, :, MARKS.padding] = np.nan
    cache[:, 1:, MARKS.start] = np.nan
    cache[:, :, MARKS.end] = np.nan
    same(searched(cache, beams=5, length_penalty=1.0), expected)
    assert np.isfinite(expected.scores).all()

  def test_ties_go_to_the_lower_number(self):
    found = searched(np.zeros((ROWS, LENGTH, 5, 5), np.float32), beams=3, length_penalty=0.6)
    judge(found, [lambda prefix: np.zeros(5)] * ROWS, beams=3, length_penalty=0.6)

  def test_types(self):
    found = searched(jnp.asarray(tables(0, 5), jnp.bfloat16), beams=2, length_penalty=1.0)
    assert isinstance(found, Beams)
    assert (found.tokens.dtype, found.scores.dtype) == (jnp.int32, jnp.float32)
    exact = np.asarray(jnp.asarray(tables(0, 5), jnp.bfloat16), np.float64)
    judge(found, map(table_prefix, exact), beams=2, length_penalty=1.0)


class TestGreedy:
  @pytest.mark.parametrize('symbols', [3, 5, 11])
  def test_equals_its_oracle_and_one_beam(self, symbols):
    """Rows that never end and rows that end at once among them."""
    for seed, end in enumerate((0, 1, 3, -60, 60)):
      cache = tables(seed, symbols, end=end)
      tokens = chosen(cache)
      for row, table in enumerate(cache):
        assert tokens[row].tolist() == oracles.greedy(table_prefix(table), length=LENGTH, marks=MARKS)
      laid_out(tokens)
      np.testing.assert_array_equal(searched(cache, beams=1).tokens[:, 0], tokens)
    assert (tokens[:, 0] == 2).all() and tokens.dtype == jnp.int32

  def test_with_a_state(self):
    cache, prefix = recurrent(0, 8)
    tokens = chosen(cache, step=recurrent_step)
    for row in range(ROWS):
      assert tokens[row].tolist() == oracles.greedy(prefix(row), length=LENGTH, marks=MARKS)
    np.testing.assert_array_equal(searched(cache, step=recurrent_step, beams=1).tokens[:, 0], tokens)

  def test_is_one_beam_where_rounding_makes_the_sums_equal(self):
    """The logits of 3 and 4 differ by one bit, which the sums of several log-probabilities no longer show."""
    cache = np.full((ROWS, LENGTH, 5, 5), -60.0, np.float32)
    cache[..., 3] = 1.0
    cache[..., 4] = np.nextafter(np.float32(1), np.float32(2))
    assert chosen(cache).tolist() == [[4] * LENGTH] * ROWS
    assert searched(cache, beams=1).tokens.tolist() == [[[4] * LENGTH]] * ROWS


class TestBatch:
  @pytest.mark.parametrize('step, beams', [(table_step, 1), (table_step, 5), (recurrent_step, 5)])
  def test_a_row_alone_gives_the_same(self, step, beams):
    """Bit by bit, whatever the other rows are and however long they last."""
    cache = tables(10, 5) if step is table_step else recurrent(11, 8)[0]
    found = searched(cache, step=step, beams=beams), chosen(cache, step=step)
    assert len(set((found[1] == 2).argmax(axis=1).tolist())) > 2
    for row in range(ROWS):
      alone = only(cache, slice(row, row + 1))
      same((searched(alone, step=step, beams=beams), chosen(alone, step=step)), only(found, slice(row, row + 1)))

  def test_order_does_not_matter(self):
    cache, order = recurrent(12, 8)[0], np.random.default_rng(0).permutation(ROWS)
    moved = searched(only(cache, order), step=recurrent_step, beams=5)
    same(moved, only(searched(cache, step=recurrent_step, beams=5), order))

  def test_a_row_that_is_done_does_not_change(self):
    """Although its hypotheses would later end more likely than all before, while another row goes on."""
    quick, slow = tables(13, 5, end=2.0), tables(14, 5, end=-60.0)
    quick[:, 4:, :, 2] = 60.0
    done = searched(quick, beams=2)
    kept = np.flatnonzero((np.asarray(done.tokens) == 2).argmax(axis=2).max(axis=1) < 3)
    assert len(kept) > 5
    cache = quick.copy()
    cache[-1] = slow[-1]
    both = searched(cache, beams=2)
    kept = kept[kept < ROWS - 1]
    same(only(both, kept), only(done, kept))
    judge(both, map(table_prefix, cache), beams=2, length_penalty=1.0)
    assert not (both.tokens[-1] == 2).any()


def counting(calls):
  """A step of tables that notes each time it runs, and each time it is traced."""

  def step(cache, tokens, position):
    calls.traced += 1
    jax.debug.callback(lambda at: calls.ran.append(int(at)), position)
    return table_step(cache, tokens, position)

  return step


@pytest.mark.parametrize('search', [greedy, functools.partial(beam_search, beams=2)])
class TestProgram:
  def test_is_traced_once_repeats_itself_and_stops_when_every_row_is_done(self, search):
    calls = SimpleNamespace(traced=0, ran=[])
    program = jax.jit(functools.partial(search, counting(calls), length=LENGTH))
    cache = jnp.asarray(tables(0, 5))
    first, traced = program(cache), calls.traced
    same(program(cache), first)
    only_ends = tables(0, 5)
    only_ends[..., 3:] = -np.inf
    for cache, least, most in (
      (tables(0, 5, end=60.0), 1, 3),
      (tables(0, 5, end=-60.0), LENGTH, LENGTH),
      (only_ends, 1, 1),
    ):
      jax.effects_barrier()
      calls.ran.clear()
      jax.block_until_ready(program(jnp.asarray(cache)))
      jax.effects_barrier()
      assert sorted(calls.ran) == list(range(len(calls.ran))) and least <= len(calls.ran) <= most
    assert calls.traced == traced

  def test_promotes_no_type(self, search, strict_dtypes):
    jax.eval_shape(functools.partial(search, table_step, length=LENGTH), tables(1, 5))

  @pytest.mark.parametrize(
    'cache, options, says',
    [
      (jnp.zeros((1, 3, 5, 5)), {'length': 0}, 'length is 0'),
      (jnp.zeros((1, 3, 5, 5)), {'length': 3, 'marks': Marks(0, 1, 5)}, r'marks are \(0, 1, 5\).* of 5 symbols'),
      (jnp.zeros((1, 3, 5, 5)), {'length': 3, 'marks': Marks(0, 1, 1)}, r'marks are \(0, 1, 1\)'),
      (jnp.zeros((1, 3, 5, 5)), {'length': 3, 'marks': Marks(-1, 1, 2)}, r'marks are \(-1, 1, 2\)'),
      ({}, {'length': 3}, 'leaves of the cache'),
      ({'a': jnp.zeros((1, 2)), 'b': jnp.zeros((2, 2))}, {'length': 3}, 'leaves of the cache'),
      ({'a': jnp.zeros(())}, {'length': 3}, 'leaves of the cache'),
    ],
  )
  def test_what_is_out_of_range_is_refused(self, search, cache, options, says):
    with pytest.raises(ValueError, match=says):
      search(table_step, cache, **options)


def test_no_beam_is_refused():
  with pytest.raises(ValueError, match='beams is 0'):
    beam_search(table_step, jnp.zeros((1, 3, 5, 5)), beams=0, length=3)
