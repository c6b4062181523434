"""Optimizers, as functions of their learning rate: it is set epoch by epoch."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from lmajax import tree
from lmajax.types import Array, Where

Optimizer = Callable[[Array], optax.GradientTransformation]


def sgd(weight_decay: float) -> Optimizer:
  """The paper's: Nesterov momentum 0.9 and L2 on all parameters."""

  def of_rate(learning_rate: Array) -> optax.GradientTransformation:
    return optax.chain(optax.add_decayed_weights(weight_decay), optax.sgd(learning_rate, momentum=0.9, nesterov=True))

  return of_rate


def adam(b1: float, b2: float, weight_decay: float) -> Optimizer:
  """Adam, of gradients with L2 on all parameters."""

  def of_rate(learning_rate: Array) -> optax.GradientTransformation:
    return optax.chain(optax.add_decayed_weights(weight_decay), optax.adam(learning_rate, b1=b1, b2=b2))

  return of_rate


def noam(warmup: int, *, clip: float, weight_decay: float) -> Optimizer:
  """Adam (0.9, 0.98) at a rate that rises for so many steps, then falls as the inverse square root of the step.

  Vaswani et al. 2017, equation 3, with its highest rate in place of the width: theirs is (width · warmup)^-1/2.
  """

  def factor(count: Any) -> Array:
    step = jnp.asarray(count, jnp.float32) + 1
    return jnp.minimum(step / warmup, jnp.sqrt(warmup / step))

  def of_rate(learning_rate: Array) -> optax.GradientTransformation:
    return optax.chain(
      optax.clip_by_global_norm(clip),
      optax.add_decayed_weights(weight_decay),
      optax.scale_by_adam(b1=0.9, b2=0.98, eps=1e-9),
      optax.scale_by_schedule(factor),
      optax.scale_by_learning_rate(learning_rate),
    )

  return of_rate


def adversarial(optimizer: Optimizer, critic_steps: int) -> Optimizer:
  """Moves the discriminator at every step and the generator at the last of so many.

  In between the generator's parameters and what its optimizer remembers stay as they are.
  """

  def last_of_turn(step, **_):
    return step % critic_steps == critic_steps - 1

  def labels(params):
    return {player: jax.tree.map(lambda _, player=player: player, part) for player, part in params.items()}

  def of_rate(learning_rate: Array) -> optax.GradientTransformation:
    mine = optimizer(learning_rate)
    in_turn = optax.transforms.conditionally_mask(mine, last_of_turn)
    return optax.multi_transform({'generator': in_turn, 'discriminator': mine}, labels)

  return of_rate


def only(where: Where, optimizer: Optimizer) -> Optimizer:
  """Moves the parameters that ``where`` selects; the others stay as they are, weight decay and all."""

  def labels(params):
    return tree.map_with_path(lambda path, leaf: 'moved' if where(path, leaf) else 'kept', params)

  def of_rate(learning_rate: Array) -> optax.GradientTransformation:
    return optax.multi_transform({'moved': optimizer(learning_rate), 'kept': optax.set_to_zero()}, labels)

  return of_rate


def adjustable(optimizer: Optimizer) -> optax.GradientTransformationExtraArgs:
  """The transformation, with its rate where ``opt_state.hyperparams`` can be set; it starts at 0."""
  return optax.inject_hyperparams(optimizer)(learning_rate=0.0)
