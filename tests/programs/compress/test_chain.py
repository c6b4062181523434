"""The parts of compress: what each stage of the chain starts from, and the table."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from lmajax import LMA, compress, models, tree
from lmajax.activations import linen
from lmajax.training import in_stages
from tests.support.trees import assert_same, random_variables
from train import build
from train.deploy import model_file as shipped
from train.deploy import score as scoring
from train.engine.cohort import Cohort, fresh
from train.engine.evaluate import member, stacked
from train.programs.compress import plot as draw_compress
from train.programs.compress import run as chain
from train.programs.compress import table as report_compress
from train.programs.compress.config import Compress
from train.programs.slim.config import Slim
from train.programs.slim.widths import CRITERIA

MLP = Slim(width=(12, 9, 7), minimum_width=1)


TINY = Compress(width=(6, 5), rate=0.4, seeds=2, activations=('lma',), segments=(4,), train_images=200)


@pytest.fixture(scope='module')
def tiny():
  return chain.experiment(TINY)


def trained_of(plan, stage, widths, seed=0):
  """As if a stage had been trained, to weights that are drawn."""
  group = chain.group(plan, stage, widths)
  each = [random_variables(group.model, seed + i) for i in group.seeds]
  found = jax.tree.map(jnp.asarray, stacked(each))
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

    for added, names in (('prune', ['distilled', 'pruned', 'quantized', 'packed']), ('hash', ['distilled', 'hashed'])):
      third = tiny._replace(config=replace(TINY, **{added: 0.8}))
      assert [stage.name for stage in chain.stages(third)[2:]] == [f'lma-4-{name}' for name in names]

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

  def test_what_a_cut_has_left_is_quantized(self, tiny):
    plan = tiny._replace(config=replace(TINY, prune=0.8))
    _, _, distilled, pruned, quantized, _ = chain.stages(plan)
    made = {each: trained_of(plan, each, (4, 2)) for each in (chain.Stage('original'), distilled)}
    for stage in (pruned, quantized):
      own = chain.group(plan, stage, (4, 2))
      made[stage] = scoring.Trained(own, chain.start(plan, own, stage, (4, 2), made))
    found = {stage: tree.by_path(made[stage].params()) for stage in (distilled, pruned, quantized)}
    for seed in (0, 1):
      kernels = tree.partition(member(made[distilled].params(), seed), compress.kernels)[0]
      kept = tree.by_path(compress.keep(compress.lamp(kernels), 0.2))
      for path, leaf in found[distilled].items():
        mask = np.asarray(kept.get(path, True))
        np.testing.assert_array_equal(found[pruned][path][seed], np.where(mask, leaf[seed], 0))
        fewer = np.asarray(found[quantized][path][seed])
        np.testing.assert_array_equal(fewer != 0, mask & (np.asarray(leaf[seed]) != 0))
        assert path not in kept or len(np.unique(fewer)) <= 17, path
        assert path in kept or np.array_equal(fewer, leaf[seed])
    assert not np.array_equal(found[quantized]['logits/kernel'], found[pruned]['logits/kernel'])

  def test_a_hashed_network_goes_on_with_all_but_the_kernels(self, tiny):
    plan = tiny._replace(config=replace(TINY, hash=0.5))
    _, _, distilled, hashed = chain.stages(plan)
    made = {each: trained_of(plan, each, (4, 2)) for each in (chain.Stage('original'), distilled)}
    own = chain.group(plan, hashed, (4, 2))
    found = scoring.Trained(own, chain.start(plan, own, hashed, (4, 2), made))
    before, after = tree.by_path(made[distilled].params()), tree.by_path(found.params())
    assert {path for path in before if not np.array_equal(before[path], after[path])} == {
      path for path in before if path.endswith('kernel')
    }
    scales = tree.by_path(found.end.theta.selected.scales)
    for path, scale in scales.items():
      np.testing.assert_allclose(scale, np.asarray(before[path]).reshape(2, -1).std(-1), rtol=1e-5)
    assert_same(found.end.stats, made[distilled].end.stats)
    count = sum(before[path][0].size for path in scales)
    assert tree.size(found.end.theta.selected.shared) <= 2 * 0.5 * count

  def test_labels_teach_the_slimmed_and_the_original_all_that_come_after(self, tiny):
    of = {stage.name: chain.group(tiny, stage, (4, 2)).objective.__qualname__ for stage in chain.stages(tiny)}
    kinds = {name: objective.split('.')[0] for name, objective in of.items()}
    assert kinds == {
      'original': 'supervised', 'slimmed': 'supervised', 'lma-4-distilled': 'distilled', 'lma-4-quantized': 'distilled',
      'lma-4-packed': 'distilled',
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
