"""One training step, whatever is trained: the objective is a value handed to it."""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from lmajax.types import Array, Key, ModelStats, Params
from train.data.batches import Batch

Frozen = Any
Metrics = dict[str, Array]
Objective = Callable[[Params, ModelStats, Frozen, Batch, Key], tuple[Array, tuple[ModelStats, Metrics]]]


class TrainState(NamedTuple):
  """Everything a step changes; for a cohort every leaf has a leading axis of seeds."""

  step: Array
  params: Params
  stats: ModelStats
  opt_state: Any
  key: Key


Step = Callable[[TrainState, Frozen, Batch], tuple[TrainState, Metrics]]


def init_state(model: nn.Module, tx: optax.GradientTransformation, key: Key, images: Array) -> TrainState:
  """Initializes a model, its optimizer, and the key of its dropout."""
  init_key, dropout_key = jax.random.split(key)
  variables = dict(model.init(init_key, images, train=False))
  params = variables.pop('params')
  return TrainState(jnp.zeros((), jnp.int32), params, variables, tx.init(params), dropout_key)


def train_step(objective: Objective, tx: optax.GradientTransformation) -> Step:
  """The step of one student, not yet compiled."""

  def step(state: TrainState, frozen: Frozen, batch: Batch) -> tuple[TrainState, Metrics]:
    key = jax.random.fold_in(state.key, state.step)
    value_and_grad = jax.value_and_grad(objective, has_aux=True)
    (loss, (stats, metrics)), grads = value_and_grad(state.params, state.stats, frozen, batch, key)
    updates, opt_state = tx.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    return TrainState(state.step + 1, params, stats, opt_state, state.key), {'loss': loss, **metrics}

  return step


def alone(function: Callable) -> Callable:
  """Lifts nothing: the state is one student's."""
  return function


def vmapped(function: Callable) -> Callable:
  """Lifts a function of (state, …) over the leading axis of the state; the rest is shared by all seeds."""

  def over_seeds(states, *shared):
    return jax.vmap(function, in_axes=(0, *(None for _ in shared)))(states, *shared)

  return over_seeds


def unrolled(function: Callable) -> Callable:
  """Like ``vmapped``, seed after seed in one program: on the CPU ``vmap`` over convolution kernels is far slower."""

  def over_seeds(states, *shared):
    seeds = jax.tree.leaves(states)[0].shape[0]
    results = [function(jax.tree.map(lambda leaf, i=i: leaf[i], states), *shared) for i in range(seeds)]
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *results)

  return over_seeds


def unless_stopped(step: Step) -> Step:
  """The step of a student that stays as it is, statistics and all, once its learning rate is 0."""

  def guarded(state: TrainState, frozen: Frozen, batch: Batch) -> tuple[TrainState, Metrics]:
    moved, metrics = step(state, frozen, batch)
    moving = state.opt_state.hyperparams['learning_rate'] > 0
    kept = jax.tree.map(lambda new, old: jnp.where(moving, new, old), moved, state)
    return kept._replace(step=moved.step), metrics

  return guarded


def make_train_step(
  objective: Objective, tx: optax.GradientTransformation, *, over: Callable[[Callable], Callable] = alone
) -> Step:
  """Compiles the step of a student, or of a cohort of seeds (``over``); donates the state and nothing else."""
  return jax.jit(over(train_step(objective, tx)), donate_argnums=0)


def make_eval_step(model: nn.Module, *, over: Callable[[Callable], Callable] = alone) -> Callable:
  """Compiles (variables, batch, mask) -> the number of right answers among the rows that the mask keeps."""

  def step(variables: dict[str, Any], batch: Batch, mask: Array) -> Array:
    logits, _ = model.apply(variables, batch.images, train=False)
    return jnp.sum((logits.argmax(-1) == batch.labels) & mask)

  return jax.jit(over(step))
