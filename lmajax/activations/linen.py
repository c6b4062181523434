"""The activations as Flax Linen modules: parameters plus one call each.

Pass a factory (the class, or ``functools.partial`` of it), not an instance: an instance would share one set of slopes
between all its sites.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from lmajax.activations import _baselines, _lma, _stats


class ReLU(nn.Module):
  """``max(x, 0)``, with the signature that every activation here has.

  >>> ReLU().apply({}, jnp.array([-1., 1.])).tolist()
  [0.0, 1.0]

  Source: Nair & Hinton 2010.
  """

  @nn.compact
  def __call__(
    self,
    x: Float[Array, '...'],
    *,
    where: Bool[Array, '...'] | None = None,
    train: bool | None = None,
    stats: _stats.Stats | None = None,
  ):
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
  def __call__(
    self,
    x: Float[Array, '...'],
    *,
    where: Bool[Array, '...'] | None = None,
    train: bool | None = None,
    stats: _stats.Stats | None = None,
  ):
    """Returns ``x``; the options change nothing."""
    del where, train, stats
    return x


class PReLU(nn.Module):
  """``lmajax.activations.prelu`` with its one slope per layer.

  >>> PReLU().init_with_output(jax.random.key(0), jnp.array([-1., 1.]))[0].tolist()
  [-0.25, 1.0]

  Source: He et al. 2015, equation 1.
  """

  @nn.compact
  def __call__(
    self,
    x: Float[Array, '...'],
    *,
    where: Bool[Array, '...'] | None = None,
    train: bool | None = None,
    stats: _stats.Stats | None = None,
  ):
    """Applies ``prelu``; the options change nothing."""
    del where, train, stats
    return _baselines.prelu(x, self.param('slope', nn.initializers.constant(0.25), ()))


class Swish(nn.Module):
  """``lmajax.activations.swish`` with its slope per channel.

  >>> Swish().init_with_output(jax.random.key(0), jnp.zeros((1, 2)))[0].tolist()
  [[0.0, 0.0]]

  Source: Ramachandran et al. 2017.
  """

  @nn.compact
  def __call__(
    self,
    x: Float[Array, '...'],
    *,
    where: Bool[Array, '...'] | None = None,
    train: bool | None = None,
    stats: _stats.Stats | None = None,
  ):
    """Applies ``swish``; the options change nothing."""
    del where, train, stats
    return _baselines.swish(x, self.param('slope', nn.initializers.ones, x.shape[-1:]))


class APLU(nn.Module):
  """``lmajax.activations.aplu`` with its K − 2 hinges per channel.

  >>> APLU().init_with_output(jax.random.key(0), jnp.zeros((1, 2)))[0].shape
  (1, 2)

  Source: Agostinelli et al. 2015, equation 1.
  """

  num_segments: int = 8

  @nn.compact
  def __call__(
    self,
    x: Float[Array, '...'],
    *,
    where: Bool[Array, '...'] | None = None,
    train: bool | None = None,
    stats: _stats.Stats | None = None,
  ):
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
  def __call__(
    self,
    x: Float[Array, '...'],
    *,
    where: Bool[Array, '...'] | None = None,
    train: bool | None = None,
    stats: _stats.Stats | None = None,
  ):
    """Applies ``lma``; ``where`` masks what is measured, not what is computed; ``stats`` spare the measuring."""
    _stats.check_mask(where, x)
    train = nn.merge_param('train', self.train, train)
    start, zeros = _lma.relu_init(self.num_segments)
    slopes = start + self.param('slope_deltas', lambda _: jnp.zeros_like(start))
    intercepts = None if self.joined else self.param('intercepts', lambda _: jnp.zeros_like(zeros))

    fresh = _stats.init_stats()
    cells = [self.variable(self.collection, name, lambda leaf=leaf: leaf) for name, leaf in fresh._asdict().items()]
    running = _stats.RunningStats(*(cell.value for cell in cells))
    if train:
      if stats is None or self.axis_name:
        stats = _stats.measure(x, where=where, axis_name=None if self.is_initializing() else self.axis_name)
      if not self.is_initializing():
        for cell, leaf in zip(cells, _stats.update_stats(running, stats, decay=self.decay), strict=True):
          cell.value = leaf
    else:
      stats = _stats.debias(running)

    if intercepts is None:
      intercepts = _lma.joined_intercepts(slopes, stats)
    return _lma.lma(x, slopes, intercepts, stats)
