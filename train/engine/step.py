"""One training step, whatever is trained and however many: the objective is a value handed to it."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from lmajax.compress import identity
from lmajax.types import Array, Key, ModelStats, Params, Reparam
from train.data.batches import Batch, Batches, Epoch, Steps
from train.engine.optimizers import Where

Frozen = Any
Share = Callable[[Frozen, Batch], Frozen]
Metrics = dict[str, Array]
Objective = Callable[[Params, ModelStats, Frozen, Batch, Key], tuple[Array, tuple[ModelStats, Metrics]]]


def right_answers(model: nn.Module) -> Callable:
  """A function (variables, batch, mask) -> the right answers that the mask keeps; NaN if one has no finite logits."""

  def count(variables: dict[str, Any], batch: Batch, mask: Array) -> Array:
    logits, _ = model.apply(variables, batch.inputs, train=False)
    right = (logits.argmax(-1) == batch.labels).astype(jnp.float32)
    return jnp.sum(jnp.where(mask, jnp.where(jnp.isfinite(logits).all(-1), right, jnp.nan), 0.0))

  return count


class Score(NamedTuple):
  """What a network is judged by: a number from 0 to 1 for each example, summed over those that the mask keeps."""

  name: str
  of: Callable[[nn.Module], Callable]


ACCURACY = Score('accuracy', right_answers)


class Group(NamedTuple):
  """Students of one architecture, one objective and one kind of weights that differ in their seeds alone."""

  model: nn.Module
  objective: Objective
  seeds: Sequence[int]
  over: Callable[[Callable], Callable]
  reparam: Reparam = identity()
  trained: Where | None = None  # which of the parameters; None: all
  metrics: tuple[str, ...] = ()  # of the objective, to be noted beside the loss
  score: Score = ACCURACY


class TrainState(NamedTuple):
  """Everything a step changes; for a cohort every leaf has a leading axis of seeds."""

  step: Array
  params: Params
  stats: ModelStats
  opt_state: Any
  key: Key


Step = Callable[[TrainState, Frozen, Batch], tuple[TrainState, Metrics]]


def init_state(model: nn.Module, tx: optax.GradientTransformation, key: Key, inputs: Any) -> TrainState:
  """Initializes a model, its optimizer, and the key of its dropout."""
  init_key, dropout_key = jax.random.split(key)
  variables = dict(model.init(init_key, inputs, train=False))
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


def together(functions: Mapping[str, Callable]) -> Callable:
  """Functions of (state, …) in one program, each of the state under its own name; the rest is shared by all."""

  def of_all(states, *shared):
    return {name: function(states[name], *shared) for name, function in functions.items()}

  return of_all


def as_it_is(frozen: Frozen, batch: Batch) -> Frozen:
  """Shares what is frozen itself."""
  del batch
  return frozen


def sharing(step: Callable, share: Share) -> Callable:
  """The step that sees what ``share`` makes of the frozen and the batch: once a step, whoever looks at it."""

  def shared(states, frozen, batch):
    return step(states, share(frozen, batch), batch)

  return shared


def compiled(step: Callable, *, placed: jax.sharding.Sharding | None = None) -> Callable:
  """Compiles a step (or several) of one student or of many; donates their states, which stay ``placed``."""
  return jax.jit(step, donate_argnums=0, out_shardings=placed)


def settle(states: Any) -> None:
  """Several CPU devices run one program at a time: programs in flight together starve each other's collectives."""
  if jax.default_backend() == 'cpu' and jax.device_count() > 1:
    jax.block_until_ready(states)


Advance = Callable[[Any, Frozen, int, int], tuple[Any, int]]
"""(states, frozen, first, end) -> (states, next): goes some of the steps from the first on, and none beyond the end."""


def stepped(step: Callable, batches: Steps) -> Advance:
  """Goes one step a call, on a batch that comes from the host."""
  one = compiled(step, placed=batches.everywhere)

  def advance(states: Any, frozen: Frozen, first: int, end: int) -> tuple[Any, int]:
    del end
    return one(states, frozen, batches[first]), first + 1

  return advance


def looped(step: Callable, batches: Batches, *, chunk: int = 50) -> Advance:
  """Goes a chunk of steps of one epoch a call, in one program over images that stay on the devices.

  A signal has to wait for the chunk's end: 50 steps are seconds, and a call costs nothing beside them. The bounds are
  no constants, so that all chunks are one program. On the CPU a convolution inside a loop is ten times slower.
  """

  def run(states: Any, frozen: Frozen, epoch: Epoch, first: Array, last: Array) -> Any:
    return jax.lax.fori_loop(first, last, lambda i, states: step(states, frozen, batches.batch(epoch, i)), states)

  compiled_run = compiled(run, placed=batches.everywhere)

  def advance(states: Any, frozen: Frozen, first: int, end: int) -> tuple[Any, int]:
    last = min(first + chunk, end)
    states = compiled_run(states, frozen, batches.epoch(first // batches.steps_per_epoch), first, last)
    return jax.block_until_ready(states), last

  return advance


def make_train_step(objective: Objective, tx: optax.GradientTransformation, *, share: Share = as_it_is) -> Step:
  """The compiled step of one student."""
  return compiled(sharing(train_step(objective, tx), share))
