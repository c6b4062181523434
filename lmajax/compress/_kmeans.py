"""Lloyd's k-means on blocks of which some entries do not count."""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

Rows = Float[Array, 'n d']  # float32, zero where not inside
Inside = Bool[Array, 'n d']
Codebook = Float[Array, 'k d']
Assignments = Int[Array, ' n']

CHUNK = 4096  # blocks whose distances to all centroids are held at once


def errors(rows: Rows, inside: Inside, centroids: Float[Array, '#n d']) -> Float[Array, ' n']:
  """Squared distance of each block to a centroid, over the entries that count."""
  return jnp.where(inside, jnp.square(rows - centroids), 0.0).sum(axis=-1)


def nearest(rows: Rows, inside: Inside, codebook: Codebook) -> Assignments:
  """Numbers the nearest centroid of each block, the first of several, by x·x − 2 x·c + c·c without its first term."""
  table = jnp.concatenate([-2 * codebook, jnp.square(codebook)], axis=-1)

  def one(block: tuple[Array, Array]) -> Array:
    entries = jnp.concatenate([block[0], block[1].astype(table.dtype)])
    return jnp.argmin(jnp.dot(table, entries, precision=jax.lax.Precision.HIGHEST)).astype(jnp.int32)

  return jax.lax.map(one, (rows, inside), batch_size=CHUNK)


def reassigned(rows: Rows, inside: Inside, codebook: Codebook, assignments: Assignments) -> Assignments:
  """Moves each block to its nearest centroid, unless its own is as near: so that rounding raises no error."""
  found = nearest(rows, inside, codebook)
  nearer = errors(rows, inside, codebook[found]) < errors(rows, inside, codebook[assignments])
  return jnp.where(nearer, found, assignments)


def repaired(rows: Rows, inside: Inside, codebook: Codebook, assignments: Assignments) -> tuple[Codebook, Assignments]:
  """Puts each centroid without blocks on the block of largest error, one after the other, while there is an error.

  What lies nearer to it than to its own centroid follows at once, so that two of them never take the same place.
  """
  counts = jnp.zeros(codebook.shape[0], jnp.int32).at[assignments].add(1)
  empty_first = jnp.argsort(counts > 0)

  def wanted(state: tuple[Array, ...]) -> Array:
    i, _, _, error = state
    return (i < (counts == 0).sum(dtype=jnp.int32)) & (error.max() > 0)

  def fill(state: tuple[Array, ...]) -> tuple[Array, ...]:
    i, codebook, assignments, error = state
    block, centroid = rows[error.argmax()], empty_first[i]
    there = errors(rows, inside, block[None])
    assignments = jnp.where(there < error, centroid.astype(assignments.dtype), assignments)
    return i + 1, codebook.at[centroid].set(block), assignments, jnp.minimum(error, there)

  start = jnp.int32(0), codebook, assignments, errors(rows, inside, codebook[assignments])
  _, codebook, assignments, _ = jax.lax.while_loop(wanted, fill, start)
  return codebook, assignments


def centered(rows: Rows, inside: Inside, codebook: Codebook, assignments: Assignments) -> Codebook:
  """Moves each centroid by the mean distance of its blocks' entries: a centroid of equal blocks stays to the bit."""
  away = jnp.where(inside, rows - codebook[assignments], 0.0)
  total = jnp.zeros_like(codebook).at[assignments].add(away)
  count = jnp.zeros_like(codebook).at[assignments].add(inside.astype(codebook.dtype))
  return codebook + total / jnp.maximum(count, 1.0)


@functools.partial(jax.jit, static_argnames='iterations')
def kmeans(
  rows: Rows, inside: Inside, codebook: Codebook, assignments: Assignments, iterations: int
) -> tuple[Codebook, Assignments]:
  """Improves a codebook and its assignments: assigns, repairs and centers a number of times, then assigns once more."""

  def round_(state: tuple[Array, Array], _: None) -> tuple[tuple[Array, Array], None]:
    codebook, assignments = state
    assignments = reassigned(rows, inside, codebook, assignments)
    codebook, assignments = repaired(rows, inside, codebook, assignments)
    return (centered(rows, inside, codebook, assignments), assignments), None

  codebook, assignments = jax.lax.scan(round_, (codebook, assignments), length=iterations)[0]
  return codebook, reassigned(rows, inside, codebook, assignments)
