"""Weights as a stream that may end anywhere, the largest first."""

import json
import math
import struct
import zlib
from typing import Any, Literal, NamedTuple

import jax.numpy as jnp
import numpy as np

from lmajax import tree
from lmajax._arguments import as_given, check_count, check_floats, is_between
from lmajax.compress._golomb import best_rice, gaps, golomb, numbers, places
from lmajax.compress._tensors import DECODED
from lmajax.types import Params

MAGIC, VERSION = b'LMAs', 1
PRELUDE = struct.Struct('<4sBIHI')  # magic, version, bytes of JSON, passes, CRC-32 of the header but for itself
PASS = np.dtype([('number', '<u2'), ('rice', 'u1'), ('count', '<u4'), ('size', '<u4'), ('crc', '<u4')])
STEPS = 0.3, 0.99


class Leaf(NamedTuple):
  path: str
  shape: tuple[int, ...]
  dtype: str
  scale: float


class Header(NamedTuple):
  leaves: list[Leaf]
  top: float  # the largest weight over the scale of its leaf
  step: float
  passes: np.ndarray  # of PASS
  size: int  # of its bytes


def to_stream(
  params: Params, *, step: float = 0.7, density: float | None = None, norm: Literal['l1', 'l2'] | None = None
) -> bytes:
  r"""Sends the weights in passes under a falling threshold: every prefix of the bytes is a sparser network.

  .. math:: t_j = t_0 d^j, \qquad t_0 = \max_i \frac{|w_i|}{s_i}, \qquad
     \hat w_i = \mathrm{sign}(w_i)\, s_i\, t_j\, d^{-1/2} \quad\text{where}\quad t_j \le \frac{|w_i|}{s_i} < t_{j-1}

  Pass j has the places of its weights among those not sent yet, as gaps, and their signs, by Golomb's code of the best
  Rice parameter. With d of ¼ or more no value is above twice its weight, so that no weight that arrives makes the L1
  error larger.

  Args:
    params: a tree of weights, None where there are none; what is zero is never sent.
    step: d, 0.3 … 0.99. A smaller one has coarser values and fewer bits: the tenth of a small network's weights
      takes a fifth fewer bytes with 0.7 than with 0.9.
    density: share of the weights that are sent, exactly ``round(density * n)`` or all that are not zero. None: these.
    norm: s, that of each tensor, all its entries in one; None: 1, one threshold for all. Under a norm large layers
      starve (measured: accuracy .36 against .54 at a density of .05), so that it is not the default.

  Returns:
    Bytes, of a header of paths, shapes, types, scales and the table of passes, with a CRC-32 of each, and the passes.

  Raises:
    ValueError: an argument is out of range, a weight is no array of float32, float64, bfloat16 or float16 or not
      finite, or the smallest weight is more than 65,535 steps below the largest.

  >>> stream = to_stream({'kernel': np.float32([4., 0., -1., 2.])})
  >>> [(10 * from_stream(part)['kernel']).astype(int).tolist() for part in (stream, stream[:-1], stream[:-2])]
  [[33, 0, -11, 23], [33, 0, 0, 23], [33, 0, 0, 0]]

  Source: SuRP (Isik et al. 2022, "An Information-Theoretic Justification for Model Pruning", algorithm 1) as a sweep:
  theirs draws one index at a time above the threshold and lowers it a little after each; since nearly every kept weight
  is drawn once, a pass takes all of them, and needs no multiplicities. The largest weight joins the pass below it.
  """
  if not is_between(step, *STEPS):
    raise ValueError(f'step is {as_given(step)}; give a number between {STEPS[0]} and {STEPS[1]}')
  if density is not None and not is_between(density, 0.0, 1.0):
    raise ValueError(f'density is {as_given(density)}; give a share between 0 and 1, or None')
  if norm not in (None, 'l1', 'l2'):
    raise ValueError(f"norm is {as_given(norm)}; give 'l1', 'l2' or None")
  tree.map_with_path(check_floats, params)
  tree.check_finite(params)
  arrays = {path: np.asarray(leaf) for path, leaf in tree.by_path(tree.nested(params)).items()}
  for path, array in arrays.items():
    if array.dtype.name not in DECODED:
      raise ValueError(f'{path} is of {array.dtype.name}; give {", ".join(DECODED)}')
  leaves = [Leaf(path, w.shape, w.dtype.name, scale_of(w, norm)) for path, w in arrays.items()]
  flat = [arrays[leaf.path].reshape(-1).astype(np.float64) / leaf.scale for leaf in leaves]
  weights = np.concatenate([np.zeros(0), *flat])
  sizes = np.abs(weights)
  top = float(sizes.max(initial=0.0))
  most = int(np.count_nonzero(sizes))
  count = most if density is None else min(most, round(density * sizes.size))
  chosen = np.argsort(-sizes, kind='stable')[:count]
  number = pass_numbers(sizes[chosen], top, step)
  table, bodies, sent = [], [], np.zeros(0, np.int64)
  for each in np.unique(number).tolist():
    new = np.sort(chosen[number == each])
    symbols = 2 * gaps(new - np.searchsorted(sent, new)) + (weights[new] < 0)
    rice = best_rice(symbols, 1)
    body = golomb(symbols, rice).tobytes()
    table.append((each, rice, new.size, len(body), zlib.crc32(body)))
    bodies.append(body)
    sent = np.sort(np.concatenate([sent, new]))
  return b''.join([header_bytes(leaves, top, float(step), np.array(table, PASS)), *bodies])


def scale_of(w: np.ndarray, norm: str | None) -> float:
  sizes = np.abs(w.reshape(-1).astype(np.float64))
  most = float(sizes.max(initial=0.0))
  if norm is None or most == 0:
    return 1.0
  shares = sizes / most
  norm_of_shares = float(shares.sum() if norm == 'l1' else np.sqrt(np.square(shares).sum()))
  return min(most * norm_of_shares, float(np.finfo(np.float64).max))


def pass_numbers(sizes: np.ndarray, top: float, step: float) -> np.ndarray:
  """The first pass, from 1 on, whose threshold each size reaches."""
  if not sizes.size:
    return np.zeros(0, np.int64)
  last = math.ceil((math.log(float(sizes[-1])) - math.log(top)) / math.log(step)) + 1
  if last > np.iinfo(PASS['number']).max:
    raise ValueError(f'the smallest weight is {last} steps below the largest; give a smaller step or a density')
  thresholds = top * step ** np.arange(last + 1)
  return np.maximum(np.searchsorted(-thresholds, -sizes, side='left'), 1)


def header_bytes(leaves: list[Leaf], top: float, step: float, table: np.ndarray) -> bytes:
  text = json.dumps({'leaves': leaves, 'step': step, 'top': top}, separators=(',', ':')).encode()
  rest = text + table.tobytes()
  start = PRELUDE.pack(MAGIC, VERSION, len(text), len(table), 0)[:-4]
  return start + zlib.crc32(start + rest).to_bytes(4, 'little') + rest


def from_stream(stream: bytes, *, limit: int = 2**28) -> dict[str, Any]:
  """Makes the weights of ``to_stream``, or of as much of it as there is: a symbol that is cut through is dropped.

  Nothing is decoded in a program: one that is exported holds dense weights. A pass that is whole is checked by its
  CRC-32. Damage in the last one, where that is cut off, looks like other weights of that pass.

  Args:
    stream: bytes of ``to_stream``, all of them or a prefix that holds the header.
    limit: weights; a header that tells of more is refused before they are allocated.

  Returns:
    Nested dicts of NumPy arrays, by the paths of the tree that was sent.

  Raises:
    ValueError: the bytes are no such stream, end within its header, go on behind its end, or are damaged.

  >>> from_stream(b'LMAs')
  Traceback (most recent call last):
  ValueError: not a stream of weights, or a damaged one: it ends within its header

  Source: as ``to_stream``.
  """
  header = header_of(stream, limit)
  sent, amounts, at = np.zeros(0, np.int64), np.zeros(0), header.size
  total = sum(math.prod(leaf.shape) for leaf in header.leaves)
  for each in header.passes:
    number, rice, count, size, crc = each.item()
    body = stream[at : at + size]
    at += size
    if len(body) == size and zlib.crc32(body) != crc:
      raise damaged(f'its pass {number} does not fit its CRC-32')
    try:
      symbols = numbers(np.frombuffer(body, np.uint8), rice, count, cut=len(body) < size)
      ranks = places(symbols >> 1, total - sent.size)
    except ValueError as error:
      raise damaged(str(error)) from error
    # What was sent before a weight is as many as have no more unsent ones before them than its rank.
    new = ranks + np.searchsorted(sent - np.arange(sent.size), ranks, side='right')
    value = header.top * header.step ** (number - 0.5)
    order = np.argsort(np.concatenate([sent, new]), kind='stable')
    sent = np.concatenate([sent, new])[order]
    amounts = np.concatenate([amounts, np.where(symbols & 1, -value, value)])[order]
  if at < len(stream):
    raise damaged(f'it goes on for {len(stream) - at} bytes behind its end')
  found, start = {}, 0
  for leaf in header.leaves:
    end = start + math.prod(leaf.shape)
    first, last = np.searchsorted(sent, [start, end])
    w = np.zeros(end - start, jnp.dtype(leaf.dtype))
    w[sent[first:last] - start] = (amounts[first:last] * leaf.scale).astype(w.dtype)
    found[leaf.path], start = w.reshape(leaf.shape), end
  try:
    return tree.nested(found)
  except ValueError as error:
    raise damaged(str(error)) from error


def header_of(stream: bytes, limit: int) -> Header:
  """Reads and checks the header; what is allocated is bounded by its bytes."""
  check_count('limit', limit, 0)
  if len(stream) < PRELUDE.size:
    raise damaged('it ends within its header')
  magic, version, text_size, passes, crc = PRELUDE.unpack_from(stream)
  text_end = PRELUDE.size + text_size
  end = text_end + passes * PASS.itemsize
  if magic != MAGIC or version != VERSION:
    raise damaged(f'it starts as {magic!r} of version {version}, and this is read: {MAGIC!r} of {VERSION}')
  if len(stream) < end:
    raise damaged('it ends within its header')
  if zlib.crc32(stream[: PRELUDE.size - 4] + stream[PRELUDE.size : end]) != crc:
    raise damaged('its header does not fit its CRC-32')
  try:
    about = json.loads(stream[PRELUDE.size : text_end])
    leaves = [Leaf(path, tuple(shape), dtype, scale) for path, shape, dtype, scale in about['leaves']]
    header = Header(leaves, about['top'], about['step'], np.frombuffer(stream[text_end:end], PASS), end)
    check_header(header, limit)
  except (KeyError, TypeError, ValueError, RecursionError) as error:
    raise damaged(f'its header is none: {str(error).splitlines()[0]}') from error
  return header


def check_header(header: Header, limit: int) -> None:
  """Refuses what ``to_stream`` never writes, though the CRC fits."""
  if not is_between(header.step, *STEPS) or not is_between(header.top, 0.0, math.inf):
    raise ValueError(f'a step of {as_given(header.step)} from {as_given(header.top)}')
  for leaf in header.leaves:
    if type(leaf.path) is not str or leaf.dtype not in DECODED:
      raise ValueError('a leaf without a path or a type')
    if not all(type(size) is int and 0 <= size <= limit for size in leaf.shape):
      raise ValueError(f'{leaf.path} has not up to {limit} entries an axis')
    most = float(jnp.finfo(leaf.dtype).max)
    largest = header.top * leaf.scale * math.sqrt(header.step) if is_between(leaf.scale, 0.0, math.inf) else math.nan
    if not is_between(largest, 0.0, most):
      raise ValueError(f'{leaf.path} has weights of {as_given(leaf.scale)} times {header.top}')
  if len({leaf.path for leaf in header.leaves}) < len(header.leaves):
    raise ValueError('two leaves of one path')
  if (total := sum(math.prod(leaf.shape) for leaf in header.leaves)) > limit:
    raise ValueError(f'it tells of {total} weights, more than the limit of {limit}')
  if (np.diff(header.passes['number'].astype(np.int64), prepend=0) < 1).any():
    raise ValueError('its passes are not in order')


def damaged(why: str) -> ValueError:
  return ValueError(f'not a stream of weights, or a damaged one: {why}')
