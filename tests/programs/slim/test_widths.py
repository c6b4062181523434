"""The parts of slim and compress: what the options refuse, what thin networks cost, by which rules, and the tables."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from lmajax import LMA, compress, models, tree
from lmajax.activations import linen
from lmajax.compress import Spectrum
from lmajax.training import in_stages, penalized, supervised
from lmajax.types import Batch
from tests.support.model_files import drawn
from tests.support.runs import refused
from train import build
from train.activations import factory
from train.build import of_thin
from train.config import load, recipe, save
from train.data import load as load_data
from train.deploy import model_file as shipped
from train.deploy import score as scoring
from train.engine.cohort import Cohort, fresh
from train.engine.evaluate import member
from train.networks import slimmable
from train.programs.compress import config as config_compress
from train.programs.compress import plot as draw_compress
from train.programs.compress import run as chain
from train.programs.compress import table as report_compress
from train.programs.compress.config import Compress
from train.programs.slim import config as config_slim
from train.programs.slim import plot as draw_slim
from train.programs.slim import run as slim
from train.programs.slim import table as report_slim
from train.programs.slim.config import Slim
from train.programs.slim.widths import CRITERIA, Slimming, mean_scales, mean_spectra, share_of
from train.runtime.errors import UserError

DATA = ['digits', 'mnist', 'fashion-mnist', 'cifar10', 'cifar100']
VGG = ['--network', 'vgg-16', '--width', *['2'] * 13]
RESNET = ['--network', 'resnet-8', '--width', '3', '4', '5']
OUT_OF_REACH = '--rate 0.999: a rate of 0.999 cannot be reached: with the fewest channels it is 0.'
WRONG = [
  (['--network', 'resnext-29'], '--network is resnext-29: give mlp, cnn, vgg-16, or resnet and a depth'),
  (['--network', 'resnet'], '--network is resnet: give mlp, cnn, vgg-16, or resnet and a depth'),
  (['--network', 'vgg-16', '--width', '4', '4'], '--network vgg-16 --width 4 4: channels are 2, and must be 13'),
  (VGG, '--network is vgg-16: it pools these images to nothing'),
  ([*RESNET[:2], '--width', '5', '4'], '--network resnet-8 --width 5 4: channels are (5, 4), and must not fall'),
  (['--network', 'resnet-9', *RESNET[2:]], '--network resnet-9 --width 3 4 5: depth is 9, and must be 8, 14'),
  (['--coupled'], '--coupled is True: only a resnet has stages'),
  (['--schedule', 'plateau'], '--schedule is plateau'),
  (['--minimum-width', '0'], '--minimum-width is 0: give 1 or more'),
  (['--multiple', '0'], '--multiple is 0: give 1 or more'),
  (['--width', '8', '0'], '--width is 0'),
  (['--width'], '--width is empty'),
  (['--temperature', '0'], '--temperature is 0'),
  (['--soft-weight', '2'], '--soft-weight is 2'),
  (['--seeds', '0'], '--seeds is 0'),
  (['--rate', '0'], '--rate is 0.0: give numbers between 0 and 1'),
  (['--rate', '1'], '--rate is 1.0'),
  (['--rate', '-0.1'], '--rate is -0.1'),
  (['--rate', 'nan'], '--rate is nan'),
  (['--width', '6', '5', '--rate', '.999'], OUT_OF_REACH),
  ([*RESNET, '--rate', '.999', '--coupled'], OUT_OF_REACH),
]  # fmt: skip
WRONG_SLIM = [
  (['--rate'], '--rate is empty: give at least one'),
  (['--rate', '.5', '1'], '--rate is 1.0'),
  (['--rate', '.5', '.5'], '--rate is 0.5 0.5: give each once'),
  (['--rules'], '--rules is empty'),
  (['--rules', 'pca', 'null', 'pca'], '--rules is pca null pca: give each once'),
  (['--starts'], '--starts is empty'),
  (['--starts', 'scratch', 'scratch'], '--starts is scratch scratch: give each once'),
  (['--scale-penalty', '-1'], '--scale-penalty is -1'),
  (['--scale-penalty', 'inf'], '--scale-penalty is inf'),
  (['--teacher-epochs', '0'], '--teacher-epochs is 0'),
]
WRONG_COMPRESS = [
  (['--bits', '9'], '--bits is 9: give 1 to 8'),
  (['--bits', '0'], '--bits is 0: give 1 to 8'),
  (['--beta', '2'], '--beta is 2'),
  (['--bucket-size', '0'], '--bucket-size is 0'),
  (['--finetune-epochs', '0'], '--finetune-epochs is 0'),
  (['--finetune-learning-rate', '0'], '--finetune-learning-rate is 0'),
  (['--finetune-learning-rate', 'inf'], '--finetune-learning-rate is inf'),
  (['--lit'], '--lit takes a resnet without --coupled: stages_1 of the student gives'),
  (['--lit', *RESNET, '--coupled'], '--lit takes a resnet without --coupled: '),
  (['--teacher-epochs', '3'], '--teacher-epochs is 3'),
]
CASES = [
  *(('slim', *case) for case in [*WRONG, *WRONG_SLIM]),
  *(('compress', *case) for case in [*WRONG, *WRONG_COMPRESS]),
]


class TestOptions:
  @pytest.mark.parametrize('command, options, expected', CASES, ids=[' '.join([c, *o]) for c, o, _ in CASES])
  def test_a_wrong_one_is_named_in_one_line(self, capsys, tmp_path, command, options, expected):
    assert refused(capsys, command, '--workdir', tmp_path / 'run', *options).startswith(expected)
    assert not (tmp_path / 'run').exists()

  @pytest.mark.parametrize('data', DATA)
  @pytest.mark.parametrize('kind', [config_slim, config_compress])
  def test_every_default_may_be_run(self, kind, data):
    config = kind.defaults(data)
    kind.check(config)
    shape = (1, 32, 32, 3) if data.startswith('cifar') else (1, 8, 8, 1) if data == 'digits' else (1, 28, 28, 1)
    inputs = jnp.zeros(shape)
    slimming = Slimming(config, slimmable(config, linen.ReLU, num_classes=10, inputs=inputs), inputs)
    whole = [Spectrum(np.ones(width), False) for width in slimming.full]
    assert slimming.rate(slimming.uniform(whole)(0.0)) > np.max(config.rate)

  @pytest.mark.parametrize(
    'config',
    [
      Slim(rate=(0.25, 0.5), rules=('null', 'random'), starts=('scratch',), coupled=True, network='resnet-8'),
      Compress(rate=0.25, lit=True, bits=3, criterion='median', cost='macs', network='resnet-8', width=(3, 4, 5)),
    ],
    ids=recipe,
  )
  def test_a_saved_one_is_loaded_as_it_was(self, tmp_path, config):
    config = replace(config, workdir=tmp_path)
    save(config, tmp_path)
    assert load(type(config), tmp_path) == config


INPUTS = jnp.zeros((4, 8, 8, 1))
MLP = Slim(width=(12, 9, 7), minimum_width=1)
CNN = Slim(network='cnn', width=(4, 6, 5), minimum_width=1)
RESNET_8 = Slim(network='resnet-8', width=(3, 4, 5), coupled=True, minimum_width=1)
ALL = [MLP, CNN, RESNET_8]


def model_of(config, act=linen.ReLU):
  return slimmable(config, act, num_classes=10, inputs=INPUTS)


def slimming_of(config, act=linen.ReLU):
  return Slimming(config, model_of(config, act), INPUTS)


def random_variables(model, seed=0, inputs=INPUTS):
  """Numbers as training might leave them."""
  shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), inputs, train=False))
  rng = np.random.default_rng(seed)
  return tree.map_with_path(lambda path, leaf: drawn(rng, path.rpartition('/')[2], leaf.shape), shapes)


def stacked(*members):
  return jax.tree.map(lambda *leaves: np.stack(leaves), *members)


assert_same = partial(jax.tree.map, np.testing.assert_array_equal)


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


SHARES = np.linspace(0, 1, 401)
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
      others = {rule(float(share)) for share in np.linspace(0, 1, 2001)}
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


MODEL = models.MLP((3,), 10, linen.ReLU)
BATCH = Batch(jnp.asarray(np.random.default_rng(1).normal(size=(16, 8, 8, 1)), jnp.float32), jnp.arange(16) % 10)


class TestPenalty:
  def test_is_the_weighted_sum_of_the_absolute_scales_and_moves_nothing_else(self):
    variables = jax.tree.map(jnp.asarray, random_variables(MODEL, inputs=BATCH.inputs))
    params = variables.pop('params')
    params['stages_0']['norm']['scale'] = jnp.array([0.5, -2.0, 1.0])
    plain = supervised(MODEL)
    objective = penalized(plain, lambda path, leaf: path.endswith('norm/scale'), 0.25)
    (loss, kept), gradient = jax.value_and_grad(objective, has_aux=True)(
      params, variables, None, BATCH, jax.random.key(0)
    )
    (base, kept_too), other = jax.value_and_grad(plain, has_aux=True)(params, variables, None, BATCH, jax.random.key(0))
    assert float(loss) == pytest.approx(float(base) + 0.25 * 3.5)
    assert_same(kept, kept_too)
    scale = gradient['stages_0']['norm'].pop('scale') - other['stages_0']['norm'].pop('scale')
    np.testing.assert_allclose(scale, 0.25 * np.array([1.0, -1.0, 1.0]), atol=1e-6)
    assert_same(gradient, other)


SMALL = Slim(
  width=(6, 5), rate=(0.4,), rules=('pca', 'norm-scale'), starts=('pruned', 'scratch'), seeds=2, activations=('relu',),
  train_images=200, scale_penalty=0.5,
)  # fmt: skip


@pytest.fixture(scope='module')
def plan():
  return slim.experiment(SMALL)


@pytest.fixture(scope='module')
def trained(plan):
  """Two originals with two seeds each, none like another."""
  model = plan.slimmings['relu'].model
  each = [[random_variables(model, 2 * i + seed) for seed in (0, 1)] for i in (0, 1)]
  for scale in [variables['params'][f'stages_{i}']['norm']['scale'] for variables in each[1] for i in (0, 1)]:
    scale *= np.linspace(-1, 1, len(scale))
  return {name: jax.tree.map(jnp.asarray, stacked(*pair)) for name, pair in zip(plan.cohort.groups, each, strict=True)}


class TestSlim:
  def test_the_penalty_is_on_the_scales_of_the_graph_in_the_original_of_norm_scale_alone(self, plan, trained):
    params = dict(member(trained['relu-penalized'], 0))
    params, stats = params.pop('params'), params
    batch = plan.data.batches[0]
    losses = [
      float(plan.cohort.groups[name].objective(params, stats, None, batch, jax.random.key(0))[0])
      for name in ('relu-original', 'relu-penalized')
    ]
    scales = [np.abs(params[f'stages_{i}']['norm']['scale']).sum() for i in (0, 1)]
    assert losses[1] - losses[0] == pytest.approx(0.5 * sum(scales), rel=1e-4)

  def test_without_the_rule_there_is_no_such_original(self):
    found = slim.experiment(replace(SMALL, rules=('uniform',), activations=('relu', 'lma')))
    assert list(found.cohort.groups) == ['relu-original', 'lma-8-original']

  def test_pruned_students_start_as_the_slices_of_the_original_of_their_seed(self, plan, trained, tmp_path):
    found, plain = slim.widths(plan, trained, tmp_path), slim.Original('relu', None)
    assert plan.plains == [plain]  # whose components give PCA's widths
    begun = slim.pruned(plan, plain, found, trained)
    assert list(begun) == ['relu-40-pca-pruned', 'relu-40-norm-scale-pruned']
    graph = plan.slimmings['relu'].graph
    for rule, original in (('pca', 'relu-original'), ('norm-scale', 'relu-penalized')):
      start, criterion = begun[f'relu-40-{rule}-pruned'], compress.l1_norm if rule == 'pca' else compress.norm_scale
      for seed in (0, 1):
        rest = dict(member(trained[original], seed))
        params, rest = compress.slice_params(rest.pop('params'), rest, graph, found[f'relu-40-{rule}'], criterion)
        assert_same(member(start.theta, seed), params)
        assert_same(member(start.stats, seed), rest)

  def test_students_of_a_rule_have_its_widths_and_distilled_ones_another_loss(self, plan, trained, tmp_path):
    asked = plan._replace(config=replace(SMALL, starts=('pruned', 'distilled', 'scratch')))
    cohort = slim.thin(asked, slim.Original('relu', None), {'relu-40-pca': (4, 3), 'relu-40-norm-scale': (2, 5)})
    assert {name: group.model.units for name, group in cohort.groups.items()} == {
      f'relu-40-{rule}-{start}': widths
      for rule, widths in (('pca', (4, 3)), ('norm-scale', (2, 5)))
      for start in ('pruned', 'distilled', 'scratch')
    }
    of = {name: group.objective.__qualname__.split('.')[0] for name, group in cohort.groups.items()}
    assert {name for name, objective in of.items() if objective == 'distill'} == {
      'relu-40-pca-distilled', 'relu-40-norm-scale-distilled'
    }  # fmt: skip
    assert set(of.values()) == {'distill', 'supervised'}

  def test_widths_are_noted_and_random_weights_give_theirs_whatever_was_trained(self, plan, trained, tmp_path):
    found = slim.widths(plan, trained, tmp_path)
    flat = {
      name: jax.tree.map(lambda leaf: leaf[:, ..., :1] * jnp.ones_like(leaf), each) for name, each in trained.items()
    }
    assert slim.widths(plan, flat, tmp_path) == found
    (tmp_path / 'widths.json').unlink()
    other = slim.widths(plan, flat, tmp_path)
    assert found['relu-40-null'] == other['relu-40-null']
    assert other['relu-40-null-at-share'] != found['relu-40-null-at-share']
    each = [plan.slimmings['relu'].model.init(jax.random.key(1000 + i), INPUTS, train=False) for i in (0, 1)]
    graph = plan.slimmings['relu'].graph
    null, spectra = (
      mean_spectra([compress.spectra(variables, graph) for variables in of])
      for of in (each, [member(jax.device_get(trained['relu-original']), seed) for seed in (0, 1)])
    )
    share = share_of(spectra, found['relu-40-pca'])
    assert found['relu-40-null-at-share'] == compress.widths_at(null, share, minimum=2) != found['relu-40-pca']
    rates = {name: plan.slimmings['relu'].rate(widths) for name, widths in found.items()}
    assert min(rates[f'relu-40-{rule}'] for rule in ('pca', 'null', 'norm-scale')) >= 0.4

  def test_sensitivities_are_losses_under_statistics_measured_again(self, plan, trained, tmp_path, monkeypatch):
    """The lesser half of the first layer is without effect, that of the second is not."""
    monkeypatch.setattr(slim, 'MEASURING', 2)
    variables = jax.tree.map(np.array, trained['relu-original'])
    params = variables['params']
    params['stages_0']['Dense_0']['kernel'][..., ::2] *= 1e-3
    params['stages_1']['Dense_0']['kernel'][:, ::2] = 0
    params['logits']['kernel'] *= 30
    plain = slim.Original('relu', None)
    found = slim.sensitivities(plan, plain, variables, tmp_path)
    worn = {**variables, 'batch_stats': jax.tree.map(lambda leaf: 9 * leaf + 7, variables['batch_stats'])}
    assert found[0] == 0 != found[1]
    assert slim.sensitivities(plan, plain, trained['relu-original'], tmp_path) == found  # as it is noted
    (tmp_path / 'sensitivities.json').unlink()
    assert slim.sensitivities(plan, plain, worn, tmp_path) == found


def thin_row(rule, start='pruned', rate=0.5, activation='relu', accuracy=(0.8, 0.9), widths=(4, 4, 4), **changes):
  numbers = {'validation_accuracy': [0.5, 0.6], 'parameters': 1200, 'bytes': 4800, 'macs': 2_000_000}
  given = {'segments': 8 if activation == 'lma' else None, 'milliseconds': 0.002, 'reached': rate + 0.01, **numbers}
  named = {'name': f'{activation}-{rule}-{start}', 'activation': activation, 'rule': rule, 'start': start, 'rate': rate}
  return report_slim.Row(**{**given, **named, 'widths': list(widths), 'accuracy': list(accuracy), **changes})


def original_row(activation='relu', sensitivities=(0.1, 0.2, 0.3)):
  made = thin_row('original', '', 0.0, activation, (0.9, 0.95), (8, 8, 8), reached=0.0)
  return made._replace(sensitivities=list(sensitivities))


NULLS = {'null': [4, 4, 2], 'null_at_share': [8, 8, 8]}
ROWS = [
  original_row(),
  thin_row('penalized', '', 0.0, widths=(8, 8, 8)),
  original_row('lma', (0.3, 0.2, 0.1)),
  *(
    thin_row(rule, start, rate, activation, accuracy, widths, **NULLS)
    for activation in ('relu', 'lma')
    for rate, widths in ((0.5, (4, 5, 6)), (0.7, (2, 3, 4)))
    for rule, accuracy in (('pca', (0.8, 0.9)), ('null', (0.7, 0.86)))
    for start in ('pruned', 'scratch')
  ),
]


class TestSlimTable:
  def test_the_counterpart_is_alike_in_all_but_the_rule(self):
    for row in ROWS[3:]:
      found = report_slim.counterpart(row, ROWS, 'pca')
      assert (found.rule, found.label, found.rate, found.start) == ('pca', row.label, row.rate, row.start)
      assert (found is row) == (row.rule == 'pca')
    assert report_slim.counterpart(ROWS[0], ROWS, 'pca') is None
    assert report_slim.counterpart(ROWS[3]._replace(rate=0.6), ROWS, 'null') is None

  def test_there_is_a_line_for_each_row_with_the_paired_difference_from_pca(self):
    lines = report_slim.text(ROWS).split('\n\n')[0].splitlines()[2:]
    assert len(lines) == len(ROWS)
    test = stats.ttest_rel((0.8, 0.9), (0.7, 0.86))
    low, high = 100 * np.asarray(test.confidence_interval(0.95))
    for line, row in zip(lines, ROWS, strict=True):
      cells = [cell.strip() for cell in line.split('|')[1:-1]]
      compared = ['+7.00', f'{low:+.2f} … {high:+.2f}'] if row.rule == 'null' else ['', '']
      rates = [f'{100 * row.rate:g}', f'{100 * row.rate + 1:.1f}'] if row.rate else ['', '']
      spread = f'{100 * np.mean(row.accuracy):.2f} ± {100 * np.std(row.accuracy, ddof=1):.2f}'
      assert cells[:8] == [row.rule, row.start, row.label, *rates, spread, *compared]
      assert cells[8:] == ['55.00 ± 7.07', '1,200', '4,800', '2', '2.00']

  def test_one_seed_has_no_interval(self):
    rows = [row._replace(accuracy=row.accuracy[:1], validation_accuracy=[0.5]) for row in ROWS]
    lines = report_slim.text(rows).splitlines()
    assert sum('| one seed |' in line for line in lines) == 8

  def test_the_widths_have_a_line_for_each_activation_and_rate(self):
    lines = report_slim.layers(ROWS).splitlines()[2:-2]
    cells = [[cell.strip() for cell in line.split('|')[1:-1]] for line in lines]
    assert [each[:3] for each in cells] == [
      ['relu', '50', '4 5 6'], ['relu', '70', '2 3 4'], ['lma-8', '50', '4 5 6'], ['lma-8', '70', '2 3 4']
    ]  # fmt: skip
    mean = np.mean([4 / 4, 5 / 4, 6 / 2])
    assert cells[0][3:] == ['4 4 2', '8 8 8', f'{mean:.2f}', f'{np.mean([4, 5, 6]) / 8:.2f}', '+1.00', '-0.87']
    assert cells[2][7:] == ['-1.00', '+0.87']
    assert report_slim.layers([row for row in ROWS if row.rule != 'pca']) == ''

  def test_quotients_are_those_of_the_layers_that_either_makes_thinner(self):
    assert report_slim.ratio([8, 4, 8], [8, 8, 2], [8, 8, 8]) == pytest.approx(np.mean([0.5, 4]))
    assert report_slim.ratio([8, 8], [8, 8], [8, 8]) == 1.0

  def test_the_correlation_is_of_parts_and_there_is_none_where_all_are_equal(self):
    original = original_row()._replace(widths=[8, 16, 32])
    assert report_slim.correlation([4, 9, 20], original) == '+1.00'
    assert report_slim.correlation([8, 8, 8], original) == '-1.00'
    assert report_slim.correlation([4, 8, 16], original) == '—'
    assert report_slim.correlation([4, 9, 20], original._replace(sensitivities=[0.1, 0.1, 0.1])) == '—'
    assert report_slim.correlation([4, 9, 20], original._replace(sensitivities=None)) == '—'
    values = [0.3, -0.1, 0.2]
    expected = stats.spearmanr(np.divide([4, 9, 20], [8, 16, 32]), values).statistic
    assert report_slim.correlation([4, 9, 20], original._replace(sensitivities=values)) == f'{expected:+.2f}'

  def test_pictures_are_drawn(self, tmp_path):
    for name in ('accuracy', 'widths'):
      getattr(draw_slim, name)(tmp_path / f'{name}.png', ROWS)
      assert (tmp_path / f'{name}.png').stat().st_size > 5000


TINY = Compress(width=(6, 5), rate=0.4, seeds=2, activations=('lma',), segments=(4,), train_images=200)


@pytest.fixture(scope='module')
def tiny():
  return chain.experiment(TINY)


def trained_of(plan, stage, widths, seed=0):
  """As if a stage had been trained, to weights that are drawn."""
  group = chain.group(plan, stage, widths)
  each = [random_variables(group.model, seed + i) for i in group.seeds]
  found = jax.tree.map(jnp.asarray, stacked(*each))
  return scoring.Trained(group, chain.going_on(found))


class TestChain:
  def test_the_stages_are_in_their_order(self, tiny):
    assert [stage.name for stage in chain.stages(tiny)] == [
      'original', 'slimmed', 'lma-4-distilled', 'lma-4-quantized', 'lma-4-packed'
    ]  # fmt: skip
    two = tiny._replace(config=replace(TINY, lit=True), kinds=[('relu', None), ('lma', 4)])
    assert [stage.name for stage in chain.stages(two)] == [
      'original', 'slimmed', 'lit', 'relu-distilled', 'relu-quantized', 'relu-packed', 'lma-4-distilled',
      'lma-4-quantized', 'lma-4-packed',
    ]  # fmt: skip

  @pytest.mark.parametrize('criterion', ['l1', 'l2', 'norm-scale'])
  def test_slimming_starts_with_the_slices_of_the_original_of_each_seed(self, tiny, criterion):
    plan = tiny._replace(config=replace(TINY, criterion=criterion))
    whole, stage = chain.Stage('original'), chain.Stage('slimmed')
    made = {whole: trained_of(plan, whole, (6, 5))}
    found = chain.start(plan, chain.group(plan, stage, (4, 2)), stage, (4, 2), made)
    for seed in (0, 1):
      rest = dict(member(made[whole].variables(), seed))
      params = rest.pop('params')
      params, rest = compress.slice_params(params, rest, tiny.slimming.graph, (4, 2), CRITERIA[criterion])
      assert_same(member(found.theta, seed), params)
      assert_same(member(found.stats, seed), rest)

  def test_distillation_starts_with_the_slimmed_weights_and_new_tables(self, tiny):
    slimmed, stage = chain.Stage('slimmed'), chain.Stage('distilled', 'lma', 4)
    made = {chain.Stage('original'): trained_of(tiny, chain.Stage('original'), (6, 5))}
    made[slimmed] = trained_of(tiny, slimmed, (4, 2), seed=7)
    own = chain.group(tiny, stage, (4, 2))
    found = chain.start(tiny, own, stage, (4, 2), made)
    new = fresh(Cohort({'': own}, build.plan(TINY, 1)), tiny.data.batches.blank)[''].end
    mine, begun = (tree.by_path({'params': end.theta, **end.stats}) for end in (found, new))
    theirs = tree.by_path(made[slimmed].variables())
    assert mine.keys() == begun.keys() > theirs.keys()
    assert {path.split('/')[2] for path in mine.keys() - theirs.keys()} == {'act'}
    for path, leaf in mine.items():
      np.testing.assert_array_equal(leaf, theirs.get(path, begun[path]))
    assert not np.array_equal(mine['params/logits/kernel'], begun['params/logits/kernel'])

  def test_layers_are_put_under_other_activations(self):
    relu, lma = (random_variables(models.MLP((4, 3), 10, act), i) for i, act in enumerate((linen.ReLU, LMA)))
    new = random_variables(models.MLP((4, 3), 10, partial(LMA, num_segments=4)), 2)
    found, known = (tree.by_path(each) for each in (chain.with_layers(relu, new), new))
    for path, leaf in found.items():
      np.testing.assert_array_equal(leaf, known[path] if '/act/' in path else tree.by_path(relu)[path])
    again = tree.by_path(chain.with_layers(lma, new))
    for path, leaf in again.items():  # tables of another size start anew
      mine = path.rpartition('/')[2] in ('intercepts', 'slope_deltas')
      np.testing.assert_array_equal(leaf, known[path] if mine else tree.by_path(lma)[path])

  def test_quantization_starts_with_the_distilled_weights_on_their_levels(self, tiny):
    distilled, stage = chain.Stage('distilled', 'lma', 4), chain.Stage('quantized', 'lma', 4)
    made = {each: trained_of(tiny, each, (4, 2)) for each in (chain.Stage('original'), distilled)}
    own = chain.group(tiny, stage, (4, 2))
    trained = scoring.Trained(own, chain.start(tiny, own, stage, (4, 2), made))
    assert_same(trained.shadow(), made[distilled].params())
    assert_same(trained.end.stats, made[distilled].end.stats)
    own, shadow = (tree.by_path(each) for each in (trained.params(), made[distilled].params()))
    for path, leaf in own.items():
      kernel = path.endswith('kernel')
      assert (len(np.unique(leaf[0])) <= 16) if kernel else np.array_equal(leaf, shadow[path]), path
      assert not kernel or leaf[0].size < 17 or not np.allclose(leaf, shadow[path], atol=1e-4)

  def test_labels_teach_the_slimmed_and_the_original_all_that_come_after(self, tiny):
    of = {stage.name: chain.group(tiny, stage, (4, 2)).objective.__qualname__ for stage in chain.stages(tiny)}
    kinds = {name: objective.split('.')[0] for name, objective in of.items()}
    assert kinds == {
      'original': 'supervised', 'slimmed': 'supervised', 'lma-4-distilled': 'distill', 'lma-4-quantized': 'distill',
      'lma-4-packed': 'distill',
    }  # fmt: skip

  def test_block_by_block_the_stages_are_trained_between_the_ends_of_the_first_original(self):
    config = replace(TINY, network='resnet-8', width=(3, 4, 5), rate=0.3, lit=True)
    plan = chain.experiment(config)
    whole, slimmed, stage = chain.Stage('original'), chain.Stage('slimmed'), chain.Stage('lit')
    thin = (2, 2, 3)
    made = {whole: trained_of(plan, whole, (3, 4, 5)), slimmed: trained_of(plan, slimmed, thin, seed=5)}
    own = chain.group(plan, stage, thin)
    found = chain.start(plan, own, stage, thin, made)
    trained = in_stages(own.model)
    assert own.trained('stages_1/_BasicBlock_0/Conv_0/kernel', None) and not own.trained('logits/kernel', None)
    theirs, before = (tree.by_path(made[each].variables()) for each in (whole, slimmed))
    ends = 0
    for path, leaf in tree.by_path({'params': found.theta, **found.stats}).items():
      inside = trained(path.partition('/')[2], leaf)
      ends += not inside
      for seed in (0, 1):
        np.testing.assert_array_equal(leaf[seed], before[path][seed] if inside else theirs[path][0])
    assert ends > 4

  def test_by_default_half_of_the_parameters_go_and_the_file_is_a_tenth(self, tmp_path):
    config = Compress(seeds=1)
    assert (config.width, config.bits, config.rate) == ((256, 256), 4, 0.5)
    plan = chain.experiment(config)
    original, slimmed, distilled, quantized, packed = chain.stages(plan)
    full = (256, 256)
    made = {original: trained_of(plan, original, full)}
    widths = chain.thin_widths(plan, made[original].variables(), tmp_path)
    own = chain.group(plan, slimmed, widths)
    made[slimmed] = scoring.Trained(own, chain.start(plan, own, slimmed, widths, made))
    made[distilled] = trained_of(plan, distilled, widths)
    own = chain.group(plan, quantized, widths)
    made[packed] = scoring.Trained(own, chain.start(plan, own, quantized, widths, made))
    sizes = {}
    for stage, thin in ((original, full), (packed, widths)):
      end, about = member(made[stage].end, 0), chain.about(plan, stage, thin)
      stored = made[stage].group.reparam.stored(end.theta, end.code)
      sizes[stage] = shipped.write(tmp_path / 'a', stored, end.stats, about, entropy=stage == packed)
    assert sizes[packed] <= sizes[original] / 10
    parameters = [tree.size(made[stage].params()) for stage in (original, slimmed)]
    assert parameters[0] == 64 * 256 + 256 * 256 + 256 * 10 + 3 * 512 + 10
    assert parameters[1] <= parameters[0] / 2


def chain_row(stage, activation='relu', accuracy=(0.8, 0.9), size=4000, milliseconds=0.001):
  segments = 8 if activation == 'lma' else None
  name = stage if stage in ('original', 'slimmed', 'lit') else f'{activation}-{stage}'
  rest = {'widths': [6, 5], 'validation_accuracy': [0.5, 0.6], 'parameters': 1000, 'file': f'models/{name}-seed0'}
  given = {**rest, 'accuracy': list(accuracy), 'bytes': size, 'milliseconds': milliseconds}
  return report_compress.Row(name, stage, activation, segments, **given)


CHAIN = {
  row.name: row
  for row in [
    chain_row('original', accuracy=(0.9, 0.95), size=8000),
    chain_row('slimmed', size=4000),
    chain_row('lit', accuracy=(0.7, 0.86)),
    *(chain_row('distilled', act, (0.76, 0.8), 4100) for act in ('relu', 'lma')),
    *(chain_row('quantized', act, (0.7, 0.79), 1000) for act in ('relu', 'lma')),
    *(chain_row('packed', act, (0.7, 0.79), 800) for act in ('relu', 'lma')),
  ]
}
BEFORE = {
  'original': None, 'slimmed': 'original', 'lit': 'slimmed', 'relu-distilled': 'lit', 'lma-distilled': 'lit',
  'relu-quantized': 'relu-distilled', 'lma-quantized': 'lma-distilled', 'relu-packed': 'relu-quantized',
  'lma-packed': 'lma-quantized',
}  # fmt: skip


class TestChainTable:
  @pytest.mark.parametrize('lit', [False, True])
  def test_a_stage_goes_on_from_the_one_before_it(self, lit):
    rows = [row for row in CHAIN.values() if lit or row.stage != 'lit']
    for row in rows:
      found, expected = report_compress.before(row, rows), BEFORE[row.name]
      assert (found and found.name) == ('slimmed' if expected == 'lit' and not lit else expected)

  def test_a_line_says_sizes_and_both_paired_differences(self):
    lines = report_compress.text(list(CHAIN.values())).splitlines()[2:]
    assert len(lines) == len(CHAIN)
    for line, row in zip(lines, CHAIN.values(), strict=True):
      cells = [cell.strip() for cell in line.split('|')[1:-1]]
      smaller = '' if row.stage == 'original' else f'{8000 / row.bytes:.1f}'
      assert cells[:7] == [row.stage, row.label, '6 5', '1,000', f'{row.bytes:,}', smaller, '1.00']
      for base, found in (('original', cells[8:10]), (BEFORE[row.name], cells[10:12])):
        if row.stage == 'original':
          assert found == ['', '']
          continue
        other = CHAIN[base].accuracy
        mean = 100 * (np.mean(row.accuracy) - np.mean(other))
        low, high = 100 * np.asarray(stats.ttest_rel(row.accuracy, other).confidence_interval(0.95))
        assert float(found[0]) == pytest.approx(mean, abs=0.0051)
        if row.accuracy != other:  # of equal ones a test says nothing
          assert [float(end) for end in found[1].split(' … ')] == pytest.approx([low, high], abs=0.0051)
        else:
          assert found == ['+0.00', '+0.00 … +0.00']

  def test_a_picture_is_drawn(self, tmp_path):
    draw_compress.accuracy(tmp_path / 'accuracy.png', list(CHAIN.values()))
    assert (tmp_path / 'accuracy.png').stat().st_size > 5000
