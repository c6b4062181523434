"""The generator and the discriminator of StarGAN: the Staged law, the published sizes, and the original's sampling."""

from functools import partial
from itertools import pairwise

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmajax import tree
from lmajax.activations.linen import LMA, PReLU, ReLU
from lmajax.models import Discriminator, Generator
from lmajax.models._generator import Transposed
from lmajax.types import Staged

RNG = np.random.default_rng(0)
TARGET = jnp.asarray(np.eye(3, dtype=np.float32)[[0, 2]])
small = partial(Generator, channels=4, blocks=2, act=LMA)


def images(side=8, colours=1):
  return jnp.asarray(RNG.uniform(-1, 1, (2, side, side, colours)), jnp.float32)


@pytest.fixture(scope='module')
def trained():
  """A small generator, its variables after a batch, the inputs, and output and taps in evaluation."""
  model, inputs = small(colours=1), (images(), TARGET)
  variables = jax.jit(partial(model.init, train=False))(jax.random.key(0), inputs)
  _, moved = jax.jit(partial(model.apply, train=True, mutable=['batch_stats']))(variables, inputs)
  variables = {'params': variables['params'], **moved}
  return model, variables, inputs, *model.apply(variables, inputs, train=False)


def generator_size(channels, blocks, colours, domains):
  """Kernels without biases, and a scale and a bias for each norm, counted layer by layer."""
  convolutions = [(7, colours + domains, channels), (4, channels, 2 * channels), (4, 2 * channels, 4 * channels)]
  convolutions += 2 * blocks * [(3, 4 * channels, 4 * channels)]
  convolutions += [(4, 4 * channels, 2 * channels), (4, 2 * channels, channels)]
  normed = sum(k * k * i * o + 2 * o for k, i, o in convolutions)
  return normed + 7 * 7 * channels * colours


def size(model, *inputs, **options):
  return tree.size(jax.eval_shape(partial(model.init, **options), jax.random.key(0), *inputs)['params'])


class TestGenerator:
  def test_is_staged(self):
    assert isinstance(small(colours=1), Staged)

  def test_stem_stage_and_head_make_the_taps_and_the_output(self, trained):
    model, variables, inputs, output, taps = trained
    apply = partial(model.apply, train=False)
    np.testing.assert_allclose(apply(variables, inputs, method='stem'), taps[0], rtol=1e-5, atol=1e-6)
    alone = {collection: {'stages_0': part['stages_0']} for collection, part in variables.items()}
    np.testing.assert_allclose(apply(alone, 0, taps[0], method='stage'), taps[1], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(apply(variables, taps[1], method='head'), output, rtol=1e-5, atol=1e-6)
    assert len(taps) == 2
    assert sorted(variables['params']) == ['down', 'stages_0', 'up']

  def test_every_site_has_a_table_and_statistics_of_its_own(self, trained):
    _, variables, *_ = trained
    sites = {
      collection: {path[:-1] for path, _ in jax.tree_util.tree_leaves_with_path(part) if path[-1].key == leaf}
      for collection, part, leaf in [
        ('params', variables['params'], 'slope_deltas'),
        ('batch_stats', variables['batch_stats'], 'std'),
      ]
    }
    assert sites['params'] == sites['batch_stats']
    assert len(sites['params']) == 3 + 2 + 2

  def test_bottleneck_adds_to_its_input_without_an_activation(self, trained):
    """Where every norm's scale and bias is 0, nothing is added."""
    model, variables, _, _, taps = trained
    still = jax.tree.map(jnp.zeros_like, variables)
    np.testing.assert_array_equal(model.apply(still, 0, taps[0], train=False, method='stage'), taps[0])
    assert (taps[0] < 0).any() or (taps[1] < 0).any()

  @pytest.mark.parametrize('side, colours', [(8, 1), (28, 1), (32, 3)])
  def test_gives_images_like_those_it_takes_in_reach_of_tanh(self, side, colours):
    model, inputs = small(colours=colours, act=ReLU), (10 * images(side, colours), TARGET)
    (output, taps), _ = model.init_with_output(jax.random.key(0), inputs, train=False)
    assert output.shape == inputs[0].shape
    assert [tap.shape for tap in taps] == 2 * [(2, side // 4, side // 4, 16)]
    assert jnp.abs(output).max() <= 1

  def test_looks_at_the_target(self, trained):
    model, variables, (pictures, target), output, _ = trained
    other, _ = model.apply(variables, (pictures, target[::-1]), train=False)
    assert (jnp.abs(other - output).max(axis=(1, 2, 3)) > 1e-3).all()

  def test_each_image_alone_in_evaluation_and_training(self):
    """Instance norm has no statistics of a batch; those of LMA are its own."""
    model, inputs = small(colours=1, act=PReLU), (images(), TARGET)
    variables = model.init(jax.random.key(0), inputs, train=False)
    assert sorted(variables) == ['params']
    both = [model.apply(variables, inputs, train=train)[0] for train in (False, True)]
    np.testing.assert_array_equal(*both)
    alone, _ = model.apply(variables, jax.tree.map(lambda leaf: leaf[:1], inputs), train=False)
    np.testing.assert_allclose(alone, both[0][:1], rtol=1e-4, atol=1e-5)

  def test_gradients_are_finite_and_reach_every_parameter(self, trained):
    model, variables, inputs, *_ = trained

    @jax.jit
    @jax.grad
    def gradient(params):
      (output, _), _ = model.apply({**variables, 'params': params}, inputs, train=True, mutable=['batch_stats'])
      return jnp.square(output - 0.3).mean()

    for path, leaf in jax.tree_util.tree_leaves_with_path(gradient(variables['params'])):
      assert np.isfinite(leaf).all()
      assert np.any(leaf), f'nothing reaches {jax.tree_util.keystr(path)}'

  def test_bfloat16_computes_over_float32_parameters(self):
    model, inputs = small(colours=1, dtype=jnp.bfloat16), (images().astype(jnp.bfloat16), TARGET)
    (output, taps), variables = model.init_with_output(jax.random.key(0), inputs, train=False)
    assert {leaf.dtype for leaf in (output, *taps)} == {jnp.dtype(jnp.bfloat16)}
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype(jnp.float32)}

  @pytest.mark.parametrize('blocks, published', [(6, 8_430_528), (2, 3_707_840)])
  def test_published_sizes(self, blocks, published):
    model = Generator(channels=64, blocks=blocks, colours=3, act=ReLU)
    assert size(model, (jnp.zeros((1, 32, 32, 3)), jnp.zeros((1, 5))), train=False) == published
    assert generator_size(64, blocks, 3, 5) == published

  @pytest.mark.parametrize('shape', [(1, 10, 8, 1), (1, 8, 6, 1)])
  def test_needs_multiples_of_4(self, shape):
    with pytest.raises(ValueError, match='multiples of 4'):
      small(colours=1).init(jax.random.key(0), (jnp.zeros(shape), TARGET[:1]), train=False)


class TestTransposed:
  def test_is_that_of_flax(self):
    x = jnp.asarray(RNG.normal(size=(2, 5, 4, 6)), jnp.float32)
    params = Transposed(3, None).init(jax.random.key(0), x)
    theirs = nn.ConvTranspose(3, (4, 4), (2, 2), use_bias=False)

    def value_and_gradient(model):
      return jax.value_and_grad(lambda params: jnp.sin(model.apply(params, x)).sum())(params)

    close = partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5)
    jax.tree.map(close, value_and_gradient(Transposed(3, None)), value_and_gradient(theirs))

  def test_pads_by_one_as_the_original(self):
    """An input pixel (a, b) is spread, times the kernel, over the 4 × 4 pixels from (2a - 1, 2b - 1) on."""
    x, kernel = RNG.normal(size=(3, 4, 2)), RNG.normal(size=(4, 4, 2, 3))
    slow = np.zeros((10, 12, 3))
    for a, b in np.ndindex(3, 4):
      slow[2 * a : 2 * a + 4, 2 * b : 2 * b + 4] += np.einsum('i,tsio->tso', x[a, b], kernel[::-1, ::-1])
    kernel, x = jnp.asarray(kernel, jnp.float32), jnp.asarray(x[None], jnp.float32)
    y = Transposed(3, None).apply({'params': {'kernel': kernel}}, x)
    np.testing.assert_allclose(y[0], slow[1:7, 1:9], rtol=1e-4, atol=1e-5)


class TestDiscriminator:
  @pytest.mark.parametrize('side, layers, patches', [(8, 2, 2), (28, 2, 7), (28, 3, 3), (32, 5, 1)])
  def test_shapes(self, side, layers, patches):
    model = Discriminator(channels=2, layers=layers, domains=3)
    (values, domains), _ = model.init_with_output(jax.random.key(0), images(side))
    assert (values.shape, domains.shape) == ((2, patches, patches, 1), (2, 3))

  def test_published_size(self):
    """64 … 2,048 channels with biases, a 3 × 3 map without, and logits of the 2 × 2 positions left of 128."""
    widths = [3, 64, 128, 256, 512, 1024, 2048]
    slow = sum(16 * i * o + o for i, o in pairwise(widths)) + 9 * 2048 + 4 * 2048 * 5
    model = Discriminator(channels=64, layers=6, domains=5)
    assert size(model, jnp.zeros((1, 128, 128, 3))) == slow

  def test_no_example_looks_at_another(self):
    model, pictures = Discriminator(channels=2, layers=2, domains=3), images()
    outputs, variables = model.init_with_output(jax.random.key(0), pictures)
    for alone, together in zip(model.apply(variables, pictures[:1]), outputs, strict=True):
      np.testing.assert_allclose(alone, together[:1], rtol=1e-5, atol=1e-6)

  def test_first_layer_leaks_a_hundredth(self):
    model = Discriminator(channels=1, layers=1, domains=1)
    variables = model.init(jax.random.key(0), jnp.zeros((1, 2, 2, 1)))
    ones = jax.tree.map(jnp.ones_like, variables)
    for value, expected in [(1.0, 5.0), (-1.0, -0.03)]:
      patches, _ = model.apply(ones, jnp.full((1, 2, 2, 1), value))
      np.testing.assert_allclose(patches.ravel(), [expected], rtol=1e-6)

  def test_too_many_layers_raise(self):
    with pytest.raises(ValueError, match='too small for 4 layers'):
      Discriminator(channels=2, layers=4, domains=3).init(jax.random.key(0), images())
