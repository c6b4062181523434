"""Makes optimizers as functions of the learning rate, which is set epoch by epoch."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from lmajax import tree
from lmajax.types import Array, Where

Optimizer = Callable[[Array], optax.GradientTransformation]


def sgd(weight_decay: float) -> Optimizer:
  """Makes the paper's optimizer: SGD with Nesterov momentum 0.9 and L2 on all parameters."""

  def of_rate(learning_rate: Array) -> optax.GradientTransformation:
    return optax.chain(optax.add_decayed_weights(weight_decay), optax.sgd(learning_rate, momentum=0.9, nesterov=True))

  return of_rate


def adam(b1: float, b2: float, weight_decay: float) -> Optimizer:
  """Makes Adam; L2 on all parameters is added to the gradients."""

  def of_rate(learning_rate: Array) -> optax.GradientTransformation:
    return optax.chain(optax.add_decayed_weights(weight_decay), optax.adam(learning_rate, b1=b1, b2=b2))

  return of_rate


def noam(warmup: int, *, clip: float, weight_decay: float) -> Optimizer:
  """Makes Adam (0.9, 0.98) whose rate rises for ``warmup`` steps, then falls as the inverse square root of the step.

  Vaswani et al. 2017, equation 3, given the highest rate instead of the width: theirs is (width · warmup)^-1/2.
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
  """Updates the discriminator at every step and the generator at the last of every ``critic_steps``.

  In between, the generator's parameters and its optimizer's state do not change.
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
  """Updates only the parameters that ``where`` selects; the others do not change, not even by weight decay."""

  def labels(params):
    return tree.map_with_path(lambda path, leaf: 'moved' if where(path, leaf) else 'kept', params)

  def of_rate(learning_rate: Array) -> optax.GradientTransformation:
    return optax.multi_transform({'moved': optimizer(learning_rate), 'kept': optax.set_to_zero()}, labels)

  return of_rate


def adjustable(optimizer: Optimizer) -> optax.GradientTransformationExtraArgs:
  """Makes the learning rate settable in ``opt_state.hyperparams``; it starts at 0."""
  return optax.inject_hyperparams(optimizer)(learning_rate=0.0)
