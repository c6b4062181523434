"""Channel graphs: names of the layers that write channels, lie along them, and read them."""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp

from lmajax import tree
from lmajax._arguments import site
from lmajax.types import ActivationFactory, ChannelGraph, Channels


def chain(act: ActivationFactory, layers: Sequence[str]) -> ChannelGraph:
  """The channels of blocks that follow one another, one a stage, each given by its layer.

  The layer has a bias; beside it stand a ``norm`` and an ``act``. The logits read the last.
  """
  readers = [*layers[1:], 'logits']

  def one(i: int) -> Channels:
    layer, stage = layers[i], layers[i].partition('/')[0]
    along = (f'params/{layer}/bias', *normed(f'{stage}/norm'), *activated(act, f'{stage}/act'))
    return Channels((kernel(layer),), along, (kernel(readers[i]),), (scale(f'{stage}/norm'),), first=i == 0)

  return tuple(map(one, range(len(layers))))


def within(act: ActivationFactory, block: str) -> Channels:
  """The channels between the two convolutions of a residual block."""
  norm, own, reader = f'{block}/_ConvNorm_0/BatchNorm_0', f'{block}/_ConvNorm_0/Conv_0', f'{block}/_ConvNorm_1/Conv_0'
  along = (*normed(norm), *activated(act, f'{block}/act1'))
  return Channels((kernel(own),), along, (kernel(reader),), (scale(norm),))


def trunk(act: ActivationFactory, stages: Sequence[Sequence[str]], i: int) -> Channels:
  """The channels of a stage of residual blocks, written by every block and by what the stage begins with."""
  blocks = stages[i]
  # The stem begins the first stage; elsewhere the first block reads the stage before, and its shortcut begins this one.
  begins, inside = ('first/_ConvNorm_0', blocks) if i == 0 else (f'{blocks[0]}/shortcut', blocks[1:])
  sites = ['first/act'] if i == 0 else []
  writers = [begins, *(f'{block}/_ConvNorm_1' for block in blocks)]
  readers = [f'{block}/_ConvNorm_0/Conv_0' for block in inside]
  if i + 1 < len(stages):
    readers += [f'{stages[i + 1][0]}/{part}/Conv_0' for part in ('_ConvNorm_0', 'shortcut')]
  else:
    readers += ['logits']
  norms = [f'{writer}/BatchNorm_0' for writer in writers]
  along = [path for norm in norms for path in normed(norm)]
  along += [path for site in (*sites, *(f'{block}/act2' for block in blocks)) for path in activated(act, site)]
  kernels = tuple(kernel(f'{writer}/Conv_0') for writer in writers)
  return Channels(kernels, tuple(along), tuple(map(kernel, readers)), tuple(map(scale, norms)), first=i == 0)


def kernel(layer: str) -> str:
  """The kernel of a layer."""
  return f'params/{layer}/kernel'


def scale(norm: str) -> str:
  """The scale of a batch norm."""
  return f'params/{norm}/scale'


def normed(norm: str) -> tuple[str, ...]:
  """Returns the leaves of a batch norm that have an element for each channel."""
  return scale(norm), f'params/{norm}/bias', f'batch_stats/{norm}/mean', f'batch_stats/{norm}/var'


def activated(act: ActivationFactory, site: str) -> tuple[str, ...]:
  """Returns the leaves of an activation whose last axis grows with the channels."""
  few, many = (_ends(act, channels) for channels in (2, 3))
  return tuple(path.replace('/', f'/{site}/', 1) for path in few if few[path] != many[path])


def _ends(act: ActivationFactory, channels: int) -> dict[str, tuple[int, ...]]:
  """Path -> the length of the last axis, if there is one."""
  inputs = jnp.zeros((1, channels))
  shapes = jax.eval_shape(partial(site(act, 'act').init, train=False), jax.random.key(0), inputs)
  return {path: leaf.shape[-1:] for path, leaf in tree.by_path(shapes).items()}
