"""Reparameterizations of whole trees: none at all, and one for some leaves and another for the rest."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lmajax import tree
from lmajax.compress._tensors import PackedTree, Plain
from lmajax.types import Reparam


class Split(NamedTuple):
  """Pair of trees, of the selected leaves and of the others; each has None where the other has leaves.

  >>> Split({'kernel': 1., 'bias': None}, {'kernel': None, 'bias': 2.}).rest
  {'kernel': None, 'bias': 2.0}
  """

  selected: Any
  rest: Any


def identity() -> Reparam:
  """The weights themselves: theta is a copy of them, and nothing is coded.

  >>> reparam = identity()
  >>> theta, code = reparam.init({'kernel': jnp.ones((2, 2))}, jax.random.key(0))
  >>> reparam.stored(theta, code).bits()
  128

  Source: the neutral element of this algebra, as ``optax.identity`` is of optax's.
  """
  return Reparam(
    init=lambda params, key: (jax.tree.map(jnp.copy, params), ()),
    apply=lambda theta, code, key: theta,
    refresh=lambda theta, code, key: code,
    stored=lambda theta, code: PackedTree(jax.tree.map(Plain.of, theta)),
  )


def kernels(path: str, leaf: Any) -> bool:
  """Selects convolution, dense and embedding weights by their name in Flax, ``kernel`` or ``embedding``.

  Biases, the parameters of normalizations and those of activations are left alone: they are few, and what they cost is
  counted.

  >>> kernels('stages_0/Conv_0/kernel', None), kernels('stages_0/act/slope_deltas', None)
  (True, False)

  Source: a choice. The authors quantize ``model.parameters()`` but for the first and the last, whatever they are (by
  that the first kernel and the logits' bias stay): for that hand ``masked`` another ``where``.
  """
  del leaf
  return path.rpartition('/')[2] in ('kernel', 'embedding')


def masked(inner: Reparam, *, where: Callable[[str, Any], bool] = kernels, otherwise: Reparam | None = None) -> Reparam:
  """One reparameterization for the leaves that ``where`` selects, and another for the rest: the outermost of them all.

  Args:
    inner: of the selected leaves; it sees the whole tree with None in the others' places.
    where: (path, leaf) -> whether it is selected; asked in ``init`` alone, and nothing of its answer is kept but the
      structure of theta, so that a resumed process need not have called ``init``.
    otherwise: of the rest; by default ``identity()``.

  Raises:
    ValueError: from ``init``, where no leaf is selected.

  >>> reparam = masked(uniform(4))
  >>> params = {'kernel': jnp.ones((2, 2)), 'bias': jnp.zeros(2)}
  >>> theta, code = reparam.init(params, jax.random.key(0))
  >>> sorted(reparam.apply(theta, code, None))
  ['bias', 'kernel']

  Source: a composition, as ``optax.masked``; with ``otherwise`` it nests, layer by layer as in iPQ.
  """
  rest = otherwise or identity()

  def parts(key: jax.Array | None) -> tuple[Any, Any]:
    return (None, None) if key is None else tuple(jax.random.split(key))

  def init(params, key):
    selected, left = tree.partition(params, where)
    if not jax.tree.leaves(selected):
      paths = jax.tree.leaves(tree.map_with_path(lambda path, leaf: path, params))
      raise ValueError(f'where selects none of {", ".join(paths[:8])}{" …" * (len(paths) > 8)}; hand masked another')
    keys = parts(key)
    pairs = inner.init(selected, keys[0]), rest.init(left, keys[1])
    return Split(pairs[0][0], pairs[1][0]), Split(pairs[0][1], pairs[1][1])

  def apply(theta, code, key):
    keys = parts(key)
    return tree.combine(inner.apply(theta.selected, code.selected, keys[0]), rest.apply(theta.rest, code.rest, keys[1]))

  def refresh(theta, code, key):
    keys = parts(key)
    return Split(inner.refresh(theta.selected, code.selected, keys[0]), rest.refresh(theta.rest, code.rest, keys[1]))

  def stored(theta, code):
    return inner.stored(theta.selected, code.selected) | rest.stored(theta.rest, code.rest)

  return Reparam(init, apply, refresh, stored)


def extended(theta: Any, code: Any, inner: Reparam, key: jax.Array) -> tuple[Any, Any]:
  """Codes what is left as weights by one more reparameterization, and keeps what is coded already, as trained as it is.

  The result belongs to the ``masked`` whose innermost ``otherwise`` is ``inner`` in place of ``identity()``. What is
  kept is not copied.

  Args:
    theta: of ``identity()``, or of a ``masked`` whose innermost ``otherwise`` is ``identity()``.
    code: that goes with it.
    inner: a ``masked`` for some leaves of the rest, or any other for all of them.
    key: for the ``init`` of ``inner``.

  >>> reparam = masked(identity(), where=lambda path, leaf: path == 'a')
  >>> theta, code = reparam.init({'a': jnp.ones(2), 'b': jnp.zeros(2)}, jax.random.key(0))
  >>> second = masked(identity(), where=lambda path, leaf: path == 'b')
  >>> theta, code = extended(theta, code, second, jax.random.key(1))
  >>> theta.selected['a'].tolist(), theta.rest.selected['b'].tolist()
  ([1.0, 1.0], [0.0, 0.0])

  Source: the stages of iPQ, in Quant-Noise (Fan et al. 2021); one call between two of them.
  """
  if not isinstance(theta, Split):
    return inner.init(theta, key)
  rest = extended(theta.rest, code.rest, inner, key)
  return Split(theta.selected, rest[0]), Split(code.selected, rest[1])
