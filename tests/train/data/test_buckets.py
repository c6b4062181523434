"""Batches of sentences: each once an epoch, by step, in few shapes, and whole rows of padding where one is not full."""

import itertools
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from lmajax.training import over_all_devices
from train.data.corpora import buckets
from train.data.corpora.buckets import TokenBatches, Tokens, Vocabularies, encoded, evaluation_batches, shapes, within
from train.data.corpora.pairs import Pairs
from train.data.corpora.vocabulary import END, PADDING, START, Words
from train.runtime.errors import UserError

COUNT, LENGTHS, BATCH_TOKENS = 61, (4, 8, 12), 32
LETTERS = [chr(ord('a') + i) for i in range(26)]
KNOWN = Vocabularies(Words(LETTERS), Words(LETTERS[::-1]))


def drawn(count=COUNT, most=LENGTHS[-1], seed=0):
  """Sentences that differ from one another in their first word, of all lengths, the end mark alone among them."""
  draw = np.random.default_rng(seed)

  def side():
    words = [[1000 + i, *draw.integers(4, 30, draw.integers(0, most - 1))] for i in range(count)]
    return [np.array([*line, END], np.int32) for line in words]

  source, target = side(), side()
  target[3] = np.array([END], np.int32)
  return Tokens(source, target)


def batches_of(tokens, sharding=None, seed=0, batch_tokens=BATCH_TOKENS):
  return TokenBatches(tokens, batch_tokens=batch_tokens, lengths=LENGTHS, seed=seed, sharding=sharding)


def epoch(batches, number=0):
  first = number * batches.steps_per_epoch
  return [jax.device_get(batches[first + i]) for i in range(batches.steps_per_epoch)]


def stripped(row):
  return tuple(int(token) for token in row if token != PADDING)


def pairs_in(found):
  """(source, target) of every row that is no padding."""
  for batch in found:
    for source, labels in zip(batch.inputs[0], batch.labels, strict=True):
      if (source != PADDING).any() or (labels != PADDING).any():
        yield stripped(source), stripped(labels)


def same(one, other):
  for ours, theirs in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
    np.testing.assert_array_equal(ours, theirs)


def on(devices):
  mesh = jax.make_mesh((devices,), ('data',), axis_types=(AxisType.Auto,), devices=jax.devices()[:devices])
  return NamedSharding(mesh, PartitionSpec('data'))


class TestTraining:
  @pytest.mark.parametrize('number', [0, 1, 5])
  def test_every_sentence_is_seen_once_an_epoch(self, number):
    tokens = drawn()
    expected = [(tuple(source.tolist()), tuple(target.tolist())) for source, target in zip(*tokens, strict=True)]
    assert len(set(expected)) == COUNT
    assert Counter(pairs_in(epoch(batches_of(tokens), number))) == Counter(expected)

  def test_a_step_gives_the_same_batch_whatever_was_read_before(self):
    tokens = drawn()
    in_turn, other = batches_of(tokens), batches_of(tokens)
    steps = 3 * in_turn.steps_per_epoch
    forward = [jax.device_get(in_turn[step]) for step in range(steps)]
    for step in np.random.default_rng(1).permutation(steps):
      same(other[int(step)], forward[step])
      same(batches_of(tokens)[int(step)], forward[step])

  def test_another_epoch_and_another_seed_have_another_order(self):
    tokens = drawn()
    orders = {tuple(pairs_in(epoch(batches_of(tokens), number))) for number in range(4)}
    orders |= {tuple(pairs_in(epoch(batches_of(tokens, seed=seed)))) for seed in (1, 2)}
    assert len(orders) == 6
    mates = {frozenset(pairs_in([batch])) for batch in epoch(batches_of(tokens), 0)}
    assert mates != {frozenset(pairs_in([batch])) for batch in epoch(batches_of(tokens), 1)}
    lengths = [[batch.labels.shape[1] for batch in epoch(batches_of(tokens), number)] for number in (0, 1)]
    assert lengths[0] != lengths[1] and lengths[0] != sorted(lengths[0])

  def test_shapes_are_those_of_the_lengths_and_each_pair_lies_in_its_own(self):
    found = epoch(batches_of(drawn()))
    assert {batch.labels.shape for batch in found} == {(8, 4), (4, 8), (2, 12)}
    for batch in found:
      rows, length = batch.labels.shape
      assert batch.inputs[0].shape == batch.inputs[1].shape == (rows, length)
      assert rows == BATCH_TOKENS // length
      assert {leaf.dtype for leaf in jax.tree.leaves(batch)} == {np.dtype(np.int32)}
      for pair in pairs_in([batch]):
        assert min(fits for fits in LENGTHS if fits >= max(map(len, pair))) == length

  def test_no_more_rows_of_padding_than_fill_the_last_batch_of_each_length(self):
    tokens = drawn()
    found = epoch(batches_of(tokens))
    assert len(found) == batches_of(tokens).steps_per_epoch
    for length, before in zip(LENGTHS, (0, *LENGTHS), strict=False):
      count = int(((tokens.lengths() > before) & (tokens.lengths() <= length)).sum())
      rows = [len(list(pairs_in([batch]))) for batch in found if batch.labels.shape[1] == length]
      most = BATCH_TOKENS // length
      assert len(rows) == -(-count // most) and sum(rows) == count
      assert sorted(rows, reverse=True)[:-1] == [most] * (len(rows) - 1)

  def test_a_length_without_sentences_has_no_batch(self):
    tokens = drawn(most=4)
    assert {batch.labels.shape[1] for batch in epoch(batches_of(tokens))} == {4}

  @pytest.mark.parametrize('devices', [2, 8])
  def test_rows_are_a_multiple_of_the_devices_and_the_same_sentences_come(self, devices):
    tokens, sharding = drawn(), over_all_devices() if devices == 8 else on(devices)
    spread = batches_of(tokens, sharding, batch_tokens=100)
    found = [spread[i] for i in range(spread.steps_per_epoch)]
    for batch in found:
      rows, length = batch.labels.shape
      assert rows == 100 // length // devices * devices
      for leaf in jax.tree.leaves(batch):
        assert leaf.sharding == sharding
        assert {shard.data.shape for shard in leaf.addressable_shards} == {(rows // devices, length)}
    assert Counter(pairs_in(jax.device_get(found))) == Counter(pairs_in(epoch(batches_of(tokens))))
    assert spread.everywhere == NamedSharding(sharding.mesh, PartitionSpec())

  def test_the_same_batches_on_one_device_and_on_none(self):
    one, none = batches_of(drawn(), on(1)), batches_of(drawn())
    assert none.everywhere is None and one.steps_per_epoch == none.steps_per_epoch
    for step in range(one.steps_per_epoch):
      same(one[step], none[step])

  def test_a_blank_is_a_pair_of_one_token_each(self):
    source, target = batches_of(drawn(), over_all_devices(), batch_tokens=96).blank
    assert (source.tolist(), target.tolist()) == ([[END]], [[START]])
    assert source.dtype == target.dtype == jnp.int32 and len(source.devices()) == 1

  @pytest.mark.parametrize('devices, least', [(None, 12), (1, 12), (8, 96)])
  def test_a_batch_size_below_a_sentence_for_each_device_is_refused_in_one_line(self, devices, least):
    sharding = devices and on(devices)
    batches_of(drawn(), sharding, batch_tokens=least)
    for refusing in (
      lambda: batches_of(drawn(), sharding, batch_tokens=least - 1),
      lambda: list(evaluation_batches(drawn(), batch_tokens=least - 1, lengths=LENGTHS, sharding=sharding)),
    ):
      with pytest.raises(UserError) as caught:
        refusing()
      text = str(caught.value)
      assert text.startswith(f'--batch-size {least - 1} is less than a sentence of 12 tokens') and '\n' not in text

  def test_no_sentence_at_all_is_refused(self):
    with pytest.raises(UserError, match='--max-length'):
      batches_of(Tokens([], []))


class TestRows:
  def test_inputs_are_the_labels_after_a_start_mark(self):
    """Against a loop over rows and places; a row -1 is padding alone."""
    tokens = drawn()
    rows = np.array([5, -1, 3, 17])
    batch = buckets.padded(tokens, 12, rows)
    for i, row in enumerate(rows):
      source, target = ([], []) if row < 0 else (side[row].tolist() for side in tokens)
      for j in range(12):
        assert batch.inputs[0][i, j] == (source[j] if j < len(source) else PADDING)
        assert batch.labels[i, j] == (target[j] if j < len(target) else PADDING)
        before = START if j == 0 else target[j - 1] if j < len(target) else PADDING
        assert batch.inputs[1][i, j] == (before if j < len(target) else PADDING)
    assert batch.inputs[1][2].tolist() == [START] + [PADDING] * 11 and batch.labels[2, 0] == END


class TestEvaluation:
  @pytest.mark.parametrize('sharded', [False, True])
  def test_every_pair_once_and_the_mask_counts_the_tokens_of_the_target(self, sharded):
    tokens = drawn()
    spread = {'sharding': over_all_devices()} if sharded else {}
    found = list(evaluation_batches(tokens, batch_tokens=96, lengths=LENGTHS, **spread))
    assert Counter(pairs_in(jax.device_get([batch for batch, _ in found]))) == Counter(
      pairs_in(epoch(batches_of(tokens)))
    )
    assert sum(int(mask.sum()) for _, mask in found) == sum(map(len, tokens.target))
    for batch, mask in found:
      for labels, kept in zip(np.asarray(batch.labels), np.asarray(mask), strict=True):
        length = len(stripped(labels))
        assert kept.tolist() == [True] * length + [False] * (labels.size - length)

  def test_buckets_come_in_order_and_rows_within_them_too(self):
    tokens = drawn()
    found = list(buckets.in_order(tokens.lengths(), batch_tokens=BATCH_TOKENS, lengths=LENGTHS))
    assert [length for length, _ in found] == sorted(length for length, _ in found)
    for length in LENGTHS:
      rows = [int(row) for size, some in found if size == length for row in some if row >= 0]
      assert rows == sorted(rows)
    assert {len(rows) * length for length, rows in found} <= {32, 24}


class TestEncoding:
  PAIRS = Pairs(['a b c', 'a b', '', 'b a c d e'], ['c', 'a b c', 'a', 'a'])

  def test_numbers_end_with_the_mark_and_are_of_each_sides_vocabulary(self):
    found = encoded(self.PAIRS, KNOWN, 100)
    assert [line.tolist() for line in found.source] == [
      [4, 5, 6, END], [4, 5, END], [END], [5, 4, 6, 7, 8, END]
    ]  # fmt: skip
    assert [line.tolist() for line in found.target] == [[27, END], [29, 28, 27, END], [29, END], [29, END]]
    assert found.lengths().tolist() == [4, 4, 2, 6]

  def test_what_is_too_long_is_cut_and_keeps_its_end(self):
    found = encoded(self.PAIRS, KNOWN, 3)
    assert [line.tolist() for line in found.source] == [[4, 5, END], [4, 5, END], [END], [5, 4, END]]
    assert max(map(len, found.target)) == 3 and all(line[-1] == END for side in found for line in side)

  @pytest.mark.parametrize('most, kept', [(6, [0, 1, 2, 3]), (5, [0, 1, 2]), (4, [0, 1, 2]), (3, [2]), (1, [])])
  def test_within_drops_the_pairs_of_which_a_side_would_be_cut(self, most, kept):
    found, whole = within(self.PAIRS, KNOWN, most), encoded(self.PAIRS, KNOWN, 100)
    assert [[line.tolist() for line in side] for side in found] == [[side[i].tolist() for i in kept] for side in whole]


def padded_tokens(sizes, lengths):
  return sum(min(length for length in lengths if length >= size) for size in sizes.tolist())


class TestShapes:
  @pytest.mark.parametrize('count', [1, 2, 3, 4])
  @pytest.mark.parametrize('most', [24, 27])
  def test_no_others_in_fours_need_less_padding(self, count, most):
    """Against every choice of as many lengths or fewer."""
    draw = np.random.default_rng(count)
    for sizes in (draw.integers(2, most + 1, 50), 2 + draw.poisson(6, 50).clip(max=most - 2), np.full(9, 7)):
      found = shapes(sizes, count, most)
      assert len(found) <= count and found[-1] == most and list(found) == sorted(set(found))
      assert all(type(length) is int and length % 4 == 0 for length in found[:-1])
      choices = [some for k in range(count) for some in itertools.combinations(range(4, most, 4), k)]
      assert padded_tokens(sizes, found) == min(padded_tokens(sizes, (*some, most)) for some in choices)

  def test_as_few_as_serve(self):
    assert shapes(np.full(9, 7), 4, 30) == (8, 30)
    assert shapes(np.array([29, 30, 30]), 3, 30) == (30,)
    assert shapes(np.array([5]), 1, 30) == (30,)
    assert shapes(np.array([3, 4]), 9, 4) == (4,)
