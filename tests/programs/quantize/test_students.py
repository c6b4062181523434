"""The parts of quantized students: who starts from whom, what is scored, and what the table says."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmajax import LMA, compress, models, tree
from lmajax.activations import linen
from lmajax.compress import unpack
from lmajax.training import Checkpoints, Start, digests, unrolled, vmapped
from lmajax.types import Batch
from tests.programs.quantize.cases import ALL, METHODS
from train.build import described
from train.config import TEACHER
from train.deploy import model_file as shipped
from train.deploy import score as scoring
from train.deploy.model_file import file_name
from train.engine import evaluate, schedules
from train.engine.cohort import Cohort, Group, Plan, fresh
from train.engine.evaluate import stacked
from train.engine.fit import fit, folder_of
from train.engine.optimizers import sgd
from train.programs.quantize import run as quantize
from train.programs.quantize import students as quantizers
from train.programs.quantize import table as report_quantize
from train.programs.quantize.config import soft_targets
from train.programs.quantize.methods import FLOAT, LEFT_OUT
from train.programs.quantize.methods import METHODS as KNOWN
from train.programs.quantize.table import Row, base_of, counterpart, relu_of
from train.results.rows import read_rows
from train.runtime.errors import UserError
from train.runtime.run import Run

GRIDS = [{}, {'temperature': (1.0, 3.0)}, {'soft_weight': (0.2, 0.5)}]
GRIDS.append({**GRIDS[1], **GRIDS[2]})


class TestOptions:
  @pytest.mark.parametrize('bits', [1, 2, 3, 4, 5, 8, 32])
  def test_every_number_of_bits_has_soft_targets(self, bits):
    temperature, soft_weight = soft_targets(bits)
    assert temperature > 0 and 0 <= soft_weight <= 1


class TestArms:
  def test_a_method_without_a_size_has_one_for_each_activation(self, monkeypatch):
    monkeypatch.setitem(KNOWN, 'ternary', KNOWN['uniform']._replace(size=None, trained_at_bits=False))
    arms = quantizers.arms(replace(ALL, methods=('ternary',), activation_bits=None))
    assert [arm.name for arm in arms if arm.method == 'ternary'] == ['relu-w3-ternary', 'lma-8-w3-ternary']

  @pytest.mark.parametrize('grid', GRIDS, ids=lambda grid: ' '.join(grid) or 'chosen')
  def test_each_is_named_once_and_starts_from_one_of_them(self, grid):
    arms = list(quantizers.arms(replace(ALL, **grid)))
    several = 2 ** len(grid)
    # float and left out, four methods of bits and the activations', two of codebooks; ReLU and LMA
    assert len(arms) == several * 2 * (2 + 5 * 2 + 2 * 2)
    assert len({arm.name for arm in arms}) == len(arms)
    begun = [arm for arm in arms if KNOWN[arm.method].origin]
    assert {arm.method for arm in begun} == {'post-training', 'points', 'product', 'product-noise'}
    for arm in begun:
      assert arm.origin in arms
      assert arm.origin.method == (LEFT_OUT if arm.method == 'product-noise' else FLOAT)
      assert arm.origin.student == arm.student

  def test_what_is_trained_at_bits_has_their_soft_targets_and_all_else_those_of_float(self):
    for arm in quantizers.arms(ALL):
      at_bits = arm.method in ('uniform', 'noise', 'points')
      assert (arm.temperature, arm.soft_weight) == soft_targets(arm.size if at_bits else 32)

  @pytest.mark.parametrize('grid', GRIDS, ids=lambda grid: ' '.join(grid) or 'chosen')
  def test_weights_that_are_quantized_only_afterwards_had_the_soft_targets_of_their_training(self, grid):
    for arm in quantizers.arms(replace(ALL, **grid)):
      if arm.method == 'post-training':
        assert (arm.temperature, arm.soft_weight) == (arm.origin.temperature, arm.origin.soft_weight)

  def test_the_names_say_what_it_is(self):
    names = [arm.name for arm in quantizers.arms(replace(ALL, activations=('lma',), bits=(4,), centroids=(16,)))]
    assert names == [
      'lma-8-w3-float', 'lma-8-w3-left-out', 'lma-8-w3-post-training-4', 'lma-8-w3-uniform-4', 'lma-8-w3-noise-4',
      'lma-8-w3-points-4', 'lma-8-w3-product-16', 'lma-8-w3-product-noise-16', 'lma-8-w3-uniform-4-a8',
    ]  # fmt: skip
    grid = replace(ALL, temperature=(3.0,), soft_weight=(0.5,), methods=('uniform',))
    assert all(arm.name.endswith('-t3-s0.5') for arm in quantizers.arms(grid))


class TestLayers:
  def test_go_from_the_input_to_the_output(self):
    kernel = {'kernel': np.zeros((2, 2)), 'bias': np.zeros(2)}
    params = {name: {'Dense_0': kernel} for name in ('stages_10', 'stages_2')} | {'logits': kernel, 'first': kernel}
    names = ('first/kernel', 'stages_2/Dense_0/kernel', 'stages_10/Dense_0/kernel', 'logits/kernel')
    assert quantizers.layers(params) == names

  def test_of_a_wide_residual_network_begin_with_its_first_convolution(self):
    model = models.WideResNet(10, 1, 10, linen.ReLU)
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)), train=False))
    found = quantizers.layers(shapes['params'])
    assert (found[0], found[-1], len(found)) == ('first/kernel', 'last/logits/kernel', 10)


def test_norms_are_means_over_the_seeds():
  rng = np.random.default_rng(0)
  gradients = {'a': {'kernel': rng.normal(size=(3, 4, 5)), 'bias': None}, 'b': rng.normal(size=(3, 2))}
  slow = {
    path: np.mean([np.linalg.norm(each.ravel()) for each in leaf])
    for path, leaf in (('a/kernel', gradients['a']['kernel']), ('b', gradients['b']))
  }
  assert quantizers.norms(gradients) == pytest.approx(slow)


MODEL = models.MLP((3,), 10, LMA)
IMAGES = np.random.default_rng(1).normal(size=(5, 16, 4, 4, 1)).astype(np.float32)
BATCHES = [Batch(jnp.asarray(images), jnp.zeros(16, jnp.int32)) for images in IMAGES]


def variables(seed=0):
  return dict(MODEL.init(jax.random.key(seed), BATCHES[0].inputs, train=False))


@pytest.mark.parametrize('method', [FLOAT, LEFT_OUT, *METHODS])
def test_what_is_stored_decodes_to_what_is_applied(method):
  arm = next(arm for arm in quantizers.arms(ALL) if arm.method == method)
  params = variables()['params']
  layers = quantizers.layers(params)
  shares = dict.fromkeys(layers, 5)
  reparam = quantizers.reparam(ALL, arm, layers=layers, shares=shares)
  theta, code = reparam.init(params, jax.random.key(1))
  applied = reparam.apply(theta, code, None)
  decoded = reparam.stored(theta, code).decode()
  jax.tree.map(partial(np.testing.assert_allclose, atol=1e-6), decoded, applied)
  changed = tree.map_with_path(lambda path, a, b: path if bool((a != b).any()) else None, applied, params)
  assert set(jax.tree.leaves(changed)) == (set() if method in (FLOAT, LEFT_OUT) else set(layers))


@pytest.mark.parametrize('over', [vmapped, unrolled])
def test_statistics_are_measured_anew_and_parameters_stay(over):
  group = Group(MODEL, lambda *_: None, (0, 1), over)
  members = [variables(seed) for seed in (0, 1)]
  worn = [jax.tree.map(lambda leaf: leaf + 7.0, {k: v for k, v in each.items() if k != 'params'}) for each in members]
  given = stacked([{**each, **stats} for each, stats in zip(members, worn, strict=True)])
  found = evaluate.measured_again({'': group})({'': given}, iter(BATCHES))['']
  jax.tree.map(np.testing.assert_array_equal, found['params'], given['params'])
  for i, each in enumerate(members):
    for batch in BATCHES:
      _, moved = MODEL.apply(each, batch.inputs, train=True, mutable=[name for name in each if name != 'params'])
      each = {**each, **moved}
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), evaluate.member(found, i), each)


def test_the_shadow_is_what_is_trained_and_the_params_what_is_shipped():
  reparam = compress.masked(compress.uniform(2))
  members = [variables(seed)['params'] for seed in (0, 1)]
  starts = [reparam.init(params, jax.random.key(0)) for params in members]
  end = Start(stacked([theta for theta, _ in starts]), stacked([code for _, code in starts]), {})
  trained = scoring.Trained(Group(MODEL, lambda *_: None, (0, 1), vmapped, reparam), end)
  jax.tree.map(np.testing.assert_array_equal, trained.shadow(), stacked(members))
  params = trained.params()
  for i, (theta, code) in enumerate(starts):
    slow = reparam.stored(theta, code).decode()
    jax.tree.map(partial(np.testing.assert_allclose, atol=1e-6), evaluate.member(params, i), slow)
  assert len(np.unique(params['logits']['kernel'][0])) == 4
  assert not np.allclose(trained.shadow()['logits']['kernel'], params['logits']['kernel'], atol=1e-2)


SMALL = replace(ALL, activations=('lma',), bits=(2,), methods=('uniform',), activation_bits=None)


@pytest.fixture(scope='module')
def plan():
  return quantize.experiment(SMALL)


def test_what_is_scored_is_read_back_from_the_file(plan, tmp_path, monkeypatch):
  """A file that is altered after it was written has its own accuracy, and not that of the weights in memory."""
  written = shipped.write

  def altered(path, packed, stats, about, **options):
    other = jax.tree.map(lambda leaf: -np.asarray(leaf), packed.decode())
    return written(path, compress.identity().stored(other, ()), stats, about, **options)

  arm = next(arm for arm in plan.models if arm.method == 'uniform')
  group = quantize.group(plan, arm, quantizers.reparam(SMALL, arm))
  end = fresh(Cohort({'': group}, plan.teacher.plan), jnp.zeros((1, 8, 8, 1)))[''].end
  monkeypatch.setattr(scoring, 'MEASURING', 3)
  monkeypatch.setattr(scoring, '_TIMED', 1)
  scorer = scoring.Scoring(plan.data, plan.test, tmp_path)
  honest = quantize.student_row(plan, scorer, arm, scoring.Trained(group, end))
  monkeypatch.setattr(shipped, 'write', altered)
  row = quantize.student_row(plan, scorer, arm, scoring.Trained(group, end))
  files = [tmp_path / file_name(arm.name, seed) for seed in (0, 1)]
  about = described(SMALL, arm.student, plan.dataset)
  assert row.accuracy == scorer.again(arm.name, group, about, row.accuracy)
  assert row.accuracy != honest.accuracy and row.validation_accuracy != honest.validation_accuracy
  assert row.accuracy_as_trained == honest.accuracy_as_trained
  assert row.bytes == files[0].stat().st_size == len(files[0].read_bytes()) != honest.bytes
  content = unpack(files[0].read_bytes())
  assert content.config['width'] == [3]
  assert np.all(content.stats['batch_stats']['stages_0']['norm']['mean'])  # new ones are zeros


def test_every_layer_has_a_fit_of_its_codebooks():
  asked = replace(SMALL, methods=('product', 'points'), epochs=5, teacher_epochs=7, finetune_epochs=2)
  assert quantize.cohort_epochs(quantize.experiment(asked)) == [7, 5, 2, 2, 2]
  assert quantize.cohort_epochs(quantize.experiment(SMALL)) == [60, 60]


def test_a_fit_goes_on_with_the_codes_that_were_saved(plan, tmp_path):
  """Neither with those of its start nor with those of new weights."""
  product = compress.masked(compress.product_codebook(4, 4))
  group = Group(MODEL, lambda *_: None, (0, 1), vmapped, product)
  cohort = Cohort({'': group}, Plan(0.1, sgd(0.0), schedules.cosine(1), 1))
  begun = fresh(cohort, jnp.zeros((1, 8, 8, 1)))
  moved = begun['']._replace(code=jax.tree.map(lambda leaf: leaf + 1, begun[''].code))
  checkpoints = Checkpoints(folder_of(tmp_path, 'product-1'))
  checkpoints.save(17, {'': moved}, history={'errors': [{'': [0.5, 0.5]}]}, score=0.5)
  checkpoints.close()
  with Run(tmp_path) as to:
    found = fit(to, 'product-1', cohort, plan.data, starts={'': begun[''].end})
  assert digests(found) == digests({'': moved})


def row(name, method, size=None, accuracy=(0.5, 0.6), **changes):
  numbers = {'validation_accuracy': [0.5, 0.6], 'accuracy_as_trained': [0.4, 0.5], 'bits': 32.0, 'bytes': 2000}
  rest = {'shadow_accuracy': None, 'parameters': 10, 'milliseconds': 0.001, 'temperature': 2.0, 'soft_weight': 0.5}
  kind = {'activation': 'relu', 'width': 3, 'segments': None, 'activation_bits': None}
  given = {**kind, **numbers, **rest, 'file': f'models/{name}-seed0.safetensors', **changes}
  return Row(name=name, method=method, size=size, accuracy=list(accuracy), **given)


LMA_8 = {'activation': 'lma', 'segments': 8}
ROWS = {
  each.name: each
  for each in [
    row(TEACHER, 'float', accuracy=[0.9], width=64, temperature=None, soft_weight=None, bytes=40_000),
    row('relu', 'float'),
    row('relu wide', 'float', width=64),
    row('relu u4', 'uniform', 4, (0.4, 0.45), bits=4.0, bytes=500),
    row('lma', 'float', None, (0.7, 0.72), **LMA_8),
    row('lma left-out', 'left-out', **LMA_8),
    row('lma pt4', 'post-training', 4, **LMA_8),
    row('lma u4', 'uniform', 4, (0.6, 0.7), bits=4.0, bytes=400, shadow_accuracy=[0.3, 0.3], **LMA_8),
    row('lma u2', 'uniform', 2, **LMA_8),
    row('lma u4 a8', 'uniform', 4, **{**LMA_8, 'activation_bits': 8}),
    row('lma n4', 'noise', 4, **LMA_8),
    row('lma p4', 'points', 4, **LMA_8),
    row('lma pq', 'product', 16, **LMA_8),
    row('lma pqn', 'product-noise', 16, **LMA_8),
    row('lma pqn 4', 'product-noise', 4, **LMA_8),
  ]
}
BASES = {
  TEACHER: None, 'relu': None, 'relu wide': None, 'relu u4': 'relu', 'lma': None, 'lma left-out': 'lma',
  'lma pt4': 'lma', 'lma u4': 'lma pt4', 'lma u2': 'lma', 'lma u4 a8': 'lma u4', 'lma n4': 'lma u4',
  'lma p4': 'lma u4', 'lma pq': 'lma', 'lma pqn': 'lma pq', 'lma pqn 4': 'lma',
}  # fmt: skip


class TestTable:
  def test_each_method_is_compared_with_the_one_before_it(self):
    found = {name: base_of(each, list(ROWS.values())) for name, each in ROWS.items()}
    assert {name: base and base.name for name, base in found.items()} == BASES
    lines = report_quantize.comparisons(list(ROWS.values())).splitlines()[2:]
    assert [tuple(line.split(' | ')[:2]) for line in lines] == [(f'| {a}', b) for a, b in BASES.items() if b]
    assert lines[0].startswith('| relu u4 | relu | -12.50 | ')

  def test_each_loss_is_compared_with_kd_of_the_same_weights(self):
    other = [ROWS[name]._replace(name=f'{name} jsd', loss='jsd') for name in ('lma', 'lma u2')]
    lines = report_quantize.comparisons([*ROWS.values(), *other]).splitlines()[2:]
    found = [
      tuple(line.removeprefix('| ').split(' | ')[:2]) for line in lines if line.startswith('| lma') and 'jsd' in line
    ]
    assert found == [('lma jsd', 'lma'), ('lma u2 jsd', 'lma jsd'), ('lma u2 jsd', 'lma u2')]

  def test_the_relu_student_has_the_same_method_and_size(self):
    assert relu_of(ROWS['lma u4'], list(ROWS.values())) == ROWS['relu u4']
    assert relu_of(ROWS['lma'], list(ROWS.values())) == ROWS['relu']
    assert relu_of(ROWS['relu u4'], list(ROWS.values())) is relu_of(ROWS['lma u2'], list(ROWS.values())) is None

  def test_in_a_grid_the_counterpart_has_the_same_soft_targets(self):
    warm = [each._replace(name=f'{each.name} warm', temperature=4.0) for each in list(ROWS.values())]
    assert counterpart(warm[7], [*list(ROWS.values()), *warm], activation='relu', segments=None).name == 'relu u4 warm'
    assert counterpart(warm[7], list(ROWS.values()), activation='relu', segments=None).name == 'relu u4'
    others = [
      ROWS['relu u4']._replace(soft_weight=0.7),
      ROWS['relu u4']._replace(name='as warm', temperature=4.0, soft_weight=0.9),
    ]
    assert counterpart(warm[7], others, activation='relu', segments=None).name == 'as warm'

  def test_a_line_says_sizes_differences_and_both_other_accuracies(self):
    lines = dict(zip(ROWS, report_quantize.table(list(ROWS.values())).splitlines()[2:], strict=True))
    spread, interval = '65.00 ± 7.07', '-9.27 … +54.27'
    assert lines['lma u4'] == (
      f'| lma-8, width 3 | uniform 4 | 32 | 4 | 400 | 5.0 | {spread} | +22.50 | {interval} | 45.00 ± 7.07'
      ' | 30.00 ± 0.00 | 1.00 |'
    )
    assert lines[TEACHER].startswith('| teacher | float | 32 | 32 | 40,000 |  | 90.00 |')
    assert '| 8 |' in lines['lma u4 a8']

  @pytest.mark.parametrize(
    'text, said',
    [
      ('{}', 'missing required field `rows`'),
      ('{"rows": [{"name": "lma"}]}', 'a row lacks activation, which those of a quantize run have'),
      ('[]', 'expected `object`'),
    ],
  )
  def test_results_of_another_command_are_refused(self, tmp_path, text, said):
    (tmp_path / 'results.json').write_text(text)
    with pytest.raises(UserError, match=f'results.json: .*{said}'):
      read_rows(tmp_path, 'quantize', Row)


def test_a_run_that_is_not_finished_is_no_table(tmp_path):
  (tmp_path / 'config.json').write_text('{}')
  with pytest.raises(UserError, match='not finished: quantize --resume --workdir'):
    read_rows(tmp_path, 'quantize', Row)
