"""Weights as a function of something smaller or noisier: (init, apply, refresh, stored), and their bytes in a file."""

from lmajax.compress._combine import Split, extended, identity, kernels, masked
from lmajax.compress._product import product, product_codebook
from lmajax.compress._tensors import PackedTree
from lmajax.compress._uniform import least_error, min_max, uniform

__all__ = [
  'PackedTree',
  'Split',
  'extended',
  'identity',
  'kernels',
  'least_error',
  'masked',
  'min_max',
  'product',
  'product_codebook',
  'uniform',
]
