"""A whole run of datafree: what its files hold, what stands still, and that no real input is looked at."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmajax import compress, losses, training, tree
from train import build
from train.__main__ import main
from train.deploy import model_file as shipped
from train.programs.datafree import run as datafree
from train.programs.datafree import samples, students
from train.programs.datafree.config import Datafree, split
from train.programs.datafree.table import ORIGINAL, Row, of_source, text
from train.results.rows import read_rows
from train.runtime.errors import UserError


@pytest.fixture(scope='module')
def whole(whole_run):
  return whole_run('datafree')


@pytest.fixture(scope='module')
def rows(whole):
  return {row.name: row for row in read_rows(whole, 'datafree', Row)}


@pytest.mark.slow
class TestRun:
  def test_every_student_has_its_row_and_its_files(self, whole, rows):
    kept = [row for row in rows.values() if row.divergence is None]
    assert [row.source for row in kept if row.bits == 'W2A4'] == ['real', 'bns', 'slack', 'gaussian']
    assert [row.source for row in kept if row.bits == students.FLOAT] == ['real', 'bns', 'slack', 'gaussian']
    for row in kept:
      assert len(row.accuracy) == 2 and row.bytes == (whole / row.file).stat().st_size
      assert (row.calibrated is None) == (row.bits in ('', students.FLOAT))
    assert (whole / 'samples.png').stat().st_size > 5000

  def test_in_the_files_all_statistics_but_the_ranges_are_the_networks_own(self, whole):
    original = shipped.read(whole / 'models' / 'lma-4-original-seed1.safetensors').variables()
    student = shipped.read(whole / 'models' / 'lma-4-bns-W2A4-seed1.safetensors')
    stats = tree.by_path(student.stats)
    known = tree.by_path({'batch_stats': original['batch_stats']})
    ranges = {path for path in stats if path.split('/')[-1] in ('low', 'high')}
    moved = {path.replace('act/act', 'act') for path in stats if path not in ranges} - known.keys()
    assert len(ranges) == 2 and not moved
    for path, leaf in known.items():
      np.testing.assert_array_equal(stats[path.replace('/act/', '/act/act/')], leaf, path)
    kernel = np.asarray(student.variables()['params']['stages_0']['Dense_0']['kernel'])
    assert max(len(np.unique(kernel[:, i])) for i in range(kernel.shape[1])) <= 4  # 2 bits a channel

  def test_made_inputs_are_nearer_to_the_data_than_the_noise_they_start_from(self, rows):
    found = {row.source: np.asarray(row.divergence) for row in rows.values() if row.divergence is not None}
    assert (found['bns'] < found['gaussian']).all() and (found['test'] < found['rotated']).all()
    own = next(row for row in rows.values() if row.source == 'test')
    assert own.lma_divergence is not None and max(own.lma_divergence) < 0.1

  def test_without_training_data_it_runs_all_the_same(self, whole, tmp_path, monkeypatch, capsys):
    """Once the networks are trained, whatever reads a part of the data but the test set raises."""

    class Raises:
      """Examples that nobody may look at."""

      def __getattr__(self, name):
        raise AssertionError(name)

      def __len__(self):
        raise AssertionError('len')

    read, scored = build.read, build.scored

    def hidden(config):
      config, dataset = read(config)
      return config, dataset._replace(train=Raises(), validation=Raises())

    def only_at_the_end(config, dataset, examples):
      assert (tmp_path / 'run' / 'checkpoints' / 'from-nothing').exists()
      return scored(config, dataset, examples)

    monkeypatch.setattr(build, 'read', hidden)
    monkeypatch.setattr(build, 'scored', only_at_the_end)
    files = [str(whole / 'models' / f'lma-4-original-seed{i}.safetensors') for i in (0, 1)]
    small = [
      '--samples',
      '32',
      '--batch-size',
      '32',
      '--synthesis-steps',
      '2',
      '--finetune-epochs',
      '1',
      '--bits',
      'W4A4',
    ]
    other = ['--student', 'mlp', '--student-width', '4', '--student-epochs', '1', '--train-images', '200']
    given = ['--activations', 'lma', '--segments', '4', '--sources', 'bns', 'gaussian', '--seeds', '2']
    run = ['datafree', '--workdir', str(tmp_path / 'run'), *given, *small, *other, '--teacher-from', *files]
    assert main(run) == 0
    found = read_rows(tmp_path / 'run', 'datafree', Row)
    assert {row.source for row in found if row.divergence is not None} >= {'test', 'bns'}
    assert 'train' not in {row.source for row in found}
    assert (
      found[0].accuracy == next(row for row in read_rows(whole, 'datafree', Row) if row.source == ORIGINAL).accuracy
    )


@pytest.mark.slow
@pytest.mark.parametrize(
  ('name', 'changed', 'words'),
  [
    ('lma-4-bns-W2A4', {}, 'its activations are quantized; give its original'),
    ('lma-4-original', {'coupled': True}, 'its coupled is True'),
  ],
)
def test_what_is_no_original_is_refused(whole, tmp_path, capsys, name, changed, words):
  packed, stats, about = compress.unpack((whole / 'models' / f'{name}-seed0.safetensors').read_bytes())
  file = tmp_path / 'given.safetensors'
  file.write_bytes(compress.pack(packed, stats, {**about, **changed}))
  given = ['--activations', 'lma', '--segments', '4', '--sources', 'bns', '--seeds', '1', '--teacher-from', str(file)]
  assert main(['datafree', '--workdir', str(tmp_path / 'run'), *given]) == 2
  assert words in capsys.readouterr().err


@pytest.mark.parametrize('source', ['bns', 'mixed', 'class', 'squared', 'slack'])
def test_what_the_inputs_of_each_source_are_made_by(source, tmp_path):
  config = Datafree(
    width=(4,), seeds=1, samples=8, batch_size=8, activations=('relu',), train_images=100, class_weight=0.5
  )
  plan = datafree.experiment(config)
  ((kind, model),) = plan.models.items()
  draw = np.random.default_rng(0)
  x = jnp.asarray(draw.normal(size=(8, 8, 8, 1)), jnp.float32)
  variables = model.init(jax.random.key(0), x, train=False)
  classes = jnp.arange(8) % 10
  found = samples.of_source(config, source, model, classes, x, samples.statistics(source, model, variables, x))
  sites = training.norm_statistics(model, *training.parted(variables), x)
  logits, _ = model.apply(variables, x, train=False)
  logs = np.asarray(jax.nn.log_softmax(logits))
  drawn = -logs[np.arange(8), np.asarray(classes)].mean() + 0.05 * float(losses.roughness(x).mean())
  squares = [(np.asarray(a) - b) ** 2 for site in sites.values() for a, b in zip(*site, strict=True)]
  expected = {
    'bns': losses.divergence(sites),
    'mixed': losses.divergence(sites) + 0.5 * drawn,
    'class': drawn,
    'squared': sum(squares).mean(),
    'slack': 0.0,
  }
  if source == 'slack':  # of four channels at 0.9, the slack is the farthest one's: noise costs nothing
    assert float(found) == 0
  else:
    assert float(found) == pytest.approx(float(expected[source]), rel=1e-5)
  assert kind.name == 'relu-original'


def test_real_inputs_that_there_are_not_are_refused():
  with pytest.raises(UserError, match='--samples is 256: the training set has 85: leave real out'):
    datafree.experiment(Datafree(train_images=100))


def test_a_student_is_compared_with_those_of_other_sources_alone():
  def row(source, bits='W4A4', divergence=None):
    return Row(f'{source}{bits}', 'relu', None, source, bits, None, [0.5], 1, '', divergence, None)

  rows = [row(ORIGINAL, ''), row('real'), row('bns'), row('real', 'W2A2'), row('real', '', [0.1])]
  assert of_source(rows[2], rows, 'real') is rows[1]
  assert of_source(rows[1], rows, 'real') is None and of_source(rows[0], rows, 'real') is None
  assert '| relu | W4A4 | bns |' in text(rows) and '| real | 0.1 (0.1 … 0.1) |' in text(rows)


def test_bits_are_those_of_weights_and_of_activations():
  assert split('W4A2') == (4, 2)
