"""Losses: one number per example, or per channel; the caller takes the mean."""

from lmajax.losses._adversarial import gradient_penalty
from lmajax.losses._attention import attention_transfer
from lmajax.losses._blockwise import representation_error
from lmajax.losses._correlation import dist, rank_agreement, value_agreement
from lmajax.losses._decoupled import decoupled
from lmajax.losses._jensen_shannon import jensen_shannon
from lmajax.losses._moments import (
  Moments,
  Site,
  divergence,
  gaussian_divergence,
  roughness,
  slack,
  slackened,
  squared_difference,
)
from lmajax.losses._pooled import to_smaller
from lmajax.losses._probabilistic import probabilistic_transfer
from lmajax.losses._relational import relational_angle, relational_distance
from lmajax.losses._selectivity import neuron_selectivity
from lmajax.losses._similarity import similarity_preserving
from lmajax.losses._soft_targets import distillation, soft_targets
from lmajax.losses._standardized import standardized
from lmajax.losses._teachers import averaged
from lmajax.losses._top_k import TopK, from_top_k, top_k

__all__ = [
  'Moments',
  'Site',
  'TopK',
  'attention_transfer',
  'averaged',
  'decoupled',
  'dist',
  'distillation',
  'divergence',
  'from_top_k',
  'gaussian_divergence',
  'gradient_penalty',
  'jensen_shannon',
  'neuron_selectivity',
  'probabilistic_transfer',
  'rank_agreement',
  'relational_angle',
  'relational_distance',
  'representation_error',
  'roughness',
  'similarity_preserving',
  'slack',
  'slackened',
  'soft_targets',
  'squared_difference',
  'standardized',
  'to_smaller',
  'top_k',
  'value_agreement',
]
