"""Running statistics measured again, since they belong to the weights that made them."""

from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp

from lmajax.training._forward import network_of
from lmajax.types import Batch, Key, ModelStats, Params


def recalibration(model: Any) -> tuple[Callable, Callable]:
  """Makes (begin, move), from which ``recalibrated`` is built, to be compiled by the caller.

  Args:
    model: a Linen module or a ``Network``.

  Returns:
    (params, inputs) -> the statistics that ``init`` gives, and (params, stats, inputs, key) -> the statistics after a
    pass in training mode, with dropout by the key.

  >>> begin, move = recalibration(MLP((2,), 3, LMA))
  >>> params, _ = training.linen(MLP((2,), 3, LMA)).init(jax.random.key(0), jnp.ones((5, 4)))
  >>> stats = move(params, begin(params, jnp.ones((5, 4))), jnp.ones((5, 4)), jax.random.key(0))
  >>> round(float(stats['batch_stats']['stages_0']['act']['weight']), 2)  # of the first batch at a decay of .99
  0.01

  Source: not in the paper.
  """
  network = network_of(model)

  def begin(params: Params, inputs: Any) -> ModelStats:
    del params
    return network.init(jax.random.key(0), inputs)[1]

  def move(params: Params, stats: ModelStats, inputs: Any, key: Key) -> ModelStats:
    return network.apply(params, stats, inputs, key)[1]

  return begin, move


def recalibrated(model: Any, params: Params, batches: Iterable[Any], *, stats: ModelStats | None = None) -> ModelStats:
  """Measures the running statistics of a model under other weights: quantized, pruned or sliced ones.

  They are moved by passes in training mode over the batches; no parameter changes. A hundred batches are enough for
  LMA, and for a batch norm of momentum .9; one of momentum .99, NNX's default, still has a third of its start in it.

  Args:
    model: a Linen module or a ``Network``.
    params: the weights that ship.
    batches: ``Batch`` or inputs, at least one, without augmentation if there shall be none at inference.
    stats: to start from; by default those that ``init`` gives: new ones of a Linen module, but of a network that holds
      its weights the ones that it holds. Of a trained NNX module hand in those of a fresh one.

  Returns:
    The statistics.

  Raises:
    ValueError: there is no batch.

  >>> params, _ = training.linen(MLP((2,), 3, LMA)).init(jax.random.key(0), jnp.ones((5, 4)))
  >>> stats = recalibrated(MLP((2,), 3, LMA), params, [jnp.ones((5, 4))] * 10)
  >>> round(float(stats['batch_stats']['stages_0']['act']['weight']), 4)  # 1 - .99¹⁰
  0.0956

  Source: not in the paper.
  """
  begin, move = recalibration(model)
  begin, move = jax.jit(begin), jax.jit(move, donate_argnums=1)
  moved, number = stats if stats is None else jax.tree.map(jnp.array, stats), 0
  for number, batch in enumerate(batches, 1):
    inputs = batch.inputs if isinstance(batch, Batch) else batch
    moved = begin(params, inputs) if moved is None else moved
    moved = move(params, moved, inputs, jax.random.fold_in(jax.random.key(0), number))
  if not number:
    raise ValueError('batches is empty: give at least one')
  return moved
