"""The widths of a thin network: the shares of components, the rule of one share, and the widest at a given cost."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmajax import tree
from lmajax.activations.linen import ReLU
from lmajax.compress import Spectrum, full_widths, solve, spectra, widths_at
from lmajax.models import CNN, ResNet
from lmajax.types import Channels
from tests import oracles
from tests.support import model_files as models

SEEDS = st.integers(0, 2**32 - 1)
SHAPES = [(3, 3, 2, 7), (9, 5), (5, 9), (6, 6), (2, 2, 1, 6)]
SPECTRA = (Spectrum(np.array([0.6, 0.3, 0.1, 0.0])), Spectrum(np.array([0.5, 0.25, 0.25])), Spectrum(np.zeros(5)))


def normal(shape, seed=0):
  return np.random.default_rng(seed).normal(size=shape)


def of_kernels(*kernels, **options):
  """Variables with these kernels, and a graph in which all of them write the same channels."""
  params = {f'k{i}': {'kernel': np.asarray(kernel)} for i, kernel in enumerate(kernels)}
  return {'params': params}, (Channels(tuple(f'params/{name}/kernel' for name in params), **options),)


def spectrum(*kernels, **options):
  [only] = spectra(*of_kernels(*kernels, **options))
  return only


def width(share, *kernels):
  return widths_at([spectrum(*kernels)], share)[0]


def drawn(model, shape):
  """The variables of a model, as training might leave them."""
  shapes = jax.eval_shape(partial(model.init, train=False), jax.random.key(0), jnp.zeros(shape))
  rng = np.random.default_rng(0)
  return tree.map_with_path(lambda path, leaf: models.drawn(rng, path.rpartition('/')[2], leaf.shape), shapes)


CONVOLUTIONS = CNN(channels=(4, 6, 5), units=(7,), num_classes=3, act=ReLU, pool_after=(1, 2))
PROJECTED = ResNet(depth=8, num_classes=3, act=ReLU, channels=(3, 4, 5), projected=True)
GRAPHS = {
  'cnn': (drawn(CONVOLUTIONS, (1, 4, 4, 3)), CONVOLUTIONS.graph()),
  'coupled': (drawn(PROJECTED, (1, 8, 8, 3)), PROJECTED.graph(coupled=True)),
  **{str(shape): of_kernels(normal(shape)) for shape in SHAPES},
  'two kernels': of_kernels(normal((3, 3, 2, 5)), 3 * normal((4, 5), 1), first=True),
  'first and few inputs': of_kernels(normal((4, 5)), first=True),
  'first and many inputs': of_kernels(normal((6, 5)), first=True),
  'nothing varies': of_kernels(np.ones((4, 3))),
  'one of two varies': of_kernels(np.ones((4, 3)), normal((5, 3))),
}


@pytest.mark.parametrize('name', GRAPHS)
class TestOracles:
  def test_full_widths_equal_theirs(self, name):
    assert full_widths(*GRAPHS[name]) == oracles.full_widths(*GRAPHS[name])

  def test_spectra_equal_theirs(self, name):
    for ours, (shares, whole) in zip(spectra(*GRAPHS[name]), oracles.spectra(*GRAPHS[name]), strict=True):
      np.testing.assert_allclose(ours.shares, shares, atol=1e-12)
      assert ours.whole == whole

  @pytest.mark.parametrize('minimum, multiple', [(1, 1), (3, 1), (1, 4), (3, 2)])
  def test_widths_equal_theirs(self, name, minimum, multiple):
    ours, theirs = spectra(*GRAPHS[name]), oracles.spectra(*GRAPHS[name])
    for share in (0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99, 1.0):
      limits = {'minimum': minimum, 'multiple': multiple}
      assert widths_at(ours, share, **limits) == oracles.widths_at(theirs, share, **limits)

  @pytest.mark.parametrize('rate', [0.0, 0.1, 0.25, 0.4, 0.6])
  def test_solve_equals_theirs(self, name, rate):
    found = spectra(*GRAPHS[name])
    full = full_widths(*GRAPHS[name])
    rule, shares = partial(widths_at, found), [0.0, 1.0, *(share for one in found for share in np.cumsum(one.shares))]
    expected = oracles.solve(rule, rate, sum, full=sum(full), shares=[min(share, 1.0) for share in shares])
    if expected is None:
      with pytest.raises(ValueError, match='cannot be reached'):
        solve(rule, rate, sum, full=sum(full))
    else:
      assert solve(rule, rate, sum, full=sum(full)) == expected


def orthogonal(seed, size):
  return np.linalg.qr(normal((size, size), seed))[0]


class TestSpectra:
  @settings(deadline=None, max_examples=40)
  @given(seed=SEEDS, shape=st.sampled_from(SHAPES), data=st.data())
  def test_planted_rank_is_found(self, seed, shape, data):
    inputs, filters = int(np.prod(shape[:-1])), shape[-1]
    rank = data.draw(st.integers(1, min(filters, inputs - 1)))
    centred = np.eye(inputs) - 1 / inputs
    directions = np.linalg.svd(centred @ normal((inputs, rank), seed), full_matrices=False)[0]
    strengths = np.random.default_rng(seed).uniform(0.5, 2, rank)
    offsets = normal(filters, seed)  # of whole filters: their means are no variance
    kernel = directions * strengths @ orthogonal(seed, filters)[:rank] + offsets
    assert width(1 - 1e-6, np.float32(kernel).reshape(shape)) == rank

  @settings(deadline=None, max_examples=40)
  @given(seed=SEEDS, shape=st.sampled_from(SHAPES), share=st.floats(0.01, 0.999))
  def test_mixing_filters_and_scaling_them_all_changes_no_width(self, seed, shape, share):
    kernel = normal(shape, seed)
    shares = spectrum(kernel).shares
    for changed in (kernel @ orthogonal(seed, shape[-1]), -3e4 * kernel, 1e-3 * kernel):
      np.testing.assert_allclose(spectrum(changed).shares, shares, atol=1e-12)
      assert width(share, changed) == width(share, kernel)

  @settings(deadline=None, max_examples=60)
  @given(seed=SEEDS, shape=st.sampled_from(SHAPES), shares=st.tuples(st.floats(0, 1), st.floats(0, 1)))
  def test_a_greater_share_needs_no_fewer(self, seed, shape, shares):
    kernel = normal(shape, seed) * np.arange(1, shape[-1] + 1)
    assert 1 <= width(min(shares), kernel) <= width(max(shares), kernel) <= shape[-1]

  @pytest.mark.parametrize('shape', SHAPES, ids=str)
  def test_shares_fall_and_add_up_to_one_over_no_more_components_than_there_can_be(self, shape):
    shares = spectrum(normal(shape)).shares
    assert shares.shape == shape[-1:]
    assert np.all(np.diff(shares) <= 0) and shares.sum() == pytest.approx(1)
    rank = min(shape[-1], int(np.prod(shape[:-1])) - 1)
    assert np.all(shares[:rank] > 1e-6) and np.all(shares[rank:] < 1e-12)

  def test_a_first_convolution_of_few_weights_keeps_all_its_filters(self):
    kernel = normal((3, 3, 3, 64))
    assert widths_at([spectrum(kernel)], 1.0) == (26,)
    assert spectrum(kernel, first=True).whole
    for share in (0.0, 0.5, 1.0):
      assert widths_at([spectrum(kernel, first=True)], share) == (64,)

  @pytest.mark.parametrize('inputs, whole', [(3, True), (6, True), (7, False), (12, False)])
  def test_a_first_dense_layer_is_whole_unless_it_has_more_inputs_than_units(self, inputs, whole):
    assert spectrum(normal((inputs, 6)), first=True).whole == whole
    assert not spectrum(normal((inputs, 6))).whole

  @pytest.mark.parametrize('size', [2, 5, 8])
  def test_a_square_dense_layer_loses_one_filter_at_share_1(self, size):
    assert width(1.0, normal((size, size))) == size - 1

  def test_what_does_not_vary_has_shares_of_0_and_gets_the_minimum(self):
    flat = spectrum(np.full((2, 3, 4), 0.25))
    assert flat.shares.tolist() == [0, 0, 0, 0]
    for share in (0.0, 0.5, 1.0):
      assert widths_at([flat], share) == (1,)
      assert widths_at([flat], share, minimum=3) == (3,)

  def test_statistics_norms_and_biases_say_nothing(self):
    variables, graph = GRAPHS['coupled']
    changed = tree.map_with_path(lambda path, leaf: leaf if path.endswith('kernel') else leaf * 5, variables)
    for before, after in zip(spectra(variables, graph), spectra(changed, graph), strict=True):
      np.testing.assert_array_equal(before.shares, after.shares)

  @pytest.mark.parametrize('value', [np.nan, np.inf])
  def test_a_kernel_that_is_not_finite_is_named(self, value):
    kernel = normal((4, 3))
    kernel[2, 1] = value
    with pytest.raises(ValueError, match='params/k1/kernel is not finite'):
      spectra(*of_kernels(normal((4, 3)), kernel))


class TestCoupled:
  def test_kernels_whose_outputs_are_added_have_one_width(self):
    variables, graph = GRAPHS['coupled']
    widths = widths_at(spectra(variables, graph), 0.8)
    assert len(widths) == len(graph) == 6
    assert widths[3] == 3  # the stem's, which reads the inputs
    assert [len(channels.kernels) for channels in graph] == [1, 1, 1, 2, 2, 2]

  @pytest.mark.parametrize('which', [0, 1, 2])
  def test_scaling_one_of_them_alone_changes_nothing(self, which):
    kernels = [normal((3, 3, 2, 6)), normal((8, 6), 1), normal((1, 1, 4, 6), 2)]
    before = spectrum(*kernels)
    kernels[which] = -200 * kernels[which]
    np.testing.assert_allclose(spectrum(*kernels).shares, before.shares, atol=1e-12)

  def test_each_of_them_weighs_alike(self):
    """Two filters of one kernel and two of another: neither can stand for the other."""
    one, other = np.zeros((8, 4)), np.zeros((6, 4))
    one[:, :2] = np.linalg.qr(normal((8, 2)) - normal((8, 2)).mean(0))[0]
    other[:, 2:] = 50 * np.linalg.qr(normal((6, 2), 1) - normal((6, 2), 1).mean(0))[0]
    np.testing.assert_allclose(spectrum(one, other).shares, 0.25, atol=1e-12)
    assert width(1.0, one) == 2 and width(1.0, one, other) == 4


class TestWidthsAt:
  def test_a_sum_that_is_the_share_holds_it(self):
    assert widths_at(SPECTRA, 0.75) == (2, 2, 1)
    assert widths_at(SPECTRA, 0.5) == (1, 1, 1)
    assert widths_at(SPECTRA, 0.6) == (1, 2, 1)
    assert widths_at(SPECTRA, 0.6 + 5e-10) == (1, 2, 1)
    assert widths_at(SPECTRA, 0.6 + 5e-9) == (2, 2, 1)
    assert widths_at(SPECTRA, 1.0) == (3, 3, 1)

  def test_the_minimum_and_the_multiple_are_kept_to_as_far_as_there_are_filters(self):
    assert widths_at(SPECTRA, 0.5, minimum=2) == (2, 2, 2)
    assert widths_at(SPECTRA, 0.5, minimum=9) == (4, 3, 5)
    assert widths_at(SPECTRA, 0.5, multiple=2) == (2, 2, 2)
    assert widths_at(SPECTRA, 0.9, minimum=3, multiple=2) == (4, 3, 4)
    assert widths_at(SPECTRA, 0.5, multiple=7) == (4, 3, 5)
    whole = Spectrum(np.array([0.9, 0.05, 0.05]), whole=True)
    assert widths_at([whole], 0.5, minimum=2, multiple=2) == (3,)

  @pytest.mark.parametrize('share', [-0.01, 1.01, float('nan')])
  def test_a_share_beyond_0_and_1_is_refused(self, share):
    with pytest.raises(ValueError, match=f'the share is {share}, and must be from 0 to 1'):
      widths_at(SPECTRA, share)

  @pytest.mark.parametrize('minimum, multiple', [(0, 1), (1, 0), (-2, 3)])
  def test_a_minimum_or_a_multiple_below_1_is_refused(self, minimum, multiple):
    with pytest.raises(ValueError, match=r'(minimum is (0|-2)|multiple is 0); give a whole number of at least 1'):
      widths_at(SPECTRA, 0.5, minimum=minimum, multiple=multiple)


@cache
def parameters(widths):
  images = jax.ShapeDtypeStruct((1, 4, 4, 3), jnp.float32)
  shapes = jax.eval_shape(partial(CONVOLUTIONS.thinned(widths).init, train=False), jax.random.key(0), images)
  return tree.size(shapes['params'])


class TestSolve:
  @pytest.mark.parametrize('rate', [0.05, 0.2, 0.35, 0.5, 0.65])
  def test_parameters_of_a_model_are_within_one_step_of_the_rate(self, rate):
    variables, graph = GRAPHS['cnn']
    found = spectra(variables, graph)
    full = parameters(full_widths(variables, graph))
    assert full == tree.size(variables['params'])
    widths = solve(partial(widths_at, found), rate, parameters, full=full)
    assert 1 - parameters(widths) / full >= rate
    breakpoints = sorted(share for one in found if not one.whole for share in np.cumsum(one.shares))
    greater = next(share for share in breakpoints if widths_at(found, min(share, 1.0)) > widths)
    assert sum(widths_at(found, greater)) == sum(widths) + 1
    assert 1 - parameters(widths_at(found, greater)) / full < rate

  @settings(deadline=None, max_examples=40)
  @given(seed=SEEDS, rate=st.floats(0, 0.7))
  def test_filters_are_within_one_step_of_any_rate(self, seed, rate):
    found = [spectrum(normal(shape, seed)) for shape in SHAPES]
    shares = [min(1.0, share) for one in found for share in np.cumsum(one.shares)]
    full = sum(shape[-1] for shape in SHAPES)
    widths = solve(partial(widths_at, found), rate, sum, full=full)
    assert 1 - sum(widths) / full >= rate - 1e-9
    assert widths == oracles.solve(partial(widths_at, found), rate, sum, full=full, shares=[0.0, *shares])

  def test_a_rate_of_0_asks_for_nothing_but_what_is_spare(self):
    rule = partial(widths_at, SPECTRA)
    assert solve(rule, 0.0, sum, full=12) == rule(1.0) == (3, 3, 1)

  def test_a_rate_that_is_met_to_the_filter_is_reached(self):
    rule = partial(widths_at, [Spectrum(np.full(10, 0.1))])
    for left in range(1, 11):
      assert solve(rule, 1 - left / 10, sum, full=10) == (left,)

  def test_a_rate_that_cannot_be_reached_says_what_can(self):
    with pytest.raises(ValueError, match=r'a rate of 0\.8 cannot be reached: with the fewest channels it is 0\.75$'):
      solve(partial(widths_at, SPECTRA), 0.8, sum, full=12)
    with pytest.raises(ValueError, match=r'it is 0\.25$'):
      solve(partial(widths_at, SPECTRA, minimum=3), 0.5, sum, full=12)

  @pytest.mark.parametrize('rate', [-0.1, 1.0, 1.5])
  def test_a_rate_beyond_0_up_to_1_is_refused(self, rate):
    with pytest.raises(ValueError, match=f'the rate is {rate}, and must be from 0 up to 1'):
      solve(partial(widths_at, SPECTRA), rate, sum, full=12)


LEAVES = {
  'params': {
    'a': {'kernel': np.ones((3, 4)), 'bias': np.ones(4), 'slope': np.ones(())},
    'b': {'kernel': np.ones((8, 5)), 'bias': np.ones(5)},
  }
}
A, B, BIAS = 'params/a/kernel', 'params/b/kernel', 'params/a/bias'


class TestGraph:
  def test_that_fits_is_taken(self):
    assert full_widths(LEAVES, (Channels((A,), (BIAS,), (B,), (BIAS,)), Channels((B,)))) == (4, 5)
    assert full_widths(jax.eval_shape(lambda: LEAVES), (Channels((A,), (BIAS,), (B,)),)) == (4,)

  @pytest.mark.parametrize(
    'channels, says',
    [
      (Channels((A, 'params/c/kernel')), 'the graph names params/c/kernel, which the variables lack'),
      (Channels((A,), ('batch_stats/a/mean',)), 'the graph names batch_stats/a/mean, which'),
      (Channels((A,), (), ('params/c/kernel',)), 'the graph names params/c/kernel, which'),
      (Channels((), (BIAS,)), 'channels that no kernel writes: those along params/a/bias'),
      (Channels((A, B)), r'params/b/kernel is \(8, 5\), and params/a/kernel writes 4 channels'),
      (Channels((A,), ('params/b/bias',)), r'params/b/bias is \(5,\), and params/a/kernel writes 4 channels'),
      (Channels((A,), ('params/a/slope',)), r'params/a/slope is float64\[\]; give an array of floats with 1 axis'),
      (Channels((B,), (), (A,)), r'params/a/kernel is \(3, 4\), and does not read 5 channels'),
      (Channels((A,), (), (BIAS,)), r'params/a/bias is \(4,\), and does not read 4 channels'),
      (Channels((A,), (), (B,), (BIAS,)), 'the scales params/a/bias are not all along params/a/kernel'),
    ],
  )
  def test_that_does_not_fit_is_refused_by_the_path(self, channels, says):
    for function in (full_widths, spectra):
      with pytest.raises(ValueError, match=says):
        function(LEAVES, (Channels((A,), (BIAS,), (B,)), channels))
