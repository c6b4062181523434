"""lmajax: the Light Multi-segment Activation, and what it takes to make networks small around it."""

from lmajax import _versions, activations, compress, export, losses, models, training, tree, types
from lmajax.activations import (
  RunningStats,
  Stats,
  batch_norm_stats,
  debias,
  fold_batch_norm,
  init_stats,
  joined_intercepts,
  lma,
  lma_plain,
  measure,
  relu_init,
  segment_index,
  update_stats,
)
from lmajax.activations.linen import LMA

__version__ = _versions.OWN

__all__ = [
  'LMA',
  'RunningStats',
  'Stats',
  'activations',
  'batch_norm_stats',
  'compress',
  'debias',
  'export',
  'fold_batch_norm',
  'init_stats',
  'joined_intercepts',
  'lma',
  'lma_plain',
  'losses',
  'measure',
  'models',
  'relu_init',
  'segment_index',
  'training',
  'tree',
  'types',
  'update_stats',
]
