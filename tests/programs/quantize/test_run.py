"""A whole run of quantize, by every method: what it ships is what it scores, and killed it ends with the same bits."""

import shutil
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmajax import LMA, models, tree
from lmajax.activations import linen
from lmajax.compress import pack, unpack
from tests.programs.quantize.cases import METHODS, PHASE
from tests.support.processes import metrics
from train import build
from train.__main__ import main
from train.config import TEACHER, load
from train.data import batches
from train.deploy.model_file import file_name
from train.engine import fit
from train.engine.cohort import Cohort
from train.engine.evaluate import member
from train.programs.quantize import run as quantize
from train.programs.quantize import students as quantizers
from train.programs.quantize import table as report_quantize
from train.programs.quantize.config import Quantize
from train.programs.quantize.methods import METHODS as KNOWN
from train.results.rows import read_rows

KINDS = ['float', 'left-out', *(f'{method}-4' for method in METHODS), 'uniform-4-a8']
NAMES = [TEACHER, *(f'lma-8-w3-{kind}' for kind in KINDS)]


@pytest.fixture(scope='module')
def whole(whole_run):
  return whole_run('quantize')


@pytest.fixture(scope='module')
def rows(whole):
  return {row.name: row for row in read_rows(whole, 'quantize', report_quantize.Row)}


@pytest.fixture(scope='module')
def plan(whole):
  return quantize.experiment(load(Quantize, whole))


def seeds_of(name):
  return [0] if name == TEACHER else [0, 1]


def network(name):
  """The network behind a name, built once more."""
  if name == TEACHER:
    return models.MLP((64, 64), 10, linen.ReLU)
  act = partial(linen.Quantized, LMA, bits=8) if name.endswith('a8') else LMA
  return models.MLP((3,), 10, act)


def variables_of(path):
  content = unpack(path.read_bytes())
  return {'params': content.packed.decode(), **content.stats}


def accuracy(model, dataset, variables):
  images = batches.normalized(jnp.asarray(dataset.test.inputs), dataset.pixel_mean, dataset.pixel_std)
  logits, _ = jax.jit(lambda variables: model.apply(variables, images, train=False))(variables)
  return float(np.mean(np.asarray(logits).argmax(-1) == dataset.test.labels))


def measured(model, dataset, params):
  """The statistics of these weights over the first hundred batches, from a new network's."""
  prepare = batches.pixels(dataset.pixel_mean, dataset.pixel_std)
  training = batches.Batches(dataset.train, batch_size=64, seed=0, prepare=prepare)
  stats = model.init(jax.random.key(0), training[0].inputs, train=False)
  stats.pop('params')
  step = jax.jit(
    lambda params, stats, images: model.apply({'params': params, **stats}, images, train=True, mutable=list(stats))[1]
  )
  for i in range(100):
    stats = step(params, stats, training[i].inputs)
  return stats


assert_near = partial(jax.tree.map, partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5))


class TestScores:
  def test_every_kind_of_student_has_its_row_its_files_and_its_lines(self, whole, rows):
    assert list(rows) == NAMES
    for name, row in rows.items():
      files = [whole / file_name(name, seed) for seed in seeds_of(name)]
      assert [row.bytes] * len(files) == [file.stat().st_size for file in files]
      assert whole / row.file == files[0]
      assert len(row.accuracy) == len(row.validation_accuracy) == len(row.accuracy_as_trained) == len(files)
      assert (row.shadow_accuracy is not None) == (row.method in ('uniform', 'noise'))
      assert row.milliseconds > 0 and row.parameters > 0
    assert len(list((whole / 'models').iterdir())) == 2 * len(NAMES) - 1
    bits = {row.method: row.bits for row in rows.values()}
    assert bits['float'] == bits['left-out'] == 32 and bits['uniform'] == bits['noise'] == bits['post-training'] == 4
    assert bits['product'] == bits['product-noise'] < 1
    reported = [(line['phase'], line['step']) for line in metrics(whole)]
    codebooks = [f'lma-8-w3-{method}-4-product-{i}' for i in (1, 2) for method in ('product', 'product-noise')]
    fitted = [
      name for name in NAMES if name.removeprefix('lma-8-w3-').split('-4')[0] not in METHODS or 'uniform' in name
    ]
    fitted += ['lma-8-w3-noise-4', 'lma-8-w3-points-4', *codebooks]
    assert sorted(reported) == sorted((name, epoch * PHASE // 2) for name in fitted for epoch in (1, 2))

  @pytest.mark.parametrize('name', NAMES)
  def test_the_accuracy_is_that_of_what_lies_in_the_file(self, whole, rows, plan, name):
    files = [whole / file_name(name, seed) for seed in seeds_of(name)]
    found = [accuracy(network(name), plan.dataset, variables_of(file)) for file in files]
    assert found == rows[name].accuracy

  @pytest.mark.parametrize('name', [TEACHER, 'lma-8-w3-float', 'lma-8-w3-product-4', 'lma-8-w3-uniform-4-a8'])
  def test_the_statistics_in_a_file_are_those_of_its_weights(self, whole, plan, name):
    variables = variables_of(whole / file_name(name, 0))
    params = variables.pop('params')
    assert_near(variables, measured(network(name), plan.dataset, params))

  @pytest.mark.parametrize('kind', ['float', 'uniform-4', 'noise-4'])
  def test_a_file_holds_the_trained_weights_on_their_levels_and_other_statistics(self, whole, rows, plan, kind):
    arms = {
      arm: quantizers.reparam(plan.config, arm)
      for arm in plan.of(*(name for name, method in KNOWN.items() if method.origin is None))
    }
    groups = {arm.name: quantize.group(plan, arm, reparam) for arm, reparam in arms.items()}
    cohort = Cohort(groups, build.plan(plan.config, plan.config.epochs))
    name = f'lma-8-w3-{kind}'
    trained = jax.device_get(fit.saved(whole, 'students', cohort, plan.data)[name].end)
    one, model = jax.tree.map(jnp.asarray, member(trained, 1)), network(name)
    decoded = groups[name].reparam.stored(one.theta, one.code).decode()
    shipped = variables_of(whole / file_name(name, 1))
    jax.tree.map(np.testing.assert_array_equal, shipped['params'], decoded)
    as_trained = {'params': decoded, **one.stats}
    assert accuracy(model, plan.dataset, as_trained) == rows[name].accuracy_as_trained[1]
    apart = jax.tree.map(lambda a, b: float(abs(a - b).max()), shipped['batch_stats'], one.stats['batch_stats'])
    assert min(jax.tree.leaves(apart)) > 1e-3
    if kind != 'float':
      weights = tree.combine(*one.theta)
      shadow = {'params': weights, **measured(model, plan.dataset, weights)}
      assert accuracy(model, plan.dataset, shadow) == rows[name].shadow_accuracy[1]

  def test_the_tables_are_those_of_the_rows(self, whole, rows, capsys):
    text = report_quantize.text(list(rows.values()))
    assert (whole / 'results.md').read_text().strip() == text
    assert (whole / 'accuracy.png').stat().st_size > 5000


def flipped(path):
  content = bytearray(path.read_bytes())
  content[-1] ^= 1
  path.write_bytes(content)


def another(path):
  shutil.copy(path.with_name('teacher-seed0.safetensors'), path)


def another_seed(path):
  shutil.copy(path.with_name(path.name.replace('seed1', 'seed0')), path)


def of_another_rate(path):
  """As a run with another configuration would have written it."""
  packed, stats, about = unpack(path.read_bytes())
  path.write_bytes(pack(packed, stats, {**about, 'made_by': 64 * '0'}))


@pytest.mark.parametrize('damage', [flipped, Path.unlink, another, another_seed, of_another_rate])
def test_a_model_file_that_is_not_what_was_written_is_named(whole, tmp_path, capsys, damage):
  folder = shutil.copytree(whole, tmp_path / 'run')
  path = folder / file_name('lma-8-w3-float', 1)
  damage(path)
  assert main(['evaluate', str(folder)]) == 2
  lines = capsys.readouterr().err.splitlines()
  assert len(lines) == 1 and lines[0].startswith('error: ') and str(path) in lines[0]


def test_results_that_do_not_fit_the_configuration_are_named(whole, tmp_path, capsys):
  folder = shutil.copytree(whole, tmp_path / 'run')
  text = (folder / 'results.json').read_text()
  (folder / 'results.json').write_text(text.replace('"lma-8-w3-float"', '"lma-8-w3-flat"'))
  assert main(['evaluate', str(folder)]) == 2
  assert capsys.readouterr().err.startswith(f'error: {folder / "results.json"} has lma-8-w3-flat')
