"""Losses: one number per example; the caller takes the mean."""

from lmajax.losses._adversarial import gradient_penalty
from lmajax.losses._blockwise import representation_error
from lmajax.losses._soft_targets import distillation, soft_targets

__all__ = ['distillation', 'gradient_penalty', 'representation_error', 'soft_targets']
