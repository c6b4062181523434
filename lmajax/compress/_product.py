"""Product quantization: blocks of a filter's entries as rows of a codebook, which k-means finds or training moves."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, UInt8

from lmajax import tree
from lmajax._arguments import check_count
from lmajax.compress._kmeans import kmeans, reassigned
from lmajax.compress._tensors import Blocks, PackedTree, Plain, joined, pack_bits
from lmajax.compress._uniform import copied
from lmajax.types import Reparam


class Coded(NamedTuple):
  """A tensor's code where its weights are theta."""

  codebook: Float[Array, 'k d']  # float32
  assignments: UInt8[Array, ' n']


class Assigned(NamedTuple):
  """A tensor's code where its codebook is theta: with the weights that the codebook was made from, and their shape."""

  assignments: UInt8[Array, ' n']
  weights: Float[Array, '...']


def cut(w: Float[Array, '...'], block_size: int) -> tuple[Float[Array, 'n d'], Bool[Array, 'n d']]:
  """Cuts every filter's entries into blocks, filled up with zeros at its end; and which entries are inside."""
  filters = w.astype(jnp.float32).reshape(-1, (1, *w.shape)[-1]).T
  size = filters.shape[-1]
  width = min(block_size, size)
  inside = jnp.broadcast_to(jnp.arange(size + -size % width) < size, (filters.shape[0], size + -size % width))
  padded = jnp.pad(filters, ((0, 0), (0, -size % width)))
  return padded.reshape(-1, width), inside.reshape(-1, width)


def start(w: Float[Array, '...'], key: jax.Array, num_centroids: int, block_size: int, iterations: int) -> Coded:
  """Makes a codebook and its assignments from scratch, from distinct blocks by chance."""
  if not w.size:
    return Coded(jnp.zeros((1, 1)), jnp.zeros(0, jnp.uint8))
  rows, inside = cut(w, block_size)
  chosen = jax.random.permutation(key, rows.shape[0])[:num_centroids]
  first = rows[chosen], jnp.zeros(rows.shape[0], jnp.int32)
  codebook, assignments = kmeans(rows, inside, *first, iterations)
  return Coded(codebook, assignments.astype(jnp.uint8))


def decoded(codebook: Float[Array, 'k d'], assignments: UInt8[Array, ' n'], like: Array) -> Array:
  if not like.size:
    return like
  return joined(codebook[assignments], like.shape).astype(like.dtype)


def as_stored(codebook: Array, assignments: Array, like: Array) -> Blocks | Plain:
  if not like.size:
    return Plain.of(like)
  bits, table = max(1, (len(codebook) - 1).bit_length()), np.asarray(codebook, np.float32)
  return Blocks(pack_bits(np.asarray(assignments), bits), table, tuple(like.shape), bits, like.dtype.name)


def product(num_centroids: int, block_size: int, *, iterations: int = 15) -> Reparam:
  r"""Puts every block of d entries of a filter on a row of its tensor's codebook; theta is the weights themselves.

  .. math:: \hat b_i = c_{a_i}, \qquad a_i = \arg\min_j \lVert b_i - c_j \rVert^2

  The gradient goes straight through. ``init`` makes the codebook by k-means from min(k, number of blocks) distinct
  blocks by chance; ``refresh`` goes on with k-means on the weights as they are by now, and no key is used up.

  Args:
    num_centroids: k, 2 … 256: a block costs ⌈log2 k⌉ bits, and a tensor a codebook of k·d float32 numbers.
    block_size: d; a filter with fewer entries is one block. A filter is what the last axis numbers; the entries of its
      last block that stick out count neither in a distance nor in a mean.
    iterations: of k-means, in ``init`` and in each ``refresh``.

  Raises:
    ValueError: the number of centroids, the block size or the iterations are out of range; from ``init``, a weight is
      no array of floats or not finite.

  >>> reparam = product(2, 2)
  >>> theta, code = reparam.init({'kernel': jnp.array([[0., 4.], [1., 5.], [0., 4.], [2., 5.]])}, jax.random.key(0))
  >>> reparam.apply(theta, code, None)['kernel'].T.tolist()
  [[0.0, 1.5, 0.0, 1.5], [4.0, 5.0, 4.0, 5.0]]
  >>> reparam.stored(theta, code).bits()  # a byte of codes, and 2 · 2 numbers
  136

  Source: Quant-Noise (Fan et al. 2021), section 4, after Stock et al. 2020. Its code draws the first blocks with
  replacement and splits the most populated cluster when one is empty; here the first blocks are distinct, and an empty
  centroid moves to the block of largest error, which never raises the total. A kernel's entries lie in Flax's order,
  the input channels last; theirs come first. All three are choices.
  """
  check(num_centroids, block_size, iterations)

  def init(params, key):
    theta = copied(params)
    keys = tree.keys_like(key, theta)
    return theta, jax.tree.map(lambda w, k: start(w, k, num_centroids, block_size, iterations), theta, keys)

  def weights(w: Array, coded: Coded, straight_through: bool) -> Array:
    fixed = jax.lax.stop_gradient(w)
    hard = decoded(coded.codebook, coded.assignments, fixed)
    return w + (hard - fixed) if straight_through else hard

  def again(w: Array, coded: Coded) -> Coded:
    if not w.size:
      return coded
    codebook, assignments = kmeans(*cut(w, block_size), coded.codebook, coded.assignments.astype(jnp.int32), iterations)
    return Coded(codebook, assignments.astype(jnp.uint8))

  def tensor(w: Array, coded: Coded) -> Blocks | Plain:
    return as_stored(coded.codebook, coded.assignments, w)

  return Reparam(
    init=init,
    apply=lambda theta, code, key: jax.tree.map(lambda w, coded: weights(w, coded, key is not None), theta, code),
    refresh=lambda theta, code, key: jax.tree.map(again, theta, code),
    stored=lambda theta, code: PackedTree(jax.tree.map(tensor, theta, code)),
  )


def product_codebook(num_centroids: int, block_size: int, *, iterations: int = 15) -> Reparam:
  r"""Puts every block of d entries of a filter on a row of its tensor's codebook; theta is the codebooks.

  .. math:: \frac{\partial L}{\partial c_j} = \sum_{i:\, a_i = j} \frac{\partial L}{\partial \hat b_i}

  ``init`` is that of ``product``. ``refresh`` hands each block of the weights that ``init`` saw to the nearest of the
  centroids as they are by now.

  Args:
    num_centroids: k, 2 … 256.
    block_size: d; a filter with fewer entries is one block.
    iterations: of k-means, in ``init``.

  Raises:
    ValueError: the number of centroids, the block size or the iterations are out of range; from ``init``, a weight is
      no array of floats or not finite.

  >>> reparam = product_codebook(2, 2)
  >>> theta, code = reparam.init({'kernel': jnp.array([[0., 4.], [1., 5.], [0., 4.], [2., 5.]])}, jax.random.key(0))
  >>> theta['kernel'].shape, reparam.apply(theta, code, None)['kernel'].shape
  ((2, 2), (4, 2))

  Source: the fine-tuning of iPQ, in Quant-Noise (Fan et al. 2021) and Stock et al. 2020. Their code averages the
  gradient of a centroid over its blocks for convolutions and sums it for all else; here it is the sum, the gradient
  of the loss as it is. A choice.
  """
  check(num_centroids, block_size, iterations)

  def init(params, key):
    fixed = copied(params)
    keys = tree.keys_like(key, fixed)
    coded = jax.tree.map(lambda w, k: start(w, k, num_centroids, block_size, iterations), fixed, keys)
    theta = jax.tree.map(lambda w, each: each.codebook, fixed, coded)
    return theta, jax.tree.map(lambda w, each: Assigned(each.assignments, w), fixed, coded)

  def again(codebook: Array, code: Assigned) -> Assigned:
    if not code.weights.size:
      return code
    rows, inside = cut(code.weights, block_size)
    assignments = reassigned(rows, inside, codebook.astype(jnp.float32), code.assignments.astype(jnp.int32))
    return code._replace(assignments=assignments.astype(jnp.uint8))

  def weights(codebook: Array, code: Assigned) -> Array:
    return decoded(codebook, code.assignments, code.weights)

  def tensor(codebook: Array, code: Assigned) -> Blocks | Plain:
    return as_stored(codebook, code.assignments, code.weights)

  return Reparam(
    init=init,
    apply=lambda theta, code, key: jax.tree.map(weights, theta, code),
    refresh=lambda theta, code, key: jax.tree.map(again, theta, code),
    stored=lambda theta, code: PackedTree(jax.tree.map(tensor, theta, code)),
  )


def check(num_centroids: int, block_size: int, iterations: int) -> None:
  check_count('num_centroids', num_centroids, 2, 256)
  check_count('block_size', block_size, 1)
  check_count('iterations', iterations, 0)
