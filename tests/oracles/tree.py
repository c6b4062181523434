"""Trees: a nest of dictionaries, lists and tuples."""

import numpy as np

# The trees: a nest of dictionaries, lists and tuples.


def leaves(tree):
  if isinstance(tree, dict):
    return [leaf for child in tree.values() for leaf in leaves(child)]
  if isinstance(tree, list | tuple):
    return [leaf for child in tree for leaf in leaves(child)]
  return [tree]


def size(tree):
  count = 0
  for leaf in leaves(tree):
    count += len(np.asarray(leaf).ravel())
  return count


def nbytes(tree):
  count = 0
  for leaf in leaves(tree):
    count += len(np.asarray(leaf).tobytes())
  return count


def map_with_path(function, tree, *rest, path=()):
  if isinstance(tree, dict):
    return {name: map_with_path(function, tree[name], *(r[name] for r in rest), path=(*path, name)) for name in tree}
  return None if tree is None else function('/'.join(path), tree, *rest)


def by_path(tree):
  found = {}
  map_with_path(found.__setitem__, tree)
  return found


def partition(tree, where):
  chosen = map_with_path(lambda path, leaf: leaf if where(path, leaf) else None, tree)
  return chosen, map_with_path(lambda path, leaf: None if where(path, leaf) else leaf, tree)


def combine(selected, rest):
  if isinstance(selected, dict):
    return {name: combine(selected[name], rest[name]) for name in selected}
  return rest if selected is None else selected
