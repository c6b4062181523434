"""Files of compressed models: their bytes, their size, and that a damaged one is refused."""

import dataclasses
import hashlib
import json
import os
import subprocess
import sys
import zlib

import hypothesis.extra.numpy as hnp
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import export
from safetensors import numpy as foreign

from lmajax import LMA, tree
from lmajax.compress import PackedTree, identity, masked, pack, uniform, unpack
from lmajax.compress import _pack as layout
from lmajax.compress._tensors import Blocks, Plain, Scalars, pack_bits, unpack_bits
from lmajax.models import cifar10_student
from tests import ROOT, oracles

REFUSED = 'not a model packed by lmajax, or a damaged one: '
ALL_BITS = st.integers(1, 8)
STATS = {'batch_stats': {'norm': {'mean': np.float32([0.5, 1.5])}}}


def scalars(shape, bits, bucket_size=256, levels=None, seed=0):
  """Any codes whatever, in buckets with any scales."""
  rng = np.random.default_rng(seed)
  count = int(np.prod(shape))
  size = min(bucket_size, count)
  low, span = rng.normal(size=(2, -(-count // size))).astype(np.float32)
  codes = rng.integers(0, 2**bits if levels is None else len(levels), count).astype(np.uint8)
  return Scalars(pack_bits(codes, bits), low, span, levels, shape, bits, size, False)


def blocks(shape, bits, block_size, centroids, seed=0):
  rng = np.random.default_rng(seed)
  count = shape[-1] * -(-int(np.prod(shape[:-1])) // block_size)
  codes = rng.integers(0, centroids, count).astype(np.uint8)
  return Blocks(pack_bits(codes, bits), rng.normal(size=(centroids, block_size)).astype(np.float32), shape, bits)


def gaussian(shape, bits):
  theta = {'kernel': jax.random.normal(jax.random.key(0), shape)}
  return uniform(bits).stored(theta, ())


def small():
  tensors = {'kernel': scalars((3, 5), 3, 4), 'embedding': blocks((5, 2), 2, 2, 3), 'bias': Plain(np.float32([1, 2]))}
  return PackedTree({'Dense_0': tensors}), STATS, {'classes': 2, 'act': 'lma'}


def assert_same(a, b):
  """Same structure, and every array of the same type, shape and bytes."""
  assert jax.tree.structure(a.packed.tensors) == jax.tree.structure(b[0].tensors)
  for one, other in zip(jax.tree.leaves(a.packed.tensors), jax.tree.leaves(b[0].tensors), strict=True):
    assert (type(one), one.fields()) == (type(other), other.fields())
    assert_same_arrays(one.arrays(), other.arrays())
  assert_same_arrays(a.stats, b[1])
  assert a.config == b[2]


def assert_same_arrays(a, b):
  assert jax.tree.structure(a) == jax.tree.structure(b)
  for one, other in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
    assert (one.dtype, one.shape, one.tobytes()) == (other.dtype, other.shape, np.asarray(other).tobytes())


class TestBits:
  @given(ALL_BITS.flatmap(lambda bits: st.tuples(st.just(bits), st.lists(st.integers(0, 2**bits - 1), max_size=40))))
  def test_equals_the_oracle_and_comes_back(self, drawn):
    bits, codes = drawn
    packed = pack_bits(np.array(codes, np.uint8), bits)
    assert packed.tolist() == oracles.pack_bits(codes, bits)
    assert packed.size == -(-len(codes) * bits // 8)
    assert unpack_bits(packed, bits, len(codes)).tolist() == codes == oracles.unpack_bits(packed, bits, len(codes))

  @pytest.mark.parametrize('bits', range(1, 9))
  def test_jax_reads_as_numpy_does(self, bits, strict_dtypes):
    packed = np.random.default_rng(bits).integers(0, 256, 11).astype(np.uint8)
    count = 88 // bits
    found = jax.jit(lambda packed: unpack_bits(packed, bits, count, jnp))(packed)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, unpack_bits(packed, bits, count))


def finite(dtype):
  """What a file takes of a type: weights are finite."""
  return hnp.from_dtype(np.dtype(dtype), allow_nan=False, allow_infinity=False)


def arrays_of(elements):
  """Of any type but bfloat16, with the elements that a type is given."""
  names = st.sampled_from([name for name in layout.DTYPES.values() if name != 'bfloat16'])
  shapes = hnp.array_shapes(min_dims=0, min_side=0, max_side=4)
  return names.flatmap(lambda name: hnp.arrays(name, shapes, elements=elements(name)))


class TestRoundTrip:
  @settings(deadline=None)
  @given(
    bits=ALL_BITS,
    shape=hnp.array_shapes(min_dims=0, max_dims=4, max_side=7),
    bucket_size=st.integers(1, 40),
    entropy=st.booleans(),
    seed=st.integers(0, 9),
  )
  def test_scalars_of_all_bits_shapes_and_tails(self, bits, shape, bucket_size, entropy, seed):
    given = PackedTree({'kernel': scalars(shape, bits, bucket_size, seed=seed)}), STATS, {}
    data = pack(*given, entropy=entropy)
    assert_same(unpack(data), given)
    assert pack(*unpack(data), entropy=entropy) == data
    np.testing.assert_array_equal(unpack(data).packed.decode()['kernel'], given[0].decode()['kernel'])

  @settings(deadline=None)
  @given(
    bits=ALL_BITS,
    shape=hnp.array_shapes(min_dims=1, max_dims=4, max_side=7),
    block_size=st.integers(1, 9),
    entropy=st.booleans(),
    data=st.data(),
  )
  def test_blocks_that_stick_out_and_tables_that_are_not_full(self, bits, shape, block_size, entropy, data):
    rows = data.draw(st.integers(1, 2**bits))
    levels = np.linspace(0, 1, rows, dtype=np.float32)
    tensors = {'a': blocks(shape, bits, block_size, rows), 'b': scalars(shape, bits, levels=levels)}
    given = PackedTree(tensors), {}, {}
    assert_same(unpack(pack(*given, entropy=entropy)), given)

  @settings(deadline=None)
  @given(
    arrays_of(finite),
    arrays_of(lambda name: None),
  )
  def test_plain_arrays_of_every_type_and_shape(self, array, state):
    given = (
      PackedTree({'a': Plain(array), 'b': Plain(np.full(array.shape, 1.5, jnp.bfloat16))}),
      {'state': {'x': state.T}},
      {},
    )
    assert_same(unpack(pack(*given)), given)

  @pytest.mark.parametrize('order', ['<', '>'])
  def test_of_any_byte_order(self, order):
    array = np.array([1.5, -2.0, 3e10], f'{order}f4')
    found = unpack(pack(PackedTree({'a': Plain(array)}), {'state': {'x': array}}, {}))
    np.testing.assert_array_equal(found.packed.decode()['a'], array)
    np.testing.assert_array_equal(found.stats['state']['x'], array)

  def test_of_arrays_on_a_device(self):
    stats = jax.tree.map(jnp.asarray, STATS)
    assert_same(unpack(pack(PackedTree({}), stats, {})), (PackedTree({}), STATS, {}))

  def test_config_comes_back_as_json_has_it(self):
    config = {'é': ('a', 1, None), 'rate': 1e-5, 'nested': {'10': True, '9': 'x'}}
    assert unpack(pack(PackedTree({}), {}, config)).config == {**config, 'é': ['a', 1, None]}
    numbered = {'names': {10: 'a', 9: 'b'}}
    assert unpack(pack(PackedTree({}), {}, numbered)).config == {'names': {'10': 'a', '9': 'b'}}

  def test_size_reported_is_the_size_on_disk(self, tmp_path):
    data = pack(*small())
    path = tmp_path / 'model.safetensors'
    path.write_bytes(data)
    assert path.stat().st_size == len(data)
    assert_same(unpack(path.read_bytes()), small())

  def test_a_foreign_reader_finds_the_tensors(self):
    found = foreign.load(pack(*small()))
    assert sorted(found) == [
      'batch_stats/norm/mean',
      'params/Dense_0/bias',
      'params/Dense_0/embedding:codebook',
      'params/Dense_0/embedding:codes',
      'params/Dense_0/kernel:codes',
      'params/Dense_0/kernel:scales',
    ]
    kernel = small()[0].tensors['Dense_0']['kernel']
    codes = oracles.unpack_bits(found['params/Dense_0/kernel:codes'], 3, 15)
    low, span = found['params/Dense_0/kernel:scales']
    expected = [low[i // 4] + span[i // 4] * code / 7 for i, code in enumerate(codes)]
    np.testing.assert_allclose(kernel.decode(), np.reshape(expected, (3, 5)), rtol=1e-6, atol=1e-6)

  def test_same_bytes_in_every_process(self):
    program = f'import hashlib, {__name__} as t; print(hashlib.sha256(t.pack(*t.small(), entropy=True)).hexdigest())'
    here = hashlib.sha256(pack(*small(), entropy=True)).hexdigest()
    for seed in '12':
      env = {**os.environ, 'PYTHONHASHSEED': seed}
      found = subprocess.run([sys.executable, '-c', program], env=env, cwd=ROOT, capture_output=True, text=True)
      assert found.stdout.strip() == here, found.stderr

  def test_order_of_keys_does_not_matter(self):
    packed, stats, config = small()
    turned = PackedTree({'Dense_0': dict(reversed(packed.tensors['Dense_0'].items()))})
    assert pack(turned, stats, dict(reversed(config.items()))) == pack(packed, stats, config)


class TestSizes:
  @pytest.mark.slow
  @pytest.mark.parametrize('student, bits, share', [(3, 4, 6), (1, 2, 11), (2, 2, 11)])
  def test_of_the_papers_students(self, student, bits, share):
    """Against the float32 numbers alone, without a header of theirs; all kernels quantized, first and last too."""
    model = cifar10_student(student, LMA)
    variables = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((2, 32, 32, 3)), train=True))
    rng = np.random.default_rng(0)
    stats = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(leaf.dtype), variables)
    params, reparam = stats.pop('params'), masked(uniform(bits))
    packed = reparam.stored(*reparam.init(params, jax.random.key(0)))
    config = {'model': 'cifar10_student', 'number': student, 'activation': 'lma', 'bits': bits, 'bucket_size': 256}
    data = pack(packed, stats, config)
    assert len(data) * share <= tree.nbytes(params) + tree.nbytes(stats)
    header = len(data) - packed.bits() // 8 - tree.nbytes(stats)
    assert header < 7_500
    assert pack(*unpack(data)) == data

  @pytest.mark.parametrize('bits, most', [(2, 0.28), (3, 0.07), (4, 0.04), (8, 0.04)])
  def test_entropy_coding_comes_near_the_entropy(self, bits, most):
    packed = gaussian((320, 300), bits)
    kernel = packed.tensors['kernel']
    shares = np.bincount(unpack_bits(kernel.codes, bits, kernel.count())) / kernel.count()
    entropy = -sum(share * np.log2(share) for share in shares if share)
    found = foreign.load(pack(packed, {}, {}, entropy=True))
    spent = 8 * found['params/kernel:huffman'].nbytes / kernel.count()
    assert entropy <= spent < entropy + most
    assert spent < bits

  def test_entropy_coding_is_left_where_it_is_longer(self):
    packed = gaussian((64, 64), 1)
    assert pack(packed, {}, {}, entropy=True) == pack(packed, {}, {})


class TestRefusesToPack:
  @pytest.mark.parametrize(
    'tensors, stats, config, line',
    [
      pytest.param({'a': {'b/c': Plain(np.zeros(1))}}, {}, {}, "params/a has the key 'b/c'", id='slash'),
      pytest.param({'a:b': Plain(np.zeros(1))}, {}, {}, "params has the key 'a:b'", id='colon'),
      pytest.param({'a': {1: Plain(np.zeros(1))}}, {}, {}, 'params/a has the key 1;', id='number as key'),
      pytest.param({'a': [Plain(np.zeros(1))]}, {}, {}, 'params/a is of type list', id='list'),
      pytest.param({'a': np.zeros(1)}, {}, {}, 'params/a is of type ndarray; .*stored', id='no tensor'),
      pytest.param({'a': None}, {}, {}, 'params/a is of type NoneType', id='none'),
      pytest.param({'a': {}}, {}, {}, 'params/a is an empty dict', id='empty dict'),
      pytest.param(Plain(np.zeros(1)), {}, {}, 'params is a Plain', id='bare'),
      pytest.param({'a': Plain(np.zeros(1, complex))}, {}, {}, 'params/a is of type complex128', id='complex'),
      pytest.param({'a': Plain(np.array(['x']))}, {}, {}, 'params/a is of type str', id='strings'),
      pytest.param({}, {'s': {'n': 1.0}}, {}, 's/n is of type float;', id='no array'),
      pytest.param({}, {'s': {'k': jax.random.key(0)}}, {}, 's/k is of type key', id='key'),
      pytest.param({}, {'s': np.zeros(1)}, {}, 's is a ndarray', id='collection'),
      pytest.param({}, {'s': {}}, {}, 's is an empty dict', id='empty collection'),
      pytest.param({}, [], {}, 'stats is a list', id='stats'),
      pytest.param({}, {'params': {'a': np.zeros(1)}}, {}, 'collection is called params', id='params twice'),
      pytest.param({}, {}, {'a': np.zeros(1)}, "config is not of JSON's types", id='array in config'),
      pytest.param({}, {}, {'a': float('nan')}, "config is not of JSON's types", id='nan in config'),
    ],
  )
  def test_with_one_line(self, tensors, stats, config, line):
    with pytest.raises(ValueError, match=line) as caught:
      pack(PackedTree(tensors), stats, config)
    assert '\n' not in str(caught.value)

  def test_without_the_library(self, monkeypatch):
    monkeypatch.setitem(sys.modules, 'safetensors', None)
    monkeypatch.setitem(sys.modules, 'safetensors.numpy', None)
    with pytest.raises(ImportError, match=r'pip install "lmajax\[pack\]"'):
      pack(PackedTree({}), {}, {})


def refused(data):
  with pytest.raises(ValueError) as caught:
    unpack(data)
  line = str(caught.value)
  assert line.startswith(REFUSED) and '\n' not in line, line
  return line


def forged(change, **arrays):
  """A file whose digest fits, though its contents do not: no accident, but somebody's hand."""
  entries, about = layout._read(pack(*small()))
  del about['sha256']
  entries = {**entries, **{name.replace('__', '/', 2).replace('__', ':'): array for name, array in arrays.items()}}
  change(entries, about)
  about['sha256'] = layout._digest(entries, about)
  return foreign.save(entries, {'lmajax': json.dumps(about)})


def set_field(name, value):
  return lambda entries, about: about['tensors']['params/Dense_0/kernel'].update({name: value})


def deflated(codes, strategy=zlib.Z_HUFFMAN_ONLY):
  coder = zlib.compressobj(9, zlib.DEFLATED, -15, 9, strategy)
  return np.frombuffer(coder.compress(bytes(codes)) + coder.flush(), np.uint8)


def huffman(coded):
  def change(entries, about):
    del about
    del entries['params/Dense_0/kernel:codes']
    entries['params/Dense_0/kernel:huffman'] = coded

  return change


class TestRefusesToRead:
  @pytest.mark.parametrize('flip', [0x01, 0x20, 0xFF])
  @pytest.mark.parametrize('entropy', [False, True])
  def test_no_changed_byte_gives_other_numbers(self, flip, entropy):
    """Header, its length and its padding too: refused, or read as it was."""
    packed, stats, config = small()
    packed = PackedTree({'Dense_0': {**packed.tensors['Dense_0'], 'skewed': skewed()}})
    data = pack(packed, stats, config, entropy=entropy)
    assert (b'huffman' in data) == entropy
    read = 0
    for at in range(len(data)):
      changed = data[:at] + bytes([data[at] ^ flip]) + data[at + 1 :]
      try:
        found = unpack(changed)
      except ValueError as error:
        assert str(error).startswith(REFUSED), error
      else:
        assert_same(found, (packed, stats, config))
        read += 1
    assert read < 10

  def test_no_file_cut_short_or_made_longer(self):
    data = pack(*small())
    for length in range(len(data)):
      refused(data[:length])
    refused(data + b' ')
    refused(data + data)

  @pytest.mark.parametrize('data', [b'', b'PK\x03\x04' * 30, b'\x00' * 200, b'\xff' * 200, b'{}', b'text of some kind'])
  def test_what_is_no_safetensors(self, data):
    refused(data)

  def test_a_header_length_that_lies(self):
    data = pack(*small())
    length = int.from_bytes(data[:8], 'little')
    for lie in (0, 1, length - 8, length - 1, length + 1, length + 8, len(data), 2**40, 2**63, 2**64 - 1):
      refused(lie.to_bytes(8, 'little') + data[8:])

  @pytest.mark.parametrize(
    'metadata', [None, {'format': 'pt'}, {'lmajax': 'x'}, {'lmajax': '[]'}, {'lmajax': '{}'}, {'lmajax': '[' * 10**5}]
  )
  def test_files_of_others(self, metadata):
    refused(foreign.save({'weight': np.zeros((2, 2), np.float32)}, metadata))

  @given(st.binary(max_size=60))
  def test_any_bytes_at_all(self, data):
    refused(data)
    refused(len(data).to_bytes(8, 'little') + data)

  @pytest.mark.parametrize('version', [0, 2, None, '1'])
  def test_another_version(self, version):
    assert 'version' in refused(forged(lambda entries, about: about.update(version=version)))

  def test_what_its_digest_does_not_fit(self):
    entries, about = layout._read(pack(*small()))
    name = 'params/Dense_0/bias'
    for change in (
      {name: entries[name] + 1},
      {name: entries[name].reshape(1, 2)},
      {name: entries[name].view(np.int32)},
    ):
      line = refused(foreign.save({**entries, **change}, {'lmajax': json.dumps(about)}))
      assert 'SHA-256' in line
    assert 'SHA-256' in refused(foreign.save(entries, {'lmajax': json.dumps({**about, 'config': {}})}))

  def test_a_forged_file_is_read_where_it_fits(self):
    """So that the refusals below are for what they name."""
    assert_same(unpack(forged(lambda entries, about: None)), small())
    codes = unpack_bits(small()[0].tensors['Dense_0']['kernel'].codes, 3, 15)
    assert_same(unpack(forged(huffman(deflated(codes)))), small())

  @pytest.mark.parametrize(
    'name, value',
    [
      ('shape', [3, 6]),
      ('shape', [-3, -5]),
      ('shape', [2**62, 2**62]),
      ('shape', [0, 5]),
      ('shape', [3.0, 5]),
      ('shape', ['3', 5]),
      ('shape', [[3, 5]]),
      ('shape', 15),
      ('shape', None),
      ('bits', 4),
      ('bits', 0),
      ('bits', -3),
      ('bits', 10**9),
      ('bits', True),
      ('bits', '3'),
      ('bucket_size', 5),
      ('bucket_size', 0),
      ('bucket_size', 10**12),
      ('bucket_size', None),
      ('channels_first', 'no'),
      ('kind', 'blocks'),
      ('kind', 'plain'),
      ('kind', None),
      ('kind', []),
      ('codes', 'x'),
    ],
  )
  def test_fields_that_do_not_fit_their_arrays(self, name, value):
    refused(forged(set_field(name, value)))

  def test_levels_in_rows(self):
    """As many as there are codes, and each would be a row of the tensor."""
    with pytest.raises(ValueError, match='levels of the shape'):
      dataclasses.replace(skewed(), levels=np.zeros((8, 2), np.float32))

  @pytest.mark.parametrize('bucket_size', [161, 10**12])
  def test_a_bucket_larger_than_its_tensor(self, bucket_size):
    """Its filling would be allocated."""
    with pytest.raises(ValueError, match='buckets of'):
      dataclasses.replace(skewed(), bucket_size=bucket_size)

  @pytest.mark.parametrize(
    'coded',
    [
      pytest.param(deflated([1] * 14), id='too few'),
      pytest.param(deflated([1] * 16), id='too many'),
      pytest.param(deflated([8] * 15), id='not of 3 bits'),
      pytest.param(deflated([1] * 15)[:-1], id='cut off'),
      pytest.param(np.append(deflated([1] * 15), np.uint8(0)), id='something behind'),
      pytest.param(deflated([1] * 10**7, zlib.Z_DEFAULT_STRATEGY), id='bomb'),
      pytest.param(np.uint8([255] * 9), id='noise'),
      pytest.param(np.uint8([]), id='nothing'),
    ],
  )
  def test_huffman_codes_that_do_not_fit(self, coded):
    refused(forged(huffman(coded)))

  def test_names_that_make_no_tree(self):
    zero = np.zeros(1, np.float32)
    for name in (
      'params',
      'loose',
      'params/Dense_0',
      'params/Dense_0/bias/x',
      'params/Dense_0/kernel:more',
      'a/b:codes',
    ):
      refused(forged(lambda entries, about, name=name: entries.update({name: zero})))
    refused(forged(lambda entries, about: about['tensors'].update({'params/none': {'kind': 'scalars'}})))
    refused(forged(lambda entries, about: about.update(more=1)))
    refused(forged(lambda entries, about: about.update(tensors=[])))

  def test_codes_beyond_their_table(self):
    def change(entries, about):
      entries['params/Dense_0/embedding:codebook'] = entries['params/Dense_0/embedding:codebook'][:1]

    refused(forged(change))


def skewed():
  """A tensor that Huffman makes shorter."""
  codes = np.array([0] * 150 + [5] * 10, np.uint8)
  return Scalars(pack_bits(codes, 3), np.float32([0]), np.float32([1]), None, (160,), 3, 160, False)


class TestDecodeInAProgram:
  TREES = (
    ('scalars', lambda: gaussian((64, 48), 4)),
    ('channels', lambda: uniform(3, bucket_size='channel').stored({'k': jnp.arange(180.0).reshape(3, 3, 4, 5)}, ())),
    ('levels', lambda: PackedTree({'k': scalars((7, 9), 2, 10, np.float32([0, 0.2, 1]))})),
    ('blocks', lambda: PackedTree({'k': blocks((5, 5, 3), 3, 4, 7), 'b': Plain(np.float32([1, 2]))})),
  )

  @pytest.mark.parametrize('make', [pytest.param(make, id=name) for name, make in TREES])
  def test_equals_numpy(self, make, strict_dtypes):
    packed = make()
    found = jax.jit(lambda: packed.decode(jnp))()
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6), found, packed.decode())

  def test_holds_the_weights_packed(self):
    packed = gaussian((256, 192), 4)
    program = jax.jit(lambda: packed.decode(jnp)['kernel'])
    codes = packed.tensors['kernel'].codes
    text = program.lower().as_text()
    assert f'dense<"0x{codes.tobytes().hex().upper()}"> : tensor<{codes.size}xui8>' in text
    weights = packed.decode()['kernel']
    serialized = export.export(program)().mlir_module_serialized
    assert codes.tobytes() in serialized
    assert weights.tobytes() not in serialized
    assert len(serialized) < weights.nbytes / 4

  def test_weights_as_they_are_would_be_found(self):
    """What the test above looks for is there in a program that holds floats."""
    packed = identity().stored({'kernel': gaussian((64, 48), 4).decode()['kernel']}, ())
    serialized = export.export(jax.jit(lambda: packed.decode(jnp)['kernel']))().mlir_module_serialized
    assert packed.decode()['kernel'].tobytes() in serialized
