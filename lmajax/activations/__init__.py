"""Activations: pure functions here, Flax modules in ``linen`` and ``nnx``."""

from lmajax.activations import linen
from lmajax.activations._baselines import aplu, aplu_init, prelu, swish
from lmajax.activations._fake_quantize import fake_quantize
from lmajax.activations._lma import fold_batch_norm, joined_intercepts, lma, lma_plain, relu_init, segment_index
from lmajax.activations._stats import RunningStats, Stats, batch_norm_stats, debias, init_stats, measure, update_stats

__all__ = [
  'RunningStats',
  'Stats',
  'aplu',
  'aplu_init',
  'batch_norm_stats',
  'debias',
  'fake_quantize',
  'fold_batch_norm',
  'init_stats',
  'joined_intercepts',
  'linen',
  'lma',
  'lma_plain',
  'measure',
  'prelu',
  'relu_init',
  'segment_index',
  'swish',
  'update_stats',
]
