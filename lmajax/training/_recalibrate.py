"""Running statistics measured again, since they belong to the weights that made them."""

from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp

from lmajax.training._forward import network_of
from lmajax.types import ModelStats, Params


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
  network = network_of(model)
  begin = jax.jit(lambda inputs: network.init(jax.random.key(0), inputs)[1])
  move = jax.jit(lambda params, *given: network.apply(params, *given)[1], donate_argnums=1)
  moved, number = stats if stats is None else jax.tree.map(jnp.array, stats), 0
  for number, batch in enumerate(batches, 1):
    inputs = getattr(batch, 'inputs', batch)
    moved = begin(inputs) if moved is None else moved
    moved = move(params, moved, inputs, jax.random.fold_in(jax.random.key(0), number))
  if not number:
    raise ValueError('batches is empty: give at least one')
  return moved
