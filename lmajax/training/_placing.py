"""Arrays on many devices: batches split over them, states whole on each."""

from collections.abc import Callable
from functools import cache
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType

from lmajax._arguments import of_type


def over_all_devices() -> jax.sharding.NamedSharding:
  """Returns the sharding of batches over all devices; its axis is Auto, so that Flax and optax run as they are.

  >>> over_all_devices().num_devices == jax.device_count()
  True

  Source: not in the paper.
  """
  mesh = jax.make_mesh((jax.device_count(),), ('data',), axis_types=(AxisType.Auto,))
  return jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec('data'))


def replicated(sharding: jax.sharding.NamedSharding) -> jax.sharding.NamedSharding:
  """Returns the sharding that places arrays whole on each device of the same mesh.

  >>> mesh = jax.make_mesh((1,), ('data',))
  >>> replicated(jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec('data'))).is_fully_replicated
  True

  Source: not in the paper.
  """
  return jax.sharding.NamedSharding(sharding.mesh, jax.sharding.PartitionSpec())


def whole(leaf: Any, sharding: jax.sharding.Sharding | None) -> jax.Array:
  """Places an array or keys on the devices; assumes that all processes hold the same, without asking over the network.

  Args:
    leaf: an array, or typed keys.
    sharding: where; None is the default device.

  >>> whole(np.ones(2, np.float32), None).tolist()
  [1.0, 1.0]

  Source: not in the paper.
  """
  if of_type(leaf, jax.dtypes.prng_key):
    return jax.random.wrap_key_data(whole(jax.random.key_data(leaf), sharding), impl=jax.random.key_impl(leaf))
  array = np.asarray(leaf)
  if sharding is None:
    return jax.device_put(array)
  return jax.make_array_from_callback(array.shape, sharding, array.__getitem__)


def placed(read: Callable[[np.ndarray], Any], rows: np.ndarray, sharding: jax.sharding.NamedSharding | None) -> Any:
  """Reads the rows as arrays on the devices; each process reads the rows of its own devices alone.

  Args:
    read: rows -> a tree of NumPy arrays with the rows on their first axis.
    rows: the numbers of the examples of a whole batch.
    sharding: of the batch; None is the default device.

  >>> placed(lambda rows: {'squares': rows**2}, np.arange(3), None)['squares'].tolist()
  [0, 1, 4]

  Source: not in the paper.
  """
  if sharding is None:
    return jax.device_put(read(rows))
  empty, structure = jax.tree.flatten(read(rows[:0]))
  share = cache(lambda start, stop: jax.tree.leaves(read(rows[start:stop])))

  def spread(i: int) -> jax.Array:
    def own(index: Any) -> np.ndarray:
      return share(index[0].start, index[0].stop)[i]

    return jax.make_array_from_callback((len(rows), *empty[i].shape[1:]), sharding, own)

  return structure.unflatten([spread(i) for i in range(len(empty))])


def settle(states: Any) -> None:
  """Waits for the states on several CPU devices: programs in flight together starve each other's collectives.

  >>> settle(jnp.ones(2))

  Source: not in the paper.
  """
  if jax.default_backend() == 'cpu' and jax.device_count() > 1:
    jax.block_until_ready(states)
