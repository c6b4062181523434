"""A network of an NNX module, and what modules in it give."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx as flax_nnx

from lmajax import tree
from lmajax._arguments import shown
from lmajax.training._forward import Network, function
from lmajax.types import Key, ModelStats, Params

_KINDS = (flax_nnx.Param, flax_nnx.RngState, ...)


def nnx(module: flax_nnx.Module, *, taps: Sequence[str] = ()) -> Network:
  """Makes a network of an NNX module, which takes inputs alone; ``train()`` and ``eval()`` set its mode.

  A module that is called otherwise, or has other modes, is wrapped in one of your own.

  Its ``nnx.Param`` are the parameters, by the names of its attributes (numbers of a list are names, too); all else that
  moves, but for the state of its generators, is the collection ``state``.

  Args:
    module: is read and left as it is. What it holds is what training starts from: ``init`` draws nothing.
    taps: the paths of modules in it, as ``'blocks/0'``; what each of them gives is a tap behind the output, so that
      a teacher's are in ``Taught.taps``. Each must be called once.

  Raises:
    ValueError: it is no NNX module, or has none at a path; or, when called, parameters or statistics are not those of
      the module, or a tap is not called once.

  >>> import flax
  >>> network = nnx(flax.nnx.Linear(4, 3, rngs=flax.nnx.Rngs(0)))
  >>> params, stats = network.init(jax.random.key(0), None)
  >>> sorted(params), network.apply(params, stats, jnp.ones((5, 4)), None)[0].shape
  (['bias', 'kernel'], (5, 3))

  Source: not in the paper.
  """
  if not isinstance(module, flax_nnx.Module):
    raise ValueError(f'module is a {type(module).__name__}: give an instance of an NNX module')
  seen: dict[str, list[Any]] = {}
  kinds_of = {path: _tapped(_inner(module, path), path, seen) for path in taps}
  of_params, _, of_state = flax_nnx.state(module, *_KINDS)
  model_of = merged(module)

  def apply(params: Params, stats: ModelStats, inputs: Any, key: Key | None) -> tuple[Any, ModelStats]:
    model = model_of(params, stats, key)
    for path, kind in kinds_of.items():
      _inner(model, path).__class__ = kind
    seen.update({path: [] for path in taps})
    output = model(inputs)
    output = (output, tuple(_once(path, seen[path]) for path in taps)) if taps else output
    if key is None:
      return output, stats
    moved = tree.by_path(flax_nnx.state(model, *_KINDS)[2])
    return output, tree.map_with_path(lambda path, _: moved[path.removeprefix('state/')], stats)

  state = _named(of_state)
  return function(apply, _named(of_params), stats={'state': state} if state else None)


def merged(module: flax_nnx.Module) -> Callable[[Params, ModelStats, Key | None], Any]:
  """Makes the function that puts parameters, statistics and the mode (a key: training) into a copy of a module."""
  graph, of_params, generators, of_state = flax_nnx.split(module, *_KINDS)

  def seeded(key: Key) -> Any:
    """The state of the generators: keys of its own for each of them, and their counts as they are."""
    number = itertools.count()

    def one(leaf: Any) -> Any:
      own = jax.random.fold_in(key, next(number))
      if not jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return leaf
      return jax.random.split(own, leaf.shape) if leaf.shape else own

    return jax.tree.map(one, generators)

  def model_of(params: Params, stats: ModelStats, key: Key | None) -> Any:
    drawn = jax.tree.map(lambda leaf: leaf, generators) if key is None else seeded(key)  # never the module's own
    parts = _filled(of_params, params, 'params'), drawn, _filled(of_state, stats.get('state', {}), 'stats')
    model = flax_nnx.merge(graph, *parts)
    model.train() if key is not None else model.eval()
    return model

  return model_of


def _inner(module: Any, path: str) -> Any:
  """Returns the module at a path in another one."""
  found: Any = module
  for key in path.split('/'):
    try:
      found = getattr(found, key) if hasattr(found, key) else found[int(key) if key.isdecimal() else key]
    except (LookupError, TypeError) as error:
      raise ValueError(f'{type(module).__name__} has no module {path}') from error
  if not isinstance(found, flax_nnx.Module):
    raise ValueError(f'{path} of {type(module).__name__} is a {type(found).__name__}: give the path of a module')
  return found


def _tapped(module: Any, path: str, seen: dict[str, list[Any]]) -> type[Any]:
  """Makes the class of a module that notes what it gives."""
  kind = type(module)

  def call(self: Any, *args: Any, **kwargs: Any) -> Any:
    output = kind.__call__(self, *args, **kwargs)
    seen[path].append(output)
    return output

  return type(kind.__name__, (kind,), {'__call__': call})


def _once(path: str, given: list[Any]) -> Any:
  if len(given) != 1:
    raise ValueError(f'the tap {path} is called {len(given)} times: give the path of a module that is called once')
  return given[0]


def _filled(state: Any, leaves: Any, what: str) -> Any:
  """Puts leaves into a state, each at its path."""
  wanted, given = tree.by_path(state), tree.by_path(leaves)
  for path in [*wanted, *given]:
    there, here = (shown(part[path]) if path in part else 'none' for part in (wanted, given))
    if 'none' in (there, here) or wanted[path].shape != jnp.shape(given[path]):
      raise ValueError(f'{what} has {here} at {path}, where the module has {there}')
  return tree.map_with_path(lambda path, leaf: given[path], state)


def _named(state: Any) -> Any:
  """Returns a state as nested dictionaries whose keys are strings, so that it can be packed."""

  def named(part: Any) -> Any:
    return {str(key): named(value) for key, value in part.items()} if isinstance(part, dict) else part

  return named(flax_nnx.to_pure_dict(state))
