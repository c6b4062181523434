"""Networks as pure functions, whatever they are written in: Linen, NNX, or functions of one's own."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import nnx as flax_nnx

from lmajax.types import Array, Key, ModelStats, Params


class Network(NamedTuple):
  """A network as two pure functions, which is all that training needs to know of it.

  Attributes:
    init: (key, inputs) -> (params, stats): new parameters, and new running statistics by the names of collections.
    apply: (params, stats, inputs, key) -> (output, stats); the output is logits, or logits and taps. A key means
      training, with dropout by it and with statistics that move; None means evaluation.

  >>> network = training.linen(MLP((2,), 3, LMA))
  >>> params, stats = network.init(jax.random.key(0), jnp.ones((5, 4)))
  >>> (logits, taps), stats = network.apply(params, stats, jnp.ones((5, 4)), None)
  >>> logits.shape
  (5, 3)
  """

  init: Callable[[Key | None, Any], tuple[Params, ModelStats]]
  apply: Callable[[Params, ModelStats, Any, Key | None], tuple[Any, ModelStats]]

  def variables(self, key: Key | None = None, inputs: Any = None) -> dict[str, Any]:
    """Initializes, and returns parameters and statistics in one dictionary, as ``teach`` takes it.

    A network that holds its weights (of NNX, of functions, of Linen with variables) needs neither key nor inputs.
    """
    params, stats = self.init(key, inputs)
    return {'params': params, **stats}


def linen(module: Any, variables: dict[str, Any] | None = None) -> Network:
  """Makes a network of a Linen module, which is called as ``module(inputs, train=...)``.

  Every function of ``lmajax.training`` that takes a model does so by itself.

  Args:
    module: of Linen, or with its ``init`` and ``apply``.
    variables: that training starts from; without them, new ones are drawn.

  Raises:
    ValueError: it is no Linen module; or, from ``init``, there is neither a key nor variables.

  >>> params, stats = training.linen(MLP((2,), 3, LMA)).init(jax.random.key(0), jnp.ones((5, 4)))
  >>> sorted(params), sorted(stats)
  (['logits', 'stages_0'], ['batch_stats'])

  Source: not in the paper.
  """
  if not as_linen(module):
    raise ValueError(f'module is a {type(module).__name__}: give an instance of a Linen module')
  if isinstance(module, nn.Module) and not _takes(module.__call__, 'train'):
    mend = 'wrap it in a module that does, or in function(…)'
    raise ValueError(f'{type(module).__name__} is not called with train=…, which says what is training: {mend}')

  def init(key: Any, inputs: Any) -> tuple[Params, ModelStats]:
    if variables is not None:
      return parted(jax.tree.map(jnp.array, variables))  # a copy, since steps take what they are given
    if key is None:
      raise ValueError('key is None: give one, from which variables are drawn, or make the network with variables')
    return parted({'params': {}, **module.init(key, inputs, train=False)})

  def apply(params: Params, stats: ModelStats, inputs: Any, key: Key | None) -> tuple[Any, ModelStats]:
    variables = {'params': params, **stats}
    if key is None:
      return module.apply(variables, inputs, train=False), stats
    output, moved = module.apply(variables, inputs, train=True, mutable=list(stats), rngs={'dropout': key})
    return output, {**stats, **moved}

  return Network(init, apply)


def function(apply: Callable, params: Params, *, stats: ModelStats | None = None) -> Network:
  """Makes a network of functions of one's own.

  Args:
    apply: (params, stats, inputs, key) -> (output, stats), as of ``Network``.
    params: that training starts from: ``init`` draws nothing.
    stats: the running statistics to start from; none by default.

  Raises:
    ValueError: apply is no function.

  >>> network = function(lambda params, stats, x, key: (x @ params, stats), jnp.ones((4, 3)))
  >>> network.apply(*network.init(jax.random.key(0), None), jnp.ones((5, 4)), None)[0].shape
  (5, 3)

  Source: not in the paper.
  """
  if not callable(apply) or isinstance(apply, nn.Module | flax_nnx.Module):
    raise ValueError(f'apply is a {type(apply).__name__}: give a function of params, stats, inputs and a key')
  try:
    inspect.signature(apply).bind(params, stats, None, None)
  except TypeError as error:
    raise ValueError(f'apply is called with params, stats, inputs and a key, and takes others ({error})') from error
  except ValueError:  # of a function that does not say
    pass
  begun = params, {} if stats is None else stats

  def init(key: Key | None, inputs: Any) -> tuple[Params, ModelStats]:
    del key, inputs
    return jax.tree.map(jnp.array, begun)  # a copy, since steps take what they are given

  return Network(init, apply)


def _takes(function: Callable, name: str) -> bool:
  parameters = inspect.signature(function).parameters
  return name in parameters or any(each.kind is each.VAR_KEYWORD for each in parameters.values())


def as_linen(model: Any) -> bool:
  """Returns whether a model is of Linen, or has its ``init`` and ``apply`` as ``ByPath`` has."""
  return hasattr(model, 'init') and hasattr(model, 'apply') and not isinstance(model, type | flax_nnx.Module | Network)


def network_of(model: Any) -> Network:
  """Returns a network as it is, and makes one of a Linen module.

  >>> network = network_of(MLP((2,), 3, LMA))
  >>> network_of(network) is network
  True

  Raises:
    ValueError: it is neither; an NNX module is to be handed to ``nnx``, a function to ``function``.

  Source: not in the paper.
  """
  if isinstance(model, Network):
    return model
  if as_linen(model):
    return linen(model)
  kind = 'nnx(…)' if isinstance(model, flax_nnx.Module) else 'function(…)'
  named = f'the class {model.__name__}' if isinstance(model, type) else f'a {type(model).__name__}'
  raise ValueError(f'model is {named}: give a Linen module, or a network made by {kind}')


def parted(variables: dict[str, Any]) -> tuple[Params, ModelStats]:
  """Parts the variables of ``model.apply`` into parameters and running statistics.

  >>> parted({'params': {'w': 1}, 'batch_stats': {'mean': 0}})
  ({'w': 1}, {'batch_stats': {'mean': 0}})

  Raises:
    ValueError: they are no dictionary with ``params`` in it.

  Source: not in the paper.
  """
  if not isinstance(variables, Mapping) or 'params' not in variables:
    kind = list(variables) if isinstance(variables, Mapping) else type(variables).__name__
    raise ValueError(f"variables is {kind}: give a dictionary of 'params' and the collections beside them")
  return variables['params'], {name: part for name, part in variables.items() if name != 'params'}


def logits_of(output: Any) -> Any:
  """Takes the logits out of what a model gives: logits alone, or with its taps behind them.

  >>> z = jnp.array([1.0, 2.0])
  >>> logits_of(z).tolist(), logits_of((z, ())).tolist()
  ([1.0, 2.0], [1.0, 2.0])

  Raises:
    ValueError: it is neither.

  Source: not in the paper.
  """
  if isinstance(output, tuple) and len(output) == 2:
    output = output[0]
  if not hasattr(output, 'dtype'):
    raise ValueError(f'the model gives a {type(output).__name__}: let it give logits, or logits and a tuple of taps')
  return output


def taps_of(output: Any) -> tuple[Any, ...]:
  """Takes the taps out of what a model gives: a tuple or list behind the logits; anything else is none.

  >>> z = jnp.array([1.0, 2.0])
  >>> len(taps_of((z, (z, z)))), taps_of(z), taps_of((z, z))
  (2, (), ())

  Source: not in the paper.
  """
  behind = output[1] if isinstance(output, tuple) and len(output) == 2 else ()
  return tuple(behind) if isinstance(behind, tuple | list) else ()


def forward(model: Any, params: Params, stats: ModelStats, inputs: Any, key: Key | None) -> tuple[Array, ModelStats]:
  """Runs a model.

  Args:
    model: a Linen module or a ``Network``.
    params: its parameters.
    stats: its running statistics.
    inputs: a batch.
    key: of dropout, in training mode; None is evaluation mode.

  Returns:
    The logits, and the statistics, which training mode has moved.

  >>> model, x = MLP((2,), 3, LMA), jnp.ones((5, 4))
  >>> params, before = training.linen(model).init(jax.random.key(0), x)
  >>> logits, stats = forward(model, params, before, x, jax.random.key(1))
  >>> logits.shape, stats.keys() == before.keys()
  ((5, 3), True)

  Source: not in the paper.
  """
  output, moved = network_of(model).apply(params, stats, inputs, key)
  return logits_of(output), moved
