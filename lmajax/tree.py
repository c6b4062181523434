"""Trees of arrays: their size, and their leaves by path."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer


def size(tree: Any) -> int:
  """Counts the elements of all leaves.

  Args:
    tree: a pytree of arrays or of ``jax.ShapeDtypeStruct``.

  >>> size({'kernel': jax.numpy.zeros((3, 4)), 'bias': jax.numpy.zeros(4)})
  16
  """
  return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def nbytes(tree: Any) -> int:
  """Counts the bytes of all leaves at their own precision.

  Args:
    tree: a pytree of arrays or of ``jax.ShapeDtypeStruct``.

  >>> nbytes({'kernel': jax.numpy.zeros((3, 4)), 'bias': jax.numpy.zeros(4, 'bfloat16')})
  56
  """
  return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def map_with_path(function: Callable[..., Any], tree: Any, *rest: Any) -> Any:
  """Maps a function of (path, leaf, …) over the leaves; a path is the keys down to its leaf, with ``/`` between them.

  The variables of an NNX state have the paths of their modules, without ``value`` at the end.

  Args:
    function: takes the path, then a leaf of each tree.
    tree: any pytree.
    *rest: trees that the first one is a prefix of.

  >>> map_with_path(lambda path, leaf: path, {'stages_0': {'kernel': 1, 'bias': 2}})
  {'stages_0': {'bias': 'stages_0/bias', 'kernel': 'stages_0/kernel'}}
  """

  def named(path: Any, *leaves: Any) -> Any:
    if path and path[-1] == jax.tree_util.GetAttrKey('value'):
      path = path[:-1]
    return function(jax.tree_util.keystr(path, simple=True, separator='/'), *leaves)

  return jax.tree_util.tree_map_with_path(named, tree, *rest)


def by_path(tree: Any) -> dict[str, Any]:
  """Lays the leaves of a tree side by side, each under its path.

  Args:
    tree: any pytree.

  >>> by_path({'stages_0': {'kernel': 1, 'bias': 2}})
  {'stages_0/bias': 2, 'stages_0/kernel': 1}
  """
  found = {}
  map_with_path(found.__setitem__, tree)
  return found


def nested(tree: Any) -> dict[str, Any]:
  """Makes nested dictionaries of a tree of any kind, with the names and numbers of its paths as keys.

  Args:
    tree: any pytree; a leaf alone comes under ``value``, and one under ``'a/b'`` comes under a and b.

  Raises:
    ValueError: a path ends where another goes on.

  >>> nested({'layers': [1, 2]}), nested(3)
  ({'layers': {'0': 1, '1': 2}}, {'value': 3})
  """
  found: dict[str, Any] = {}
  for path, leaf in by_path(tree).items():
    *above, last = (path or 'value').split('/')
    node: Any = found
    for key in above:
      node = node.setdefault(key, {}) if isinstance(node, dict) else None
    if not isinstance(node, dict) or last in node:
      raise ValueError(f'{path} is no place of its own in a tree')
    node[last] = leaf
  return found


def check_finite(tree: Any) -> None:
  """Refuses a tree with NaN or infinity in a leaf; arrays whose values are not known yet pass.

  Raises:
    ValueError: a leaf is not finite; the message has its path.

  >>> check_finite({'kernel': np.array([1., np.nan])})
  Traceback (most recent call last):
  ValueError: kernel holds NaN or infinity; ...
  """

  def check(path: str, leaf: Any) -> None:
    known = not isinstance(leaf, Tracer) and jnp.issubdtype(leaf.dtype, jnp.inexact)
    if known and getattr(leaf, 'is_fully_addressable', True) and not np.isfinite(np.asarray(leaf)).all():
      raise ValueError(f'{path} holds NaN or infinity; weights must be finite')

  map_with_path(check, tree)


def partition(tree: Any, where: Callable[[str, Any], bool]) -> tuple[Any, Any]:
  """Parts a tree into the leaves that ``where(path, leaf)`` selects and the rest, each with None at the other's places.

  >>> partition({'kernel': 1., 'bias': 2.}, lambda path, leaf: path == 'kernel')
  ({'bias': None, 'kernel': 1.0}, {'bias': 2.0, 'kernel': None})
  """
  chosen = map_with_path(where, tree)
  selected = jax.tree.map(lambda leaf, yes: leaf if yes else None, tree, chosen)
  return selected, jax.tree.map(lambda leaf, yes: None if yes else leaf, tree, chosen)


def combine(selected: Any, rest: Any) -> Any:
  """Puts together what ``partition`` parted.

  >>> combine({'bias': None, 'kernel': 1.}, {'bias': 2., 'kernel': None})
  {'bias': 2.0, 'kernel': 1.0}
  """
  return jax.tree.map(lambda a, b: b if a is None else a, selected, rest, is_leaf=lambda leaf: leaf is None)


def keys_like(key: Any, tree: Any) -> Any:
  """Gives every leaf a key of its own, by its number in the tree's order.

  >>> sorted(keys_like(jax.random.key(0), {'kernel': 1., 'bias': None}))
  ['bias', 'kernel']
  """
  leaves, structure = jax.tree.flatten(tree)
  return structure.unflatten([jax.random.fold_in(key, i) for i in range(len(leaves))])
