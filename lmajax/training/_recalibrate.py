"""Running statistics measured again, since they belong to the weights that made them."""

from collections.abc import Callable, Iterable
from typing import Any

import jax

from lmajax.training._forward import network_of
from lmajax.types import ModelStats, Params


def recalibration(model: Any) -> tuple[Callable, Callable]:
  """Makes the two functions of which measuring again consists, to be compiled by the caller.

  Args:
    model: a Linen module or a ``Network``.

  Returns:
    (params, inputs) -> the statistics of a new model, and (params, stats, inputs) -> the statistics after a pass in
    training mode.

  >>> begin, move = recalibration(MLP((2,), 3, LMA))
  >>> params, _ = training.linen(MLP((2,), 3, LMA)).init(jax.random.key(0), jnp.ones((5, 4)))
  >>> stats = move(params, begin(params, jnp.ones((5, 4))), jnp.ones((5, 4)))
  >>> round(float(stats['batch_stats']['stages_0']['act']['weight']), 2)  # of the first batch at a decay of .99
  0.01

  Source: not in the paper.
  """
  network = network_of(model)

  def begin(params: Params, inputs: Any) -> ModelStats:
    del params
    return network.init(jax.random.key(0), inputs)[1]

  def move(params: Params, stats: ModelStats, inputs: Any) -> ModelStats:
    return network.apply(params, stats, inputs, jax.random.key(0))[1]

  return begin, move


def recalibrated(model: Any, params: Params, batches: Iterable[Any]) -> ModelStats:
  """Measures the running statistics of a model under other weights: quantized, pruned or sliced ones.

  They start as a new model's and are moved by passes in training mode over the batches; no parameter changes. At a
  decay of .99 a hundred batches are enough.

  Args:
    model: a Linen module or a ``Network``.
    params: the weights that ship.
    batches: of inputs, at least one, without augmentation if there shall be none at inference.

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
  stats = None
  for inputs in batches:
    stats = move(params, begin(params, inputs) if stats is None else stats, inputs)
  if stats is None:
    raise ValueError('batches is empty: give at least one')
  return stats
