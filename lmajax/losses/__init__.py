"""Losses: one number per example; the caller takes the mean."""

from lmajax.losses._blockwise import representation_error
from lmajax.losses._soft_targets import distillation, soft_targets

__all__ = ['distillation', 'representation_error', 'soft_targets']
