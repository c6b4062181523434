"""Inputs made from a trained network alone, by the gradient of a loss of them."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lmajax._arguments import check_count, check_floats
from lmajax.training._step import TrainState, train_step
from lmajax.types import Array, Batch, Frozen


class Synthesis(NamedTuple):
  """Inputs that are being made, and all that going on with them needs.

  >>> Synthesis._fields
  ('inputs', 'opt_state', 'losses')
  """

  inputs: Any
  opt_state: Any
  losses: Array  # of each step so far, before it


def synthesize(
  loss: Callable[[Any, Frozen], Array],
  start: Any,
  tx: optax.GradientTransformation,
  steps: int,
  *,
  frozen: Frozen = None,
) -> Synthesis:
  r"""Moves inputs by the gradient of a loss of them; the network stands still.

  .. math:: x \leftarrow x + \mathrm{tx}\bigl(\nabla_x L(x)\bigr)

  Compiled once for a loss, a ``tx`` and a shape: make many batches by one and the same two. Small networks make several
  batches at once by ``lambda many, frozen: jax.vmap(loss, (0, None))(many, frozen).sum()``.

  Args:
    loss: L, (inputs, frozen) -> a number.
    start: inputs to start from, as Gaussian noise, an array or a pytree of floats; or what an earlier call returned,
      which then goes on, with the same bits as one call of all steps.
    tx: moves the inputs.
    steps: how many.
    frozen: what the loss looks at, as a network's variables; closed over they would be constants of the program.

  Returns:
    The inputs, the optimizer's state, and the loss at each step.

  Raises:
    ValueError: steps is no whole number of at least 0, start holds other numbers than floats, or was made by another
      ``tx``.

  >>> def loss(x, frozen): return jnp.square(x - frozen).sum()
  >>> made = synthesize(loss, jnp.zeros(2), optax.sgd(0.25), 2, frozen=4.0)
  >>> made.inputs.tolist(), made.losses.tolist()
  ([3.0, 3.0], [32.0, 8.0])

  By the statistics of batch norms, with classes mixed in:

  >>> model = MLP((2,), 3, linen.ReLU)
  >>> params, stats = training.linen(model).init(jax.random.key(0), jnp.ones((5, 4)))
  >>> def mixed(x, frozen):
  ...   logits, _ = training.forward(model, *frozen, x, None)
  ...   drawn = optax.losses.softmax_cross_entropy_with_integer_labels(logits, jnp.arange(6) % 3).mean()
  ...   return losses.divergence(training.norm_statistics(model, *frozen, x)) + 0.1 * drawn
  >>> noise = jax.random.normal(jax.random.key(1), (6, 4))
  >>> made = synthesize(mixed, noise, optax.adam(0.05), 20, frozen=(params, stats))
  >>> bool(made.losses[-1] < made.losses[0])
  True

  Source: Haroush et al. 2020 (The Knowledge Within). Steps are given from the host: a convolution in a loop of the
  device is many times slower on a CPU.
  """
  check_count('steps', steps, 0)
  if isinstance(start, Synthesis):
    inputs, opt_state = jax.tree.map(jnp.array, (start.inputs, start.opt_state))  # copies, since a step takes them
    before = start.losses
    if jax.tree.structure(opt_state) != jax.tree.structure(jax.eval_shape(tx.init, inputs)):
      raise ValueError('start was made by another tx: give that one')
  else:
    inputs = jax.tree.map(jnp.array, start)
    for leaf in jax.tree.leaves(inputs):
      check_floats('start', leaf)
    opt_state, before = tx.init(inputs), jnp.zeros(0)
  state, losses = TrainState(jnp.int32(before.size), inputs, {}, opt_state, jax.random.key(0)), []
  for _ in range(steps):
    state, value = _moved(loss, tx, state, frozen)
    losses.append(value)
  return Synthesis(state.params, state.opt_state, jnp.concatenate([before, *(each[None] for each in losses)]))


@partial(jax.jit, static_argnums=(0, 1), donate_argnums=2)
def _moved(loss: Callable, tx: optax.GradientTransformation, state: TrainState, frozen: Frozen) -> tuple:
  def objective(inputs: Any, stats: Any, frozen: Frozen, batch: Any, key: Any) -> tuple:
    del batch, key
    return loss(inputs, frozen), (stats, {})

  state, metrics = train_step(objective, tx)(state, frozen, Batch(None, None))
  return state, metrics['loss']
