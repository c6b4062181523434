"""A whole run of prune: what it cuts, what its files hold, and what its streams say."""

import jax
import numpy as np
import pytest

from lmajax import compress, tree
from lmajax.compress import from_stream, kernels, to_stream
from tests.programs.prune.cases import METHODS
from tests.support.model_files import written
from tests.support.trees import assert_same
from train.__main__ import main
from train.config import TEACHER, load
from train.deploy import model_file as shipped
from train.deploy.model_file import file_name
from train.engine.evaluate import member
from train.programs.prune import plot
from train.programs.prune import run as pruning
from train.programs.prune.config import Prune
from train.programs.prune.students import Arm, arms, cut, like, zipped
from train.programs.prune.table import Row, counterpart, text
from train.results.rows import read_rows
from train.runtime.errors import UserError

KINDS = [f'{method}-{sparsity}' for method in ('lamp', 'surp') for sparsity in (50, 90)]
CUT = [f'{kind}-{how}' for how in ('one-shot', 'iterative') for kind in KINDS]
NAMES = ['dense', 'uniform-4', *CUT]
COUNT = 64 * 12 + 12 * 12 + 12 * 10


DRAW = np.random.default_rng(0)
PARAMS = {
  name: {'kernel': DRAW.normal(size=(20, 10)).astype(np.float32), 'bias': np.ones(10, np.float32)}
  for name in ('layer0', 'layer1')
}


@pytest.fixture(scope='module')
def whole(whole_run):
  return whole_run('prune')


@pytest.fixture(scope='module')
def rows(whole):
  return {row.name: row for row in read_rows(whole, 'prune', Row)}


@pytest.fixture(scope='module')
def plan(whole):
  return pruning.experiment(load(Prune, whole))


def selected(params):
  return tree.partition(params, kernels)[0]


@pytest.mark.slow
class TestRun:
  def test_every_kind_of_student_has_its_row_and_its_files(self, whole, rows):
    assert list(rows) == [TEACHER, *(f'lma-4-{name}' for name in NAMES)]
    for name, row in rows.items():
      assert len(row.accuracy) == len(row.validation_accuracy) == (1 if name == TEACHER else 2)
      assert row.bytes == (whole / row.file).stat().st_size
      assert (row.stream_accuracy is None) == (row.sparsity is None)
    assert (whole / 'accuracy.png').stat().st_size > 5000

  def test_a_file_keeps_exactly_its_share_and_all_zeros(self, whole, rows):
    for row in rows.values():
      for seed in (0, 1) if row.sparsity else ():
        packed = shipped.read(whole / file_name(row.name, seed)).packed
        kept = sum(tensor.count() for tensor in tree.by_path(selected(packed.tensors)).values())
        assert kept == round((1 - row.sparsity) * COUNT)
        zeros = sum(int((leaf == 0).sum()) for leaf in tree.by_path(selected(packed.decode())).values())
        assert zeros >= COUNT - kept

  def test_a_later_cut_keeps_a_part_of_what_an_earlier_one_kept(self, whole):
    for method in ('lamp', 'surp'):
      earlier, later = (
        tree.by_path(selected(shipped.read(whole / file_name(f'lma-4-{method}-{at}-iterative', 1)).packed.tensors))
        for at in (50, 90)
      )
      for path, tensor in later.items():
        assert not (tensor.mask() & ~earlier[path].mask()).any()

  def test_its_bytes_are_those_of_its_parts(self, whole, rows):
    row = rows['lma-4-lamp-90-one-shot']
    packed = shipped.read(whole / row.file).packed
    own = [
      array.nbytes for tensor in tree.by_path(selected(packed.tensors)).values() for array in tensor.arrays().values()
    ]
    assert row.kernel_bytes == sum(own)
    sizes = []
    for seed in (0, 1):
      decoded = selected(shipped.read(whole / file_name(row.name, seed)).packed.decode())
      sizes.append(len(to_stream(decoded, step=0.7)))
    assert row.stream_bytes == round(np.mean(sizes))

  def test_a_finished_run_is_scored_again_from_its_files(self, whole, rows, capsys):
    assert main(['evaluate', str(whole)]) == 0
    assert capsys.readouterr().out.strip().splitlines()[2:] == text([*rows.values()]).splitlines()[2:]


class TestItself:
  def test_its_network_is_the_files_once_for_every_seed(self, tmp_path):
    path = tmp_path / 'a.safetensors'
    about, variables = written(path, weights=compress.identity(), width=5)
    plan = pruning.experiment(Prune(itself=True, teacher_from=(path,), seeds=2, activations=('relu',)))
    (group,) = plan.students.groups.values()
    assert [arm.name for arm in arms(plan.config)][:2] == ['lma-8-dense', 'lma-8-uniform-2']
    assert str(shipped.model(about)) == str(group.model)
    found = pruning.themselves(plan)['lma-8'].variables()
    for seed in (0, 1):
      assert_same(member(found, seed), variables)

  @pytest.mark.parametrize(('changes', 'what'), [({'activation_bits': 8}, 'activation_bits')])
  def test_one_that_something_was_done_to_is_refused(self, tmp_path, changes, what):
    path = tmp_path / 'a.safetensors'
    written(path, **changes)
    with pytest.raises(UserError, match=f'--itself is .*a.safetensors: it has {what}; give a network that nothing'):
      pruning.experiment(Prune(itself=True, teacher_from=(path,)))

  @pytest.mark.slow
  def test_a_student_of_a_run_is_pruned(self, whole, rows, tmp_path):
    (dense,) = (row for row in rows.values() if row.method == 'dense')
    options = ['--sparsity', '.8', '--cuts', 'one-shot', '--methods', 'lamp', '--uniform-bits', '4', '--seeds', '1']
    short = ['--finetune-epochs', '2', '--train-images', '400', '--batch-size', '64']
    taught = ['--itself', '--teacher-from', str(whole / dense.file), '--workdir', str(tmp_path / 'run')]
    assert main(['prune', *options, *short, *taught]) == 0
    teacher, same, _, cut = read_rows(tmp_path / 'run', 'prune', Row)
    assert teacher.accuracy == same.accuracy == dense.accuracy[:1]
    assert cut.sparsity == 0.8 and cut.bytes < same.bytes


class TestCut:
  @pytest.mark.parametrize('method', METHODS)
  def test_keeps_exactly_its_share(self, method):
    theta, code = cut(Prune(), PARAMS, method, 0.83)
    masks = tree.by_path(code.selected)
    assert sum(int(mask.sum()) for mask in masks.values()) == 68
    for path, w in tree.by_path(theta.selected).items():
      before = tree.by_path(PARAMS)[path]
      if method == 'surp':  # the stream's value, within a step
        ratio = w[masks[path]] / before[masks[path]]
        assert (ratio >= 0.7**0.5 - 1e-6).all() and (ratio <= 0.7**-0.5 + 1e-6).all()
        assert len(np.unique(np.abs(w[masks[path]]))) < 8  # one a pass
      else:
        np.testing.assert_array_equal(w, before)
    np.testing.assert_array_equal(theta.rest['layer1']['bias'], PARAMS['layer1']['bias'])

  def test_one_that_has_diverged_stays_so(self):
    spoilt = {**PARAMS, 'layer0': {**PARAMS['layer0'], 'kernel': np.full((20, 10), np.nan, np.float32)}}
    for method in METHODS:
      theta, code = cut(Prune(), spoilt, method, 0.5)
      assert np.isnan(theta.selected['layer0']['kernel']).all()
      assert sum(int(mask.sum()) for mask in jax.tree.leaves(code.selected)) == 200

  def test_a_stream_comes_back_in_the_tree_it_came_from(self):
    given = selected(PARAMS)
    again = like(given, from_stream(to_stream(given)))
    assert tree.by_path(again).keys() == tree.by_path(given).keys()
    assert again['layer0']['bias'] is None

  def test_zipped_counts_a_bitmap_and_the_values(self):
    w = np.zeros((64, 64), np.float32)
    w[0, :32] = np.random.default_rng(0).normal(size=32)
    assert zipped({'kernel': w}, np.float16) < 64 + 64 + 40
    assert zipped({'kernel': w}, np.int8) < 32 + 64 + 40
    assert zipped({'kernel': np.zeros(8, np.float32)}, np.int8) > 0


def test_arms_begin_with_those_before_the_cut():
  names = [
    arm.name for arm in arms(Prune(activations=('relu',), sparsity=(0.5,), methods=('lamp',), uniform_bits=(4,)))
  ]
  assert names == ['relu-dense', 'relu-uniform-4', 'relu-lamp-50-one-shot', 'relu-lamp-50-iterative']


def row(method, sparsity, cut, accuracy, activation='relu', segments=None):
  name = Arm(activation, segments, method, sparsity, cut).name
  return Row(name, activation, segments, method, cut, sparsity, None, accuracy, accuracy, 1000, 'f')


def test_the_table_compares_with_relu_with_magnitude_and_with_one_cut():
  rows = [
    row('dense', None, None, [0.9, 0.92]), row('magnitude', 0.5, 'one-shot', [0.8, 0.82]),
    row('lamp', 0.5, 'one-shot', [0.85, 0.85]), row('lamp', 0.5, 'iterative', [0.88, 0.9]),
    row('lamp', 0.5, 'one-shot', [0.9, 0.9], activation='lma', segments=8),
  ]  # fmt: skip
  assert counterpart(rows[2], rows, method='magnitude') is rows[1]
  lines = [[cell.strip() for cell in line.split('|')[1:-1]] for line in text(rows).splitlines()[2:]]
  assert [line[6] for line in lines] == ['', '', '', '', '+5.00']
  assert [line[8] for line in lines] == ['', '', '+4.00', '', '']
  assert [line[10] for line in lines] == ['', '', '', '+4.00', '']


def test_the_picture_does_without_quantized_and_without_one_shot_students(tmp_path):
  rows = [row('dense', None, None, [0.9, 0.92]), row('lamp', 0.5, 'iterative', [0.88, 0.9])]
  rows[1] = rows[1]._replace(kernel_bytes=100, stream_bytes=50, stream_accuracy=[0.8, 0.9])
  plot.accuracy(tmp_path / 'a.png', rows)
  assert (tmp_path / 'a.png').stat().st_size > 5000
