"""The residual networks once more in NumPy, from their parameters: every tap and the logits."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmajax.activations.linen import ReLU
from lmajax.models import ResNet, ResNeXt

X = np.random.default_rng(0).normal(size=(2, 9, 8, 3)).astype(np.float32)
BASIC = ResNet(depth=14, num_classes=5, act=ReLU, channels=(2, 5, 8))
PROJECTED = ResNet(14, 5, ReLU, channels=(5, 2, 8), inner=(3, 4, 1, 6, 2, 7), projected=True)
GROUPED = ResNeXt(depth=11, num_classes=5, act=ReLU, cardinality=3, base_width=2, channels=(2, 4, 5))


def convolved(x, kernel, stride=1, groups=1):
  size, outer, inner = len(kernel), kernel.shape[-1] // groups, x.shape[-1] // groups
  x = np.pad(x, ((0, 0), (size // 2,) * 2, (size // 2,) * 2, (0, 0)))
  rows, columns = (range(0, length - size + 1, stride) for length in x.shape[1:3])
  y = np.zeros((len(x), len(rows), len(columns), kernel.shape[-1]))
  for i, j, group in np.ndindex(*y.shape[1:3], groups):
    seen = x[:, rows[i] : rows[i] + size, columns[j] : columns[j] + size, group * inner : (group + 1) * inner]
    own = slice(group * outer, (group + 1) * outer)
    y[:, i, j, own] = np.einsum('nabi,abio->no', seen, kernel[..., own])
  return y


def conv_norm(x, variables, name, **options):
  params, stats = (variables[collection][name] for collection in ('params', 'batch_stats'))
  norm, running = params['BatchNorm_0'], stats['BatchNorm_0']
  y = convolved(x, params['Conv_0']['kernel'], **options)
  return (y - running['mean']) / np.sqrt(running['var'] + 1e-5) * norm['scale'] + norm['bias']


def relu(x):
  return np.maximum(x, 0)


def basic(x, variables, stride):
  y = relu(conv_norm(x, variables, '_ConvNorm_0', stride=stride))
  y = conv_norm(y, variables, '_ConvNorm_1')
  if 'shortcut' in variables['params']:
    return relu(y + conv_norm(x, variables, 'shortcut', stride=stride))
  kept, more = x[:, ::stride, ::stride], y.shape[-1] - x.shape[-1]
  y[..., more // 2 : more // 2 + x.shape[-1]] += kept
  return relu(y)


def bottleneck(x, variables, stride):
  y = relu(conv_norm(x, variables, '_ConvNorm_0'))
  y = relu(conv_norm(y, variables, '_ConvNorm_1', stride=stride, groups=3))
  y = conv_norm(y, variables, '_ConvNorm_2')
  return relu(y + (conv_norm(x, variables, 'shortcut', stride=stride) if 'shortcut' in variables['params'] else x))


def inside(variables, name):
  return {collection: part[name] for collection, part in variables.items()}


@pytest.mark.parametrize(
  'model, block',
  [(BASIC, basic), (PROJECTED, basic), (GROUPED, bottleneck)],
  ids=['resnet', 'inner and projected', 'resnext'],
)
def test_taps_and_logits(model, block):
  shapes = jax.eval_shape(partial(model.init, train=False), jax.random.key(0), X)
  draw = np.random.default_rng(1)
  variables = jax.tree.map(lambda leaf: draw.uniform(0.1, 1, leaf.shape).astype(leaf.dtype), shapes)
  variables['params'] = jax.tree.map(lambda leaf: draw.normal(size=leaf.shape).astype(leaf.dtype), variables['params'])
  output, taps = jax.jit(partial(model.apply, train=False))(variables, X)
  expected = relu(conv_norm(X, inside(variables, 'first'), '_ConvNorm_0'))
  np.testing.assert_allclose(taps[0], expected, rtol=1e-4, atol=1e-4)
  for i, tap in enumerate(taps[1:]):
    stage = inside(variables, f'stages_{i}')
    for number, name in enumerate(sorted(stage['params'])):
      expected = block(expected, inside(stage, name), 2 if i > 0 and number == 0 else 1)
    np.testing.assert_allclose(tap, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())
  head = variables['params']['logits']
  logits = expected.mean((1, 2)) @ head['kernel'] + head['bias']
  np.testing.assert_allclose(output, logits, rtol=1e-4, atol=1e-4 * np.abs(logits).max())


def test_inner_widths_and_projections_are_where_they_should_be():
  variables = jax.eval_shape(partial(PROJECTED.init, train=False), jax.random.key(0), X)['params']
  blocks = [block for i in range(3) for _, block in sorted(variables[f'stages_{i}'].items())]
  assert [block['_ConvNorm_0']['Conv_0']['kernel'].shape[-1] for block in blocks] == [3, 4, 1, 6, 2, 7]
  assert ['shortcut' in block for block in blocks] == [False, False, True, False, True, False]
  assert blocks[2]['shortcut']['Conv_0']['kernel'].shape == (1, 1, 5, 2)


@pytest.mark.parametrize('inner', [(), (3, 4), (3, 4, 5, 6)])
def test_there_is_an_inner_width_for_each_block(inner):
  with pytest.raises(ValueError, match=f'inner has {len(inner)} widths, and there are 3 blocks'):
    jax.eval_shape(partial(ResNet(8, 5, ReLU, inner=inner).init, train=False), jax.random.key(0), X)


@pytest.mark.parametrize('model', [ResNet(8, 10, ReLU), ResNeXt(11, 10, ReLU, 2, 16)], ids=['resnet', 'resnext'])
def test_kernels_start_normal_by_their_outputs(model):
  params = jax.jit(partial(model.init, train=False))(jax.random.key(0), jnp.zeros((1, 8, 8, 3)))['params']
  kernels = [leaf for leaf in jax.tree.leaves(params['stages_2']) if leaf.ndim == 4 and leaf.size > 9_000]
  assert len(kernels) > 1
  for kernel in kernels:
    std = np.sqrt(2 / (len(kernel) ** 2 * kernel.shape[-1]))
    assert abs(kernel.std() / std - 1) < 0.03 and np.abs(kernel).max() > 3 * std
