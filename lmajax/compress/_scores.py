"""What each weight of a network is worth, and masks of those that stay."""

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from lmajax import tree
from lmajax._arguments import as_given, check_count, check_floats, is_between, shown
from lmajax.compress._uniform import wide
from lmajax.types import Params

Scores = Any
"""A tree of float arrays: the greater, the longer a weight stays."""
MaskTree = Any
"""A tree of arrays of bools: true where a weight stays."""


def scored(params: Params, score: Callable[[Array], Array]) -> Scores:
  """Scores tensor by tensor, once the weights are known to be floats, and finite."""
  tree.map_with_path(check_floats, params)
  tree.check_finite(params)
  return jax.tree.map(lambda w: score(jnp.abs(wide(w))) if w.size else wide(w), params)


def magnitude(params: Params) -> Scores:
  r"""Scores every weight by its absolute value, so that ``keep`` ranks all layers as one.

  .. math:: s_i = |w_i|

  Args:
    params: a tree of weights, None where there are none.

  Raises:
    ValueError: a weight is no array of floats or not finite; the line has its path.

  >>> magnitude({'kernel': jnp.array([-3., 1.])})['kernel'].tolist()
  [3.0, 1.0]

  Source: Han et al. 2015, with one threshold for all layers ("global magnitude").
  """
  return scored(params, lambda sizes: sizes)


def layerwise(params: Params) -> Scores:
  r"""Scores every weight by its rank within its tensor, so that ``keep`` keeps the same share of each.

  .. math:: s_i = -\frac{r_i + \frac12}{n}

  r is the number of weights of the tensor that are larger, or as large and before it; n is their number. A tensor keeps
  its share to one weight.

  Args:
    params: a tree of weights, None where there are none.

  Raises:
    ValueError: as of ``magnitude``.

  >>> layerwise({'kernel': jnp.array([-3., 1.])})['kernel'].tolist()
  [-0.25, -0.75]

  Source: Han et al. 2015, with a threshold for each layer. Negative, since floats are finest at the ranks that stay.
  """

  def score(sizes: Array) -> Array:
    order = jnp.argsort(-sizes.reshape(-1), stable=True)
    shares = (jnp.arange(sizes.size, dtype=sizes.dtype) + 0.5) / sizes.size
    return jnp.zeros_like(shares).at[order].set(-shares, unique_indices=True).reshape(sizes.shape)

  return scored(params, score)


def lamp(params: Params) -> Scores:
  r"""Scores every weight by its square over the sum of the squares of its tensor's weights from it up to the largest.

  .. math:: s_i = \frac{w_i^2}{\sum_{j \ge i} w_j^2}, \qquad w_1^2 \le w_2^2 \le \dots

  The largest weight of a tensor scores 1, so that no tensor loses its last one before all are down to one.

  Args:
    params: a tree of weights, None where there are none; a tensor of zeros scores 0.

  Raises:
    ValueError: as of ``magnitude``.

  >>> lamp({'kernel': jnp.array([-2., 1., 2.])})['kernel'].tolist()
  [1.0, 0.1111111119389534, 0.5]

  Source: Lee et al. 2021, "Layer-adaptive Sparsity for the Magnitude-based Pruning", equation 3. Of equal weights the
  first counts as the larger one, as in ``keep``. We divide by the largest first, so that no square leaves the floats.
  """

  def score(sizes: Array) -> Array:
    flat = relative(sizes).reshape(-1)
    order = jnp.argsort(-flat, stable=True)
    squares = jnp.square(flat[order])
    sums = jnp.cumsum(squares)
    shares = squares / jnp.where(sums > 0, sums, jnp.ones_like(sums))
    return jnp.zeros_like(flat).at[order].set(shares, unique_indices=True).reshape(sizes.shape)

  return scored(params, score)


def normalized(params: Params, norm: Literal['l1', 'l2']) -> Scores:
  r"""Scores every weight by its absolute value over a norm of its tensor.

  .. math:: s_i = \frac{|w_i|}{\lVert w \rVert_1} \quad\text{or}\quad s_i = \frac{|w_i|}{\lVert w \rVert_2}

  Layers with many weights starve under it: at a density of .02 one of ours had none left. ``lamp`` does not do that.

  Args:
    params: a tree of weights, None where there are none; a tensor of zeros scores 0.
    norm: of each tensor, all its entries in one.

  Raises:
    ValueError: another norm; and as of ``magnitude``.

  >>> normalized({'kernel': jnp.array([-3., 1.])}, 'l1')['kernel'].tolist()
  [0.75, 0.25]

  Source: the ranking in the code of SuRP (Isik et al. 2022, "An Information-Theoretic Justification for Model
  Pruning"), which divides by the L2 norm and takes biases and norms along.
  """
  if norm not in ('l1', 'l2'):
    raise ValueError(f"norm is {as_given(norm)}; give 'l1' or 'l2'")

  def score(sizes: Array) -> Array:
    shares = relative(sizes)
    total = shares.sum() if norm == 'l1' else jnp.sqrt(jnp.square(shares).sum())
    return shares / jnp.where(total > 0, total, jnp.ones_like(total))

  return scored(params, score)


def relative(sizes: Float[Array, '...']) -> Float[Array, '...']:
  """Divides by the largest."""
  most = sizes.max()
  return sizes / jnp.where(most > 0, most, jnp.ones_like(most))


def keep(scores: Scores, density: float) -> MaskTree:
  """Masks the weights of the highest scores of all tensors: exactly ``round(density * n)`` of n stay.

  Of equal scores the first in the order of the paths, then of the places in a tensor, stays.

  Args:
    scores: a tree of floats, None where there are none, as ``lamp`` gives it.
    density: the share that stays, 0 … 1, a number of Python: under ``jax.jit`` it is static.

  Returns:
    A tree of bools like the scores, as ``sparse`` has it as its code.

  Raises:
    ValueError: the density is out of range, or the scores are no arrays of floats or not finite.

  >>> keep({'a': jnp.array([1., 5.]), 'b': jnp.array([5., 5.])}, .5)['b'].tolist()
  [True, False]

  Source: one threshold for all scores (Lee et al. 2021, section 3). The code of LAMP prunes a share of what is left;
  ours is a share of all.
  """
  if not is_between(density, 0.0, 1.0):
    raise ValueError(f'density is {as_given(density)}; give a share between 0 and 1')
  tree.map_with_path(check_floats, scores)
  tree.check_finite(scores)
  leaves, structure = jax.tree.flatten(scores)
  if not leaves:
    return scores
  flat = jnp.concatenate([wide(leaf).reshape(-1).astype(np.result_type(*map(wide_type, leaves))) for leaf in leaves])
  order = jnp.argsort(-flat, stable=True)[: round(density * flat.size)]
  mask = jnp.zeros(flat.shape, bool).at[order].set(True, unique_indices=True)
  ends = np.cumsum([leaf.size for leaf in leaves])
  return structure.unflatten(
    [mask[end - leaf.size : end].reshape(leaf.shape) for leaf, end in zip(leaves, ends.tolist(), strict=True)]
  )


def wide_type(leaf: Array) -> np.dtype:
  return np.promote_types(leaf.dtype, np.float32)


def n_of_m(params: Params, n: int, m: int) -> MaskTree:
  """Masks the n largest of every m consecutive weights along the input axis of each filter.

  The input axis is the one before the last, as Flax lays out the kernels of dense layers and convolutions; of a
  convolution m input channels at one position are a group. Of equal weights the first stays.

  Args:
    params: a tree of kernels, None where there are none: ``masked`` leaves out what has no such axis.
    n: how many of a group stay, 1 … m.
    m: weights a group; each input axis is a multiple of it.

  Returns:
    A tree of bools, as ``keep`` gives it; for ``sparse`` it is ``start=partial(n_of_m, n=2, m=4)``.

  Raises:
    ValueError: n or m are out of range, or an input axis is no multiple of m; and as of ``magnitude``.

  >>> n_of_m({'kernel': jnp.array([[1.], [-3.], [2.], [0.]])}, 2, 4)['kernel'].ravel().tolist()
  [False, True, True, False]

  Source: Mishra et al. 2021, "Accelerating Sparse Deep Neural Networks", section 3, with 2 of 4.
  """
  check_count('m', m, 1)
  check_count('n', n, 1, m)

  def mask(path: str, sizes: Array) -> Array:
    if sizes.ndim < 2 or sizes.shape[-2] % m:
      raise ValueError(f'{path} is {shown(sizes)}; its axis before the last must be a multiple of {m}')
    rows = jnp.moveaxis(sizes, -2, -1)
    groups = rows.reshape(*rows.shape[:-1], -1, m)
    ranks = jnp.argsort(jnp.argsort(-groups, axis=-1, stable=True), axis=-1)
    return jnp.moveaxis((ranks < n).reshape(rows.shape), -1, -2)

  return tree.map_with_path(mask, magnitude(params))
