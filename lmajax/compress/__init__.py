"""Weights as a function of something smaller or noisier: (init, apply, refresh, stored), and their bytes in a file."""

from lmajax.compress._combine import Split, extended, identity, kernels, masked
from lmajax.compress._hashing import hash_pools, least_ratio, multi_hash
from lmajax.compress._median import (
  Median,
  allowed_labels,
  allowed_rows,
  crembo,
  empirical_depth,
  memo,
  thresholds,
)
from lmajax.compress._noise import noise
from lmajax.compress._pack import PackedModel, pack, unpack
from lmajax.compress._points import points, share_points
from lmajax.compress._product import product, product_codebook
from lmajax.compress._prune import sparse
from lmajax.compress._rate import from_stream, to_stream
from lmajax.compress._scores import keep, lamp, layerwise, magnitude, n_of_m, normalized
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
from lmajax.compress._truncated import truncated
from lmajax.compress._uniform import least_error, min_max, uniform
from lmajax.compress._widths import Spectrum, full_widths, solve, spectra, widths_at

__all__ = [
  'Filters',
  'Median',
  'PackedModel',
  'PackedTree',
  'Spectrum',
  'Split',
  'allowed_labels',
  'allowed_rows',
  'crembo',
  'empirical_depth',
  'extended',
  'from_stream',
  'full_widths',
  'hash_pools',
  'identity',
  'keep',
  'kernels',
  'l1_norm',
  'l2_norm',
  'lamp',
  'layerwise',
  'least_error',
  'least_ratio',
  'magnitude',
  'masked',
  'median_distance',
  'memo',
  'min_max',
  'multi_hash',
  'n_of_m',
  'noise',
  'norm_scale',
  'normalized',
  'pack',
  'points',
  'product',
  'product_codebook',
  'random_order',
  'share_points',
  'slice_params',
  'solve',
  'sparse',
  'spectra',
  'thresholds',
  'to_stream',
  'truncated',
  'uniform',
  'unpack',
  'widths_at',
]
