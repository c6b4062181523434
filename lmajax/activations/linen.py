"""The activations as Flax Linen modules: parameters plus one call each.

Pass a factory (the class, or ``functools.partial`` of it), not an instance: an instance would share one set of slopes
between all its sites.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array

from lmajax._arguments import check_mask, site
from lmajax.activations import _baselines, _fake_quantize, _lma, _stats
from lmajax.activations._stats import Stats
from lmajax.types import ActivationFactory, Mask, Values


class ReLU(nn.Module):
  """``max(x, 0)``, with the signature that every activation here has.

  >>> ReLU().apply({}, jnp.array([-1., 1.])).tolist()
  [0.0, 1.0]

  Source: Nair & Hinton 2010.
  """

  @nn.compact
  def __call__(self, x: Values, *, where: Mask = None, train: bool | None = None, stats: Stats | None = None):
    """Applies ``jax.nn.relu``; the options change nothing."""
    del where, train, stats
    return jax.nn.relu(x)


class Identity(nn.Module):
  """``x`` as it is: a control. What it gains on ReLU, no shape of the activation has earned.

  >>> Identity().apply({}, jnp.array([-1., 1.])).tolist()
  [-1.0, 1.0]

  Source: not in the paper; a network of a single narrow layer often does better without ReLU, whatever stands instead.
  """

  @nn.compact
  def __call__(self, x: Values, *, where: Mask = None, train: bool | None = None, stats: Stats | None = None):
    """Returns ``x``; the options change nothing."""
    del where, train, stats
    return x


class Elementwise(nn.Module):
  """Any function of single elements as an activation, with the signature that every activation here has.

  ``partial(Elementwise, jax.nn.hard_swish)`` is a factory.

  Args:
    function: x -> y of the same shape, without parameters.

  >>> Elementwise(jax.nn.hard_swish).apply({}, jnp.array([-4., 4.])).tolist()
  [-0.0, 4.0]

  Source: not in the paper.
  """

  function: Callable[[Array], Array]

  @nn.compact
  def __call__(self, x: Values, *, where: Mask = None, train: bool | None = None, stats: Stats | None = None):
    """Applies the function; the options change nothing."""
    del where, train, stats
    return self.function(x)


class PReLU(nn.Module):
  """``lmajax.activations.prelu`` with its one slope per layer.

  >>> PReLU().init_with_output(jax.random.key(0), jnp.array([-1., 1.]))[0].tolist()
  [-0.25, 1.0]

  Source: He et al. 2015, equation 1.
  """

  @nn.compact
  def __call__(self, x: Values, *, where: Mask = None, train: bool | None = None, stats: Stats | None = None):
    """Applies ``prelu``; the options change nothing."""
    del where, train, stats
    return _baselines.prelu(x, self.param('slope', nn.initializers.constant(0.25), (), jnp.float32))


class Swish(nn.Module):
  """``lmajax.activations.swish`` with its slope per channel.

  >>> Swish().init_with_output(jax.random.key(0), jnp.zeros((1, 2)))[0].tolist()
  [[0.0, 0.0]]

  Source: Ramachandran et al. 2017.
  """

  @nn.compact
  def __call__(self, x: Values, *, where: Mask = None, train: bool | None = None, stats: Stats | None = None):
    """Applies ``swish``; the options change nothing."""
    del where, train, stats
    return _baselines.swish(x, self.param('slope', nn.initializers.ones, x.shape[-1:], jnp.float32))


class APLU(nn.Module):
  """``lmajax.activations.aplu`` with its K − 2 hinges per channel.

  >>> APLU().init_with_output(jax.random.key(0), jnp.zeros((1, 2)))[0].shape
  (1, 2)

  Source: Agostinelli et al. 2015, equation 1.
  """

  num_segments: int = 8

  @nn.compact
  def __call__(self, x: Values, *, where: Mask = None, train: bool | None = None, stats: Stats | None = None):
    """Applies ``aplu``; the options change nothing."""
    del where, train, stats

    def start(key: Array, which: int) -> Array:
      return _baselines.aplu_init(key, self.num_segments, x.shape[-1])[which]

    return _baselines.aplu(x, self.param('slopes', start, 0), self.param('cuts', start, 1))


class LMA(nn.Module):
  """``lmajax.lma`` with its slopes, its intercepts and the running statistics of its input.

  Training takes the batch's statistics and updates the running ones; evaluation takes the running ones, debiased, and
  updates nothing. The slopes are kept as their distance from the ReLU start (``slope_deltas``), so that weight decay
  pulls toward ReLU.

  Attributes:
    num_segments: K ≥ 2.
    joined: the segments meet (``joined_intercepts``), and no intercepts are trained.
    decay: of the running statistics.
    train: as an argument of the call; give it at one of the two places.
    axis_name: the mapped axis to measure across, under ``jax.shard_map``.
    collection: where the running statistics live; a train step that carries ``nn.BatchNorm`` carries ``batch_stats``.

  >>> y, variables = LMA().init_with_output(jax.random.key(0), jnp.array([-1., 1.]), train=False)
  >>> y.tolist(), sorted(variables['params']), sorted(variables['batch_stats'])
  ([0.0, 1.0], ['intercepts', 'slope_deltas'], ['mean', 'std', 'weight'])

  Source: the LMA paper, equations 3 and 4. The authors' module loses its running statistics on saving, updates them in
  evaluation and does not debias them.
  """

  num_segments: int = 8
  joined: bool = False
  decay: float = 0.99
  train: bool | None = None
  axis_name: str | None = None
  collection: str = 'batch_stats'

  @nn.compact
  def __call__(self, x: Values, *, where: Mask = None, train: bool | None = None, stats: Stats | None = None):
    """Applies ``lma``; ``where`` masks what is measured, not what is computed; ``stats`` spare the measuring."""
    check_mask(where, x)
    train = nn.merge_param('train', self.train, train)
    start, zeros = _lma.relu_init(self.num_segments)
    slopes = start + self.param('slope_deltas', lambda _: jnp.zeros_like(start))
    intercepts = None if self.joined else self.param('intercepts', lambda _: jnp.zeros_like(zeros))

    running, remember = _memory(self, self.collection, _stats.init_stats())
    if train:
      if stats is None or self.axis_name:
        stats = _stats.measure(x, where=where, axis_name=None if self.is_initializing() else self.axis_name)
      remember(_stats.update_stats(running, stats, decay=self.decay))
    else:
      stats = _stats.debias(running)

    if intercepts is None:
      intercepts = _lma.joined_intercepts(slopes, stats)
    return _lma.lma(x, slopes, intercepts, stats)


class Quantized(nn.Module):
  """Any activation with its output on 2^bits levels (``lmajax.activations.fake_quantize``), one range a tensor.

  Training takes the range of the batch, from its least to its greatest element, and averages its ends; evaluation takes
  the averages, debiased. Before the first batch of training nothing is known of the range, and evaluation quantizes
  nothing. ``where`` masks what is measured.

  Attributes:
    act: a factory of the activation, whose parameters stand under ``act``.
    bits: 1 … 8.
    learned: each end is moved by a trained share of the measured span (``range_deltas``: low, high), 0 at the start, so
      that training starts at the measured range and weight decay pulls back to it.
    decay: of the running range.
    train: as an argument of the call; give it at one of the two places. It is handed on, as all arguments are.
    axis_name: the mapped axis to measure across, under ``jax.shard_map``.
    collection: where the running range lives.

  >>> act = Quantized(ReLU, bits=2)
  >>> y, variables = act.init_with_output(jax.random.key(0), jnp.array([-1., .2, .8, 3.]), train=True)
  >>> y.tolist(), sorted(variables['batch_stats'])
  ([0.0, 0.0, 1.0, 3.0], ['high', 'low', 'weight'])

  Source: Jacob et al. 2018, section 3.1, for averaged extremes; Esser et al. 2020 (LSQ) and Bhalgat et al. 2020 (LSQ+)
  for trained ends. Averages, not the widest range ever met, are a choice: one odd batch then does not coarsen the steps
  for good. There the trained numbers are the step and the offset, set once from the first batch.
  """

  act: ActivationFactory
  bits: int = 8
  learned: bool = False
  decay: float = 0.99
  train: bool | None = None
  axis_name: str | None = None
  collection: str = 'batch_stats'

  @nn.compact
  def __call__(self, x: Values, *, where: Mask = None, train: bool | None = None, stats: Stats | None = None):
    """Applies the activation, then ``fake_quantize``; ``stats`` are of ``x``, and are handed on."""
    train = nn.merge_param('train', self.train, train)
    y = site(self.act, 'act')(x, where=where, train=train, stats=stats)
    running, remember = _memory(self, self.collection, _fake_quantize.init_range())
    if train:
      across = None if self.is_initializing() else self.axis_name
      ends = _fake_quantize.measure_range(y, where=where, axis_name=across)
      remember(_fake_quantize.update_range(running, ends, decay=self.decay))
    else:
      ends = _fake_quantize.debias_range(running)
    if self.learned:
      ends = _fake_quantize.stretch(ends, self.param('range_deltas', nn.initializers.zeros, (2,), jnp.float32))
    return _fake_quantize.fake_quantize(y, *ends, self.bits)


def _memory(module: nn.Module, collection: str, fresh: Any) -> tuple[Any, Callable[[Any], None]]:
  """Returns a site's running statistics and a function that writes them; while initializing, it writes nothing."""
  cells = [module.variable(collection, name, lambda leaf=leaf: leaf) for name, leaf in fresh._asdict().items()]

  def remember(leaves: Any) -> None:
    if not module.is_initializing():
      for cell, leaf in zip(cells, leaves, strict=True):
        cell.value = leaf

  return fresh._make(cell.value for cell in cells), remember
