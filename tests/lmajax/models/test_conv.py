"""Convolution and pooling in another form on the CPU: XLA's own results, and XLA's own programs everywhere else."""

import re
from collections import Counter
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from lmajax.activations.linen import ReLU
from lmajax.models import CNN, ResNeXt, WideResNet
from lmajax.models._conv import conv_general_dilated, max_pool

PLAIN, LAYOUT = jax.lax.conv_general_dilated, ('NHWC', 'HWIO', 'NHWC')
FLAX_POOL = partial(nn.max_pool, window_shape=(2, 2), strides=(2, 2))
BOTH, POOLS = (conv_general_dilated, PLAIN), (max_pool, FLAX_POOL)

# Kernel, batch, height, width, channels in and out: a plain product; XLA's convolution both ways, columns before and
# after the product, and by 16 and more in one direction; the kernels above 3 × 3 by pairs where the width is even; no
# images at all.
SHAPES = [
  (1, 3, 5, 4, 4, 6),
  (1, 0, 5, 4, 4, 6),
  (3, 1, 4, 4, 4, 4),
  (3, 3, 5, 4, 4, 6),
  (3, 6, 1, 3, 1, 17),
  (3, 4, 4, 4, 18, 1),
  (5, 6, 5, 4, 3, 2),
  (5, 0, 4, 4, 2, 3),
  (5, 3, 4, 6, 3, 5),
  (5, 1, 4, 5, 4, 2),
  (7, 4, 5, 8, 3, 2),
]


def arrays(k, n, h, w, i, o, dtype=np.float32):
  """Images, a kernel, and what comes back for the output."""
  draw = np.random.default_rng(k + n + w + i).normal
  return [jnp.asarray(draw(size=shape), dtype) for shape in ((n, h, w, i), (k, k, i, o), (n, h, w, o))]


def gradients(convolution, x, kernel, g):
  """The value and both gradients."""
  y, pull = jax.vjp(lambda *args: convolution(*args, (1, 1), 'SAME', dimension_numbers=LAYOUT), x, kernel)
  return y, *pull(g)


def twice(convolution, *args):
  """The value, the gradients, and what half the sum of their squares has for gradients itself."""
  first, pull = jax.vjp(partial(gradients, convolution), *args)
  return first, pull(first)


def close(ours, theirs, rtol=2e-5):
  """As equal as that part of the largest element of each array, and of the same type."""
  for one, other in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
    assert one.dtype == other.dtype
    one, other = np.asarray(one, np.float32), np.asarray(other, np.float32)
    np.testing.assert_allclose(one, other, rtol=0, atol=rtol * np.abs(other).max(initial=0))


class TestConvolution:
  @pytest.mark.parametrize('shape', SHAPES, ids=str)
  def test_equals_that_of_xla(self, shape):
    close(*jax.jit(lambda *args: [twice(one, *args) for one in BOTH])(*arrays(*shape)))

  @pytest.mark.parametrize('shape', SHAPES[3::4], ids=str)
  def test_explicit_padding_is_the_same_program(self, shape):
    pairs = 2 * ((shape[0] // 2,) * 2,)
    programs = {lowered(conv_general_dilated, *arrays(*shape)[:2], padding=pad) for pad in ('SAME', pairs, list(pairs))}
    assert len(programs) == 1 and lowered(PLAIN, *arrays(*shape)[:2], padding='SAME') not in programs

  @pytest.mark.parametrize('k, i, o', [(1, 8, 4), (3, 8, 4), (5, 3, 6)])
  def test_bfloat16_loses_no_more_than_that_of_xla(self, k, i, o):
    args = arrays(k, 64, 4, 4, i, o, jnp.bfloat16)
    exact = jax.jit(partial(gradients, PLAIN))(*(arg.astype(jnp.float32) for arg in args))
    for parts in zip(exact, *(jax.jit(partial(gradients, one))(*args) for one in BOTH), strict=True):
      assert [part.dtype for part in parts[1:]] == [jnp.bfloat16, jnp.bfloat16]
      ours, theirs = (float(jnp.std(part.astype(jnp.float32) - parts[0])) for part in parts[1:])
      assert 0 < ours < 1.2 * theirs

  @pytest.mark.parametrize('shape', [(3, 4, 4, 4, 3, 5), (5, 3, 4, 4, 5, 3)], ids=str)
  def test_under_vmap_over_kernels_and_under_remat(self, shape):
    x, kernel, g = arrays(*shape)
    kernels = jnp.stack([kernel, kernel[::-1], -2 * kernel])

    def bent(convolution, kernel):
      return jnp.vdot(jnp.sin(convolution(x, kernel, (1, 1), 'SAME', dimension_numbers=LAYOUT)), g)

    lifted = (jax.vmap(jax.value_and_grad(jax.checkpoint(partial(bent, one)))) for one in BOTH)
    close(*(jax.jit(one)(kernels) for one in lifted), 1e-4)


def lowered(convolution, x, kernel, *, strides=(1, 1), **options):
  function = partial(convolution, dimension_numbers=LAYOUT, **options)
  return jax.jit(jax.grad(lambda *args: function(*args, strides).sum(), (0, 1))).lower(x, kernel).as_text()


LEFT_ALONE = {
  'stride 2': ((3, 3, 4, 6), dict(strides=(2, 2), padding=((1, 1), (1, 1)))),
  'stride 2 one way': ((3, 3, 4, 6), dict(strides=(1, 2), padding=((1, 1), (1, 1)))),
  'dilated kernel': ((3, 3, 4, 6), dict(padding='SAME', rhs_dilation=(2, 2))),
  'dilated images': ((3, 3, 4, 6), dict(padding=((1, 1), (1, 1)), lhs_dilation=(1, 2))),
  '1 x 1 padded': ((1, 1, 4, 6), dict(padding=((1, 1), (0, 0)))),
  '1 x 1 on dilated images': ((1, 1, 4, 6), dict(padding=((0, 0), (0, 0)), lhs_dilation=(2, 2))),
  '9 x 9': ((9, 9, 4, 6), dict(padding='SAME')),
  'even': ((4, 4, 4, 6), dict(padding='SAME')),
  'VALID': ((3, 3, 4, 6), dict(padding='VALID')),
  'less padding': ((5, 5, 4, 6), dict(padding=((1, 1), (2, 2)))),
  'padding on one side': ((3, 3, 4, 6), dict(padding=((1, 1), (2, 0)))),
  'not square': ((3, 5, 4, 6), dict(padding='SAME')),
}


@pytest.mark.parametrize('kernel, options', LEFT_ALONE.values(), ids=LEFT_ALONE)
def test_any_other_convolution_is_left_to_xla(kernel, options):
  draw = np.random.default_rng(0).normal
  args = jnp.asarray(draw(size=(2, 8, 8, 4)), jnp.float32), jnp.asarray(draw(size=kernel), jnp.float32)
  assert lowered(conv_general_dilated, *args, **options) == lowered(PLAIN, *args, **options)


# What else is another program on the CPU: the kernel's shape, and the options of the call.
OTHERS = {
  '1 x 1 by 2': ((1, 1, 4, 6), dict(strides=(2, 2), padding=((0, 0), (0, 0)))),
  '1 x 1 by 3 and 1': ((1, 1, 4, 6), dict(strides=(3, 1), padding='SAME')),
  'groups': ((3, 3, 2, 6), dict(padding='SAME', feature_group_count=2)),
  'groups by pairs': ((5, 5, 2, 6), dict(padding='SAME', feature_group_count=2)),
  'groups by 2': ((3, 3, 2, 6), dict(strides=(2, 2), padding=((1, 1), (1, 1)), feature_group_count=2)),
  'groups of one': ((3, 3, 1, 8), dict(padding=((1, 1), (1, 1)), feature_group_count=4)),
  'groups of 1 x 1': ((1, 1, 2, 6), dict(strides=(2, 2), padding='VALID', feature_group_count=2)),
  'groups apart': ((2, 3, 2, 6), dict(padding='VALID', rhs_dilation=(2, 1), feature_group_count=2)),
}


@pytest.mark.parametrize('shape, options', OTHERS.values(), ids=OTHERS)
def test_strides_of_1_x_1_and_groups_equal_those_of_xla(shape, options):
  draw = np.random.default_rng(0).normal
  x, kernel = jnp.asarray(draw(size=(3, 8, 7, 4)), jnp.float32), jnp.asarray(draw(size=shape), jnp.float32)
  close(*jax.jit(lambda x, kernel: [curved(one, x, kernel, **options) for one in BOTH])(x, kernel))
  program = lowered(conv_general_dilated, x, kernel, **options)
  assert program != lowered(PLAIN, x, kernel, **options) and not re.search('group_count = [2-9]', program)


def curved(convolution, x, kernel, *, strides=(1, 1), dimension_numbers=LAYOUT, **options):
  """The value, the gradients of its sine, and theirs."""

  def loss(x, kernel):
    return jnp.sin(convolution(x, kernel, strides, dimension_numbers=dimension_numbers, **options)).sum()

  gradient = jax.grad(loss, (0, 1))
  y = convolution(x, kernel, strides, dimension_numbers=dimension_numbers, **options)
  return y, gradient(x, kernel), jax.grad(lambda *args: sum(map(jnp.vdot, args, gradient(*args))), (0, 1))(x, kernel)


def test_groups_in_one_dimension():
  draw = np.random.default_rng(0).normal
  x, kernel = jnp.asarray(draw(size=(3, 8, 4)), jnp.float32), jnp.asarray(draw(size=(3, 2, 6)), jnp.float32)
  options = dict(strides=(2,), padding='SAME', feature_group_count=2, dimension_numbers=('NWC', 'WIO', 'NWC'))
  close(*(curved(one, x, kernel, **options) for one in BOTH))


class TestPooling:
  @pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16])
  @pytest.mark.parametrize('shape', [(2, 6, 8, 3), (1, 7, 5, 2), (3, 2, 2, 1), (2, 1, 4, 2)], ids=str)
  def test_equals_that_of_flax_with_ties(self, shape, dtype):
    draw = np.random.default_rng(sum(shape))
    x, g = jnp.asarray(draw.integers(0, 3, shape), dtype), jnp.asarray(draw.normal(size=shape), dtype)

    def both(pool):
      y, pull = jax.vjp(pool, x)
      return y, *pull(g[:, : y.shape[1], : y.shape[2]])

    close(*(jax.jit(partial(both, pool))() for pool in POOLS), 0)

  def test_nan_and_infinities(self):
    x = np.full((1, 8, 8, 2), [-np.inf, np.inf], np.float32)
    for i, place in enumerate(np.ndindex(2, 2)):
      x[0, 2 * i + place[0], 2 * i + place[1]] = np.nan
    ours, theirs = (pool(jnp.asarray(x)) for pool in POOLS)
    np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_array_equal(np.isnan(ours[0]), np.eye(4, dtype=bool)[..., None].repeat(2, -1))


MODELS = {
  'cnn': CNN(channels=(4, 7, 2), units=(5,), num_classes=10, act=ReLU, kernel=5, pool_after=(1, 2)),
  'wide resnet': WideResNet(depth=10, widen=1, num_classes=10, act=ReLU, dropout=0.0),
  'resnext': ResNeXt(depth=11, num_classes=10, act=ReLU, cardinality=2, channels=(2, 4, 8)),
}
IMAGES = np.random.default_rng(0).normal(size=(16, 8, 8, 3)).astype(np.float32)


def with_flax_convolutions(call, args, options, context):
  """Hands the parameters of a convolution of ours to Flax's own."""
  module = context.module
  if not isinstance(module, nn.Conv) or module.conv_general_dilated is None or context.method_name != '__call__':
    return call(*args, **options)
  return module.clone(parent=None, conv_general_dilated=None).apply(module.variables, *args, **options)


def ours(model):
  """A function (variables, images) -> the gradient of some loss in training, and the logits; in one array.

  A bias before a batch norm has a gradient of rounding errors alone, so that only the largest of all is a measure.
  """

  def loss(params, stats, images):
    (logits, _), _ = model.apply({'params': params, 'batch_stats': stats}, images, train=True, mutable=['batch_stats'])
    return jnp.sum(jnp.sin(logits)), logits

  return jax.jit(lambda variables, images: ravel_pytree(jax.grad(loss, has_aux=True)(*variables, images))[0])


def theirs(model):
  @jax.jit
  def step(*args):
    with nn.intercept_methods(with_flax_convolutions):
      return ours(model)(*args)

  return step


def variables(model):
  shapes = jax.eval_shape(partial(model.init, train=False), jax.random.key(0), IMAGES)
  draw = np.random.default_rng(0)
  drawn = jax.tree.map(lambda leaf: draw.normal(1, 0.3, leaf.shape).astype(leaf.dtype), shapes)
  return drawn['params'], drawn['batch_stats']


class TestModels:
  @pytest.mark.parametrize('model', MODELS.values(), ids=MODELS)
  @pytest.mark.parametrize('platform', ['cuda', 'tpu'])
  def test_compute_the_same_elsewhere(self, model, platform):
    there = operations(ours(model), variables(model), platform)
    assert there == operations(theirs(model), variables(model), platform)
    assert there['convolution'] > 7 and not there['while']
    assert there['select_and_scatter'] == len(getattr(model, 'pool_after', ()))

  @pytest.mark.parametrize('name', ['cnn', 'resnext'])
  def test_equal_those_of_flax_convolutions_and_those_on_eight_devices(self, name):
    model, args = MODELS[name], (variables(MODELS[name]), IMAGES)
    program = ours(model).lower(*args).compile()
    assert 'while' in program.as_text() and ' conditional(' not in program.as_text()
    close(program(*args), theirs(model)(*args), 1e-4)
    mesh = jax.make_mesh((8,), ('data',), axis_types=(AxisType.Auto,))
    placed = jax.device_put(args, (NamedSharding(mesh, P()), NamedSharding(mesh, P('data'))))
    close(ours(model)(*placed), program(*args), 1e-4)


def operations(function, variables, platform):
  """How often each StableHLO operation stands in the program; a choice of platform leaves a case of one branch."""
  exported = jax.export.export(function, platforms=[platform])(variables, IMAGES)
  counts = Counter(re.findall(r'stablehlo\.(\w+)', exported.mlir_module()))
  return counts - Counter(dict.fromkeys(('case', 'return', 'constant', 'broadcast_in_dim'), counts.total()))


def test_a_batch_of_any_size_is_computed_as_everywhere_else():
  x, kernel, _ = arrays(5, 3, 4, 4, 3, 2)
  batch = jax.ShapeDtypeStruct((*jax.export.symbolic_shape('n'), *x.shape[1:]), x.dtype)

  def exported(convolution, pool):
    program = jax.jit(lambda x, kernel: pool(convolution(x, kernel, (1, 1), 'SAME', dimension_numbers=LAYOUT)))
    return jax.export.export(program, platforms=['cpu', 'cuda', 'tpu'])(batch, kernel)

  ours, theirs = exported(conv_general_dilated, max_pool), exported(PLAIN, FLAX_POOL)
  counts = [Counter(re.findall(r'stablehlo\.(\w+)', one.mlir_module())) for one in (ours, theirs)]
  assert counts[0] == counts[1]
  close(ours.call(x, kernel), theirs.call(x, kernel))


@pytest.mark.parametrize('shape', [(3, 16, 4, 4, 3, 5), (5, 16, 4, 4, 5, 3)], ids=str)
def test_with_axes_split_by_hand(shape):
  def gradient(x, kernel):
    convolved = partial(conv_general_dilated, strides=(1, 1), padding='SAME', dimension_numbers=LAYOUT)
    return jax.grad(lambda kernel: jnp.sin(max_pool(convolved(x, kernel))).sum())(kernel)

  x, kernel = map(np.asarray, arrays(*shape)[:2])
  alone, specs = jax.jit(gradient)(x, kernel), (P('data'), P())
  mesh = jax.make_mesh((8,), ('data',), axis_types=(AxisType.Explicit,))
  placed = jax.device_put((x, kernel), tuple(NamedSharding(mesh, spec) for spec in specs))
  close(jax.jit(gradient)(*placed), alone)
  close(jax.jit(jax.shard_map(gradient, mesh=mesh, in_specs=specs, out_specs=P()))(*placed), alone)
