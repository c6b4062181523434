"""The activations as Flax NNX modules, over the same pure functions as the Linen ones.

``model.train()``, ``model.eval()`` and ``nnx.view(model, use_running_average=...)`` switch those with statistics,
as they switch ``nnx.BatchNorm``.
"""

from typing import Any

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array

from lmajax._arguments import check_count, check_mask
from lmajax.activations import _baselines, _fake_quantize, _lma, _stats
from lmajax.activations._stats import Stats
from lmajax.types import Mask, Values


class PReLU(nnx.Module):
  """``lmajax.activations.prelu`` with its one slope per layer.

  >>> PReLU()(jnp.array([-1., 1.])).tolist()
  [-0.25, 1.0]

  Source: He et al. 2015, equation 1; equal to ``linen.PReLU``.
  """

  def __init__(self, *, rngs: nnx.Rngs | None = None):
    del rngs
    self.slope = nnx.Param(jnp.float32(0.25))

  def __call__(self, x: Values, *, where: Mask = None, train: bool | None = None, stats: Stats | None = None) -> Array:
    """Applies ``prelu``; the options change nothing."""
    del where, train, stats
    return _baselines.prelu(x, self.slope[...])


class Swish(nnx.Module):
  """``lmajax.activations.swish`` with its slope per channel.

  Attributes:
    num_features: the channels, the last axis.

  >>> Swish(2)(jnp.zeros((1, 2))).tolist()
  [[0.0, 0.0]]

  Source: Ramachandran et al. 2017; equal to ``linen.Swish``.
  """

  def __init__(self, num_features: int, *, rngs: nnx.Rngs | None = None):
    del rngs
    check_count('num_features', num_features, 1)
    self.slope = nnx.Param(jnp.ones(num_features, jnp.float32))

  def __call__(self, x: Values, *, where: Mask = None, train: bool | None = None, stats: Stats | None = None) -> Array:
    """Applies ``swish``; the options change nothing."""
    del where, train, stats
    return _baselines.swish(x, self.slope[...])


class APLU(nnx.Module):
  """``lmajax.activations.aplu`` with its K − 2 hinges per channel.

  Attributes:
    num_features: the channels, the last axis.
    num_segments: K ≥ 3.

  >>> APLU(2, rngs=nnx.Rngs(0))(jnp.zeros((1, 2))).shape
  (1, 2)

  Source: Agostinelli et al. 2015, equation 1; equal to ``linen.APLU``.
  """

  def __init__(self, num_features: int, num_segments: int = 8, *, rngs: nnx.Rngs):
    slopes, cuts = _baselines.aplu_init(rngs.params(), num_segments, num_features)
    self.slopes, self.cuts = nnx.Param(slopes), nnx.Param(cuts)

  def __call__(self, x: Values, *, where: Mask = None, train: bool | None = None, stats: Stats | None = None) -> Array:
    """Applies ``aplu``; the options change nothing."""
    del where, train, stats
    return _baselines.aplu(x, self.slopes[...], self.cuts[...])


class LMA(nnx.Module):
  """``lmajax.lma`` with its slopes, its intercepts and the running statistics of its input.

  Attributes:
    num_segments: K ≥ 2.
    joined: the segments meet, and no intercepts are trained.
    decay: of the running statistics.
    axis_name: the mapped axis to measure across, under ``jax.shard_map``.
    use_running_average: evaluation; ``train()``, ``eval()`` and ``nnx.view`` set it.

  >>> act = LMA()
  >>> act.eval()
  >>> act(jnp.array([-1., 1.])).tolist()
  [0.0, 1.0]

  Source: the LMA paper, equations 3 and 4; equal to ``lmajax.LMA`` in everything but its shell.
  """

  def __init__(
    self,
    num_segments: int = 8,
    *,
    joined: bool = False,
    decay: float = 0.99,
    axis_name: str | None = None,
    rngs: nnx.Rngs | None = None,
  ):
    del rngs  # nothing is drawn
    start, zeros = _lma.relu_init(num_segments)
    self.slope_deltas = nnx.Param(start - start)
    self.intercepts = None if joined else nnx.Param(zeros)
    self.mean, self.std, self.weight = (nnx.BatchStat(leaf) for leaf in _stats.init_stats())
    self.num_segments, self.decay, self.axis_name = num_segments, decay, axis_name
    self.use_running_average = False

  def set_view(self, use_running_average: bool | None = None) -> None:
    """Sets the mode; ``nnx.view`` calls it."""
    self.use_running_average = _merged(use_running_average, self.use_running_average)

  def __call__(self, x: Values, *, where: Mask = None, train: bool | None = None, stats: Stats | None = None) -> Array:
    """Applies ``lma``; ``train`` overrides the mode, ``where`` masks what is measured, ``stats`` spare measuring."""
    check_mask(where, x)
    train = _merged(train, not self.use_running_average)
    slopes = _lma.relu_init(self.num_segments)[0] + self.slope_deltas[...]
    running = _stats.RunningStats(self.mean[...], self.std[...], self.weight[...])
    if train:
      if stats is None or self.axis_name:
        stats = _stats.measure(x, where=where, axis_name=self.axis_name)
      moved = _stats.update_stats(running, stats, decay=self.decay)
      self.mean[...], self.std[...], self.weight[...] = moved
    else:
      stats = _stats.debias(running)
    intercepts = _lma.joined_intercepts(slopes, stats) if self.intercepts is None else self.intercepts[...]
    return _lma.lma(x, slopes, intercepts, stats)


class Quantized(nnx.Module):
  """Any activation with its output on 2^bits levels (``lmajax.activations.fake_quantize``), one range a tensor.

  Attributes:
    act: the activation, an NNX module of this file or a function.
    bits: 1 … 8.
    learned: each end is moved by a trained share of the measured span (``range_deltas``: low, high).
    decay: of the running range.
    axis_name: the mapped axis to measure across, under ``jax.shard_map``.
    use_running_average: evaluation; ``train()``, ``eval()`` and ``nnx.view`` set it, here and in the activation.

  >>> Quantized(nnx.relu, bits=2)(jnp.array([-1., .2, .8, 3.])).tolist()
  [0.0, 0.0, 1.0, 3.0]

  Source: as of ``linen.Quantized``, to which it is equal.
  """

  def __init__(
    self,
    act: Any,
    bits: int = 8,
    *,
    learned: bool = False,
    decay: float = 0.99,
    axis_name: str | None = None,
    rngs: nnx.Rngs | None = None,
  ):
    del rngs  # nothing is drawn
    if isinstance(act, type):
      raise ValueError(f'act is the class {act.__name__}: give an instance of it')
    self.act, self.bits, self.decay, self.axis_name = act, bits, decay, axis_name
    self.range_deltas = nnx.Param(jnp.zeros(2, jnp.float32)) if learned else None
    self.low, self.high, self.weight = (nnx.BatchStat(leaf) for leaf in _fake_quantize.init_range())
    self.use_running_average = False

  def set_view(self, use_running_average: bool | None = None) -> None:
    """Sets the mode; ``nnx.view`` calls it."""
    self.use_running_average = _merged(use_running_average, self.use_running_average)

  def __call__(self, x: Values, *, where: Mask = None, train: bool | None = None, stats: Stats | None = None) -> Array:
    """Applies the activation, then ``fake_quantize``; ``stats`` are of ``x``, and are handed on."""
    train = _merged(train, not self.use_running_average)
    y = self.act(x, where=where, train=train, stats=stats) if isinstance(self.act, nnx.Module) else self.act(x)
    running = _fake_quantize.RunningRange(self.low[...], self.high[...], self.weight[...])
    if train:
      ends = _fake_quantize.measure_range(y, where=where, axis_name=self.axis_name)
      moved = _fake_quantize.update_range(running, ends, decay=self.decay)
      self.low[...], self.high[...], self.weight[...] = moved
    else:
      ends = _fake_quantize.debias_range(running)
    if self.range_deltas is not None:
      ends = _fake_quantize.stretch(ends, self.range_deltas[...])
    return _fake_quantize.fake_quantize(y, *ends, self.bits)


def _merged(given: bool | None, before: bool) -> bool:
  return before if given is None else given
