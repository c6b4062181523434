"""Optimizers, as functions of their learning rate: it is set epoch by epoch."""

from collections.abc import Callable

import optax

from lmajax import tree
from lmajax.types import Array

Optimizer = Callable[[Array], optax.GradientTransformation]
Where = Callable[[str, Array], bool]
"""(path, leaf) -> whether it is one of them."""


def sgd(weight_decay: float) -> Optimizer:
  """The paper's: Nesterov momentum 0.9 and L2 on all parameters."""

  def of_rate(learning_rate: Array) -> optax.GradientTransformation:
    return optax.chain(optax.add_decayed_weights(weight_decay), optax.sgd(learning_rate, momentum=0.9, nesterov=True))

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
