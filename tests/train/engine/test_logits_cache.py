"""What a teacher said, kept: the likeliest classes and the rest of the mass, the files, the batches, whole runs."""

import dataclasses
import errno
import filecmp
import json
import os
import re
import shutil
import signal
from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmajax import losses, models
from lmajax.activations import linen
from lmajax.losses import TopK, from_top_k, top_k
from lmajax.training import distill, mixed, supervised, teach, vmapped
from tests import oracles
from tests.support.processes import train
from tests.support.runs import assert_same_run, refused, whole_run
from train.__main__ import main
from train.data import Examples, load
from train.data.batches import Batches, pixels
from train.data.corpora.buckets import TokenBatches, Tokens
from train.data.corpora.vocabulary import END, PADDING
from train.engine.cohort import Cohort, Group, Plan
from train.engine.fit import fit
from train.engine.logits_cache import FOLDER, Kept, cached, heard
from train.engine.optimizers import sgd
from train.engine.schedules import constant
from train.engine.walk import Data, looped, stepped
from train.programs.distill import run as recipe
from train.programs.distill.config import Distill
from train.programs.distill_text import run as recipe_text
from train.programs.distill_text.config import DistillText
from train.runtime.errors import UserError
from train.runtime.run import Run, Stopped

HALF = 2**-11  # how far float16 is from a number, in parts of it
LOGITS = (3 * np.random.default_rng(0).normal(size=(2, 3, 7))).astype(np.float32)


def each(oracle, *arrays):
  """An oracle of one example over the leading axes."""
  shape = arrays[0].shape[:-1]
  return [oracle(*(array[at] for array in arrays)) for at in np.ndindex(*shape)], shape


class TestTopK:
  @pytest.mark.parametrize('k', [1, 3, 7])
  def test_equals_its_oracle_and_goes_back_as_its_oracle(self, k):
    found, shape = each(lambda row: oracles.top_k(row, k), LOGITS)
    top = jax.jit(top_k, static_argnums=1)(jnp.asarray(LOGITS), k)
    chex.assert_shape(top, (*shape, k))
    assert top.log_probabilities.dtype == jnp.float32
    np.testing.assert_allclose(top.log_probabilities.reshape(-1, k), [row[0] for row in found], rtol=1e-5, atol=1e-6)
    assert top.classes.reshape(-1, k).tolist() == [row[1] for row in found]
    back = jax.jit(from_top_k, static_argnums=1)(top, 7)
    assert (back.shape, back.dtype) == (LOGITS.shape, jnp.float32)
    slow = [oracles.from_top_k(row, 7) for row in found]
    np.testing.assert_allclose(back.reshape(-1, 7), slow, rtol=1e-4, atol=1e-5)

  def test_of_equal_classes_the_first_are_taken(self):
    assert top_k(jnp.array([1.0, 2.0, 2.0, 1.0]), 3).classes.tolist() == [1, 2, 0]

  @pytest.mark.parametrize('k', [1, 4])
  def test_no_mass_is_lost_and_the_others_share_what_is_left(self, k):
    back = np.exp(np.asarray(from_top_k(top_k(jnp.asarray(LOGITS), k), 7), np.float64))
    np.testing.assert_allclose(back.sum(-1), 1, rtol=1e-5)
    true = np.exp(LOGITS) / np.exp(LOGITS).sum(-1, keepdims=True)
    order = np.argsort(-true, axis=-1)
    others = np.take_along_axis(back, order[..., k:], -1)
    left = np.take_along_axis(true, order[..., k:], -1).sum(-1, keepdims=True)
    np.testing.assert_allclose(others, np.broadcast_to(left / (7 - k), others.shape), rtol=1e-4)

  def test_a_smoothed_teacher_comes_back_as_it_was(self):
    """64 of 6,000 classes hold but a part of it; to keep that part alone would teach other targets."""
    draw = np.random.default_rng(1)
    sharp = np.zeros((4, 6000))
    for row in sharp:
      row[draw.choice(6000, 50, replace=False)] = draw.dirichlet(np.ones(50))
    logits = np.log(0.8 * sharp + 0.2 / 6000).astype(np.float32)
    top = top_k(jnp.asarray(logits), 64)
    assert np.all(np.exp(top.log_probabilities).sum(-1) < 0.81)
    np.testing.assert_allclose(from_top_k(top, 6000), logits, rtol=1e-4)
    halved = top._replace(log_probabilities=top.log_probabilities.astype(jnp.float16))
    np.testing.assert_allclose(from_top_k(halved, 6000), logits, rtol=1e-3)

  def test_of_all_classes_nothing_is_lost(self):
    np.testing.assert_allclose(
      from_top_k(top_k(jnp.asarray(LOGITS), 7), 7), jax.nn.log_softmax(LOGITS), rtol=1e-6, atol=1e-6
    )

  def test_a_sure_teacher_leaves_the_spacing_of_floats_at_1(self):
    back = from_top_k(top_k(jnp.array([90.0, 0.0, -5.0]), 1), 3)
    np.testing.assert_allclose(back, [0, *[np.log(np.finfo(np.float32).eps / 2)] * 2], atol=1e-6)

  def test_what_rounding_leaves_too_much_of_exceeds_no_known_class(self):
    known = np.log([0.9, 0.09, 1e-6]).astype(np.float32)
    less = TopK(jnp.asarray(known), jnp.array([3, 0, 2]))  # a hundredth is left: were it true, 2 would not be known
    np.testing.assert_allclose(from_top_k(less, 5), [known[1], known[2], known[2], known[0], known[2]])
    more = TopK(jnp.asarray(known + 0.1), jnp.array([3, 0, 2]))
    assert np.all(np.isfinite(from_top_k(more, 5))) and from_top_k(more, 5)[1] <= known[2] + 0.1

  @pytest.mark.parametrize('k, temperature', [(7, 1.0), (7, 3.0), (3, 1.0)])
  def test_half_precision_moves_a_loss_by_little(self, k, temperature):
    top = top_k(jnp.asarray(LOGITS), k)
    halved = top._replace(log_probabilities=top.log_probabilities.astype(jnp.float16))
    apart = np.abs(np.asarray(halved.log_probabilities, np.float64) - top.log_probabilities)
    assert np.all(apart <= HALF * np.abs(top.log_probabilities) + 2**-25) and apart.max() > 0
    loss = partial(losses.soft_targets, jnp.asarray(LOGITS[..., ::-1]), temperature=temperature)
    np.testing.assert_allclose(loss(from_top_k(halved, 7)), loss(from_top_k(top, 7)), rtol=3e-3)

  def test_no_gradient_reaches_the_teacher_and_the_students_is_that_of_the_spread_targets(self):
    student = jnp.asarray(LOGITS[..., ::-1])

    def loss(student, known, classes):
      return losses.soft_targets(student, from_top_k(TopK(known, classes), 7)).sum()

    of_student, of_known = jax.jit(jax.grad(loss, (0, 1)))(student, *top_k(jnp.asarray(LOGITS), 2))
    assert not of_known.any()
    rows, _ = each(lambda row: oracles.from_top_k(oracles.top_k(row, 2), 7), LOGITS)
    expected = jax.nn.softmax(student) - np.exp(np.array(rows)).reshape(LOGITS.shape)
    np.testing.assert_allclose(of_student, expected, rtol=1e-4, atol=1e-5)

  def test_spread_over_devices_each_keeps_its_rows(self):
    top = top_k(jnp.asarray(np.random.default_rng(2).normal(size=(8, 3, 50)), jnp.float32), 4)
    alone, program = from_top_k(top, 50), jax.jit(partial(from_top_k, num_classes=50))
    there = jax.device_put(top, build_sharding())
    np.testing.assert_allclose(program(there), alone, rtol=1e-6)
    assert not re.search('all-gather|all-reduce|all-to-all|permute', program.lower(there).compile().as_text())

  @pytest.mark.parametrize('k', [0, 8])
  def test_k_out_of_range(self, k):
    with pytest.raises(ValueError, match=f'the {k} likeliest of 7 classes: give from 1 to 7'):
      top_k(jnp.asarray(LOGITS), k)

  def test_more_known_classes_than_classes(self):
    with pytest.raises(ValueError, match='3 known classes of 2'):
      from_top_k(top_k(jnp.asarray(LOGITS), 3), 2)


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

  def test_a_run_of_distill_knows_its_teacher_its_data_and_its_batches(self, tmp_path):
    config = Distill(activations=('relu',), width=(3,), seeds=1, epochs=1, train_images=200, cached_logits=2)
    plans = {change: recipe.experiment(dataclasses.replace(config, **{change: value})) for change, value in CHANGES}
    plan = plans['seeds']
    blank = plan.data.batches.blank
    first, other = (plan.teacher.groups['teacher'].model.init(jax.random.key(i), blank, train=False) for i in (0, 1))

    def named(plan, teacher):
      with pytest.raises(UserError) as caught, Run(tmp_path) as run:
        recipe.under(plan, run, teacher)
      return re.search('differs in: (.*);', str(caught.value)).group(1)

    with Run(tmp_path) as run:
      recipe.under(plan, run, first)
      students, data, shared = recipe.under(plan, run, first)
    assert shared is None and data.batches[0].said.classes.shape == (64, 2)
    assert students.groups is plan.students.groups
    assert named(plan, other) == 'teacher'
    assert named(plans['cached_logits'], first) == 'logits'
    assert named(plans['train_images'], first) == 'data, batches'
    assert named(plans['batch_size'], first) == 'batches'

  @pytest.mark.parametrize('command', ['distill', 'distill-text'])
  def test_options_that_cannot_be(self, capsys, tmp_path, corpus, command):
    more = {'distill': [], 'distill-text': words_of(corpus)}[command]
    most = {'distill': 'there are 10 classes', 'distill-text': 'the vocabulary has 15'}[command]
    at = [command, '--workdir', tmp_path / 'run', *more, '--cached-logits']
    assert refused(capsys, *at, -1) == '--cached-logits is -1: give 0 or more'
    assert refused(capsys, *at, 16) == f'--cached-logits is 16: {most}; give no more, or 0'
    if command == 'distill-text':
      line = refused(capsys, *at, 5, '--methods', 'hard', 'sequence')
      assert line == '--cached-logits is 5: it goes with --methods kd'
    assert not (tmp_path / 'run').exists()


CHANGES = (('seeds', 1), ('cached_logits', 3), ('train_images', 210), ('batch_size', 32))


def cohort(teacher, share):
  soft, hard = models.MLP((4,), 10, linen.PReLU), models.MLP((5,), 10, linen.ReLU)
  groups = {
    'soft': Group(soft, distill(soft, mixed(temperature=2.0, soft_weight=0.9)), (0, 1), vmapped),
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


TINY = ['--activations', 'relu', '--width', '3', '--seeds', '1', '--epochs', '2', '--save-every', '1']
PHASE = 2 * 17


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
  return whole_run(tmp_path_factory, 'distill', [*TINY, '--cached-logits', '4'], 2 * PHASE)


def test_a_run_keeps_what_its_options_ask_for(whole):
  about = json.loads((whole / FOLDER / 'about.json').read_text())
  assert about['of'].keys() == {'teacher', 'data', 'batches', 'logits', 'epochs'} and about['of']['logits'] == '4'
  assert not (whole / f'{FOLDER}.part').exists()
  classes, labels = np.load(whole / FOLDER / 'classes.npy'), load('digits').train.labels
  assert (classes.shape, classes.dtype) == ((len(labels), 4), np.uint16)
  log_p = np.load(whole / FOLDER / 'log-probabilities.npy')
  assert log_p.dtype == np.float16 and np.all(np.diff(log_p.astype(float)) <= 0)
  assert np.mean(classes[:, 0] == labels) > 0.9


@pytest.mark.slow
def test_killed_while_it_writes_and_while_students_train_a_run_ends_with_the_same_bits(whole, tmp_path):
  folder, part = tmp_path / 'run', tmp_path / 'run' / f'{FOLDER}.part'
  kill = {'signum': signal.SIGKILL, 'counted': tmp_path / 'files', 'kind': 'file', 'at': 4}  # about.json
  killed = train('distill', '--workdir', folder, *TINY, '--cached-logits', '4', **kill)
  assert killed.returncode == -signal.SIGKILL, killed.stderr
  assert part.is_dir() and not (folder / FOLDER).exists()
  kill = {'signum': signal.SIGKILL, 'counted': tmp_path / 'steps', 'at': 25}
  killed = train('distill', '--workdir', folder, '--resume', **kill)
  assert killed.returncode == -signal.SIGKILL, killed.stderr
  assert (folder / FOLDER).is_dir() and not part.exists()
  before = (folder / FOLDER / 'about.json').stat().st_mtime_ns
  resumed = train('distill', '--workdir', folder, '--resume', counted=tmp_path / 'dots')
  assert resumed.returncode == 0, resumed.stderr
  assert (tmp_path / 'dots').stat().st_size == 17
  assert (folder / FOLDER / 'about.json').stat().st_mtime_ns == before
  assert_same_run(folder, whole)
  assert filecmp.cmpfiles(folder / FOLDER, whole / FOLDER, ['about.json', 'classes.npy'], shallow=False)[0]


def test_a_stale_cache_ends_a_resumed_run_in_one_line(whole, tmp_path, capsys):
  folder = shutil.copytree(whole, tmp_path / 'run')
  path = folder / FOLDER / 'about.json'
  about = json.loads(path.read_text())
  path.write_text(json.dumps({**about, 'of': {**about['of'], 'teacher': 64 * '0'}}))
  assert main(['distill', '--workdir', str(folder), '--resume']) == 2
  line = capsys.readouterr().err.splitlines()[-1]
  assert line == f'error: {folder / FOLDER} is of another run, which differs in: teacher; delete it, then --resume'


def words_of(corpus):
  """The options of a translation that takes seconds."""
  return [
    *[
      '--data',
      corpus,
      '--vocabulary',
      'words',
      '--untied',
      '--max-length',
      '8',
      '--buckets',
      '2',
      '--batch-size',
      '64',
    ],
    *[
      '--activations',
      'relu',
      '--seeds',
      '1',
      '--epochs',
      '1',
      '--teacher-epochs',
      '1',
      '--beams',
      '1',
      '--heads',
      '2',
    ],
    *['--width', '4', '--layers', '1', '--teacher-width', '8', '--teacher-layers', '1'],
  ]


@pytest.fixture(scope='module')
def corpus(tmp_path_factory):
  """Sentences of eleven words, which with the four marks make a vocabulary of 15."""
  folder, draw = tmp_path_factory.mktemp('corpus'), np.random.default_rng(0)
  for part, count in {'train': 60, 'val': 8, 'test': 8}.items():
    lines = [[f'word{number}' for number in draw.integers(0, 11, length)] for length in draw.integers(1, 7, count)]
    (folder / f'{part}.tsv').write_text(''.join(f'{" ".join(line)}\t{" ".join(line[::-1])}\n' for line in lines))
  return folder


def test_translating_students_share_what_was_said_as_under_the_teacher(tmp_path, corpus, monkeypatch):
  options = {'data': str(corpus), 'vocabulary': 'words', 'untied': True, 'max_length': 8, 'buckets': 2, 'seeds': 1}
  options |= {'width': (4,), 'heads': 2, 'teacher_width': 8, 'teacher_layers': 1, 'activations': ('relu',), 'epochs': 2}
  fits = []
  monkeypatch.setattr(recipe_text, 'fit', lambda run, phase, *given: fits.append(given) or {})
  for logits in (None, 0, 5):
    plan = recipe_text.experiment(DistillText(**options, batch_size=64, cached_logits=logits))
    model = plan.groups[None].model
    teacher = jax.jit(partial(model.init, train=False))(jax.random.key(0), plan.data.batches.blank)
    folder = tmp_path / str(logits)
    folder.mkdir()
    with Run(folder) as run, pytest.raises(KeyError):  # nothing was trained
      recipe_text.fitted(plan, run, 'students', plan.of('hard', 'kd'), plan.data, teacher)
    assert (folder / FOLDER).exists() == (logits is not None)
  (students, live, _), *cached_ones = fits
  shares = [jax.jit(cohort.share) for cohort, _, _ in fits]
  for step in range(2 * live.batches.steps_per_epoch):
    words = np.asarray(live.batches[step].labels) != PADDING
    said = np.asarray(jax.nn.log_softmax(shares[0](teacher, live.batches[step]).logits), np.float64)
    all_of, few_of = (
      np.asarray(share(frozen, data.batches[step]).logits, np.float64)
      for share, (_, data, frozen) in zip(shares[1:], cached_ones, strict=True)
    )
    assert_half_of(all_of[words], said[words])
    best = np.argsort(-said, axis=-1)[..., :5]
    assert_half_of(np.take_along_axis(few_of, best, -1)[words], np.take_along_axis(said, best, -1)[words])
    np.testing.assert_allclose(np.exp(few_of[words]).sum(-1), 1, rtol=2e-3)
  for cohort, _, frozen in cached_ones:
    assert frozen is None and cohort.groups.keys() == students.groups.keys()


@pytest.mark.slow
def test_a_translating_student_of_the_command_line(tmp_path, corpus):
  done = train(
    'distill-text', '--workdir', tmp_path / 'run', *words_of(corpus), '--methods', 'kd', '--cached-logits', '6'
  )
  assert done.returncode == 0, done.stderr
  assert (tmp_path / 'run' / 'results.md').read_text() in done.stdout
  about = json.loads((tmp_path / 'run' / FOLDER / 'about.json').read_text())
  assert about['of'].keys() == {'teacher', 'data', 'vocabulary', 'logits', 'epochs'}
  said = sum(len(line.split('\t')[1].split()) + 1 for line in (corpus / 'train.tsv').read_text().splitlines())
  assert np.load(tmp_path / 'run' / FOLDER / 'classes.npy').shape == (said, 6)
