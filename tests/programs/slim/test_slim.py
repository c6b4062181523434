"""The parts of slim: its originals and students, the penalty on the scales of norms, and the table."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from lmajax import compress, models
from lmajax.activations import linen
from lmajax.training import penalized, supervised
from lmajax.types import Batch
from tests.support.trees import DIGITS as INPUTS
from tests.support.trees import assert_same, random_variables
from train.engine.evaluate import member, stacked
from train.programs.slim import plot as draw_slim
from train.programs.slim import run as slim
from train.programs.slim import table as report_slim
from train.programs.slim.config import Slim
from train.programs.slim.widths import mean_spectra, share_of

MLP = Slim(width=(12, 9, 7), minimum_width=1)


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
  return {name: jax.tree.map(jnp.asarray, stacked(pair)) for name, pair in zip(plan.cohort.groups, each, strict=True)}


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
    assert {name for name, objective in of.items() if objective == 'distilled'} == {
      'relu-40-pca-distilled', 'relu-40-norm-scale-distilled'
    }  # fmt: skip
    assert set(of.values()) == {'distilled', 'supervised'}

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
