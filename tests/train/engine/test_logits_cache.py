"""What a teacher said, kept: the files, the batches that come with it, and what is refused."""

import errno
import json
import os
import signal
from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmajax import models
from lmajax.activations import linen
from lmajax.losses import from_top_k, top_k
from lmajax.training import distilled, mixed, supervised, teach, vmapped
from train.data import Dataset, Examples, load
from train.data.batches import Batches, pixels
from train.data.corpora.buckets import TokenBatches, Tokens
from train.data.corpora.vocabulary import END, PADDING
from train.engine.cohort import Cohort, Group, Plan
from train.engine.fit import fit
from train.engine.logits_cache import FOLDER, Kept, Lesson, cached, heard, remembered
from train.engine.optimizers import sgd
from train.engine.schedules import constant
from train.engine.walk import Data, looped, stepped
from train.runtime.errors import UserError
from train.runtime.run import Run, Stopped

HALF = 2**-11  # how far float16 is from a number, in parts of it


def build_sharding(devices=8):
  mesh = jax.make_mesh((devices,), ('data',), axis_types=(jax.sharding.AxisType.Auto,), devices=jax.devices()[:devices])
  return jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec('data'))


class Counted(Batches):
  """Notes which steps were asked for, and sends a signal at one of them."""

  def __init__(self, *given, **options):
    super().__init__(*given, **options)
    self.asked, self.signal_at = [], None

  def __getitem__(self, step):
    self.asked.append(step)
    if step == self.signal_at:
      os.kill(os.getpid(), signal.SIGTERM)
    return super().__getitem__(step)


def images(*, augment, devices=1, total=100):
  draw = np.random.default_rng(0)
  examples = Examples(draw.integers(0, 256, (total, 6, 6, 3), np.uint8), draw.integers(0, 10, total).astype(np.int32))
  prepare = pixels((100.0, 120.0, 140.0), (50.0, 60.0, 70.0), augment=augment)
  return Counted(examples, batch_size=16, seed=3, prepare=prepare, sharding=build_sharding(devices))


def digits():
  dataset = load('digits', train_images=300)
  prepare = pixels(dataset.pixel_mean, dataset.pixel_std)
  return Counted(dataset.train, batch_size=32, seed=0, prepare=prepare, sharding=build_sharding(1))


def sentences():
  draw = np.random.default_rng(1)

  def side(lengths):
    return [np.array([*draw.integers(4, 23, length - 1), END], np.int32) for length in lengths]

  tokens = Tokens(side(draw.integers(1, 11, 37)), side(draw.integers(1, 11, 37)))
  return tokens, TokenBatches(tokens, batch_tokens=60, lengths=(6, 10), seed=0, sharding=build_sharding(1))


def data_of(batches, devices=1):
  return Data(batches, [], build_sharding(devices), looped)


def perceptron(batches):
  model = models.MLP((8,), 10, linen.ReLU)
  return model, jax.tree.map(lambda leaf: 3 * leaf, model.init(jax.random.key(9), batches.blank, train=False))


def keep(folder, batches, teacher, *, logits=0, epochs=2, augmented=False, devices=1, of=None):
  """The batches with what the teacher said, by way of a run's folder."""
  model, variables = teacher
  kept = Kept(logits, epochs, augmented, {'teacher': 'this'} if of is None else of)
  with Run(folder) as run:
    data = cached(run, teach(model), variables, data_of(batches, devices), kept)
  assert data.walk is stepped
  return data.batches


def log_probabilities(teacher, batch):
  model, variables = teacher
  return np.asarray(jax.nn.log_softmax(_logits(model, variables, batch.inputs)), np.float64)


@partial(jax.jit, static_argnums=0)
def _logits(model, variables, inputs):
  return model.apply(variables, inputs, train=False)[0]


def assert_half_of(said, true):
  np.testing.assert_array_less(np.abs(np.asarray(said, np.float64) - true), HALF * np.abs(true) + 1e-5)


class TestPlaces:
  @pytest.mark.parametrize('augment', [False, True])
  def test_of_images_are_their_numbers(self, augment):
    numbered = Examples(np.zeros((50, 4, 4, 1), np.uint8), np.arange(50, dtype=np.int32))
    data = Batches(numbered, batch_size=8, seed=3, prepare=pixels((0.0,), (1.0,), augment=augment))
    assert data.size == 50
    for step in (0, 5, 6, 13):
      assert data.places(step).tolist() == data[step].labels.tolist()

  def test_of_tokens_go_sentence_after_sentence(self):
    tokens, data = sentences()
    behind = np.concatenate(tokens.target)
    seen, lengths = [], set()
    for step in range(data.steps_per_epoch):
      places, labels = data.places(step), np.asarray(data[step].labels)
      assert places.shape == labels.shape
      assert np.all(labels[places < 0] == PADDING) and np.array_equal(labels[places >= 0], behind[places[places >= 0]])
      seen += places[places >= 0].tolist()
      lengths.add(labels.shape[1])
    assert sorted(seen) == list(range(data.size)) == list(range(len(behind)))
    assert lengths == {6, 10}


class TestCached:
  @pytest.mark.parametrize('logits', [0, 3])
  def test_a_batch_of_digits_comes_with_what_the_teacher_says_of_it(self, tmp_path, logits):
    batches = digits()
    teacher = perceptron(batches)
    told = keep(tmp_path, batches, teacher, logits=logits, epochs=3)
    assert (told.steps_per_epoch, told.size, told.everywhere) == (batches.steps_per_epoch, 254, batches.everywhere)
    chex.assert_trees_all_equal(told.blank, batches.blank)
    for step in range(3 * batches.steps_per_epoch):
      batch, plain = told[step], batches[step]
      chex.assert_trees_all_equal((batch.inputs, batch.labels), tuple(plain))
      true = log_probabilities(teacher, plain)
      if not logits:
        assert_half_of(batch.said, true)
      else:
        classes = np.argsort(-true, axis=-1)[:, :3]
        assert np.array_equal(batch.said.classes, classes)
        assert_half_of(batch.said.log_probabilities, np.take_along_axis(true, classes, -1))

  def test_no_example_is_asked_for_twice_and_nothing_again(self, tmp_path):
    """An epoch of 7 steps of 32 rows leaves 30 examples over, which come in later ones."""
    batches = digits()
    keep(tmp_path, batches, perceptron(batches), epochs=3)
    assert batches.asked[:7] == list(range(7)) and len(batches.asked) > 7
    known = set()
    for step in range(21):
      rows = set(batches.places(step).tolist())
      assert (step in batches.asked) == bool(rows - known)
      known |= rows
    assert batches.asked == sorted(set(batches.asked))
    again = digits()
    told = keep(tmp_path, again, perceptron(again), epochs=3)
    assert again.asked == [] and told[5].said.shape == (32, 10)

  @pytest.mark.parametrize('devices', [1, 8])
  def test_an_augmented_image_is_another_in_each_epoch(self, tmp_path, devices):
    batches = images(augment=True, devices=devices)
    teacher = perceptron(batches)
    told = keep(tmp_path, batches, teacher, epochs=2, augmented=True, devices=devices)
    assert batches.asked == list(range(12))
    of_each = {}
    for step in range(12):
      batch = told[step]
      assert_half_of(batch.said, log_probabilities(teacher, batches[step]))
      assert batch.said.sharding.shard_shape(batch.said.shape)[0] == 16 // devices
      for place, said in zip(batches.places(step), np.asarray(batch.said), strict=True):
        of_each.setdefault(place, []).append(said)
    twice = [pair for pair in of_each.values() if len(pair) == 2]
    differ = sum(not np.array_equal(*pair) for pair in twice)
    assert len(twice) > 85 and differ > len(twice) - 5  # by chance one may be cut alike twice
    files = list((tmp_path / FOLDER).iterdir())
    assert {file.name for file in files} == {'about.json', 'log-probabilities.npy'}
    assert (tmp_path / FOLDER / 'log-probabilities.npy').stat().st_size == 128 + 2 * 100 * 10 * 2  # bytes of a class

  def test_a_batch_of_sentences_comes_with_what_the_teacher_says_of_its_words(self, tmp_path):
    _, batches = sentences()
    how = {'layers': (1, 1), 'features': 8, 'units': 16, 'heads': 2, 'dropout': 0.1}
    model = models.Transformer((23, 23), linen.ReLU, **how)
    variables = jax.jit(partial(model.init, train=False))(jax.random.key(0), batches.blank)
    teacher = model, jax.tree.map(lambda leaf: 2 * leaf, variables)
    told, share, padded = keep(tmp_path, batches, teacher, logits=5), jax.jit(heard(23)), 0
    for step in range(2 * batches.steps_per_epoch):
      batch = told[step]
      words = np.asarray(batch.labels) != PADDING
      padded += int((~words).sum())
      true = log_probabilities(teacher, batch)
      taught = share(None, batch)
      assert taught.logits.shape == true.shape and taught.taps == () and np.all(np.isfinite(taught.logits))
      true = np.asarray(from_top_k(top_k(jnp.asarray(true, jnp.float32), 5), 23), np.float64)
      np.testing.assert_allclose(np.asarray(taught.logits)[words], true[words], atol=0.02)
    assert padded > 0
    for name in ('log-probabilities.npy', 'classes.npy'):
      assert (tmp_path / FOLDER / name).stat().st_size == 128 + batches.size * 5 * 2

  def test_what_is_less_than_half_precision_can_say_stays_finite(self, tmp_path):
    batches = images(augment=False)
    model, variables = perceptron(batches)
    told = keep(tmp_path, batches, (model, jax.tree.map(lambda leaf: 1e4 * leaf, variables)), epochs=1)
    assert np.isfinite(np.asarray(told[0].said)).all() and np.asarray(told[0].said).min() == np.finfo(np.float16).min

  def test_a_signal_ends_it_before_anything_counts_as_written(self, tmp_path):
    batches = images(augment=True)
    teacher = perceptron(batches)
    for name in ('whole', 'stopped'):
      (tmp_path / name).mkdir()
    whole = keep(tmp_path / 'whole', batches, teacher, augmented=True)
    batches.signal_at = 7
    with pytest.raises(Stopped):
      keep(tmp_path / 'stopped', batches, teacher, augmented=True)
    assert batches.asked == [*range(12), *range(8)]
    assert not (tmp_path / 'stopped' / FOLDER).exists()
    batches.signal_at = None
    told = keep(tmp_path / 'stopped', batches, teacher, augmented=True)
    assert [path.name for path in (tmp_path / 'stopped').iterdir() if path.name != '.lock'] == [FOLDER]
    for step in range(12):
      chex.assert_trees_all_equal(told[step], whole[step])

  def test_a_full_disk_ends_in_one_line(self, tmp_path, monkeypatch):
    def full(*_):
      raise OSError(errno.ENOSPC, 'No space left on device')

    batches = images(augment=False)
    monkeypatch.setattr(os, 'posix_fallocate', full)
    with pytest.raises(
      UserError, match=r'cannot write \S+: No space left on device \(make room there, then --resume\)'
    ):
      keep(tmp_path, batches, perceptron(batches))
    assert [path.name for path in tmp_path.iterdir()] == ['.lock']


@pytest.mark.parametrize('augment', [False, True])
def test_a_lesson_is_remembered_with_a_row_for_each_epoch_of_augmented_images(tmp_path, augment):
  batches = images(augment=augment)
  model, variables = perceptron(batches)
  examples = Examples(np.zeros((100, 6, 6, 3), np.uint8), np.zeros(100, np.int32))
  dataset = Dataset('drawn', examples, examples, examples, 10, (100.0,), (50.0,), augment)
  live = Lesson(data_of(batches), teach(model), variables)
  with Run(tmp_path) as run:
    assert remembered(run, live, dataset, None, 3) is live and batches.asked == []
    found = remembered(run, live, dataset, 2, 3, folder='its-logits')
  assert found.teacher is None and found.data.validation is live.data.validation
  assert np.load(tmp_path / 'its-logits' / 'classes.npy').shape == (300 if augment else 100, 2)
  said = found.share(None, found.data.batches[0]).logits
  true = from_top_k(top_k(live.share(variables, batches[0]).logits, 2), 10)
  np.testing.assert_allclose(np.exp(said), np.exp(true), atol=2e-3)


def damage(path):
  content = bytearray(path.read_bytes())
  content[-7] ^= 1
  path.write_bytes(content)


DAMAGES = {
  'a changed bit': (lambda folder: damage(folder / 'classes.npy'), 'classes.npy is damaged: delete'),
  'half of a file': (lambda folder: os.truncate(folder / 'log-probabilities.npy', 900), 'log-probabilities.npy is dam'),
  'a lost file': (lambda folder: (folder / 'classes.npy').unlink(), 'is damaged'),
  'a lost description': (lambda folder: (folder / 'about.json').unlink(), 'is damaged'),
  'half of it': (lambda folder: os.truncate(folder / 'about.json', 30), 'is damaged'),
  'another one': (lambda folder: (folder / 'about.json').write_text('[1]'), 'is damaged'),
  'an empty one': (lambda folder: (folder / 'about.json').write_text('{"of": {}, "files": {}}'), 'is damaged'),
}


class TestRefusals:
  @pytest.mark.parametrize('what', DAMAGES)
  def test_what_is_damaged(self, tmp_path, what):
    batches, (harm, words) = images(augment=False), DAMAGES[what]
    keep(tmp_path, batches, perceptron(batches), logits=2)
    harm(tmp_path / FOLDER)
    with pytest.raises(UserError) as caught:
      keep(tmp_path, batches, perceptron(batches), logits=2)
    line = str(caught.value)
    assert '\n' not in line and words in line and str(tmp_path / FOLDER) in line
    assert 'delete' in line and line.endswith('then --resume')

  @pytest.mark.parametrize(
    'changes, named', [({'of': {'teacher': 'that'}}, 'teacher'), ({'logits': 3}, 'logits'), ({'epochs': 3}, 'epochs')]
  )
  def test_what_is_of_another_run(self, tmp_path, changes, named):
    batches = images(augment=False)
    keep(tmp_path, batches, perceptron(batches), logits=2)
    with pytest.raises(
      UserError, match=f'{FOLDER} is of another run, which differs in: {named}; delete it, then --res'
    ):
      keep(tmp_path, batches, perceptron(batches), **{'logits': 2, **changes})


def cohort(teacher, share):
  soft, hard = models.MLP((4,), 10, linen.PReLU), models.MLP((5,), 10, linen.ReLU)
  groups = {
    'soft': Group(soft, distilled(soft, mixed(temperature=2.0, soft_weight=0.9)), (0, 1), vmapped),
    'hard': Group(hard, supervised(hard), (0,), vmapped),
  }
  return Cohort(groups, Plan(0.05, sgd(1e-3), constant(2), 1), share)


def losses_of(folder):
  lines = [json.loads(line) for line in (folder / 'metrics.jsonl').read_text().splitlines()]
  return {(line['phase'], line['step']): line['train_loss'] for line in lines}


def test_training_on_what_was_said_follows_training_under_the_teacher(tmp_path):
  batches = images(augment=True)
  teacher, variables = perceptron(batches)
  validation = [(batches[0], jnp.ones(16, bool))]
  live = data_of(batches)._replace(validation=validation, walk=stepped)
  for name in ('live', 'told'):
    (tmp_path / name).mkdir()
  with Run(tmp_path / 'live') as run:
    expected = fit(run, 'students', cohort(teacher, teach(teacher)), live, variables)
  with Run(tmp_path / 'told') as run:
    told = cached(run, teach(teacher), variables, live, Kept(10, 2, True, {}))
    found = fit(run, 'students', cohort(teacher, heard(10)), told)
  ours, theirs = losses_of(tmp_path / 'told'), losses_of(tmp_path / 'live')
  assert ours.keys() == theirs.keys() and len(ours) == 4
  for key, loss in theirs.items():
    np.testing.assert_allclose(ours[key], loss, rtol=1e-3)
  for name in expected:
    chex.assert_trees_all_close(found[name].state.params, expected[name].state.params, atol=2e-3)
  chex.assert_trees_all_equal(found['hard'].state.params, expected['hard'].state.params)
