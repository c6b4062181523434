"""Counts the cost of a forward pass from shapes alone."""

import inspect
import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import flax.linen as nn
import jax
from flax import nnx

from lmajax._arguments import shown
from lmajax.types import Staged


def macs(model: Any, inputs: Any, **options: Any) -> int:
  r"""Counts the multiply-accumulates of the matrix products and convolutions of a forward pass.

  .. math:: \sum_\mathrm{products} |\mathrm{output}| \cdot |\mathrm{contracted}| +
    \sum_\mathrm{convolutions} |\mathrm{kernel}| \cdot |\mathrm{positions}|

  with the positions of a convolution's output, or for a transposed one those of its input: all at which the kernel is
  laid, those over the padding too. A grouped kernel holds the channels of one group alone. Products of two activations,
  as in attention, count; what a scan repeats counts as often; of alternatives the dearest counts, and of a loop of
  unknown length one turn. Norms, activations, pooling, additions and biases are left out. Nothing is computed.

  Args:
    model: a Linen module, an NNX module, or a function of inputs.
    inputs: what it is called with: an array, ``jax.ShapeDtypeStruct`` or a pytree of them; with a batch of 1 the count
      is that of one example.
    options: of the call; a ``Staged`` model needs none, and is taken in evaluation.

  Raises:
    ValueError: it is none of these.

  >>> image = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
  >>> macs(ResNet(depth=20, num_classes=10, act=LMA), image)
  40551040
  >>> macs(lambda x: x @ x.T, jnp.zeros((2, 3)))
  12

  Source: what He et al. 2016 ("Deep residual learning", table 1) call FLOPs, multiply-adds.
  """
  if isinstance(model, nn.Module):
    options = {'train': False, **options} if isinstance(model, Staged) else options
    variables = jax.eval_shape(partial(model.init, **options), jax.random.key(0), inputs)
    drawn = {'rngs': {'dropout': jax.random.key(0)}, 'mutable': [name for name in variables if name != 'params']}
    jaxpr = jax.make_jaxpr(partial(model.apply, **options, **drawn))(variables, inputs)
  elif isinstance(model, nnx.Module):
    graph, state = nnx.split(model)
    jaxpr = jax.make_jaxpr(lambda state, inputs: nnx.merge(graph, state)(inputs, **options))(state, inputs)
  elif callable(model) and not inspect.isclass(model):
    jaxpr = jax.make_jaxpr(partial(model, **options))(inputs)
  else:
    raise ValueError(f'model is {shown(model)}: give a module of Linen or NNX, or a function')
  return _of(jaxpr.jaxpr)


def _of(jaxpr: Any) -> int:
  by_platform = {eqn.outvars[0] for eqn in jaxpr.eqns if eqn.primitive.name == 'platform_index'}
  return sum(_of_one(eqn, by_platform) for eqn in jaxpr.eqns)


def _of_one(eqn: Any, by_platform: set[Any]) -> int:
  name, params = eqn.primitive.name, eqn.params
  if name == 'dot_general':
    (contracted, _), _ = params['dimension_numbers']
    return eqn.outvars[0].aval.size * math.prod(eqn.invars[0].aval.shape[axis] for axis in contracted)
  if name == 'conv_general_dilated':
    x, kernel = (var.aval for var in eqn.invars)
    numbers, transposed = params['dimension_numbers'], any(n != 1 for n in params['lhs_dilation'])
    laid, spec = (x, numbers.lhs_spec) if transposed else (eqn.outvars[0].aval, numbers.out_spec)
    return kernel.size * laid.size // laid.shape[spec[1]]
  inner = [_of(each) for each in _inner(params)]
  if name == 'cond':
    return inner[-1] if eqn.invars[0] in by_platform else max(inner)  # the last is everybody's, the others' are faster
  return sum(inner) * (params['length'] if name == 'scan' else 1)


def _inner(params: dict[str, Any]) -> Iterator[Any]:
  """Yields the programs within one, but for the rules of their gradients."""
  for value in params.values():
    for each in value if isinstance(value, tuple | list) else (value,):
      jaxpr = getattr(each, 'jaxpr', each)
      if hasattr(jaxpr, 'eqns') and not isinstance(each, Callable):
        yield jaxpr
