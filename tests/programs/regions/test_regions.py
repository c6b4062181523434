"""The count of linear regions: hand-made networks, a slow walk along the line, and the recipe from end to end."""

import json
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from lmajax import LMA
from lmajax.activations import linen
from lmajax.models import MLP
from lmajax.training import init_state
from tests import oracles
from train import build
from train.config import load, save
from train.engine.optimizers import adjustable, sgd
from train.programs.regions import count as regions
from train.programs.regions import run as recipe
from train.programs.regions.config import Regions
from train.programs.regions.pieces import differentiated, pieces
from train.programs.regions.table import Row, text
from train.runtime.errors import UserError
from train.runtime.run import Run

ZERO, ONE = np.zeros(1), np.ones(1)


class Identity(nn.Module):
  """No activation at all: the network is affine."""

  def __call__(self, x, *, where=None, train=None):
    return x


def measured(act):
  return differentiated(lambda site, z: act().apply(site, z, train=False))


def pieces_of(act, variables=None, *, low=-4.0, high=4.0, units=1):
  ends = np.full(units, low), np.full(units, high)
  return pieces(partial(measured(act), variables or {}), *ends)


def lma_variables(slopes, intercepts, stats=(0.0, 1.0)):
  start = oracles.relu_init(len(slopes))[0]
  params = {'slope_deltas': jnp.float32(slopes - start), 'intercepts': jnp.float32(intercepts)}
  running = dict(zip(('mean', 'std', 'weight'), map(jnp.float32, (*stats, 1.0)), strict=True))
  return {'params': params, 'batch_stats': running}


def by_hand(*layers):
  """(kernel, bias) of every hidden layer -> the variables of an MLP whose batch norms only scale, hardly."""
  params, stats = {}, {}
  for i, (kernel, bias) in enumerate(layers):
    ones, zeros = np.ones(len(bias), np.float32), np.zeros(len(bias), np.float32)
    dense = {'kernel': np.asarray(kernel, np.float32), 'bias': np.asarray(bias, np.float32)}
    params[f'stages_{i}'] = {'Dense_0': dense, 'norm': {'scale': ones, 'bias': zeros}}
    stats[f'stages_{i}'] = {'norm': {'mean': zeros, 'var': ones}}
  params['logits'] = {'kernel': np.ones((len(bias), 2), np.float32), 'bias': np.zeros(2, np.float32)}
  return {'params': params, 'batch_stats': stats}


def with_kinks(*places):
  """One hidden layer on a line, each unit's input 0 at one place, half of them falling."""
  signs = np.where(np.arange(len(places)) % 2, -3.0, 2.0)
  return by_hand((signs[None], -signs * places))


def count(variables, act):
  """The regions from 0 to 1 on the line."""
  network = regions.fold(variables, measured(act), np.array([[0.0], [1.0]]))
  return 1 + len(regions.breaks(network, ZERO, ONE))


class TestKnownCounts:
  def test_kinks_where_they_were_put(self):
    places = [0.25, 0.5, 0.0625, 0.78125]
    network = regions.fold(with_kinks(*places), measured(linen.ReLU), np.array([[0.0], [1.0]]))
    np.testing.assert_allclose(regions.breaks(network, ZERO, ONE), sorted(places), atol=1e-7)
    np.testing.assert_allclose(regions.breaks(network, ONE, ZERO), np.sort(1 - np.array(places)), atol=1e-7)

  def test_a_place_counts_once_and_only_inside(self):
    assert count(with_kinks(0.5, 0.5, 0.25), linen.ReLU) == 3
    assert count(with_kinks(-0.5, 1.5), linen.ReLU) == 1

  def test_a_piece_a_millionth_wide_is_found(self):
    assert count(with_kinks(0.5, 0.5 + 2**-20, 0.5 + 2**-22), linen.ReLU) == 4

  def test_second_layer_folds_back(self):
    variables = by_hand(([[1.0, -1.0]], [-0.5, 0.5]), ([[1.0], [1.0]], [-0.25]))  # |x − ½| ≥ ¼
    assert count(variables, linen.ReLU) == 4

  def test_affine_network_has_one(self):
    assert count(with_kinks(0.2, 0.4, 0.6), Identity) == 1

  def test_smooth_network_has_none_to_count(self):
    variables = with_kinks(0.2, 0.4)
    variables['params']['stages_0']['act'] = {'slope': jnp.ones(2)}
    assert regions.fold(variables, measured(linen.Swish), np.array([[0.0], [1.0]])) is None

  @pytest.mark.parametrize('k', [2, 4, 8, 16])
  @pytest.mark.parametrize('joined', [False, True])
  def test_untrained_lma_is_relu(self, k, joined):
    places, variables = [0.2, 0.4, 0.41, 0.9], with_kinks(0.2, 0.4, 0.41, 0.9)
    site = lma_variables(*oracles.relu_init(k))
    if joined:
      del site['params']['intercepts']
    variables['params']['stages_0']['act'] = site['params']
    variables['batch_stats']['stages_0']['act'] = site['batch_stats']
    assert count(variables, partial(LMA, num_segments=k, joined=joined)) == 1 + len(places)


class TestPieces:
  def test_equal_segments_count_once(self):
    found = pieces_of(partial(LMA, num_segments=4), lma_variables([0.0, 0.5, 0.5, 1.0], [0.0, 0.2, 0.2, 0.0]))
    np.testing.assert_allclose(found.cuts, [[-1.5, 1.5]], atol=1e-6)
    np.testing.assert_allclose(found.slopes, [[0.0, 0.5, 1.0]])
    np.testing.assert_allclose(found.intercepts, [[0.0, 0.2, 0.0]], atol=1e-6)

  def test_a_jump_between_equal_slopes_counts(self):
    found = pieces_of(partial(LMA, num_segments=4), lma_variables([0.0, 0.5, 0.5, 1.0], [0.0, 0.2, 0.201, 0.0]))
    np.testing.assert_allclose(found.cuts, [[-1.5, 0.0, 1.5]], atol=1e-6)

  @pytest.mark.parametrize('k', [2, 3, 8, 16])
  def test_every_segment_is_found(self, k):
    slopes, intercepts = np.random.default_rng(k).normal(size=(2, k)).astype(np.float32)
    found = pieces_of(partial(LMA, num_segments=k), lma_variables(slopes, intercepts, (0.3, 1.1)))
    np.testing.assert_allclose(found.cuts[0], oracles.cuts((0.3, 1.1), k), atol=1e-6)
    np.testing.assert_allclose(found.slopes[0], slopes, atol=1e-6)
    np.testing.assert_allclose(found.intercepts[0], intercepts, atol=1e-5)

  def test_hinges_per_channel_however_close(self):
    cuts = np.float32([[-1.0, 2.0], [-1.00001, 0.5]])
    params = {'slopes': jnp.float32([[0.3, 0.1], [0.2, -0.4]]), 'cuts': jnp.asarray(cuts)}
    found = pieces_of(partial(linen.APLU, num_segments=4), {'params': params}, units=2)
    np.testing.assert_allclose(found.cuts, [[-1.00001, -1.0, 0.0], [0.0, 0.5, 2.0]], atol=2e-7)
    np.testing.assert_allclose(found.slopes, [[-0.5, -0.3, 0.0, 1.0], [0.3, 1.3, 0.9, 1.0]], atol=1e-6)

  def test_linear_prelu_has_no_cut(self):
    assert pieces_of(linen.PReLU, {'params': {'slope': jnp.float32(1)}}).cuts.shape == (1, 0)

  def test_units_without_a_cut_in_reach_are_filled_up(self):
    found = pieces(partial(measured(linen.ReLU), {}), np.array([-1.0, 1.0]), np.array([1.0, 2.0]))
    np.testing.assert_allclose(found.cuts, [[0.0], [np.inf]], atol=1e-12)
    np.testing.assert_array_equal(found.which(np.array([[-0.5, 1.5], [0.5, 1.5]])), [[0, 0], [1, 0]])
    low, high = found.image(np.array([-1.0, 1.0]), np.array([1.0, 2.0]))
    np.testing.assert_allclose([low, high], [[0.0, 1.0], [1.0, 2.0]], atol=1e-6)


# Small networks with every number drawn, against a walk in Python that knows each activation's formula.

MEMBERS = {
  'relu': linen.ReLU,
  'prelu': linen.PReLU,
  'aplu': partial(linen.APLU, num_segments=5),
  'lma': partial(LMA, num_segments=6),
  'lma-joined': partial(LMA, num_segments=6, joined=True),
}
DIM, UNITS = 3, (6, 5)


def drawn(act, seed):
  """An MLP's variables, all leaves random; what must be positive is."""
  rng = np.random.default_rng(seed)
  model = MLP(UNITS, 4, act)
  shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, DIM)), train=False))
  positive = ('scale', 'var', 'std', 'weight')

  def leaf(path, shape):
    values = rng.normal(size=shape.shape)
    return np.float32(0.5 + abs(values) if path[-1].key in positive else values)

  return model, jax.tree_util.tree_map_with_path(leaf, shapes)


def oracle_site(name, z, params, stats):
  """One layer's activation at one input, in loops: its values and its pieces."""
  y, where = np.zeros(len(z)), []
  for u, value in enumerate(z):
    if name.startswith('lma'):
      running = tuple(float(stats[n]) for n in ('mean', 'std', 'weight'))
      debiased = oracles.debias(running)
      slopes = oracles.relu_init(6)[0] + np.asarray(params['slope_deltas'], np.float64)
      joined = name == 'lma-joined'
      intercepts = oracles.joined_intercepts(slopes, debiased) if joined else np.asarray(params['intercepts'])
      y[u] = oracles.lma(np.array([value]), slopes, intercepts, debiased)[0]
      where.append(int(oracles.segment_index(np.array([value]), debiased, 6)[0]))
    elif name == 'aplu':
      hinges = list(zip(params['slopes'][:, u].astype(float), params['cuts'][:, u].astype(float), strict=True))
      y[u] = max(value, 0.0) + sum(slope * max(cut - value, 0.0) for slope, cut in hinges)
      where.append((value >= 0, *(value >= cut for _, cut in hinges)))
    else:
      y[u] = value if value >= 0 else value * (float(params['slope']) if name == 'prelu' else 0.0)
      where.append(value >= 0)
  return y, where


def oracle_pattern(name, variables, x):
  where = []
  for stage in ('stages_0', 'stages_1'):
    params, stats = variables['params'][stage], variables['batch_stats'][stage]
    z = x @ params['Dense_0']['kernel'].astype(float) + params['Dense_0']['bias']
    z = (z - stats['norm']['mean']) / np.sqrt(stats['norm']['var'] + 1e-5) * params['norm']['scale']
    x, here = oracle_site(name, z + params['norm']['bias'], params.get('act'), stats.get('act'))
    where += here
  return where


def walked(pattern, ends, patterns):
  """Halves every interval whose ends differ."""
  if patterns[0] == patterns[1]:
    return []
  middle = sum(ends) / 2
  if ends[1] - ends[0] < 1e-8:
    return [middle]
  here = pattern(middle)
  left = walked(pattern, (ends[0], middle), (patterns[0], here))
  return left + walked(pattern, (middle, ends[1]), (here, patterns[1]))


@pytest.mark.parametrize('name', MEMBERS)
class TestAgainstTheOracle:
  @pytest.mark.parametrize('seed', [0, 1])
  def test_breaks(self, name, seed):
    _, variables = drawn(MEMBERS[name], seed)
    middle, half = np.random.default_rng(seed + 10).normal(size=(2, DIM))
    half *= 6 / np.linalg.norm(half)
    start, end = middle - half, middle + half
    network = regions.fold(variables, measured(MEMBERS[name]), np.stack([start, end]))
    found = regions.breaks(network, start, end)

    def pattern(t):
      return oracle_pattern(name, variables, start + t * (end - start))

    ticks = np.linspace(0, 1, 401)
    marks = [pattern(t) for t in ticks]
    expected = [walked(pattern, ticks[i : i + 2], marks[i : i + 2]) for i in range(400)]
    np.testing.assert_allclose(found, np.concatenate(expected), atol=1e-5)
    assert len(found) > 3

  def test_plane(self, name):
    model, variables = drawn(MEMBERS[name], 2)
    plane = regions.plane_through(np.random.default_rng(5).normal(size=(3, DIM)), np.arange(3), 9)
    network = regions.fold(variables, measured(MEMBERS[name]), plane.corners)
    x = plane.origin + plane.coordinates @ plane.directions
    pattern, classes = regions.patterns(regions.restricted(network, plane.origin, plane.directions), plane.coordinates)
    expected = {str(oracle_pattern(name, variables, point)) for point in x}
    assert len(np.unique(regions.hashed(pattern))) == len(expected) > 3
    logits, _ = model.apply(jax.tree.map(jnp.asarray, variables), jnp.asarray(x, jnp.float32), train=False)
    np.testing.assert_array_equal(classes, logits.argmax(-1))

  def test_folded_network_is_the_network(self, name):
    model, variables = drawn(MEMBERS[name], 3)
    x = np.random.default_rng(6).normal(size=(50, DIM))
    network = regions.fold(variables, measured(MEMBERS[name]), x)
    y = x
    for layer in network.layers:
      z = y @ layer.kernel + layer.bias
      slopes, intercepts = layer.pieces.line(layer.pieces.which(z))
      y = slopes * z + intercepts
    logits, _ = model.apply(jax.tree.map(jnp.asarray, variables), jnp.asarray(x, jnp.float32), train=False)
    np.testing.assert_allclose(y @ network.kernel + network.bias, logits, rtol=1e-4, atol=1e-4)


def test_plane_holds_its_points():
  points = np.random.default_rng(0).normal(size=(3, 5))
  plane = regions.plane_through(points, np.arange(3), 4)
  np.testing.assert_allclose(plane.origin + plane.marks @ plane.directions, points, atol=1e-12)
  np.testing.assert_allclose(plane.directions @ plane.directions.T, np.eye(2), atol=1e-12)
  assert abs(plane.marks).max() < plane.ticks[-1]


# The recipe.

TINY = Regions(activations=('swish', 'lma'), segments=(4,), width=3, depth=1, seeds=2, lines=3, grid=20, epochs=1)


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
  folder = tmp_path_factory.mktemp('regions')
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(build, 'over_all_devices', on_one_device)
    plan = recipe.experiment(TINY)
  save(TINY, folder)
  with Run(folder) as to:
    return plan, folder, recipe.run(plan, to)


def on_one_device():
  """Programs in flight at once on eight virtual devices starve each other's collectives on a busy machine."""
  mesh = jax.make_mesh((1,), ('data',), axis_types=(AxisType.Auto,), devices=jax.devices()[:1])
  return NamedSharding(mesh, PartitionSpec('data'))


class TestRecipe:
  def test_writes_its_files(self, finished):
    _, folder, rows = finished
    names = {path.name for path in folder.iterdir()}
    assert {'config.json', 'metrics.jsonl', 'results.json', 'results.md', 'regions.png'} <= names
    assert (folder / 'results.md').read_text() == text(rows) + '\n'
    assert len((folder / 'metrics.jsonl').read_text().splitlines()) == 2

  def test_results_have_their_fields(self, finished):
    results = json.loads((finished[1] / 'results.json').read_text())
    assert set(results) == {'recipe', 'config', 'environments', 'seconds_of_training', 'rows'}
    kinds = [(row['activation'], row['segments'], row['trained']) for row in results['rows']]
    assert kinds == [(a, k, t) for a, k in (('swish', None), ('lma', 4)) for t in (False, True)]
    for row in results['rows']:
      assert len(row['accuracy']) == 2
      if row['activation'] == 'swish':
        assert row['regions'] is row['plane'] is row['regions_per_parameter'] is None
      else:
        assert len(row['regions']) == len(row['plane']) == 2
        assert row['regions_per_parameter'] == pytest.approx(np.mean(row['regions']) / row['parameters'])
        assert min(row['regions']) >= 1

  def test_smooth_has_a_dash_for_a_number(self, finished):
    line = next(line for line in text(finished[2]).splitlines() if line.startswith('| swish'))
    assert line.count('—') == 6

  def test_gain_is_per_parameter_beyond_relu(self):
    relu = Row('relu', None, True, 3, 1, 100, [4.0, 6.0], [9, 9], [0.5, 0.5])
    lma = relu._replace(activation='lma', segments=4, parameters=108, regions=[8.0, 10.0])
    assert lma.gain(relu) == 0.5
    assert relu.gain(relu) is relu._replace(regions=None, parameters=101).gain(relu) is None
    *_, last = text([relu, relu, lma, lma]).splitlines()
    assert last == '| lma-4 | 108 | 9.0 ± 1.4 | 9.0 ± 1.4 | 8.3 | +0.50 | 9 ± 0 | 9 ± 0 | 50.0 ± 0.0 |'

  def test_sizes_are_equal_but_for_the_activation(self, finished):
    sizes = {row.activation: row.parameters for row in finished[2]}
    assert sizes['lma'] - 2 * 4 == sizes['swish'] - 3

  def test_untrained_lma_has_no_more_regions_than_relu_can(self, finished):
    rows = {row.trained: row.regions for row in finished[2] if row.activation == 'lma'}
    assert max(rows[False]) <= 1 + TINY.width  # one kink a unit
    assert np.mean(rows[True]) > np.mean(rows[False])

  def test_untrained_networks_have_statistics_and_their_first_parameters(self, finished):
    plan, _, _ = finished
    model = plan.networks.groups['lma-4'].model
    variables = recipe.untrained(plan.networks, plan.data)['lma-4']
    first = init_state(model, adjustable(sgd(0.0)), jax.random.key(1), plan.data.batches[0].inputs)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a[1], b, atol=1e-6), variables['params'], first.params)
    stats = variables['batch_stats']['stages_0']
    assert (stats['act']['weight'] > 0.4).all()
    np.testing.assert_allclose(stats['act']['std'] / stats['act']['weight'], 1, atol=0.1)  # batch norm stands before it


def test_another_run_is_no_regions_run(tmp_path):
  (tmp_path / 'config.json').write_text('{"temperature": 2.0}')
  with pytest.raises(UserError, match='not the configuration of a regions run'):
    load(Regions, tmp_path)
