"""Weights as a function of something smaller or noisier: (init, apply, refresh, stored), and their bytes in a file."""

from lmajax.compress._combine import Split, extended, identity, kernels, masked
from lmajax.compress._noise import noise
from lmajax.compress._pack import PackedModel, pack, unpack
from lmajax.compress._points import points, share_points
from lmajax.compress._product import product, product_codebook
from lmajax.compress._slices import (
  Filters,
  l1_norm,
  l2_norm,
  median_distance,
  norm_scale,
  random_order,
  slice_params,
)
from lmajax.compress._tensors import PackedTree
from lmajax.compress._uniform import least_error, min_max, uniform
from lmajax.compress._widths import Spectrum, full_widths, solve, spectra, widths_at

__all__ = [
  'Filters',
  'PackedModel',
  'PackedTree',
  'Spectrum',
  'Split',
  'extended',
  'full_widths',
  'identity',
  'kernels',
  'l1_norm',
  'l2_norm',
  'least_error',
  'masked',
  'median_distance',
  'min_max',
  'noise',
  'norm_scale',
  'pack',
  'points',
  'product',
  'product_codebook',
  'random_order',
  'share_points',
  'slice_params',
  'solve',
  'spectra',
  'uniform',
  'unpack',
  'widths_at',
]
