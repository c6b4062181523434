"""Golomb's codes: what they are, that they come back, how short they are, and that foreign bytes are refused."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmajax.compress._golomb import LONGEST, MOST, best_rice, gaps, golomb, numbers, places
from tests import oracles

VALUES = st.lists(st.integers(0, 300), max_size=40)


@given(VALUES, st.integers(0, 9))
def test_equals_the_oracle_and_comes_back(values, rice):
  code = golomb(np.array(values, np.int64), rice)
  assert code.tolist() == oracles.golomb(values, rice)
  assert numbers(code, rice, len(values)).tolist() == values


def test_the_zeros_that_fill_the_last_byte_are_zeros():
  code = golomb(np.array([3]), 0)
  for spoilt in (code | 1, np.append(code, np.uint8(0))):
    with pytest.raises(ValueError, match='are no 1 numbers'):
      numbers(spoilt, 0, 1)


@given(VALUES, st.integers(0, 9), st.integers(0, 40))
def test_a_code_that_is_cut_off_gives_its_whole_numbers(values, rice, size):
  code = golomb(np.array(values, np.int64), rice)[:size]
  found = numbers(code, rice, len(values), cut=True).tolist()
  assert found == oracles.numbers(code, rice, len(values)) == values[: len(found)]


@given(st.binary(max_size=20), st.integers(0, MOST), st.integers(0, 200))
def test_any_bytes_are_read_or_refused(data, rice, count):
  code = np.frombuffer(data, np.uint8)
  slow = oracles.numbers(code, rice, count)
  assert numbers(code, rice, count, cut=True).tolist() == slow
  if len(slow) == count and oracles.golomb(slow, rice) == code.tolist():
    assert numbers(code, rice, count).tolist() == slow
  else:
    with pytest.raises(ValueError, match=r'bytes are no \d+ numbers'):
      numbers(code, rice, count)


@given(st.lists(st.integers(0, 2**20), max_size=20), st.integers(0, 3))
def test_the_best_parameter_gives_the_shortest_code(values, least):
  values = np.array(values, np.int64)
  best = best_rice(values, least)
  lengths = {rice: sum((int(value) >> rice) + 1 + rice for value in values) for rice in range(least, MOST + 1)}
  assert best == min(lengths, key=lambda rice: (lengths[rice], rice))


@pytest.mark.parametrize('density', [0.01, 0.02, 0.05, 0.1, 0.2, 0.35, 0.5])
def test_is_as_short_as_the_entropy_of_the_places(density):
  size = 20_000
  mask = np.random.default_rng(0).permutation(size) < density * size
  between = gaps(np.flatnonzero(mask))
  entropy = -size * (density * np.log2(density) + (1 - density) * np.log2(1 - density))
  assert entropy * 0.99 <= 8 * golomb(between, best_rice(between)).size <= 1.05 * entropy


@given(st.lists(st.booleans(), max_size=40))
def test_places_come_back_from_their_gaps(flags):
  at = np.flatnonzero(np.array(flags, bool))
  assert places(gaps(at), len(flags)).tolist() == at.tolist()
  if at.size:
    with pytest.raises(ValueError, match='places beyond a row'):
      places(gaps(at), int(at[-1]))


def test_gaps_that_leave_63_bits_are_beyond_any_row():
  with pytest.raises(ValueError, match='places beyond a row'):
    places(np.full(40, 2**60), 2**47)


@pytest.mark.parametrize('rice, count', [(-1, 1), (MOST + 1, 1), (0, -1), (0, 2**62), (MOST, 2**62)])
def test_arguments_of_a_foreign_file(rice, count):
  with pytest.raises(ValueError, match='1 bytes'):
    numbers(np.zeros(1, np.uint8), rice, count)


def test_more_bytes_than_are_read():
  with pytest.raises(ValueError, match='bytes for 1 numbers'):
    numbers(np.broadcast_to(np.uint8(0), LONGEST + 1), 0, 1)
