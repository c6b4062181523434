"""Names for the types that run through lmajax, and the contracts of its families."""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
from jaxtyping import Bool, Float

Array = jax.Array
"""An array of JAX, of any shape and type."""
Key = jax.Array
"""A typed key, from ``jax.random.key``."""
Values = Float[Array, '...']
"""Floats of any shape."""
Mask = Bool[Array, '...'] | None
"""Says which elements count; None: all."""
Params = Any
"""A pytree of float arrays: what the optimizer moves."""
ModelStats = Any
"""A pytree of arrays that a forward pass in training updates: running statistics."""
Theta = Any
"""A pytree of float arrays from which weights are made: what the optimizer moves in their place."""
Code = Any
"""A pytree of arrays that goes with a theta, is carried and not trained: assignments, codebooks, a rate."""
Where = Callable[[str, Array], bool]
"""(path, leaf) -> whether it is one of them."""
Tap = Any
"""What passes between two stages of a model: an array or a pytree of arrays."""


class Batch(NamedTuple):
  """A batch: inputs of a model (normalized images, characters, two sides of sentences) and their labels.

  Labels are class numbers, a probability of each class, or None.
  """

  inputs: Any
  labels: Any


Frozen = Any
"""What an objective looks at and nothing trains: a teacher's variables, or what the teacher says of a batch."""
Metrics = dict[str, Array]
"""Scalars by name, noted beside the loss."""
Objective = Callable[[Params, ModelStats, Frozen, Batch, Key], tuple[Array, tuple[ModelStats, Metrics]]]
"""(params, stats, frozen, batch, key) -> (loss, (stats, metrics)); the key is of this step's dropout and noise."""
Share = Callable[[Frozen, Batch], Frozen]
"""(frozen, batch) -> what the objectives look at: made once a step, however many students there are."""
EndToEnd = Callable[[Array, Any, Batch], Array]
"""(logits, taught, batch) -> a loss of a student's own logits, under what its teacher says."""
Step = Callable[[Any, Frozen, Batch], tuple[Any, Metrics]]
"""(state, frozen, batch) -> (state, metrics), with the loss among them."""


@runtime_checkable
class Activation(Protocol):
  """An elementwise layer: ReLU, PReLU, Swish, APLU, LMA.

  ``where`` has the rank of ``x``, broadcasts against it, and is looked at by statistics alone. ``train`` may be given
  here or as a field of the module, as ``use_running_average`` of ``flax.linen.BatchNorm``. ``stats`` are those of ``x``
  where the caller knows them already, as after a batch norm.
  """

  def __call__(self, x: Array, *, where: Mask = None, train: bool | None = None, stats: Any = None) -> Array:
    """Applies the activation to every element of ``x``."""
    ...


ActivationFactory = Callable[..., Any]
"""Makes an ``Activation``; called once per site, ``self.act(name='act')``, so that no two sites share parameters."""


@runtime_checkable
class Staged(Protocol):
  """Every model: ``stem``, then stages, then ``head``; calling it composes the three.

  ``stage(i, taps[i]) == taps[i + 1]``, with the parameters of stage ``i`` under ``stages_i``.
  """

  def stem(self, inputs: Any, *, train: bool) -> Tap:
    """Makes ``taps[0]`` from the inputs."""
    ...

  def stage(self, i: int, tap: Tap, *, train: bool) -> Tap:
    """Makes ``taps[i + 1]`` from ``taps[i]``."""
    ...

  def head(self, tap: Tap, *, train: bool) -> Array:
    """Makes the output from the last tap."""
    ...

  def __call__(self, inputs: Any, *, train: bool) -> tuple[Array, tuple[Tap, ...]]:
    """Returns the output and every tap."""
    ...


@runtime_checkable
class Packed(Protocol):
  """Weights as they are stored and shipped: integers, tables and scales, on the host."""

  @property
  def tensors(self) -> Any:
    """A pytree of tensors, each as it lies in a file."""
    ...

  def decode(self, xp: Any = ...) -> Params:
    """Makes the weights, in NumPy; handed ``jax.numpy``, in a program that holds them packed."""
    ...

  def bits(self) -> int:
    """Counts what is stored: integers at their width, tables and scales at theirs."""
    ...

  def size(self) -> int:
    """Counts the weights, as they are once decoded."""
    ...

  def mean_bits(self) -> float:
    """The bits of the integers, over all weights that have one."""
    ...

  def __or__(self, other: Any) -> Any:
    """Puts two together whose weights are parts of one tree."""
    ...


class Reparam(NamedTuple):
  """Every way of making weights from less; each of the four is a pure function.

  ``init(params, key)`` gives the theta, which is trained, and the code, which is carried; both are new arrays, so that
  a step may donate them. ``apply(theta, code, key)`` gives the weights that the forward pass sees: with a key those of
  training, with its noise and its straight-through gradient; with None those that are shipped. ``refresh(theta, code,
  key)`` gives the code anew, between fits. ``stored(theta, code)`` gives what goes into a file, and its ``decode()``
  equals ``apply(theta, code, None)`` but for rounding.
  """

  init: Callable[[Params, Key], tuple[Theta, Code]]
  apply: Callable[[Theta, Code, Key | None], Params]
  refresh: Callable[[Theta, Code, Key], Code]
  stored: Callable[[Theta, Code], Packed]


class Channels(NamedTuple):
  """Channels of a network that go or stay together: what writes them, what has a number for each, and what reads them.

  Every leaf is named by its collection and its keys, as in ``params/stages_0/Conv_0/kernel``. ``kernels`` write the
  channels on their last axis; where outputs are added there are several, and one width for all. ``along`` are the other
  leaves with the channels on their last axis: biases, norms and their running statistics, parameters of activations.
  ``consumers`` are the kernels that read them on the axis before their last, position after position where a map was
  flattened. ``scales`` are those of ``along`` by which a batch norm scales each kernel. ``first`` says that a kernel
  reads the network's own inputs.
  """

  kernels: tuple[str, ...]
  along: tuple[str, ...] = ()
  consumers: tuple[str, ...] = ()
  scales: tuple[str, ...] = ()
  first: bool = False


ChannelGraph = tuple[Channels, ...]
"""All channels of a network that may be taken out; what stands in none of them stays whole."""
Widths = tuple[int, ...]
"""How many channels each entry of a graph has, in its order."""


@runtime_checkable
class Slimmable(Protocol):
  """A model that says where its channels are, and that can be had with fewer of them."""

  def graph(self) -> ChannelGraph:
    """Names the leaves of all channels that may be taken out."""
    ...

  def thinned(self, widths: Widths) -> Any:
    """Makes the same model with so many channels for each entry of its graph."""
    ...
