"""LMA as a Flax NNX module, over the same pure functions as the Linen one."""

from flax import nnx
from jaxtyping import Array

from lmajax._arguments import check_mask
from lmajax.activations import _lma, _stats
from lmajax.activations._stats import Stats
from lmajax.types import Mask, Values


class LMA(nnx.Module):
  """``lmajax.lma`` with its parameters and running statistics; ``model.train()`` and ``model.eval()`` switch it.

  Attributes:
    num_segments: K ≥ 2.
    joined: the segments meet, and no intercepts are trained.
    decay: of the running statistics.
    axis_name: the mapped axis to measure across, under ``jax.shard_map``.

  >>> import jax.numpy as jnp
  >>> act = LMA()
  >>> act.eval()
  >>> act(jnp.array([-1., 1.])).tolist()
  [0.0, 1.0]

  Source: the LMA paper, equations 3 and 4; equal to ``lmajax.LMA`` in everything but its shell.
  """

  def __init__(self, num_segments: int = 8, *, joined: bool = False, decay: float = 0.99, axis_name: str | None = None):
    start, zeros = _lma.relu_init(num_segments)
    self.slope_deltas = nnx.Param(start - start)
    self.intercepts = None if joined else nnx.Param(zeros)
    self.mean, self.std, self.weight = (nnx.BatchStat(leaf) for leaf in _stats.init_stats())
    self.num_segments, self.decay, self.axis_name = num_segments, decay, axis_name
    self.use_running_average = False

  def __call__(self, x: Values, *, where: Mask = None, train: bool | None = None, stats: Stats | None = None) -> Array:
    """Applies ``lma``; ``train`` overrides the mode that ``train()`` or ``eval()`` set, ``stats`` spare measuring."""
    check_mask(where, x)
    train = not self.use_running_average if train is None else train
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
