"""Counts the cost of a forward pass from shapes alone."""

from functools import partial
from typing import Any

import flax.linen as nn
import jax

from lmajax.models._generator import Transposed
from lmajax.types import Staged

_TRANSPOSED = nn.ConvTranspose | Transposed


def macs(model: nn.Module, inputs: Any, **options: Any) -> int:
  r"""Counts the multiply-accumulates of the dense and convolutional layers of a forward pass.

  .. math:: \sum_\mathrm{layers} |\mathrm{kernel}| \cdot |\mathrm{positions}|

  with the positions of a layer's output, or for a transposed convolution those of its input: all at which the kernel is
  laid, those over the padding too. A grouped kernel holds the channels of one group alone. Nothing is computed.

  Left out are norms, activations, pooling, additions and biases, products of two activations, as in attention, and
  layers of other kinds than ``flax.linen``'s ``Dense``, ``Conv`` and ``ConvTranspose`` and the generator's own of the
  last. A layer counts as often as it is called, but within ``nn.scan`` and ``nn.vmap`` once.

  Args:
    model: any Linen module.
    inputs: what it is called with: an array, ``jax.ShapeDtypeStruct`` or a pytree of them; with a batch of 1 the count
      is that of one example.
    options: of the call; a ``Staged`` model needs none, and is taken in evaluation.

  >>> image = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
  >>> macs(ResNet(depth=20, num_classes=10, act=LMA), image)
  40551040
  >>> macs(nn.Dense(5), jnp.zeros((1, 4)))
  20

  Source: what He et al. 2016 ("Deep residual learning", table 1) call FLOPs, multiply-adds.
  """
  counts = []

  def count(call: Any, args: Any, options: Any, context: Any) -> Any:
    y, module = call(*args, **options), context.module
    if context.method_name == '__call__' and isinstance(module, nn.Dense | nn.Conv | _TRANSPOSED):
      x = args[0]
      positions = x.size // x.shape[-1] if isinstance(module, _TRANSPOSED) else y.size // y.shape[-1]
      counts.append(positions * module.get_variable('params', 'kernel').size)
    return y

  if isinstance(model, Staged):
    options = {'train': False, **options}
  with nn.intercept_methods(count):
    jax.eval_shape(partial(model.init, **options), jax.random.key(0), inputs)
  return sum(counts)
