"""A network that has been trained: scored, measured again, packed and exported."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from lmajax import export, tree
from lmajax._arguments import of_type, shown
from lmajax.compress import PackedTree, pack
from lmajax.training._beside import alone
from lmajax.training._data import Shuffled, Streamed, examples_of, in_order
from lmajax.training._forward import Network, forward, parted
from lmajax.training._recalibrate import recalibrated
from lmajax.training._step import Progress, shipped
from lmajax.types import Array, ModelStats, Params, Reparam

Metric = Callable[[Any, Any], Array]
_MEASURING = 100  # training batches that statistics are measured on


def accuracy(logits: Any, labels: Any) -> Array:
  """Returns 1 for each example whose largest logit is that of its label, 0 for the others.

  Args:
    logits: [batch, classes].
    labels: class numbers, or a probability of each class, of which the likeliest counts.

  >>> accuracy(jnp.array([[0.0, 1.0], [2.0, 1.0]]), jnp.array([1, 1])).tolist()
  [1.0, 0.0]

  Source: not in the paper.
  """
  if labels is None:
    raise ValueError('validation has no labels: give some, or metrics of your own')
  numbers = labels.argmax(-1) if of_type(labels, jnp.floating) else labels
  return (logits.argmax(-1) == numbers).astype(jnp.float32)


@dataclasses.dataclass(frozen=True, eq=False)
class Fitted:
  """A trained network with the weights that ship, and running statistics measured again under them.

  Attributes:
    network: that was trained.
    reparam: makes its weights.
    progress: the end of the training.
    history: an entry for each epoch: its number, the means of the loss and of the objective's metrics, and those of the
      metrics on the validation data.
    batches: of the training, on the first 100 of which the statistics are measured; of an iterator, which has gone
      by, they are those of the training.
    sharding: of batches.

  >>> import optax
  >>> inputs, labels = np.eye(8, dtype=np.float32), np.arange(8) % 2
  >>> fitted = fit(MLP((16,), 2, LMA), (inputs, labels), optax.adam(0.03), epochs=60, batch_size=8)
  >>> fitted.evaluate((inputs, labels), batch_size=8), fitted.logits(inputs).shape
  ({'accuracy': 1.0}, (8, 2))

  Source: not in the paper.
  """

  network: Network
  reparam: Reparam
  progress: Progress
  history: Sequence[dict[str, Any]]
  batches: Any
  sharding: Any

  @property
  def fixed(self) -> Network:
    """What ships as a network that holds its weights, as a teacher: ``distill(student, fitted)`` takes it by itself."""
    return self.network._replace(init=lambda key, inputs: parted(jax.tree.map(jnp.array, self.variables)))

  @property
  def params(self) -> Params:
    """The weights that ship."""
    return self.variables['params']

  @property
  def stats(self) -> ModelStats:
    """The running statistics that belong to them."""
    return parted(self.variables)[1]

  @cached_property
  def variables(self) -> dict[str, Any]:
    """Both, for ``model.apply``."""
    params, stats = parted(shipped(self.reparam, self.progress))
    if stats and not isinstance(self.batches, Streamed):
      # from the training's: of a batch norm of momentum .99 a hundred batches leave a third of what they start from
      first = (self.batches[step] for step in range(min(_MEASURING, self.batches.steps_per_epoch)))
      stats = recalibrated(self.network, params, first, stats=stats)
    return {'params': params, **stats}

  def recalibrated(self, data: Any, *, batch_size: int = 128) -> 'Fitted':
    """Measures the running statistics again on other data: on those that the network will meet.

    Args:
      data: examples, as of ``fit``; labels are not looked at.
      batch_size: how many at once; an incomplete last batch is left out.

    Raises:
      ValueError: the data are none, or fewer than a batch.
    """
    batches = Shuffled(examples_of(data), batch_size=batch_size, seed=0, said=None, sharding=self.sharding)
    return dataclasses.replace(self, batches=batches)

  def evaluate(
    self, data: Any, *, metrics: Mapping[str, Metric] | None = None, batch_size: int = 128
  ) -> dict[str, float]:
    """Scores what ships.

    Args:
      data: examples, as of ``fit``.
      metrics: (logits, labels) -> a number for each example, by name; by default ``accuracy``.
      batch_size: how many at once.

    Returns:
      The mean of each metric over all examples.

    Raises:
      ValueError: the data are none; or, of the accuracy, have no labels.
    """
    return scorer(self.network, metrics, self.sharding)(self.variables, data, batch_size)

  def logits(self, inputs: Any) -> Array:
    """Runs what ships on a batch of inputs, in evaluation mode."""
    return forward(self.network, self.params, self.stats, jax.tree.map(jnp.asarray, inputs), None)[0]

  def pack(self, config: dict[str, Any] | None = None, *, entropy: bool = False) -> bytes:
    """Packs what ships into the bytes of one file; ``compress.unpack`` reads it as nested dictionaries.

    Args:
      config: of JSON's types, kept beside the weights: what you need to build the network again.
      entropy: code the weights by Huffman where that is smaller.

    Raises:
      ValueError: parameters or statistics are not finite, or a name has ``/`` or ``:`` in it.
      ImportError: safetensors is not installed.
    """
    packed, stats = PackedTree(tree.nested(self._stored().tensors)), tree.nested(jax.device_get(self.stats))
    return pack(packed, stats, config or {}, entropy=entropy)

  def export(self, example: Any, form: Literal['stablehlo', 'onnx', 'safetensors'] = 'stablehlo') -> bytes:
    """Exports what ships: inputs -> logits, of batches of any size.

    Args:
      example: a batch of inputs, or its shapes.
      form: 'stablehlo' holds the weights packed and decodes them, so that it is as small as they are; 'onnx' holds
        them in float32; 'safetensors' is ``pack()``.

    Raises:
      ValueError: there is no such form, or the network cannot be converted to it.
      ImportError: what writes it is not installed.
    """
    if form == 'safetensors':
      return self.pack()
    if form not in ('stablehlo', 'onnx'):
      raise ValueError(f'form is {form!r}: give stablehlo, onnx or safetensors')
    stored, stats = self._stored(), jax.tree.map(jnp.asarray, jax.device_get(self.stats))
    in_program = form == 'stablehlo'

    def program(inputs: Any) -> Array:
      params = stored.decode(jnp) if in_program else stored.decode()
      return forward(self.network, params, stats, inputs, None)[0].astype(jnp.float32)

    return (export.stablehlo if in_program else export.onnx)(program, export.any_number(example))

  def _stored(self) -> Any:
    made_from = jax.device_get((alone(self.progress.state.params), self.progress.code))
    return self.reparam.stored(*jax.tree.map(jnp.asarray, made_from))


def classes_of(network: Network, variables: dict[str, Any], inputs: Any) -> int | None:
  """Returns the number of classes of a network whose logits are [batch, classes], and None of another one.

  >>> network = training.linen(MLP((2,), 3, LMA))
  >>> classes_of(network, network.variables(jax.random.key(0), jnp.ones((1, 4))), jnp.ones((1, 4)))
  3

  Source: not in the paper.
  """

  def logits(variables: dict[str, Any], inputs: Any) -> Array:
    return forward(network, *parted(variables), inputs, None)[0]

  shape = jax.eval_shape(logits, variables, inputs).shape
  return shape[1] if len(shape) == 2 else None


def scorer(network: Network, metrics: Mapping[str, Metric] | None, sharding: Any) -> Callable[..., dict[str, float]]:
  """Compiles (variables, data, batch size) -> the mean of each metric.

  >>> of_labels = scorer(training.linen(MLP((2,), 3, LMA)), {'ones': lambda logits, labels: labels}, None)
  >>> variables = training.linen(MLP((2,), 3, LMA)).variables(jax.random.key(0), jnp.ones((1, 4)))
  >>> of_labels(variables, (np.ones((3, 4), np.float32), np.arange(3)), 2)
  {'ones': 1.0}

  Source: not in the paper.
  """
  of_each = {'accuracy': accuracy} if metrics is None else dict(metrics)

  @jax.jit
  def summed(variables: dict[str, Any], batch: Any, mask: Array) -> dict[str, Array]:
    logits, _ = forward(network, *parted(variables), batch.inputs, None)
    totals = {}
    for name, metric in of_each.items():
      values = metric(logits, batch.labels)
      if getattr(values, 'shape', None) != mask.shape:
        raise ValueError(f'the metric {name} gives {shown(values)}: let it give a number for each of {mask.shape[0]}')
      totals[name] = jnp.where(mask, values.astype(jnp.float32), 0.0).sum()
    return totals

  def score(variables: dict[str, Any], data: Any, batch_size: int) -> dict[str, float]:
    examples, totals = examples_of(data, 'validation'), []
    blank = examples.take(np.arange(1)).inputs
    classes = classes_of(network, variables, blank) if metrics is None else None
    for batch, mask in in_order(examples, batch_size=batch_size, sharding=sharding, classes=classes):
      totals.append(jax.device_get(summed(variables, batch, mask)))
    return {name: float(np.sum([each[name] for each in totals], dtype=np.float64) / examples.size) for name in of_each}

  return score
