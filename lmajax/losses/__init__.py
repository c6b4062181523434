"""Losses: one number per example, or per channel; the caller takes the mean."""

from lmajax.losses._adversarial import gradient_penalty
from lmajax.losses._blockwise import representation_error
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
from lmajax.losses._soft_targets import distillation, soft_targets
from lmajax.losses._top_k import TopK, from_top_k, top_k

__all__ = [
  'Moments',
  'Site',
  'TopK',
  'distillation',
  'divergence',
  'from_top_k',
  'gaussian_divergence',
  'gradient_penalty',
  'representation_error',
  'roughness',
  'slack',
  'slackened',
  'soft_targets',
  'squared_difference',
  'top_k',
]
