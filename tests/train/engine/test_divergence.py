"""A student whose loss is no number is named, given up and marked; a cohort of nothing else ends the run."""

import json
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmajax import compress, models
from lmajax.activations import linen
from lmajax.training import supervised, vmapped
from tests.support.model_files import written
from tests.support.processes import train
from tests.train.engine.test_walk import SHORT, data_with
from train.deploy import model_file as shipped
from train.deploy.score import Files, Trained
from train.engine.cohort import Cohort, Group, Plan
from train.engine.evaluate import member
from train.engine.fit import fit, saved
from train.engine.optimizers import sgd
from train.engine.schedules import cosine
from train.programs.distill.table import Row, text
from train.results.rows import read_rows
from train.results.statistics import paired
from train.runtime.errors import UserError
from train.runtime.files import without_nan
from train.runtime.run import Run

MODEL = models.MLP((4,), 10, linen.ReLU)


def lost(which):
  """Cross-entropy, but infinite for the students whose first weight is as ``which`` says; its gradients are finite."""
  plain = supervised(MODEL)

  def objective(params, stats, frozen, batch, key):
    loss, kept = plain(params, stats, frozen, batch, key)
    return jnp.where(which(params['logits']['kernel'][0, 0]), jnp.inf, 0.0) + loss, kept

  return objective


def cohort(groups):
  return Cohort(groups, Plan(0.05, sgd(1e-3), cosine(2), 1))


def group(objective, seeds=(0, 1, 2)):
  return Group(MODEL, objective, seeds, vmapped)


def first_weights():
  keys = [jax.random.split(jax.random.key(seed))[0] for seed in (0, 1, 2)]
  init = jax.jit(partial(MODEL.init, train=False))
  return [float(init(key, jnp.zeros((1, 8, 8, 3)))['params']['logits']['kernel'][0, 0]) for key in keys]


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  """Two epochs of three healthy students and of three of which the one with the least first weight is lost at once."""
  folder, data = tmp_path_factory.mktemp('run'), data_with(SHORT)
  bound = sorted(first_weights())[:2]
  partly = lost(lambda weight: weight < np.mean(bound))
  students = cohort({'fine': group(supervised(MODEL)), 'partly': group(partly)})
  lines = []
  with Run(folder) as to:
    to.note = lines.append
    progress = fit(to, 'students', students, data)
  return folder, students, data, progress, lines


def gone():
  return int(np.argmin(first_weights()))


def test_it_is_named_once_with_seed_epoch_and_rate(run):
  _, _, _, _, lines = run
  expected = f'partly, seed {gone()}: its loss is not finite in epoch 1, at a learning rate of 0.05'
  assert len(lines) == 1 and lines[0].startswith(expected)


def test_the_others_go_on_as_if_it_had_never_been(run):
  _, _, _, progress, _ = run
  for i in range(3):
    of_both = [member(jax.device_get(progress[name].state.params), i) for name in ('fine', 'partly')]
    if i == gone():
      assert not any(np.isfinite(leaf).any() for leaf in jax.tree.leaves(of_both[1]))
    else:
      jax.tree.map(np.testing.assert_array_equal, *of_both)


def test_the_metrics_stay_json_with_null_for_it(run):
  folder, _, _, _, _ = run

  def refuse(constant):
    raise AssertionError(constant)

  lines = [json.loads(line, parse_constant=refuse) for line in (folder / 'metrics.jsonl').read_text().splitlines()]
  for line in lines:
    stopped = [line['phase'] == 'partly' and line['epoch'] == 2 and i == gone() for i in range(3)]
    assert [rate == 0 for rate in line['learning_rate']] == stopped
    for name in ('train_loss', 'validation_accuracy'):
      if line['phase'] == 'partly' and not (name == 'train_loss' and line['epoch'] == 2):
        assert [value is None for value in line[name]] == [i == gone() for i in range(3)]
      elif line['phase'] == 'fine':
        assert None not in line[name]


def test_it_comes_back_from_its_checkpoint(run):
  folder, students, data, progress, _ = run
  found = saved(folder, 'students', students, data)
  both = [jax.device_get(each['partly'].state.params) for each in (found, progress)]
  jax.tree.map(np.testing.assert_array_equal, *both)


def test_it_gets_no_file_and_no_score_but_the_others_do(run, tmp_path):
  _, students, data, progress, _ = run
  about = {'activation': 'relu'}
  files = Files(data, tmp_path, lambda path: shipped.opened(path.read_bytes(), path))
  written = files.written('partly', Trained(students.groups['partly'], progress['partly'].end), about)
  assert sorted(path.name for path in (tmp_path / 'models').iterdir()) == [
    f'partly-seed{i}.safetensors' for i in range(3) if i != gone()
  ]
  finite = np.isfinite(np.asarray(written.read['params']['logits']['kernel'])).all(axis=(1, 2))
  assert finite.tolist() == [i != gone() for i in range(3)]


def test_a_cohort_of_which_all_are_lost_ends_with_one_line_and_saves_nothing(tmp_path):
  students = cohort({'lost': group(lost(lambda weight: jnp.isfinite(weight)))})
  with Run(tmp_path) as to, pytest.raises(UserError, match='students: no loss is finite after epoch 1; give a smaller'):
    fit(to, 'students', students, data_with(SHORT))
  assert not list((tmp_path / 'checkpoints' / 'students').glob('[0-9]*'))


def test_a_rate_beyond_reason_ends_with_exit_code_2(tmp_path):
  options = ['--train-images', '160', '--seeds', '1', '--epochs', '1', '--activations', 'relu', '--width', '3']
  done = train('distill', '--workdir', tmp_path / 'run', *options, '--learning-rate', '1e30')
  assert done.returncode == 2
  assert done.stderr.splitlines()[-1].startswith('error: teacher: no loss is finite after epoch 1')


class TestTables:
  ROWS = (
    Row('relu', 'relu', 3, None, False, [0.5, 0.6, 0.7], 10, 40),
    Row('lma-8', 'lma', 3, 8, False, [0.6, np.nan, 0.7], 10, 40),
    Row('swish', 'swish', 3, None, False, [np.nan] * 3, 10, 40),
  )

  def test_count_the_lost_and_compare_the_others_seed_by_seed(self):
    _, _, _, lma, swish = text(self.ROWS).splitlines()
    assert '| 65.00 ± 7.07 (1 of 3 diverged) | +5.00 | ' in lma
    assert '| distilled | 3 of 3 diverged |  |  |  |' in swish
    found = paired(self.ROWS[1].accuracy, self.ROWS[0].accuracy)
    assert found.mean == pytest.approx(0.05) and found.half_width == pytest.approx(12.7062 * 0.05, rel=1e-4)

  def test_are_null_in_the_file_and_come_back(self, tmp_path):
    rows = without_nan([row._asdict() for row in self.ROWS])
    (tmp_path / 'results.json').write_text(json.dumps({'rows': rows}, allow_nan=False))
    assert rows[1]['accuracy'] == [0.6, None, 0.7]
    np.testing.assert_array_equal(read_rows(tmp_path, 'distill', Row)[1].accuracy, self.ROWS[1].accuracy)


def test_weights_that_are_no_numbers_are_not_written(tmp_path):
  path = tmp_path / 'a.safetensors'
  description, variables = written(path, weights=compress.identity())
  packed = compress.identity().stored(jax.tree.map(lambda leaf: np.full_like(leaf, np.nan), variables['params']), ())
  with pytest.raises(UserError, match=r'a.safetensors is not written: .* holds NaN or infinity'):
    shipped.write(path, packed, {}, description)
