"""The kind of tensor that is mostly zeros: its layout in a file, in a program, and foreign files."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmajax.compress import PackedTree, pack, unpack
from lmajax.compress._sparse import Sparse, scalars
from lmajax.compress._tensors import Plain
from tests import oracles

W = np.random.default_rng(0).normal(size=(6, 9)).astype(np.float32)
MASK = np.random.default_rng(1).random((6, 9)) < 0.3


def plain(mask=MASK, dtype='float32'):
  return Sparse.of(mask, Plain(W.astype(jnp.dtype(dtype))[mask]), dtype)


def coded(mask=MASK):
  return Sparse.of(mask, scalars(W[mask], 3, 4), 'float32')


TENSORS = {
  'as they are': plain,
  'codes': coded,
  'most stay': lambda: plain(~MASK),
  'all stay': lambda: coded(MASK | True),
  'none stays': lambda: plain(MASK & False),
  'bfloat16': lambda: plain(dtype='bfloat16'),
}


@pytest.mark.parametrize('make', TENSORS.values(), ids=TENSORS)
class TestEveryKind:
  def test_equals_numpy_in_a_program(self, make, strict_dtypes):
    tensor = make()
    found = jax.jit(lambda: tensor.decode(jnp))()
    assert found.dtype == tensor.decode().dtype
    np.testing.assert_allclose(np.asarray(found, np.float32), tensor.decode().astype(np.float32), rtol=1e-6, atol=1e-6)

  @pytest.mark.parametrize('entropy', [False, True])
  def test_comes_back_from_a_file(self, make, entropy):
    tensor = make()
    data = pack(PackedTree({'kernel': tensor}), {}, {}, entropy=entropy)
    again = unpack(data).packed.tensors['kernel']
    assert again.decode().tobytes() == tensor.decode().tobytes()
    assert again.fields() == json.loads(json.dumps(tensor.fields())) | {'shape': (6, 9)}
    assert pack(*unpack(data), entropy=entropy) == data
    assert again.count() == tensor.mask().sum()


@given(st.lists(st.booleans(), min_size=1, max_size=30))
def test_places_are_those_of_the_mask(flags):
  mask = np.array(flags, bool)
  tensor = Sparse.of(mask, Plain(np.arange(1, 1 + mask.sum(), dtype=np.float32)), 'float32')
  assert tensor.mask().tolist() == flags
  assert tensor.decode()[mask].tolist() == list(range(1, 1 + mask.sum()))
  coded = np.flatnonzero(~mask if 2 * mask.sum() > mask.size else mask)
  between = [int(b - a - 1) for a, b in zip([-1, *coded], coded, strict=False)]
  assert tensor.gaps.tolist() == oracles.golomb(between, tensor.rice)


@pytest.mark.parametrize('density', [0.01, 0.1, 0.3, 0.8])
def test_places_take_little_more_than_their_entropy(density):
  mask = np.random.default_rng(2).random(20_000) < density
  found = Sparse.of(mask, Plain(np.zeros(mask.sum(), np.float32)), 'float32')
  share = mask.mean()
  entropy = -mask.size * (share * np.log2(share) + (1 - share) * np.log2(1 - share))
  assert entropy - 8 <= 8 * found.gaps.size <= 1.05 * entropy + 8


def test_what_stays_and_what_goes_costs_nothing_where_all_are_alike():
  assert plain(MASK | True).gaps.size == plain(MASK & False).gaps.size == 0
  assert PackedTree({'w': plain(MASK & False)}).bits() == 0


@pytest.mark.parametrize('bits, bucket_size', [(1, 4), (3, 4), (8, 256), (4, 1)])
def test_scalars_equal_the_oracle_of_uniform(bits, bucket_size):
  values = W.reshape(-1)[:50]
  found = scalars(values, bits, bucket_size).decode()
  np.testing.assert_allclose(found, oracles.uniform(values, bits, bucket_size=bucket_size), atol=1e-6)


CHANGES = [
  {'rice': -1},
  {'rice': 31},
  {'rice': True},
  {'rice': 3},
  {'inverted': True},
  {'shape': (6, 2)},
  {'shape': (1, 1)},
  {'shape': (6, 0)},
  {'shape': (6, -9)},
  {'shape': (2**40, 2**40)},
  {'shape': ()},
  {'dtype': 'int8'},
  {'gaps': np.zeros(3, np.uint8)},
  {'gaps': np.zeros(3, np.int8)},
  {'gaps': np.zeros((3, 1), np.uint8)},
  {'values': Plain(np.zeros(3, np.float32))},
  {'values': Plain(np.zeros((4, 4), np.float32))},
  {'values': Plain(np.zeros(100, np.float32))},
  {'values': Plain(np.zeros(MASK.sum(), np.int32))},
]


@pytest.mark.parametrize('change', CHANGES, ids=str)
def test_foreign_fields_are_refused_in_one_line(change):
  with pytest.raises(ValueError) as error:
    dataclasses.replace(plain(), **change)
  assert '\n' not in str(error.value)


@pytest.mark.parametrize('name, value', [('rice', 1.0), ('inverted', 1), ('dtype', ['float32']), ('kept', 2.0)])
def test_foreign_types_are_refused(name, value):
  tensor = coded()
  with pytest.raises((TypeError, ValueError)):  # the first from the checks of annotations, which run in tests alone
    Sparse.of_file(tensor.fields() | {name: value}, tensor.arrays())


@pytest.mark.parametrize('change', [{'kept': 1}, {'kept': -1}, {'bits': 4}, {'bucket_size': 0}], ids=str)
def test_foreign_fields_of_codes_are_refused(change):
  tensor = coded()
  with pytest.raises(ValueError):
    Sparse.of_file(tensor.fields() | change, tensor.arrays())


def test_spoilt_gaps_are_read_or_refused():
  gaps = plain().gaps
  for i, bit in np.ndindex(gaps.size, 8):
    spoilt = gaps.copy()
    spoilt[i] ^= 1 << bit
    try:
      tensor = dataclasses.replace(plain(), gaps=spoilt)
    except ValueError as error:
      assert '\n' not in str(error)
    else:
      assert tensor.mask().sum() == MASK.sum()
