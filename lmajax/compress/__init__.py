"""Weights as a function of something smaller or noisier: (init, apply, refresh, stored), and their bytes in a file."""

from lmajax.compress._combine import Split, extended, identity, kernels, masked
from lmajax.compress._noise import noise
from lmajax.compress._pack import PackedModel, pack, unpack
from lmajax.compress._points import points, share_points
from lmajax.compress._product import product, product_codebook
from lmajax.compress._tensors import PackedTree
from lmajax.compress._uniform import least_error, min_max, uniform

__all__ = [
  'PackedModel',
  'PackedTree',
  'Split',
  'extended',
  'identity',
  'kernels',
  'least_error',
  'masked',
  'min_max',
  'noise',
  'pack',
  'points',
  'product',
  'product_codebook',
  'share_points',
  'uniform',
  'unpack',
]
