"""Models that know nothing of stages, seen as staged ones."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from lmajax import tree
from lmajax.types import Array, Key, Tap


@dataclasses.dataclass(frozen=True)
class ByPath:
  r"""A Linen model as it is found, seen as stem, stages and head by the paths of its modules.

  .. math:: t_i = \text{what the first module of stage } i \text{ takes}, \qquad
    t_n = \text{what the last module of the last stage gives}

  Whatever the model does between two modules belongs to the stage, or the stem, before it; what follows ``last``, to
  the head. Called by ``apply``, it gives the output and all taps; by ``method='stem'``, ``'stage'`` or ``'head'`` the
  whole model is traced, with the tap put in its place, and what the part does not need is dead code that ``jax.jit``
  removes: not compiled, every part costs a whole pass. Of the collections that are ``mutable`` only that part's own
  leaves move. No boundary may lie within ``nn.remat``, ``nn.jit`` or ``nn.scan``.

  Attributes:
    model: as it is found; its variables are taken as they are.
    first: the path of the first module of each stage, ``'ResNetBlock_3'`` or ``'encoder/layer_0'``. Its ``__call__``
      must be called once, and the tap is its first argument.
    last: the path of the last module of the last stage.
    example: shape and dtype of one input, without the batch; a stage runs behind inputs made of NaN, so that a model
      whose stages see more than the tap, as by a skip connection around them, cannot go unseen.
    options: from ``train`` to the model's own keyword arguments, ``lambda train: {'deterministic': not train}``.

  Raises:
    ValueError: the modules are not called once each, in their order.

  >>> class Net(nn.Module):
  ...   @nn.compact
  ...   def __call__(self, x):
  ...     x = nn.relu(nn.Dense(3)(x))
  ...     x = nn.relu(nn.Dense(4)(x))
  ...     x = nn.Dense(5)(x)
  ...     return nn.Dense(2)(x)
  >>> example = jax.ShapeDtypeStruct((6,), jnp.float32)
  >>> model = ByPath(Net(), first=('Dense_1', 'Dense_2'), last='Dense_2', example=example, options=lambda train: {})
  >>> variables = model.init(jax.random.key(0), jnp.ones((1, 6)), train=False)
  >>> output, taps = model.apply(variables, jnp.ones((1, 6)), train=False)
  >>> output.shape, [tap.shape for tap in taps]
  ((1, 2), [(1, 3), (1, 4), (1, 5)])
  >>> bool((model.apply(variables, 0, taps[0], train=False, method='stage') == taps[1]).all())
  True
  >>> model.in_stages('Dense_0/kernel'), model.in_stages('Dense_1/kernel')
  (False, True)

  Source: none; the boundaries of Koratana et al. 2019 (LIT), for models that were not written for it.
  """

  model: nn.Module
  first: Sequence[str]
  last: str
  example: jax.ShapeDtypeStruct
  options: Callable[[bool], Mapping[str, Any]] = lambda train: {'train': train}

  def init(self, key: Key, inputs: Any, *, train: bool) -> Any:
    """The model's own variables."""
    return self.model.init(key, inputs, **self.options(train))

  def apply(
    self, variables: Any, *args: Any, train: bool, method: str = '__call__', mutable: Any = False, rngs: Any = None
  ) -> Any:
    """Applies the model, as ``apply`` of a staged Linen model does."""
    part, inputs, given = self._asked(method, args)
    walk = _Walk(self, given)
    with nn.intercept_methods(walk):
      said = self.model.apply(variables, inputs, mutable=mutable, rngs=rngs, **self.options(train))
    taps = walk.finished()
    output, moved = said if mutable is not False else (said, {})
    answer = (output, taps) if part is None else output if part == len(taps) else taps[part]
    return answer if mutable is False else (answer, walk.moved_by(part, moved, variables))

  def in_stages(self, path: str) -> bool:
    """Returns whether a variable belongs to a stage, and not to the stem or the head."""
    return 0 < self._walked.part(path) <= len(self.first)

  @cached_property
  def _walked(self) -> '_Walk':
    walk = _Walk(self, {})
    with nn.intercept_methods(walk):
      jax.eval_shape(lambda: self.init(jax.random.key(0), self._nothing(1), train=False))
    walk.finished()
    return walk

  def _asked(self, method: str, args: Sequence[Any]) -> tuple[int | None, Any, dict[int, Tap]]:
    """Returns the wanted part (None: all), the model's inputs, and the tap to put at a boundary."""
    if method in ('__call__', 'stem'):
      return (None if method == '__call__' else 0), *args, {}
    boundary, tap = args if method == 'stage' else (len(self.first), *args)
    return boundary + 1, self._nothing(len(jax.tree.leaves(tap)[0])), {boundary: tap}

  def _nothing(self, rows: int) -> Array:
    inexact = jnp.issubdtype(self.example.dtype, jnp.inexact)
    return jnp.full((rows, *self.example.shape), jnp.nan if inexact else 0, self.example.dtype)


class _Walk:
  """Follows one call of a model: part 0 is the stem, i + 1 stage i, and after the last one comes the head."""

  def __init__(self, model: ByPath, given: dict[int, Tap]):
    self._model = model
    self._given = given
    self._taps: list[tuple[int, Tap]] = []
    self._parts: dict[str, int] = {}  # of the modules, by their path

  def __call__(self, call: Callable, args: Any, kwargs: Any, context: Any) -> Any:
    path, first = '/'.join(context.module.path), self._model.first
    if context.method_name != '__call__':
      return call(*args, **kwargs)
    if path in first:
      args = self._passed(list(first).index(path), args[0]), *args[1:]
    self._parts.setdefault(path, len(self._taps))
    output = call(*args, **kwargs)
    return self._passed(len(first), output) if path == self._model.last else output

  def _passed(self, boundary: int, tap: Tap) -> Tap:
    self._taps.append((boundary, self._given.get(boundary, tap)))
    return self._taps[-1][1]

  def finished(self) -> tuple[Tap, ...]:
    """Returns what passed each boundary."""
    if [boundary for boundary, _ in self._taps] != list(range(len(self._model.first) + 1)):
      wanted, called = ', '.join((*self._model.first, self._model.last)), ', '.join(filter(None, self._parts))
      raise ValueError(f'{wanted} (first of each stage, last of all) must be called once, in this order, of {called}')
    return tuple(tap for _, tap in self._taps)

  def part(self, path: str) -> int:
    """The part that a variable belongs to: that of the module that holds it."""
    while path not in self._parts:
      path = path.rpartition('/')[0]
    return self._parts[path]

  def moved_by(self, part: int | None, moved: Any, variables: Any) -> dict[str, Any]:
    """The collections as that part alone moves them."""

    def own(path: str, new: Any, old: Any) -> Any:
      return new if part is None or self.part(path) == part else old

    return {
      name: tree.map_with_path(own, new, variables[name]) if name in variables else new for name, new in moved.items()
    }
