"""Filters taken out of a network for good: by which they are ranked, and what of the parameters is left."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from lmajax import tree
from lmajax._arguments import as_given, is_count
from lmajax.compress._widths import checked
from lmajax.types import ChannelGraph, Channels, ModelStats, Params, Widths


class Filters(NamedTuple):
  """A kernel as a criterion sees it: a column for each filter, their batch norm's scales, its number in the network.

  >>> Filters(jnp.ones((9, 4)), None, 0).kernel.shape
  (9, 4)
  """

  kernel: Float[Array, 'd o']
  scale: Float[Array, ' o'] | None
  number: int


Criterion = Callable[[Filters], Float[Array, ' o']]
"""A score for each filter, of which the greatest stay."""


def l1_norm(filters: Filters) -> Float[Array, ' o']:
  r"""Scores a filter by the sum of its absolute weights, :math:`\sum_d |W_{d,o}|`.

  >>> l1_norm(Filters(jnp.array([[3., 1.], [-4., 1.]]), None, 0)).tolist()
  [7.0, 2.0]

  Source: Li et al. 2017, "Pruning filters for efficient convnets".
  """
  return jnp.abs(filters.kernel).sum(axis=0)


def l2_norm(filters: Filters) -> Float[Array, ' o']:
  r"""Scores a filter by its length, :math:`(\sum_d W_{d,o}^2)^{1/2}`.

  >>> l2_norm(Filters(jnp.array([[3., 1.], [-4., 0.]]), None, 0)).tolist()
  [5.0, 1.0]

  Source: He et al. 2018, "Soft filter pruning".
  """
  return jnp.linalg.norm(filters.kernel, axis=0)


def median_distance(filters: Filters) -> Float[Array, ' o']:
  r"""Scores a filter by its distances to all filters of the layer, :math:`\sum_p \|W_{\cdot,o} - W_{\cdot,p}\|_2`.

  The least are nearest to the geometric median, so that the others can stand for them.

  >>> median_distance(Filters(jnp.array([[0., 1., 5.]]), None, 0)).tolist()
  [6.0, 5.0, 9.0]

  Source: He et al. 2019, "Filter pruning via geometric median", equation 4.
  """
  columns = filters.kernel.T
  return jax.lax.map(lambda column: jnp.linalg.norm(columns - column[None], axis=1).sum(), columns)


def norm_scale(filters: Filters) -> Float[Array, ' o']:
  r"""Scores a filter by the absolute scale of its batch norm, :math:`|\gamma_o|`.

  Raises:
    ValueError: the graph names no scale.

  >>> norm_scale(Filters(jnp.ones((2, 3)), jnp.array([1., -2., 0.]), 0)).tolist()
  [1.0, 2.0, 0.0]

  Source: Liu et al. 2017, "Network slimming", whose networks are trained with an L1 penalty on the scales.
  """
  if filters.scale is None:
    raise ValueError(f'the channels of number {filters.number} have no norm whose scale could rank them')
  return jnp.abs(filters.scale)


def random_order(key: jax.Array) -> Criterion:
  """Makes a criterion that looks at nothing: uniform draws, others for each number of channels.

  >>> random_order(jax.random.key(0))(Filters(jnp.ones((2, 3)), None, 0)).shape
  (3,)

  Source: the control of Mittal et al. 2018, "Recovering from random pruning".
  """

  def draw(filters: Filters) -> Float[Array, ' o']:
    return jax.random.uniform(jax.random.fold_in(key, filters.number), filters.kernel.shape[-1:])

  return draw


def slice_params(
  params: Params, stats: ModelStats, graph: ChannelGraph, widths: Widths, criterion: Criterion
) -> tuple[Params, ModelStats]:
  r"""Takes the filters with the least scores out of a network, and everything that belongs to them.

  .. math:: W_l \leftarrow W_l[\dots, K_l], \quad v \leftarrow v[\dots, K_l], \quad
    W_m \leftarrow W_m[\dots, K_l, :], \qquad K_l = \text{the } k_l \text{ greatest of } \text{criterion}(W_l)

  for the kernels, what lies along, and the consumers of each entry of the graph; kept channels stay in their order. The
  result are the parameters of ``model.thinned(widths)``. What is in no entry is carried over as it is: LMA's slopes,
  intercepts and statistics belong to a layer, not to its channels. Where several kernels write the channels, their
  scores are averaged. Entries go in the order of the graph, and a kernel is scored without the inputs that went before.

  A filter whose norm's scale and bias are 0 may go without a trace where the activation is 0 at 0. A trained LMA is not
  there: then a channel is dead when its consumers' weights are 0 too. Otherwise the running statistics after the slice
  are those of other inputs: measure them again. Works under ``jit`` and ``vmap``, since widths are static.

  Args:
    params: of the model.
    stats: its collections of state, ``{'batch_stats': ...}``.
    graph: of the model.
    widths: channels to be left, for each entry of the graph.
    criterion: scores of a kernel's filters.

  Raises:
    ValueError: the graph does not fit the parameters, or a width is not from 1 to what there is; the line says where.

  >>> model = MLP(units=(5, 4), num_classes=3, act=LMA)
  >>> variables = model.init(jax.random.key(0), jnp.zeros((1, 7)), train=False)
  >>> params = variables.pop('params')
  >>> params, stats = slice_params(params, variables, model.graph(), (2, 3), l1_norm)
  >>> jax.tree.map(jnp.shape, params['stages_1']['Dense_0'])
  {'bias': (3,), 'kernel': (2, 3)}

  Source: filter pruning as Li et al. 2017, figure 1, and Liu et al. 2017 for the norms; which of the four criteria go
  with PCA's widths (arXiv 2202.10461) is left open there.
  """
  variables = {'params': params, **stats}
  found = checked(variables, graph)
  if len(widths) != len(graph):
    raise ValueError(f'there are {len(widths)} widths for the {len(graph)} channels of the graph')
  for number, (channels, width) in enumerate(zip(graph, widths, strict=True)):
    count = found[channels.kernels[0]].shape[-1]
    if not is_count(width) or not 1 <= width <= count:
      raise ValueError(f'the width of {channels.kernels[0]} is {as_given(width)}, and must be from 1 to {count}')
    if width < count:
      found |= _cut(found, channels, _kept(found, channels, number, width, criterion))
  sliced = tree.map_with_path(lambda path, leaf: found[path], variables)
  return sliced['params'], {name: part for name, part in sliced.items() if name != 'params'}


def _kept(found: dict[str, Any], channels: Channels, number: int, width: int, criterion: Criterion) -> Array:
  scales = channels.scales or (None,) * len(channels.kernels)
  scores = [
    criterion(Filters(found[path].reshape(-1, found[path].shape[-1]), None if scale is None else found[scale], number))
    for path, scale in zip(channels.kernels, scales, strict=True)
  ]
  return jnp.sort(jax.lax.top_k(jnp.stack(scores).mean(axis=0), width)[1])


def _cut(found: dict[str, Any], channels: Channels, kept: Array) -> dict[str, Any]:
  count = found[channels.kernels[0]].shape[-1]
  cut: dict[str, Any] = {path: jnp.take(found[path], kept, axis=-1) for path in (*channels.kernels, *channels.along)}
  for path in channels.consumers:
    leaf = cut.get(path, found[path])
    *before, read, written = leaf.shape
    each = leaf.reshape(*before, read // count, count, written)
    cut[path] = jnp.take(each, kept, axis=-2).reshape(*before, -1, written)
  return cut
