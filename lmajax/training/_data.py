"""Whatever holds the data of a training, as batches by the number of the step."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lmajax._arguments import check_count, shown
from lmajax.training._loop import Steps
from lmajax.training._placing import placed
from lmajax.training._task import Told
from lmajax.types import Batch

_KEYS = {'inputs', 'labels'}


class EndedError(ValueError):
  """An iterator has ended before the training has.

  >>> issubclass(EndedError, ValueError)
  True

  Source: not in the paper.
  """


class Examples(NamedTuple):
  """Examples by their numbers.

  Attributes:
    size: how many.
    take: rows -> the ``Batch`` of these examples, of NumPy arrays.
  """

  size: int
  take: Callable[[np.ndarray], Batch]


def examples_of(data: Any, what: str = 'data') -> Examples:
  """Reads examples out of what a user has: arrays, or what has a length and an example for each number.

  Args:
    data: a pair of inputs and labels, each an array (or inputs a tree of arrays, or labels None); a dictionary of
      ``inputs`` and ``labels``; or what has ``len`` and ``[i]``, where an example is a pair, such a dictionary, or an
      input without a label.
    what: the name of the argument, for messages.

  Raises:
    ValueError: it is none of these, or empty, or has not as many labels as inputs.

  >>> examples_of((np.ones((5, 4)), np.arange(5))).take(np.array([3, 1])).labels
  array([3, 1]...)

  Source: not in the paper.
  """
  if (isinstance(data, tuple) and len(data) == 2) or isinstance(data, Mapping):
    return _of_arrays(_pair(data, what), what)
  if not (hasattr(data, '__len__') and hasattr(data, '__getitem__')):
    raise ValueError(f'{what} is {shown(data)}: give a pair of arrays, or what has len and an example for each number')
  size = len(data)
  _check_some(size, what)
  if isinstance(data, list) and size == 2 and all(getattr(part, 'ndim', 0) and len(part) > 2 for part in data):
    raise ValueError(f'{what} is a list of {" and ".join(map(shown, data))}: give a tuple of inputs and labels')
  if hasattr(data, 'dtype'):
    return _of_arrays(Batch(data, None), what)

  def take(rows: np.ndarray) -> Batch:
    each = [_pair(data[int(row)], f'{what}[{row}]') for row in (rows if len(rows) else [0])]
    try:
      return jax.tree.map(lambda *leaves: _plain(np.stack(leaves))[: len(rows)], *each, is_leaf=_is_list)
    except ValueError as error:
      line = ' '.join(str(error).split())[:200]
      raise ValueError(f'{what} has examples that do not go into one batch ({line}): give them one shape') from error

  return Examples(size, take)


def _of_arrays(pair: Batch, what: str) -> Examples:
  arrays = jax.tree.map(lambda leaf: leaf if hasattr(leaf, 'dtype') else np.asarray(leaf), pair, is_leaf=_is_list)
  leaves = jax.tree.leaves(arrays)
  sizes = {leaf.shape[0] if leaf.ndim else 0 for leaf in leaves}
  if len(sizes) != 1:
    raise ValueError(f'{what} is of {", ".join(map(shown, leaves))}: give as many labels as inputs')
  size = sizes.pop()
  _check_some(size, what)
  return Examples(size, lambda rows: jax.tree.map(lambda leaf: _plain(np.asarray(leaf[rows])), arrays))


def _is_list(value: Any) -> bool:
  """A list of numbers is an array."""
  return isinstance(value, list)


def _check_some(size: int, what: str) -> None:
  if not size:
    raise ValueError(f'{what} is empty: give examples')


def _plain(array: np.ndarray) -> np.ndarray:
  """Narrows to JAX's own types: float32 for float64 unless 64 bits are enabled."""
  if array.dtype != bool and not jnp.issubdtype(array.dtype, np.number):
    raise ValueError(f'data has {array.dtype} values: give numbers, and class numbers as labels')
  return array.astype(jax.dtypes.canonicalize_dtype(array.dtype), copy=False)


def _pair(item: Any, what: str) -> Any:
  if hasattr(item, 'inputs') and hasattr(item, 'labels'):
    return item
  if isinstance(item, Mapping):
    if not {'inputs'} <= set(item) <= _KEYS:
      raise ValueError(f'{what} has {", ".join(map(str, item))}: name the columns inputs and labels, and no others')
    return Batch(item['inputs'], item.get('labels'))
  if isinstance(item, tuple | list):
    if len(item) != 2:
      raise ValueError(f'{what} has {len(item)} parts: give inputs and labels')
    return Batch(*item)
  return Batch(item, None)


class Shuffled:
  """Batches of examples, shuffled anew each epoch; an epoch's incomplete last batch is dropped."""

  def __init__(self, examples: Examples, *, batch_size: int, seed: int, said: Any, sharding: Any):
    check_count('batch_size', batch_size, 1)
    if batch_size > examples.size:
      raise ValueError(f'batch_size is {batch_size}, and there are {examples.size} examples: give 1 to {examples.size}')
    _check_spread(batch_size, sharding)
    if said is not None and len(said) != examples.size:
      raise ValueError(f'logits is {shown(said)}, and there are {examples.size} examples: give a row for each')
    self.steps_per_epoch = examples.size // batch_size
    self._examples, self._size, self._seed = examples, batch_size, seed
    self._said, self._sharding = said, sharding
    self.classes: int | None = None
    """How many, where labels are class numbers: those that are none are refused."""
    self._shuffled = -1, np.arange(0)

  def __getitem__(self, step: int) -> Any:
    epoch, position = divmod(step, self.steps_per_epoch)
    if self._shuffled[0] != epoch:
      self._shuffled = epoch, np.random.default_rng((self._seed, epoch)).permutation(self._examples.size)
    return placed(self._read, self._shuffled[1][position * self._size :][: self._size], self._sharding)

  def _read(self, rows: np.ndarray) -> Any:
    batch = self._examples.take(rows)
    check_classes(batch.labels, rows, self.classes)
    return batch if self._said is None else Told(*batch, np.asarray(self._said[rows]))


class Streamed:
  """Batches as an iterable gives them, one after another; going on at a later step reads all before it."""

  def __init__(self, data: Iterable[Any], *, steps_per_epoch: int, sharding: Any):
    check_count('steps_per_epoch', steps_per_epoch, 1)
    self.steps_per_epoch = steps_per_epoch
    self._data, self._given, self._sharding = data, iter(data), sharding
    self._held: Any = None
    self._next = 0

  def __getitem__(self, step: int) -> Any:
    while self._next <= step:
      self._held = self._one()
      self._next += 1
    if step != self._next - 1:
      raise ValueError(f'data is an iterator, and batch {step} is gone: it gives {self._next} next')
    return _spread(_pair(self._held, f'batch {step}'), self._sharding)

  def _one(self) -> Any:
    try:
      return next(self._given)
    except StopIteration:
      if self._given is self._data or not self._next:
        raise EndedError(f'data ended after {self._next} batches: give more, or train fewer epochs') from None
      self._given = iter(self._data)  # as a loader is read again each epoch
      return next(self._given)


class Numbered:
  """A user's own batches by the number of the step, placed on the devices."""

  def __init__(self, batches: Steps, *, sharding: Any):
    check_count('steps_per_epoch', batches.steps_per_epoch, 1)
    self.steps_per_epoch = batches.steps_per_epoch
    self._batches, self._sharding = batches, sharding

  def __getitem__(self, step: int) -> Any:
    return _spread(_pair(self._batches[step], f'batch {step}'), self._sharding)


def batches_of(
  data: Any, *, batch_size: int, seed: int, steps_per_epoch: int | None, said: Any, sharding: Any
) -> Shuffled | Streamed | Numbered:
  """Makes batches by the number of the step of what ``fit`` takes as data.

  >>> batches_of((np.ones((5, 4)), None), batch_size=2, seed=0, steps_per_epoch=None, said=None, sharding=None)[0]
  Batch(inputs=Array(...), labels=None)

  Raises:
    ValueError: as of ``fit``.

  Source: not in the paper.
  """
  has_examples = hasattr(data, '__getitem__') and hasattr(data, '__len__')
  if isinstance(data, Steps):
    batches: Any = Numbered(data, sharding=sharding)
  elif has_examples or not isinstance(data, Iterable):
    examples = examples_of(data)
    batches = Shuffled(examples, batch_size=batch_size, seed=seed, said=said, sharding=sharding)
  else:
    count: Any = steps_per_epoch
    if count is None and isinstance(data, Sized):
      count = len(data)
    if count is None:
      raise ValueError(f'data is {shown(data)}: give steps_per_epoch, the number of its batches in an epoch')
    batches = Streamed(data, steps_per_epoch=count, sharding=sharding)
  if isinstance(batches, Streamed | Numbered) and said is not None:
    raise ValueError('the teacher is given by its logits, and data are batches: give examples, with len and [i]')
  if isinstance(batches, Shuffled | Numbered) and steps_per_epoch not in (None, batches.steps_per_epoch):
    raise ValueError(f'steps_per_epoch is {steps_per_epoch}, and the data have {batches.steps_per_epoch}: leave it out')
  return batches


def check_classes(labels: Any, rows: np.ndarray, classes: int | None, what: str = 'data') -> None:
  """Refuses class numbers that are none, where labels are class numbers of whole examples.

  >>> check_classes(np.array([0, 3]), np.array([7, 8]), 3)
  Traceback (most recent call last):
  ValueError: data has the label 3 at 8, and there are 3 classes: give numbers from 0 to 2

  Source: not in the paper.
  """
  if classes is None or not isinstance(labels, np.ndarray) or labels.dtype.kind not in 'iu' or labels.ndim != 1:
    return
  wrong = np.flatnonzero((labels < 0) | (labels >= classes))
  if len(wrong):
    at = f'{what} has the label {labels[wrong[0]]} at {rows[wrong[0]]}'
    raise ValueError(f'{at}, and there are {classes} classes: give numbers from 0 to {classes - 1}')


def in_order(
  examples: Examples, *, batch_size: int, sharding: Any, classes: int | None = None
) -> Iterator[tuple[Any, Any]]:
  """Yields all examples in their order, each batch with a mask of its real rows; the last repeats a row to be full.

  >>> [(len(batch.inputs), mask.tolist()) for batch, mask in in_order(
  ...   examples_of(np.ones((3, 4))), batch_size=2, sharding=None)]
  [(2, [True, True]), (2, [True, False])]

  Source: not in the paper.
  """
  _check_spread(batch_size, sharding)

  def read(rows: np.ndarray) -> Any:
    batch = examples.take(np.minimum(rows, examples.size - 1))
    check_classes(batch.labels, rows, classes, 'validation')
    return batch, rows < examples.size

  for start in range(0, examples.size, batch_size):
    yield placed(read, np.arange(start, start + batch_size), sharding)


def _check_spread(batch_size: int, sharding: Any) -> None:
  try:
    if sharding is not None:
      sharding.shard_shape((batch_size,))
  except ValueError as error:
    raise ValueError(f'batch_size is {batch_size}, which does not spread evenly over the devices') from error


def _spread(batch: Any, sharding: Any) -> Any:
  """Places a batch; of several processes each gives its own part."""

  def one(leaf: Any) -> Any:
    if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
      return leaf
    if jax.process_count() == 1:
      return jax.device_put(leaf if isinstance(leaf, jax.Array) else _plain(np.asarray(leaf)), sharding)
    return jax.make_array_from_process_local_data(sharding, _plain(np.asarray(leaf)))

  return jax.tree.map(one, batch, is_leaf=_is_list)
