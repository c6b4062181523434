"""Computes the Fréchet distance of two sets of features, that of Gaussians of the same means and covariances.

On features of an Inception network trained on ImageNet it is known as FID; on those of another network its numbers are
in other units and must not be called so.
"""

import numpy as np
from jaxtyping import Float

from train.runtime.errors import UserError


def frechet_distance(features: Float[np.ndarray, 'n d'], others: Float[np.ndarray, 'm d']) -> float:
  """Computes ``|m1 - m2|² + tr(C1 + C2 - 2 √(C1 C2))``, in float64, with unbiased covariances, which may be singular.

  With ``C = RᵀR`` the trace of the root is the sum of the singular values of ``R1 R2ᵀ``, so no matrix root is taken.
  """
  (mean, root), (other_mean, other_root) = _moments(features), _moments(others)
  between = np.linalg.norm(root @ other_root.T, 'nuc')
  spread = np.square(root).sum() + np.square(other_root).sum() - 2 * between
  return float(np.square(mean - other_mean).sum() + max(spread, 0.0))


def _moments(features: Float[np.ndarray, 'n d']) -> tuple[np.ndarray, np.ndarray]:
  """Returns the mean, and a triangular R of at most d rows with RᵀR the covariance."""
  features = np.asarray(features, np.float64)
  if len(features) < 2:
    raise UserError(f'{len(features)} rows of features have no covariance; give at least two images')
  if not np.isfinite(features).all():
    raise UserError('features that are not finite have no Fréchet distance: the network that made the images diverged')
  mean = features.mean(axis=0)
  return mean, np.linalg.qr((features - mean) / np.sqrt(len(features) - 1)).R
