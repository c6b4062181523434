"""Losses: one number per example; the caller takes the mean."""

from lmajax.losses._adversarial import gradient_penalty
from lmajax.losses._blockwise import representation_error
from lmajax.losses._soft_targets import distillation, soft_targets
from lmajax.losses._top_k import TopK, from_top_k, top_k

__all__ = ['TopK', 'distillation', 'from_top_k', 'gradient_penalty', 'representation_error', 'soft_targets', 'top_k']
