"""A whole compressed model as the bytes of one file, and back."""

import hashlib
import json
import zlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from lmajax import tree
from lmajax.compress._generated import Generated
from lmajax.compress._sparse import Sparse
from lmajax.compress._tensors import Blocks, PackedTree, Plain, Scalars, Tensor, pack_bits, unpack_bits
from lmajax.types import ModelStats, Packed

VERSION = 1
KINDS: dict[str, type[Tensor]] = {'scalars': Scalars, 'blocks': Blocks, 'generated': Generated, 'sparse': Sparse}
SHARED = 'shared'  # with a part behind it, as in shared:0:left, where no path has a colon
DTYPES = {
  'BOOL': 'bool',
  'U8': 'uint8',
  'I8': 'int8',
  'U16': 'uint16',
  'I16': 'int16',
  'U32': 'uint32',
  'I32': 'int32',
  'U64': 'uint64',
  'I64': 'int64',
  'F16': 'float16',
  'BF16': 'bfloat16',
  'F32': 'float32',
  'F64': 'float64',
}


class PackedModel(NamedTuple):
  """Content of a file: the tree of tensors, the model's state collections, and the config.

  >>> PackedModel(PackedTree({}), {}, {'widths': [8]}).config
  {'widths': [8]}
  """

  packed: Packed
  stats: ModelStats
  config: dict[str, Any]


def pack(packed: Packed, stats: ModelStats, config: dict[str, Any], *, entropy: bool = False) -> bytes:
  """Lays a compressed model out as the bytes of one safetensors file; their number is the model's size.

  The same model gives the same bytes in every process. The weights that were not quantized are leaves of ``packed``
  already. A tensor is named by its path, ``params/…`` or a state collection's name first, and the parts of a quantized
  one by ``:codes`` and the like behind it; what several tensors share lies there once, as ``shared:0:left``, and their
  fields have the number. The header has one metadata key, ``lmajax``: JSON of the config, the
  quantized tensors' fields, the format's version, and the SHA-256 of all that and of every name, type, shape and byte.

  Args:
    packed: what ``Reparam.stored`` gives, over nested dicts.
    stats: state collections such as ``batch_stats``: nested dicts of arrays.
    config: what builds the model, of JSON's types; tuples come back as lists.
    entropy: code each tensor's codes by Huffman where that is smaller. Of 96,000 normal weights in buckets of 256 a
      code of 4 bits comes to 3.54, and its entropy is 3.51; of 2 bits to 1.64 and 1.38, since none is shorter than a
      bit. The bytes may differ with another build of zlib.

  Raises:
    ValueError: a key that is no string or has ``/`` or ``:``, what is no array, a type that the format lacks, weights
      that are not finite, or a config that is not JSON; the line says where.
    ImportError: safetensors is not installed.

  >>> data = pack(PackedTree({'bias': Plain(np.zeros(2, np.float32))}), {}, {'classes': 2})
  >>> unpack(data).packed.decode(), unpack(data).config
  ({'bias': array([0., 0.], dtype=float32)}, {'classes': 2})

  Source: the safetensors format; Deflate's Huffman-only strategy (RFC 1951) for the entropy coding. The layout of
  names and metadata is a choice.
  """
  arrays, fields = _parts(packed, entropy)
  if isinstance(stats, dict) and 'params' in stats:
    raise ValueError("a state collection is called params; that name is the parameters'")
  arrays |= {path: _checked(path, leaf) for path, leaf in _leaves(stats, '')}
  about = _json({'version': VERSION, 'config': config, 'tensors': fields})
  about['sha256'] = _digest(arrays, about)
  text = json.dumps(about, sort_keys=True, separators=(',', ':'))
  return _safetensors().numpy.save(arrays, {'lmajax': text})


def unpack(data: bytes) -> PackedModel:
  """Reads what ``pack`` wrote, after its SHA-256; ``pack(*unpack(data))`` gives the bytes again.

  Nothing is executed, and what is allocated is bounded by the file's size. ``decode`` allocates what the shapes say: a
  codebook's few bytes can stand for any number of weights, so compare the shapes before it where a file is not trusted.

  Raises:
    ValueError: the bytes are no such file, or not all of it, or altered, or of another version.
    ImportError: safetensors is not installed.

  >>> unpack(b'')
  Traceback (most recent call last):
  ValueError: not a model packed by lmajax, or a damaged one: ...

  Source: as ``pack``.
  """
  arrays, about = _read(data)
  if about.get('version') != VERSION:
    raise _damaged(f'its format has version {about.get("version")}, and this is read: {VERSION}')
  if about.pop('sha256', None) != _digest(arrays, about):
    raise _damaged('its SHA-256 does not fit its contents')
  parts: dict[str, dict[str, np.ndarray]] = {}
  for name, array in arrays.items():
    path, _, part = name.partition(':')
    parts.setdefault(path, {})[part] = array
  shared: dict[str, dict[str, np.ndarray]] = {}
  for name, array in parts.pop(SHARED, {}).items():
    number, _, part = name.partition(':')
    shared.setdefault(number, {})[part] = array
  fields = about.get('tensors')
  if set(about) != {'version', 'config', 'tensors'} or not isinstance(fields, dict) or not set(fields) <= set(parts):
    raise _damaged('its metadata does not fit its tensors')
  leaves = {path: _leaf(path, fields.get(path), each, shared) for path, each in parts.items()}
  if unused := set(shared) - {str(about.get(SHARED)) for about in fields.values()}:
    raise _damaged(f'no tensor is made of what it has under {SHARED}:{min(unused)}')
  if alone := [path for path in leaves if '/' not in path]:
    raise _damaged(f'{alone[0]} is no place of its own in a tree')
  try:
    collections = tree.nested(leaves)
  except ValueError as error:
    raise _damaged(str(error)) from error
  return PackedModel(PackedTree(collections.pop('params', {})), collections, about['config'])


def _parts(packed: Packed, entropy: bool) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
  arrays, fields, groups = {}, {}, {}
  for path, tensor in _leaves(packed.tensors, 'params'):
    kind = next((name for name, cls in KINDS.items() if isinstance(tensor, cls)), None)
    if kind:
      fields[path] = {'kind': kind, **tensor.fields()}
      parts = _huffman(tensor) if entropy else tensor.arrays()
      arrays |= {f'{path}:{part}': _checked(path, array) for part, array in parts.items()}
      if shared := tensor.shared():
        number = groups.setdefault(tuple(map(id, shared.values())), len(groups))
        fields[path][SHARED] = number
        arrays |= {f'{SHARED}:{number}:{part}': _checked(path, array) for part, array in shared.items()}
    elif isinstance(tensor, Plain):
      arrays[path] = _checked(path, tensor.array)
    else:
      raise ValueError(f'{path} is of type {type(tensor).__name__}; a file takes the tensors that Reparam.stored gives')
  return arrays, fields


def _leaves(tree: Any, path: str) -> Iterator[tuple[str, Any]]:
  if isinstance(tree, dict) and (tree or path in ('', 'params')):
    for key, branch in tree.items():
      if not isinstance(key, str) or '/' in key or ':' in key:
        raise ValueError(f'{path or "stats"} has the key {key!r}; a file takes strings without / and :')
      yield from _leaves(branch, f'{path}/{key}' if path else key)
  elif isinstance(tree, dict) or '/' not in path:
    what = 'an empty dict' if isinstance(tree, dict) else f'a {type(tree).__name__}'
    raise ValueError(f'{path or "stats"} is {what}; a file takes nested dicts with arrays at their ends')
  else:
    yield path, tree


def _checked(path: str, leaf: Any) -> np.ndarray:
  name = getattr(getattr(leaf, 'dtype', None), 'name', None)
  if name not in DTYPES.values():
    what = type(leaf).__name__ if name is None else name
    raise ValueError(f'{path} is of type {what}; a file takes arrays of {", ".join(DTYPES.values())}')
  array = np.asarray(leaf, order='C')
  if path.startswith('params') and jnp.issubdtype(array.dtype, np.floating) and not np.isfinite(array).all():
    raise ValueError(f'{path} holds NaN or infinity; a file takes finite weights')
  return array.astype(array.dtype.newbyteorder('<'), copy=False)


def _json(about: dict[str, Any]) -> dict[str, Any]:
  try:
    return json.loads(json.dumps(about, allow_nan=False))
  except (TypeError, ValueError, RecursionError) as error:
    raise ValueError(f"the config is not of JSON's types: {error}") from error


def _digest(arrays: dict[str, np.ndarray], about: dict[str, Any]) -> str:
  shapes = [(name, array.dtype.name, array.shape) for name, array in sorted(arrays.items())]
  digest = hashlib.sha256(json.dumps([about, shapes], sort_keys=True).encode())
  for name in sorted(arrays):
    digest.update(arrays[name].tobytes())
  return digest.hexdigest()


def _huffman(tensor: Any) -> dict[str, np.ndarray]:
  """The arrays, with the codes, if it has some, under another name where Huffman's code of them is shorter."""
  arrays = tensor.arrays()
  if 'codes' not in arrays:
    return arrays
  coder = zlib.compressobj(9, zlib.DEFLATED, -15, 9, zlib.Z_HUFFMAN_ONLY)
  coded = coder.compress(unpack_bits(tensor.codes, tensor.bits, tensor.count()).tobytes()) + coder.flush()
  if len(coded) < arrays['codes'].nbytes:
    del arrays['codes']
    arrays['huffman'] = np.frombuffer(coded, np.uint8)
  return arrays


def _unhuffman(coded: np.ndarray, bits: int) -> np.ndarray:
  """Codes, one a byte. Each took a bit at least, so that no more than 8 for a byte are ours."""
  decoder = zlib.decompressobj(-15)
  codes = np.frombuffer(decoder.decompress(coded.tobytes(), 8 * coded.size), np.uint8)
  if not decoder.eof or decoder.unused_data:
    raise ValueError('its Huffman code does not end where it should')
  if bits not in range(1, 9) or codes.max(initial=0) >= 2**bits:
    raise ValueError(f'its codes are not of {bits} bits')
  return codes


def _coded(kind: str, fields: dict[str, Any], parts: dict[str, np.ndarray], shared: dict[str, np.ndarray]) -> Tensor:
  codes = None
  if 'huffman' in parts:
    codes = _unhuffman(parts['huffman'], fields['bits'])
    parts = {**parts, 'codes': pack_bits(codes, fields['bits'])}
    del parts['huffman']
  tensor: Any = KINDS[kind].of_file(fields, {**parts, **shared})
  own = (tensor.fields(), tensor.arrays(), tensor.shared())
  if list(map(set, own)) != list(map(set, (fields, parts, shared))):
    raise ValueError(f'it has the fields {sorted(fields)} and the arrays {sorted([*parts, *shared])}')
  if codes is not None and codes.size != tensor.count():
    raise ValueError(f'it has {codes.size} codes for {tensor.count()} places')
  return tensor


def _leaf(path: str, about: Any, parts: dict[str, np.ndarray], shared: dict[str, dict[str, np.ndarray]]) -> Any:
  in_params = path.startswith('params/')
  if about is None and set(parts) == {''}:
    return Plain(parts['']) if in_params else parts['']
  if not in_params or not isinstance(about, dict) or about.get('kind') not in [*KINDS]:
    raise _damaged(f'{path} is of no known kind')
  fields = {name: value for name, value in about.items() if name not in ('kind', SHARED)}
  try:
    return _coded(about['kind'], fields, parts, shared[str(about[SHARED])] if SHARED in about else {})
  except (KeyError, TypeError, ValueError, zlib.error) as error:
    raise _damaged(f'the fields and the arrays of {path} do not fit together') from error


def _read(data: bytes) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
  safetensors = _safetensors()
  try:
    entries = safetensors.deserialize(data)
  except safetensors.SafetensorError as error:
    raise _damaged(str(error)) from error
  header = json.loads(data[8 : 8 + int.from_bytes(data[:8], 'little')])
  try:
    about = json.loads((header.get('__metadata__') or {})['lmajax'])
  except (KeyError, ValueError, RecursionError) as error:
    raise _damaged('its metadata has no JSON under the key lmajax') from error
  types = sorted({entry['dtype'] for _, entry in entries} - set(DTYPES))
  if not isinstance(about, dict) or types:
    raise _damaged(f'it has arrays of {types}' if types else 'its metadata is no JSON object')
  return {name: _array(entry) for name, entry in entries}, about


def _array(entry: dict[str, Any]) -> np.ndarray:
  return np.frombuffer(entry['data'], jnp.dtype(DTYPES[entry['dtype']])).reshape(entry['shape'])


def _damaged(why: str) -> ValueError:
  return ValueError(f'not a model packed by lmajax, or a damaged one: {why}')


def _safetensors() -> Any:
  try:
    import safetensors.numpy
  except ImportError as error:
    raise ImportError('model files need safetensors: pip install "lmajax[pack]"') from error
  return safetensors
