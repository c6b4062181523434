"""Derivatives by differences: no formula of lmajax, but what its gradients are judged by."""

import numpy as np

# Not a formula of lmajax, but what its gradients are judged by.


def slope_of(f, at, step=1e-5):
  """The gradient of a scalar function of one array, by central differences."""
  at = np.asarray(at, np.float64)
  gradient = np.zeros(at.shape)
  for i in np.ndindex(at.shape):
    up, down = at.copy(), at.copy()
    up[i] += step
    down[i] -= step
    gradient[i] = (f(up) - f(down)) / (2 * step)
  return gradient
