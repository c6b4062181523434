"""Losses: one number per example; the caller takes the mean."""

from lmajax.losses._soft_targets import distillation, soft_targets

__all__ = ['distillation', 'soft_targets']
