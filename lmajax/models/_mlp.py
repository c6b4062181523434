"""A multilayer perceptron with batch norm, small enough to show differences between activations."""

from collections.abc import Sequence

import flax.linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from lmajax.models import _blocks, _channels
from lmajax.types import ActivationFactory, ChannelGraph, Widths


class MLP(nn.Module):
  """Dense blocks, each a stage, then the logits; inputs of any shape are flattened.

  Attributes:
    units: of the hidden layers.
    num_classes: of the logits.
    act: a factory, called once per block.
    dtype: of the computation; parameters stay in float32.

  >>> model = MLP(units=(5, 4), num_classes=10, act=LMA)
  >>> (output, taps), _ = model.init_with_output(jax.random.key(0), jnp.zeros((2, 8, 8, 1)), train=False)
  >>> output.shape, [tap.shape for tap in taps]
  ((2, 10), [(2, 64), (2, 5), (2, 4)])

  Source: not in the paper; batch norm before each activation as in its CIFAR-10 networks.
  """

  units: Sequence[int]
  num_classes: int
  act: ActivationFactory
  dtype: DTypeLike | None = None

  def setup(self):
    self.stages = [_blocks.DenseBlock(features, self.act, dtype=self.dtype) for features in self.units]
    self.logits = _blocks.logits(self.num_classes, self.dtype)

  def stem(self, inputs: Float[Array, 'b ...'], *, train: bool) -> Float[Array, 'b d']:
    """Flattens the inputs."""
    del train
    return inputs.reshape(inputs.shape[0], -1)

  def stage(self, i: int, tap: Float[Array, 'b d'], *, train: bool) -> Float[Array, 'b f']:
    """Applies block ``i``."""
    return self.stages[i](tap, train=train)

  def head(self, tap: Float[Array, 'b f'], *, train: bool) -> Float[Array, 'b classes']:
    """Returns the logits."""
    del train
    return self.logits(tap)

  def __call__(self, inputs: Float[Array, 'b ...'], *, train: bool):
    """Returns the logits and the taps."""
    return _blocks.output_and_taps(self, inputs, train=train)

  @nn.nowrap
  def graph(self) -> ChannelGraph:
    """Names the leaves of each hidden layer's units."""
    return _channels.chain(self.act, [f'stages_{i}/Dense_0' for i in range(len(self.units))])

  @nn.nowrap
  def thinned(self, widths: Widths) -> 'MLP':
    """Makes the same with so many units in each hidden layer."""
    return self.clone(units=tuple(widths))
