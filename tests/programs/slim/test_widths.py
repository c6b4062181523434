"""What thin networks cost, and how wide each rule makes their layers."""

from dataclasses import replace
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmajax import LMA, compress, models, tree
from lmajax.activations import linen
from lmajax.compress import Spectrum
from tests.support.cases import IMAGES
from tests.support.trees import DIGITS as INPUTS
from tests.support.trees import random_variables
from train.activations import factory
from train.build import of_thin
from train.data import load as load_data
from train.deploy import model_file as shipped
from train.programs.compress import config as config_compress
from train.programs.slim import config as config_slim
from train.programs.slim.config import Slim
from train.programs.slim.widths import Slimming, mean_scales, mean_spectra, share_of, slimmable
from train.runtime.errors import UserError


class TestOptions:
  @pytest.mark.parametrize('data', IMAGES)
  @pytest.mark.parametrize('kind', [config_slim, config_compress])
  def test_every_default_may_be_run(self, kind, data):
    config = kind.defaults(data)
    kind.check(config)
    shape = (1, 32, 32, 3) if data.startswith('cifar') else (1, 8, 8, 1) if data == 'digits' else (1, 28, 28, 1)
    inputs = jnp.zeros(shape)
    slimming = Slimming(config, slimmable(config, linen.ReLU, num_classes=10, inputs=inputs), inputs)
    whole = [Spectrum(np.ones(width), False) for width in slimming.full]
    assert slimming.rate(slimming.uniform(whole)(0.0)) > np.max(config.rate)


MLP = Slim(width=(12, 9, 7), minimum_width=1)
CNN = Slim(network='cnn', width=(4, 6, 5), minimum_width=1)
RESNET_8 = Slim(network='resnet-8', width=(3, 4, 5), coupled=True, minimum_width=1)
ALL = [MLP, CNN, RESNET_8]


def model_of(config, act=linen.ReLU):
  return slimmable(config, act, num_classes=10, inputs=INPUTS)


@cache
def slimming_of(config, act=linen.ReLU):
  return Slimming(config, model_of(config, act), INPUTS)


class TestNetworks:
  def test_are_those_of_the_options(self):
    assert model_of(MLP) == models.MLP((12, 9, 7), 10, linen.ReLU, jnp.dtype('float32'))
    cnn = model_of(replace(CNN, dtype='bfloat16'))
    assert (cnn.channels, list(cnn.pool_after), list(cnn.units), cnn.dtype) == ((4, 6, 5), [1], [], jnp.bfloat16)
    assert (model_of(RESNET_8).projected, model_of(replace(RESNET_8, coupled=False)).projected) == (True, False)

  @pytest.mark.parametrize('config', ALL, ids=lambda config: config.network)
  @pytest.mark.parametrize('act, segments', [('relu', None), ('lma', 4)])
  def test_a_description_makes_the_thin_one_again(self, config, act, segments):
    slimming = slimming_of(config, factory(act, segments))
    widths = tuple(width - i % 2 for i, width in enumerate(slimming.full))
    found = of_thin(config, load_data('digits'), act, segments, widths)
    shipped.check(found, 'a file')
    assert found['width'] == list(config.width) and found['thinned'] == list(widths)
    again = slimming.shapes(shipped.model(found))
    assert again == slimming.shapes(slimming.model.thinned(widths)) != slimming.shapes(slimming.model)


class TestCost:
  @pytest.mark.parametrize('widths', [(12, 9, 7), (5, 9, 2), (1, 1, 1)])
  def test_of_a_perceptron_is_that_counted_by_hand(self, widths):
    a, b, c = widths
    weights = 64 * a + a * b + b * c + c * 10
    others = 3 * (a + b + c) + 10  # a bias and two of the norm for each unit, a bias for each class
    expected = {'parameters': weights + others, 'macs': weights, 'filters': a + b + c}
    for cost, count in expected.items():
      slimming = slimming_of(replace(MLP, cost=cost))
      assert slimming.cost(widths) == count
      assert slimming.rate(widths) == 1 - count / slimming.cost((12, 9, 7))
    tables = slimming_of(replace(MLP, segments=(4,)), partial(LMA, num_segments=4))
    assert tables.cost(widths) == weights + others + 3 * 2 * 4

  @pytest.mark.parametrize('config', ALL, ids=lambda config: config.network)
  def test_is_that_of_the_thin_network(self, config):
    slimming = slimming_of(config)
    assert sum(slimming.full) == slimming_of(replace(config, cost='filters')).cost(slimming.full)
    for widths in (slimming.full, tuple(max(1, width // 2) for width in slimming.full)):
      thin = slimming.model.thinned(widths)
      shapes = jax.eval_shape(lambda thin=thin: thin.init(jax.random.key(0), INPUTS, train=False))
      assert slimming.cost(widths) == tree.size(shapes['params'])
      assert slimming_of(replace(config, cost='macs')).cost(widths) == models.macs(thin, INPUTS[:1])

  def test_of_a_resnet_without_its_stages_is_that_of_the_blocks(self):
    inner = slimming_of(replace(RESNET_8, coupled=False))
    assert (inner.full, slimming_of(RESNET_8).full) == ((3, 4, 5), (3, 4, 5, 3, 4, 5))
    with pytest.raises(UserError, match=r'--rate 0\.9: a rate of 0\.9 cannot be reached'):
      inner.solved(inner.uniform([Spectrum(np.ones(width)) for width in inner.full]), 0.9)


def rules_of(slimming, seed=0):
  """All rules, over planted spectra and scales."""
  rng = np.random.default_rng(seed)
  variables = random_variables(slimming.model, seed)
  spectra = compress.spectra(variables, slimming.graph)
  scales = [np.sort(rng.uniform(size=width))[::-1] for width in slimming.full]
  return spectra, {
    'pca': slimming.of_variance(spectra),
    'uniform': slimming.uniform(spectra),
    'random': slimming.random(spectra, seed),
    'norm-scale': slimming.of_scales(spectra, scales),
  }


SHARES = np.linspace(0, 1, 201)
BOUNDS = [{}, {'minimum_width': 3}, {'multiple': 4}, {'minimum_width': 3, 'multiple': 2}]
every_network = pytest.mark.parametrize('config', ALL, ids=lambda config: config.network)


class TestRules:
  @every_network
  @pytest.mark.parametrize('bounds', BOUNDS, ids=str)
  def test_widths_grow_with_the_share_within_the_bounds(self, config, bounds):
    config = replace(config, **bounds)
    slimming = slimming_of(config)
    spectra, rules = rules_of(slimming)
    full, whole = np.array(slimming.full), np.array([spectrum.whole for spectrum in spectra])
    assert whole.any() == (config.network != 'mlp')
    least = -(-config.minimum_width // config.multiple) * config.multiple
    for rule in rules.values():
      found = np.array([rule(float(share)) for share in SHARES])
      assert (np.diff(found, axis=0) >= 0).all()
      assert tuple(found[-1]) == slimming.full
      assert (found[:, whole] == full[whole]).all()
      assert (found >= np.minimum(full, config.minimum_width)).all()
      assert ((found % config.multiple == 0) | (found == full)).all()
      assert (found[0, ~whole] == np.minimum(full, least)[~whole]).all()

  @every_network
  def test_what_is_solved_reaches_the_rate_and_the_next_step_falls_short(self, config):
    slimming = slimming_of(config if config.network == 'mlp' else replace(config, cost='filters'))
    for rule in rules_of(slimming)[1].values():
      others = {rule(float(share)) for share in np.linspace(0, 1, 501)}
      for rate in (0.1, 0.3, 0.45):
        found = slimming.solved(rule, rate)
        assert slimming.rate(found) >= rate - 1e-9
        wider = [widths for widths in others if slimming.cost(widths) > slimming.cost(found)]
        assert wider and all(slimming.rate(widths) < rate for widths in wider)

  def test_a_layer_that_is_whole_is_left_by_every_rule(self):
    slimming = slimming_of(replace(MLP, multiple=5))
    spectra = [Spectrum(np.ones(12) / 12, True), *(Spectrum(np.ones(n) / n) for n in (9, 7))]
    scales = [np.full(n, 0.1 * n) for n in (12, 9, 7)]
    rules = [slimming.of_variance(spectra), slimming.uniform(spectra), slimming.random(spectra, 0)]
    assert {rule(0.0) for rule in [*rules, slimming.of_scales(spectra, scales)]} == {(12, 5, 5)}

  def test_uniform_keeps_the_same_share_of_each_layer(self):
    slimming = slimming_of(MLP)
    spectra, rules = rules_of(slimming)
    assert not any(spectrum.whole for spectrum in spectra)
    assert [rules['uniform'](share) for share in (1 / 3, 0.5)] == [(4, 3, 3), (6, 5, 4)]

  def test_random_draws_powers_of_the_share_for_each_layer(self):
    slimming = slimming_of(replace(MLP, width=(1000, 1000, 1000)))
    spectra = [Spectrum(np.ones(1000))] * 3
    drawn_by = [slimming.random(spectra, seed) for seed in range(20)]
    found = np.array([rule(0.5) for rule in drawn_by])
    assert len({tuple(widths) for widths in found}) == 20 and slimming.random(spectra, 3)(0.5) == tuple(found[3])
    assert found.min() >= 125 and found.max() <= 794  # the half to the power 3 and to 1/3
    assert found.min() < 200 and found.max() > 700
    powers = np.log(found / 1000) / np.log(0.5)
    again = np.log(np.array([rule(0.25) for rule in drawn_by]) / 1000) / np.log(0.25)
    np.testing.assert_allclose(again, powers, atol=0.05)

  def test_of_scales_keeps_exactly_the_filters_above_one_threshold(self):
    slimming = slimming_of(MLP)
    rng = np.random.default_rng(0)
    scales = [factor * np.sort(rng.uniform(size=width))[::-1] for factor, width in zip((3, 2, 1), (12, 9, 7))]  # noqa: B905
    rule = slimming.of_scales([Spectrum(np.ones(width)) for width in (12, 9, 7)], scales)
    everything = sorted((value for each in scales for value in each), reverse=True)
    for kept in range(29):
      above = everything[:kept]
      assert rule(kept / 28) == tuple(max(1, sum(value in above for value in each)) for each in scales)
    unlike = rule(0.4)
    assert unlike[0] / 12 > unlike[1] / 9 > unlike[2] / 7

  def test_the_share_is_that_of_the_layer_that_keeps_least(self):
    shares = [np.array([0.6, 0.3, 0.1]), np.array([0.5, 0.3, 0.2]), np.array([0.4, 0.3, 0.3]), np.zeros(3)]
    spectra = [Spectrum(*each) for each in zip(shares, [False, False, True, False], strict=True)]
    assert share_of(spectra, (2, 2, 1, 1)) == pytest.approx(0.8)
    assert share_of(spectra, (1, 3, 1, 1)) == pytest.approx(0.6)
    assert share_of(spectra[2:], (1, 1)) == 1.0

  def test_widths_at_their_own_share_are_themselves(self):
    slimming = slimming_of(MLP)
    spectra, rules = rules_of(slimming)
    for share in SHARES[1:-1:7]:
      widths = rules['pca'](float(share))
      assert share_of(spectra, widths) >= share - 1e-9
      assert rules['pca'](share_of(spectra, widths)) == widths

  def test_spectra_are_means_over_the_networks(self):
    one = [Spectrum(np.array([0.75, 0.25])), Spectrum(np.array([0.5, 0.25, 0.25]), True)]
    two = [Spectrum(np.array([1.0, 0.0])), Spectrum(np.array([0.75, 0.25, 0.0]), True)]
    found = mean_spectra([one, two])
    assert [each.shares.tolist() for each in found] == [[0.875, 0.125], [0.625, 0.25, 0.125]]
    assert [each.whole for each in found] == [False, True]

  def test_scales_are_means_rank_by_rank(self):
    graph = slimming_of(replace(MLP, width=(3, 2))).graph
    each = [random_variables(model_of(replace(MLP, width=(3, 2))), seed) for seed in (0, 1)]
    first, second = (jax.tree.map(np.copy, variables) for variables in each)
    for variables, values in ((first, ([-3, 1, 2], [0, 1])), (second, ([1, 5, 0], [-4, 0]))):
      for i, value in enumerate(values):
        variables['params'][f'stages_{i}']['norm']['scale'] = np.array(value, np.float32)
    found = mean_scales(graph, [first, second])
    assert [scales.tolist() for scales in found] == [[4.0, 1.5, 0.5], [2.5, 0.0]]
