"""Variables of networks: drawn as training might leave them, stacked as a cohort has them, and compared."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from lmajax import tree

DIGITS = jnp.zeros((4, 8, 8, 1))
assert_same = partial(jax.tree.map, np.testing.assert_array_equal)


def drawn(rng, name, shape):
  """Numbers as training might leave them: what scales is near 1, all else near 0, and kernels keep the size of x."""
  noise = rng.normal(size=shape).astype(np.float32)
  if name == 'kernel':
    return noise / np.float32(np.sqrt(np.prod(shape[:-1])))
  around = np.float32(name in ('scale', 'var', 'std', 'weight', 'high'))
  return around + np.float32(0.1) * noise


def random_variables(model, seed=0, inputs=DIGITS):
  """Draws all variables of a model; its shapes need no compilation."""
  shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), inputs, train=False))
  rng = np.random.default_rng(seed)
  return tree.map_with_path(lambda path, leaf: drawn(rng, path.rpartition('/')[2], leaf.shape), shapes)
