"""What the normalizations of a network have stored of the training data, beside what other inputs give them."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from flax import errors
from flax import nnx as flax_nnx

from lmajax import tree
from lmajax.activations import RunningStats, debias, linen
from lmajax.activations import nnx as own_nnx
from lmajax.losses import Moments, Site
from lmajax.training._forward import as_linen, network_of
from lmajax.training._nnx import merged
from lmajax.types import Array, Mask, ModelStats, Params

_RUNNING = ('batch_stats', 'state')  # where nothing may be that is not known; others may hold counters and the like
_SOWN = 'lmajax_inputs'  # the collection that carries what was measured out of remat and jit


class _Kind(NamedTuple):
  """Modules of one kind, and how their statistics are read."""

  name: str
  modules: tuple[type, ...]
  leaves: tuple[str, ...]  # of a site's running statistics
  stored: Callable[[dict[str, Array]], Moments]
  measured: Callable[[Any, Array, Mask], Moments]
  epsilon: Callable[[Any], float]


def norm_statistics(model: Any, params: Params, stats: ModelStats, inputs: Any) -> dict[str, Site]:
  r"""Measures the input of every batch norm in evaluation mode, beside what the norm has stored.

  .. math:: \tilde\mu_c = \overline{x_c}, \qquad
    \tilde\sigma_c = \sqrt{\overline{(x_c - \tilde\mu_c)^2} + \epsilon}, \qquad
    \hat\sigma_c = \sqrt{v_c + \epsilon}

  The norm's own ε stands in both deviations, as in its output, so that neither is 0. Gradients flow through what is
  measured. A norm that is called several times has the mean of its calls, as its running statistics have.

  Args:
    model: a Linen module, called as ``module(inputs, train=...)``, or an NNX module; not the ``Network`` of one, whose
      inside cannot be seen.
    params: its parameters.
    stats: its running statistics, as ``parted`` gives them.
    inputs: a batch. Of fewer than some 64 positions a channel the variance says little.

  Returns:
    A ``Site`` for each norm, by the path of its module, computed in float32 at least.

  Raises:
    ValueError: the model is of neither kind or has no batch norm; or a norm cannot be looked into, as under
      ``nn.scan`` and ``nn.vmap`` or in a subclass with a call of its own, or statistics are of no module known here.
      The line has its name: no norm is left out in silence. Under ``jax.checkpoint`` without ``nn.remat`` the error is
      JAX's own, of a tracer that leaks.

  >>> model, x = MLP((2,), 3, linen.ReLU), jnp.ones((5, 4))
  >>> params, stats = training.linen(model).init(jax.random.key(0), x)
  >>> site = norm_statistics(model, params, stats, x)['stages_0/norm']
  >>> site.stored.std.shape, round(float(site.measured.std[0]), 5)  # of equal inputs, √ε
  ((2,), 0.00316)

  Source: Haroush et al. 2020 (The Knowledge Within), section on batch-norm statistics. There the variance's
  bias and ε are not told; the biased variance is what Flax stores.
  """
  return _statistics(_NORM, model, params, stats, inputs)


def lma_statistics(model: Any, params: Params, stats: ModelStats, inputs: Any) -> dict[str, Site]:
  """Measures the input of every LMA in evaluation mode, beside the running statistics that place its segments.

  A measure of likeness for networks without any batch norm: two numbers a layer. They tell data from other data, and
  are too few to make inputs by. Deviations are unbiased, with 1e-5 added to their squares.

  Args:
    model: as of ``norm_statistics``.
    params: its parameters.
    stats: its running statistics; of an LMA that has seen no batch nothing is known, and the divergence is NaN.
    inputs: a batch. A mask that the model hands to LMA counts here too.

  Returns:
    A ``Site`` for each LMA, with scalars.

  Raises:
    ValueError: as ``norm_statistics``.

  >>> model, x = MLP((2,), 3, LMA), jnp.ones((5, 4))
  >>> params, stats = training.linen(model).init(jax.random.key(0), x)
  >>> stats = training.recalibrated(model, params, [x], stats=stats)
  >>> site = lma_statistics(model, params, stats, x)['stages_0/act']
  >>> site.stored.mean.shape
  ()

  Source: not in the papers.
  """
  return _statistics(_LMA, model, params, stats, inputs)


def _norm_measured(module: Any, x: Array, where: Mask) -> Moments:
  axes = module.axis if isinstance(module.axis, tuple | list) else (module.axis,)
  kept = {axis % x.ndim for axis in axes}
  rest = tuple(axis for axis in range(x.ndim) if axis not in kept)
  return _measured(x, where, rest, spare=0)


def _lma_measured(module: Any, x: Array, where: Mask) -> Moments:
  del module
  return _measured(x, where, tuple(range(x.ndim)), spare=1)


def _measured(x: Array, where: Mask, axes: tuple[int, ...], *, spare: int) -> Moments:
  x = x.astype(np.promote_types(x.dtype, np.float32))
  ones = jnp.ones_like(x) if where is None else jnp.broadcast_to(where, x.shape).astype(x.dtype)
  count = ones.sum(axes, keepdims=True)
  mean = (x * ones).sum(axes, keepdims=True) / jnp.maximum(count, 1)
  squares = (jnp.square(x - mean) * ones).sum(axes) / jnp.maximum(count.squeeze(axes) - spare, 1)
  return Moments(mean.squeeze(axes), squares)


def _norm_stored(leaves: dict[str, Array]) -> Moments:
  return Moments(leaves['mean'], leaves['var'])


def _lma_stored(leaves: dict[str, Array]) -> Moments:
  known = debias(RunningStats(**leaves))
  return Moments(known.mean, jnp.square(known.std))


_NORM = _Kind(
  'batch norm', (nn.BatchNorm, flax_nnx.BatchNorm), ('mean', 'var'), _norm_stored, _norm_measured,
  lambda module: module.epsilon,
)  # fmt: skip
_LMA = _Kind(
  'LMA', (linen.LMA, own_nnx.LMA), RunningStats._fields, _lma_stored, _lma_measured, lambda module: 1e-5
)  # fmt: skip
_OTHERS = (linen.Quantized, own_nnx.Quantized)  # their statistics are of no distribution


def _statistics(kind: _Kind, model: Any, params: Params, stats: ModelStats, inputs: Any) -> dict[str, Site]:
  if isinstance(model, flax_nnx.Module):
    calls, called = _nnx_calls(kind, model, params, stats, inputs)
  elif as_linen(model):
    calls, called = _linen_calls(kind, model, params, stats, inputs)
  else:
    mend = 'give the Linen or NNX module itself'
    raise ValueError(f'model is a {type(model).__name__}, whose inside cannot be seen: {mend}')
  stored = _stored(kind, stats, called)
  if not calls and not stored:
    raise ValueError(f'{type(model).__name__} calls no {kind.name} with running statistics: it has nothing to match')
  for path in [*stored, *calls]:
    shapes = {each.shape[:-1] for each in calls.get(path, ())}
    if path not in stored or shapes != {jnp.shape(stored[path].mean)}:
      why = 'it stands under nn.scan or nn.vmap, is not called in evaluation, or has no running statistics'
      raise ValueError(f'the {kind.name} {path} cannot be looked into: {why}')
  return {path: _site(stored[path], calls[path]) for path in stored}


def _given(kind: _Kind, module: Any, x: Array, where: Mask) -> Array:
  """The means, the variances, and epsilon in their shape, so that all three are stacked where modules are."""
  if not x.size:
    raise ValueError('inputs hold no example: nothing to measure')
  mean, variance = kind.measured(module, x, where)
  return jnp.stack([mean, variance, jnp.full_like(mean, kind.epsilon(module))], axis=-1)


def _site(stored: Moments, calls: list[Array]) -> Site:
  """Adds epsilon to variances, and takes the mean of several calls."""
  given = sum(calls, start=jnp.zeros_like(calls[0])) / len(calls)
  mean, variance, epsilon = (given[..., i] for i in range(3))
  known = [jnp.asarray(each).astype(given.dtype) for each in stored]
  return Site(Moments(known[0], jnp.sqrt(known[1] + epsilon)), Moments(mean, jnp.sqrt(variance + epsilon)))


def _stored(kind: _Kind, stats: ModelStats, called: dict[str, type]) -> dict[str, Moments]:
  """Reads the statistics of one kind; refuses what is of no module that was called."""
  found: dict[str, Moments] = {}

  def walk(node: Any, path: str, strict: bool) -> None:
    if not isinstance(node, Mapping):
      if not strict:
        return
      raise ValueError(f'the statistics {path} are of no batch norm, LMA or Quantized that is called: nothing to match')
    module = called.get(path)
    if module is None:
      for name, below in node.items():
        walk(below, f'{path}/{name}' if path else str(name), strict)
    elif issubclass(module, kind.modules):
      found[path] = kind.stored({name: node[name] for name in kind.leaves})
    else:
      inner = {name: below for name, below in node.items() if isinstance(below, Mapping)}
      for name, below in inner.items():
        walk(below, f'{path}/{name}', strict)

  for collection, part in stats.items():
    walk(part, '', collection in _RUNNING)
  return found


def _linen_calls(
  kind: _Kind, model: Any, params: Params, stats: ModelStats, inputs: Any
) -> tuple[dict[str, list[Array]], dict[str, type]]:
  """Runs a Linen module; returns what each site was given, and the kind of every module called."""
  called: dict[str, type] = {}

  def noting(following: Callable, args: Any, kwargs: dict[str, Any], context: Any) -> Any:
    module = context.module
    if context.method_name == '__call__' and isinstance(module, _known()):
      called['/'.join(map(str, module.path))] = type(module)
      if isinstance(module, kind.modules):
        _check_own(type(module), kind)
        x = args[0] if args else kwargs['x']
        where = kwargs.get('mask', kwargs.get('where'))
        module.sow(_SOWN, 'moments', _given(kind, module, x, where))
    return following(*args, **kwargs)

  network_of(model)  # refuses one that is not called with train
  try:
    with nn.intercept_methods(noting):
      _, moved = model.apply({'params': params, **stats}, inputs, train=False, mutable=[_SOWN])
  except errors.FlaxError as error:
    raise ValueError(f'{type(model).__name__} does not run in evaluation ({str(error).splitlines()[0]})') from error
  calls: dict[str, list[Array]] = {}

  def walk(node: Any, path: tuple[str, ...]) -> None:
    for name, below in node.items():
      if name == 'moments' and isinstance(below, tuple):
        calls['/'.join(path)] = list(below)
      else:
        walk(below, (*path, name))

  walk(moved.get(_SOWN, {}), ())
  return calls, called


def _check_own(module: Any, kind: _Kind) -> None:
  """Refuses a subclass with a call of its own, which may change what the norm is given."""
  if module.__call__ not in [each.__call__ for each in kind.modules]:
    raise ValueError(f'{module.__name__} calls a {kind.name} in a way of its own, and cannot be looked into')


def _known() -> tuple[type, ...]:
  return (*_NORM.modules, *_LMA.modules, *_OTHERS)


class _Sown(flax_nnx.Intermediate):
  """What was measured at a site of an NNX module."""


def _nnx_calls(
  kind: _Kind, model: flax_nnx.Module, params: Params, stats: ModelStats, inputs: Any
) -> tuple[dict[str, list[Array]], dict[str, type]]:
  """Runs an NNX module; returns what each site was given, and the kind of every module in it."""
  module = merged(model)(params, stats, None)
  called = {}
  for path, inner in [*flax_nnx.iter_graph(module)]:
    if isinstance(inner, _known()):
      called['/'.join(map(str, path))] = type(inner)
      if isinstance(inner, kind.modules):
        inner.__class__ = _noting(type(inner), kind)
  module(inputs)
  sown = flax_nnx.to_pure_dict(flax_nnx.pop(module, _Sown))
  calls: dict[str, list[Array]] = {}
  for path, given in tree.by_path(sown).items():
    calls.setdefault('/'.join(path.split('/')[:-1]), []).append(given)
  return calls, called


def _noting(module: type, kind: _Kind) -> type:
  _check_own(module, kind)

  def call(self: Any, x: Array, *args: Any, **kwargs: Any) -> Any:
    where = kwargs.get('mask', kwargs.get('where'))
    number = sum(name.startswith(_SOWN) for name in vars(self))
    setattr(self, f'{_SOWN}_{number}', _Sown(_given(kind, self, x, where)))
    return module.__call__(self, x, *args, **kwargs)

  return type(module.__name__, (module,), {'__call__': call})
