"""Stages over devices: given the teacher's taps none waits for another."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from lmajax._versions import as_varying
from lmajax.types import Frozen, Key, ModelStats, Objective, Params

_AXIS = 'stage'


def parallel_stages(objectives: Sequence[Objective], mesh: jax.sharding.Mesh) -> Callable:
  """Takes ``jax.value_and_grad`` of a sum of objectives, each on its own device of the mesh's axis ``stage``.

  For those of single stages, ``blockwise(student, …, beta=0, fed=(i,), compared=(i,))``: each must leave alone the
  statistics that another moves. Called like an objective, it gives ((loss, (statistics, each error)), gradient), the
  same on every device. All that goes in is copied to all devices, the teacher's taps too, whose shapes differ; no two
  devices run the same program. On the CPU a convolution within ``lax.switch`` is many times slower than outside it.

  Args:
    objectives: one a device.
    mesh: with the axis ``stage``.

  Raises:
    ValueError: the axis has not as many devices as there are objectives.

  >>> def squared(params, stats, frozen, batch, key):
  ...   return jnp.square(params), (stats, {})
  >>> both = jax.jit(parallel_stages([squared], jax.make_mesh((1,), ('stage',))))
  >>> (loss, (_, errors)), gradient = both(jnp.float32(3), {}, None, None, jax.random.key(0))
  >>> float(loss), float(errors['error_0']), float(gradient)
  (9.0, 9.0, 6.0)

  Source: Koratana et al. 2019 (LIT), section 3: given the teacher's taps, no stage waits for another.
  """
  count = len(objectives)
  if mesh.shape.get(_AXIS) != count:
    raise ValueError(f'{count} stages over a mesh of {dict(mesh.shape)}: give its axis {_AXIS} {count} devices')

  def branch(objective: Objective) -> Callable:
    def alone(params: Params, stats: ModelStats, *rest: Any) -> Any:
      (loss, (moved, _)), grads = jax.value_and_grad(objective, has_aux=True)(params, stats, *rest)
      return loss, jax.tree.map(jnp.subtract, moved, stats), grads

    return alone

  branches = [branch(objective) for objective in objectives]

  def on_one(params: Params, stats: ModelStats, frozen: Frozen, batch: Any, key: Key) -> Any:
    number = jax.lax.axis_index(_AXIS)
    # Each device's own from here on: the gradient of what is shared would be summed within a branch, of one device.
    own = jax.tree.map(lambda leaf: as_varying(leaf, (_AXIS,)), (params, stats, frozen, batch, key))
    loss, change, grads = jax.lax.switch(number, branches, *own)
    errors = jnp.where(jnp.arange(count) == number, loss, jnp.zeros_like(loss))
    errors, change, grads = jax.lax.psum((errors, change, grads), _AXIS)  # on the other devices they are 0
    metrics = {f'error_{i}': errors[i] for i in range(count)}
    return (errors.sum(), (jax.tree.map(jnp.add, stats, change), metrics)), grads

  everywhere = jax.sharding.PartitionSpec()
  return jax.shard_map(on_one, mesh=mesh, in_specs=everywhere, out_specs=everywhere)
