"""Batches by step: the same step gives the same batch, whatever came before it, so that a resumed run is exact."""

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property, partial
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float32, Int, Int32, Key, Shaped, UInt8

from lmajax import training
from lmajax.training import placed, replicated, whole
from lmajax.types import Batch
from train.data.images.augment import crop_and_flip
from train.data.images.images import Examples
from train.runtime.errors import UserError

_STREAM = 0xDA7A  # keeps these draws apart from others of the same seed
_MIXING = 0x313  # keeps those of the mix apart from the crops', which are the same without it


Prepare = Callable[[Key[Array, ''] | None, UInt8[Array, 'b ...']], Shaped[Array, 'b ...']]
"""(a key in training, raw examples) -> what a model takes; without a key nothing is left to chance."""
Mix = Callable[[Key[Array, ''], Batch], Batch]
"""(key, batch) -> batch of as many rows, made of several examples each."""


class Epoch(NamedTuple):
  """All raw training examples, on every device, and the rows of each batch of one epoch."""

  inputs: UInt8[Array, 'n ...']
  labels: Int32[Array, ' n']
  rows: Int32[Array, 'steps b']


class Steps(training.Steps, Protocol):
  """Training batches by step, and what the caches of logits and the devices need to know of them."""

  size: int  # how many labels there are in all

  @property
  def blank(self) -> Any:
    """The inputs of one example; it lies on this process's own device."""
    ...

  @property
  def everywhere(self) -> jax.sharding.NamedSharding | None:
    """The sharding of what is not split, beside the batches."""
    ...

  def __getitem__(self, step: int, /) -> Batch:
    """Returns the batch of a step."""
    ...

  def places(self, step: int) -> Int[np.ndarray, 'b ...']:
    """Returns the indices of a batch's labels among all, in the order of the examples; -1 for padding."""
    ...


class Batches:
  """Training batches, shuffled anew every epoch; an epoch's incomplete last batch is dropped."""

  def __init__(
    self,
    examples: Examples,
    *,
    batch_size: int,
    seed: int,
    prepare: Prepare,
    sharding: jax.sharding.NamedSharding | None = None,
    mix: Mix | None = None,
  ):
    total = len(examples.labels)
    if not 1 <= batch_size <= total:
      raise UserError(f'batch size {batch_size} with {total} training examples; choose from 1 to {total}')
    _check_spread(batch_size, sharding)
    self.steps_per_epoch = total // batch_size
    self.size = total
    self._examples = examples
    self._batch_size = batch_size
    self._seed = seed
    self._key = jax.random.fold_in(jax.random.key(seed), _STREAM)
    self._prepare = prepare
    self._sharding = sharding
    self._mix = mix
    self._shuffled = -1, np.arange(0)

  @property
  def blank(self) -> Array:
    """A batch of one, of zeros; it lies on this process's own device, unlike a batch of several processes."""
    raw = jax.ShapeDtypeStruct((1, *self._examples.inputs.shape[1:]), jnp.uint8)
    shape = jax.eval_shape(partial(self._prepare, None), raw)
    return jnp.zeros(shape.shape, shape.dtype)

  def __getitem__(self, step: int) -> Batch:
    return self._made(step, *placed(self._examples.take, self.places(step), self._sharding))

  def places(self, step: int) -> Int[np.ndarray, ' b']:
    """Returns the numbers of a batch's examples."""
    epoch, position = divmod(step, self.steps_per_epoch)
    return self._permutation(epoch)[position * self._batch_size :][: self._batch_size]

  def epoch(self, number: int) -> Epoch:
    """Returns an epoch for ``batch``; the images go to the devices once, each epoch's rows are drawn on the host."""
    rows = self._permutation(number)[: self.steps_per_epoch * self._batch_size].astype(np.int32)
    return Epoch(*self._resident, whole(rows.reshape(self.steps_per_epoch, -1), self.everywhere))

  def batch(self, epoch: Epoch, step: Int32[Array, '']) -> Batch:
    """Makes ``self[step]`` inside a compiled program, from the epoch that the step lies in."""
    rows = self._spread(epoch.rows[step % self.steps_per_epoch])
    return self._made(step, *self._spread((epoch.inputs[rows], epoch.labels[rows])))

  def _made(self, step: Any, raw: Array, labels: Array) -> Batch:
    batch = Batch(_prepared(self._prepare, self._key, step, raw), labels)
    return batch if self._mix is None else _mixed(self._mix, self._key, step, batch)

  @cached_property
  def _resident(self) -> tuple[Array, Array]:
    return whole(self._examples.inputs, self.everywhere), whole(self._examples.labels, self.everywhere)

  @property
  def everywhere(self) -> jax.sharding.NamedSharding | None:
    """The sharding of what is not split, beside the batches: whole on each of their devices."""
    return self._sharding and replicated(self._sharding)

  def _spread(self, rows: Any) -> Any:
    return rows if self._sharding is None else jax.lax.with_sharding_constraint(rows, self._sharding)

  def _permutation(self, epoch: int) -> np.ndarray:
    if self._shuffled[0] != epoch:
      self._shuffled = epoch, np.random.default_rng((self._seed, epoch)).permutation(len(self._examples.labels))
    return self._shuffled[1]


def evaluation_batches(
  examples: Examples, *, batch_size: int, prepare: Prepare, sharding: jax.sharding.NamedSharding | None = None
) -> Iterator[tuple[Batch, Bool[Array, ' b']]]:
  """Yields all examples in order, each batch with a mask of its real rows; the last repeats a row to be full."""
  _check_spread(batch_size, sharding)
  total = len(examples.labels)
  for start in range(0, total, batch_size):
    rows = np.arange(start, start + batch_size)
    (raw, labels), mask = placed(partial(_filled_up, examples), rows, sharding)
    yield Batch(_prepared(prepare, None, 0, raw), labels), mask


def _filled_up(examples: Examples, rows: np.ndarray) -> tuple[Examples, np.ndarray]:
  total = len(examples.labels)
  return examples.take(np.minimum(rows, total - 1)), rows < total


@partial(jax.jit, static_argnums=0)
def _prepared(prepare: Prepare, key: Key[Array, ''] | None, step: int, raw: UInt8[Array, 'b ...']) -> Array:
  return prepare(None if key is None else jax.random.fold_in(key, step), raw)


@partial(jax.jit, static_argnums=0)
def _mixed(mix: Mix, key: Key[Array, ''], step: int, batch: Batch) -> Batch:
  return mix(jax.random.fold_in(jax.random.fold_in(key, step), _MIXING), batch)


def pixels(mean: Sequence[float], std: Sequence[float], *, augment: bool = False) -> Prepare:
  """Returns a function that normalizes images; with ``augment`` it first crops and flips at random in training."""

  def prepare(key: Key[Array, ''] | None, images: UInt8[Array, 'b h w c']) -> Float32[Array, 'b h w c']:
    images = crop_and_flip(key, images) if augment and key is not None else images
    return normalized(images, mean, std)

  return prepare


def characters(key: Key[Array, ''] | None, texts: UInt8[Array, 'b length']) -> Int32[Array, 'b length']:
  """Returns the numbers of characters unchanged, as int32."""
  del key
  return texts.astype(jnp.int32)


def normalized(
  images: UInt8[Array, 'b h w c'], mean: Sequence[float], std: Sequence[float]
) -> Float32[Array, 'b h w c']:
  """Subtracts each channel's mean from raw pixels and divides by its deviation."""
  per_channel = [jnp.asarray(numbers, jnp.float32).reshape(1, 1, 1, -1) for numbers in (mean, std)]
  return (images.astype(jnp.float32) - per_channel[0]) / per_channel[1]


def _check_spread(batch_size: int, sharding: jax.sharding.NamedSharding | None) -> None:
  try:
    if sharding is not None:
      sharding.shard_shape((batch_size,))
  except ValueError as error:
    raise UserError(f'batch size {batch_size} does not spread evenly over the devices; choose a multiple') from error
