"""Ranges of quantized activations, with everything else still; and a float network's variables under them."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from lmajax import tree
from lmajax._arguments import shown
from lmajax.activations import linen
from lmajax.activations._fake_quantize import RunningRange
from lmajax.training._forward import Network, as_linen, network_of, parted
from lmajax.types import Key, ModelStats, Params


def calibrated(model: Any, params: Params, batches: Iterable[Any], *, stats: ModelStats) -> ModelStats:
  """Measures the ranges of quantized activations; everything else stands still, to the last bit.

  The network runs in evaluation mode, but for each ``linen.Quantized``, which takes the range of the batch and averages
  its ends. ``recalibrated`` measures all running statistics.

  Args:
    model: a Linen module.
    params: the weights that ship.
    batches: ``Batch`` or inputs, at least one: real ones, or made by ``synthesize``.
    stats: the running statistics to go on from, whose ranges may be new.

  Returns:
    The statistics; of a range that had seen no batch, the mean of those that it saw here.

  Raises:
    ValueError: the model is no Linen module or has no quantized activation, or there is no batch.

  >>> from functools import partial
  >>> act, x = partial(linen.Quantized, LMA, bits=4), jnp.ones((5, 4))
  >>> params, stats = training.linen(MLP((2,), 3, act)).init(jax.random.key(0), x)
  >>> moved = calibrated(MLP((2,), 3, act), params, [x] * 10, stats=stats)['batch_stats']['stages_0']['act']
  >>> round(float(moved['weight']), 4), float(moved['act']['weight'])  # of the range 1 - .99¹⁰, of LMA nothing
  (0.0956, 0.0)

  Source: Haroush et al. 2020 (The Knowledge Within), calibration; averaged extremes as of ``linen.Quantized``.
  """
  if not as_linen(model):
    raise ValueError(f'model is a {type(model).__name__}: give a Linen module, in which linen.Quantized is')
  network_of(model)  # refuses one that is not called with train
  if not any(map(_sites, stats.values())):
    raise ValueError(f'{type(model).__name__} has no quantized activation: nothing to measure')
  if hasattr(batches, 'ndim'):
    raise ValueError(f'batches is {shown(batches)}: give several of them, as [inputs]')
  ranges = {
    f'{name}/{path}/{leaf}' if path else f'{name}/{leaf}'
    for name, part in stats.items() for path in _sites(part) for leaf in RunningRange._fields
  }  # fmt: skip

  @jax.jit
  def moved(params: Params, stats: ModelStats, inputs: Any) -> ModelStats:
    with nn.intercept_methods(_ranges_alone):
      _, after = model.apply({'params': params, **stats}, inputs, train=False, mutable=list(stats))
    found = tree.by_path(after)
    return tree.map_with_path(lambda path, leaf: found[path] if path in ranges else leaf, stats)

  began = stats
  for batch in batches:
    began, stats = None, moved(params, stats, getattr(batch, 'inputs', batch))
  if began is not None:
    raise ValueError('batches is empty: give at least one')
  return stats


def _ranges_alone(following: Callable, args: Any, kwargs: dict[str, Any], context: Any) -> Any:
  """Calls quantized activations in training, and what is quantized in evaluation."""
  module = context.module
  if context.method_name == '__call__' and isinstance(module, linen.Quantized):
    if module.train is not None:
      path = '/'.join(map(str, module.path))
      raise ValueError(f'the Quantized {path} is made with train={module.train}: give train at the call alone')
    return following(*args, **{**kwargs, 'train': True})
  if context.method_name == '__call__' and isinstance(module.parent, linen.Quantized):
    return following(*args, **{**kwargs, 'train': False})
  return following(*args, **kwargs)


def still(model: Any) -> Network:
  """Makes the network that trains in evaluation mode: norms, LMA and ranges stand still, and nothing is dropped.

  Gradients pass through what stands still. Every objective takes it as a model, so that a quantized student can be
  tuned on inputs that are few, or made, and whose statistics are not those of the data.

  Args:
    model: a Linen module or a ``Network``.

  >>> model, x = MLP((2,), 3, LMA), jnp.ones((5, 4))
  >>> params, stats = still(model).init(jax.random.key(0), x)
  >>> _, after = still(model).apply(params, stats, x, jax.random.key(1))
  >>> after is stats
  True

  Source: Haroush et al. 2020 (The Knowledge Within), where batch norms stand still while a student is tuned.
  """
  network = network_of(model)

  def apply(params: Params, stats: ModelStats, inputs: Any, key: Key | None) -> tuple[Any, ModelStats]:
    del key
    return network.apply(params, stats, inputs, None)

  return Network(network.init, apply)


def grafted(variables: dict[str, Any], trained: dict[str, Any]) -> dict[str, Any]:
  """Puts a trained network's variables into those of the same network with quantized activations.

  What an activation holds at ``act`` comes under ``act/act``, inside its ``Quantized``, whose own range stays as it is:
  both networks must name their activations alike, as ``act(name='act')``.

  Args:
    variables: new ones of the network with ``Quantized`` activations, by the names of their collections.
    trained: those of the network without.

  Returns:
    New arrays, in the tree of the first.

  Raises:
    ValueError: a leaf of either has no counterpart in the other, or one of another shape; the line has its path.

  >>> from functools import partial
  >>> x, act = jnp.ones((5, 4)), partial(linen.Quantized, LMA, bits=4)
  >>> student, teacher = (MLP((2,), 3, each).init(jax.random.key(0), x, train=True) for each in (act, LMA))
  >>> both = grafted(student, teacher)['batch_stats']['stages_0']['act']
  >>> sorted(both), both['act'].keys() == teacher['batch_stats']['stages_0']['act'].keys()
  (['act', 'high', 'low', 'weight'], True)

  Source: not in the papers.
  """
  for each in (variables, trained):
    parted(each)  # refuses what is no dictionary of collections
  places = {f'{path}/' if path else '' for part in variables.values() for path in _sites(part)}
  given, taken = tree.by_path(trained), set()

  def one(path: str, leaf: Any) -> Any:
    collection, _, inner = path.partition('/')
    place = max((each for each in places if inner.startswith(each)), key=len, default=None)
    if place is not None:
      rest = inner.removeprefix(place)
      if '/' not in rest:
        return jnp.array(leaf)
      inner = place + rest.removeprefix('act/')
    source = f'{collection}/{inner}'
    if source not in given or given[source].shape != leaf.shape:
      found = shown(given[source]) if source in given else 'nothing'
      raise ValueError(f'{path} is {shown(leaf)}, and the trained network has {found} at {source}')
    taken.add(source)
    return jnp.array(given[source])

  filled = tree.map_with_path(one, variables)
  for path in given.keys() - taken:
    raise ValueError(f'{path} of the trained network has no place in the quantized one')
  return filled


def _sites(part: Any, path: str = '') -> list[str]:
  """Lists the paths of quantized activations in a collection, by their ranges."""
  if not isinstance(part, Mapping):
    return []
  inner = [found for name, below in part.items() for found in _sites(below, f'{path}/{name}' if path else str(name))]
  ranged = all(name in part and not isinstance(part[name], Mapping) for name in RunningRange._fields)
  return [path, *inner] if ranged else inner
