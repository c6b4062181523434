"""Training of one's own: the steps of a plain loop, told epoch by epoch, resumed with the same bits, and what ships."""

import json
import logging
import os
import signal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lmajax import LMA, compress, models, training
from lmajax.training._data import batches_of
from lmajax.types import Batch

MODEL = models.MLP((3,), 3, LMA)
TX = optax.adam(0.05)
DRAW = np.random.default_rng(0)
INPUTS = DRAW.normal(size=(26, 4)).astype(np.float32)
LABELS = INPUTS[:, :3].argmax(1)
DATA = INPUTS[:24], LABELS[:24]
ONE = jax.sharding.NamedSharding(jax.make_mesh((1,), ('data',)), jax.sharding.PartitionSpec('data'))


class Drawn:
  """Three batches an epoch, drawn by the number of the step."""

  steps_per_epoch = 3

  def __init__(self):
    self.asked = []

  def __getitem__(self, step):
    self.asked.append(step)
    draw = np.random.default_rng(step)
    return Batch(jnp.asarray(draw.normal(size=(8, 4)), jnp.float32), jnp.asarray(draw.integers(0, 3, 8), jnp.int32))


def bits(fitted):
  return training.digests(fitted.progress)


def fitted(data=None, *, epochs=2, task=MODEL, tx=TX, **options):
  given = {'batch_size': 8, 'sharding': ONE, **options}
  return training.fit(task, Drawn() if data is None else data, tx, epochs=epochs, **given)


@pytest.fixture(scope='module')
def whole():
  return fitted(epochs=4)


def test_it_makes_the_steps_of_a_plain_loop_and_tells_their_means():
  told = []
  found = fitted(callback=lambda fitted, entry: told.append((int(fitted.progress.state.step), dict(entry))))
  state, losses = training.init_state(MODEL, TX, jax.random.key(0), jnp.zeros((1, 4))), []
  step = training.make_train_step(training.supervised(MODEL), TX)
  for number in range(6):
    state, metrics = step(state, None, Drawn()[number])
    losses.append(float(metrics['loss']))
  assert training.digests(found.progress.state) == training.digests(state)
  assert [entry['epoch'] for entry in found.history] == [1, 2]
  assert told == [(3, found.history[0]), (6, found.history[1])]
  np.testing.assert_allclose([entry['loss'] for entry in found.history], np.reshape(losses, (2, 3)).mean(1), rtol=1e-6)


class PowerCut(Exception):
  pass


def test_interrupted_it_goes_on_with_the_same_bits(whole, tmp_path):
  def cut(fitted, entry):
    if entry['epoch'] == 3:
      raise PowerCut

  with pytest.raises(PowerCut):
    fitted(epochs=4, callback=cut, folder=tmp_path / 'run')
  batches = Drawn()
  found = fitted(batches, epochs=4, folder=tmp_path / 'run')
  assert batches.asked == [0, *range(6, 12)]
  assert bits(found) == bits(whole) and found.history == whole.history
  again = fitted(epochs=4, folder=str(tmp_path / 'run'))
  assert bits(again) == bits(whole) and again.history == whole.history
  lines = (tmp_path / 'run' / 'history.jsonl').read_text().splitlines()
  assert tuple(map(json.loads, lines)) == whole.history


class Signalled(Drawn):
  """Sends a signal to this process as a batch is asked for."""

  def __init__(self, at, signum):
    super().__init__()
    self.at, self.signum = at, signum

  def __getitem__(self, step):
    if step == self.at and step not in self.asked:
      os.kill(os.getpid(), self.signum)
    return super().__getitem__(step)


@pytest.mark.parametrize('signum', [signal.SIGINT, signal.SIGTERM])
def test_a_signal_waits_until_its_step_is_saved_and_goes_to_who_had_it(whole, tmp_path, signum):
  def ended(*_):
    raise PowerCut

  before = signal.signal(signum, ended)
  try:
    with pytest.raises(PowerCut):
      fitted(Signalled(7, signum), epochs=4, folder=tmp_path / 'run')
    assert signal.getsignal(signum) is ended
  finally:
    signal.signal(signum, before)
  batches = Drawn()
  found = fitted(batches, epochs=4, folder=tmp_path / 'run')
  assert batches.asked == [0, *range(8, 12)]
  assert bits(found) == bits(whole) and found.history == whole.history


def test_who_lets_a_signal_pass_goes_on_training(whole, tmp_path):
  heard = []
  before = signal.signal(signal.SIGTERM, lambda *_: heard.append(True))
  try:
    found = fitted(Signalled(7, signal.SIGTERM), epochs=4, folder=tmp_path / 'run')
  finally:
    signal.signal(signal.SIGTERM, before)
  assert heard == [True] and bits(found) == bits(whole)


def test_what_the_callback_returns_is_kept_and_its_score_decides_the_best(tmp_path):
  scores = iter([0.9, 0.1, 0.2, 0.3, 0.4])

  def scored(fitted, entry):
    return {'score': jnp.float32(next(scores)), 'each': np.arange(2)}

  found = fitted(epochs=5, callback=scored, folder=tmp_path)
  np.testing.assert_allclose([entry['score'] for entry in found.history], [0.9, 0.1, 0.2, 0.3, 0.4], rtol=1e-6)
  assert found.history[0]['each'] == [0, 1]
  assert kept(tmp_path) == [3, 12, 15]  # the best, and the latest two


def kept(folder):
  return sorted(int(path.name) for path in (folder / 'checkpoints').iterdir() if path.name.isdigit())


def noted(losses):
  """A task whose loss is a number of each step."""
  losses = jnp.asarray(losses, jnp.float32)

  def objective(params, stats, frozen, batch, key):
    del frozen, key
    loss = losses[batch.inputs.astype(jnp.int32)[0, 0]] + 0 * params.sum()
    return loss, (stats, {'right': jnp.bool_(True), 'narrow': jnp.bfloat16(1.0078125)})

  network = training.function(lambda params, stats, x, key: (x, stats), jnp.ones(2))
  return training.Task(network, objective)


class Counted:
  """Batches that hold the number of their step."""

  def __init__(self, steps_per_epoch):
    self.steps_per_epoch = steps_per_epoch

  def __getitem__(self, step):
    return Batch(np.full((1, 1), step, np.float32), None)


class Still:
  """The same batch at every step."""

  steps_per_epoch = 1

  def __getitem__(self, step):
    return Batch(np.zeros((1, 1), np.float32), None)


def test_the_least_loss_decides_the_best_where_nobody_says_more(tmp_path):
  found = fitted(Counted(2), epochs=5, task=noted([3, 3, 1, 1, 2, 2, 4, 4, 5, 5]), folder=tmp_path)
  assert [entry['loss'] for entry in found.history] == [3, 1, 2, 4, 5]
  assert kept(tmp_path) == [4, 8, 10]
  with pytest.raises(ValueError, match=r'epochs is 4, and .* has 5.*: give more'):
    fitted(Counted(2), epochs=4, task=noted([0]), folder=tmp_path)
  with pytest.raises(training.UnfitError, match='made with steps_per_epoch 2, not 4'):
    fitted(Counted(4), epochs=6, task=noted([0]), folder=tmp_path)
  with pytest.raises(training.UnfitError, match='made with seed 0, not 1'):
    fitted(Counted(2), epochs=6, task=noted([0]), folder=tmp_path, seed=1)
  with pytest.raises(training.UnfitError, match='does not fit: '):
    fitted(Counted(2), epochs=6, task=noted([0]), folder=tmp_path, tx=optax.sgd(0.1))


def test_means_of_narrow_metrics_are_those_of_float32():
  [entry] = fitted(Counted(600), epochs=1, task=noted([1.0])).history
  np.testing.assert_allclose([entry['narrow'], entry['right']], [1.0078125, 1], rtol=1e-5)


def test_a_loss_that_is_no_number_ends_it_and_the_epoch_before_is_kept(tmp_path):
  with pytest.raises(
    FloatingPointError, match=r'the loss is nan in epoch 2: look for .*, or try a lower learning rate'
  ):
    fitted(Counted(2), epochs=3, task=noted([1, 1, np.nan, 1]), folder=tmp_path)
  assert kept(tmp_path) == [2]


def test_an_epoch_is_a_line_of_the_log(caplog):
  caplog.set_level(logging.INFO, 'lmajax')
  fitted(Counted(1), epochs=2, task=noted([1, 2]))
  assert [record.getMessage() for record in caplog.records if record.name == 'lmajax'] == [
    'epoch 1: loss 1, narrow 1.008, right 1',
    'epoch 2: loss 2, narrow 1.008, right 1',
  ]


def test_hooks_are_asked_in_their_order():
  heard = []

  def advance(states, step, end):
    heard.append(('advance', step, end))
    return states, min(step + 2, end)  # two steps at once

  hooks = training.Hooks(
    begin=lambda states, history: heard.append('begin') or (states if len(history) < 2 else None),
    between=lambda states, step, history: heard.append(('between', step)),
    end=lambda states, step, history: (heard.append(('end', step)) or states, step),
  )
  entries = [3]
  training.loop(advance, 'states', hooks, steps_per_epoch=3, history=(4, entries))
  assert heard == ['begin', ('between', 4), ('advance', 4, 6), ('end', 6), 'begin']
  assert entries == [3, 6]


class Items:
  """Examples one by one, as a data set of a library gives them."""

  def __init__(self, make):
    self.make = make

  def __len__(self):
    return 24

  def __getitem__(self, i):
    return self.make(i)


EXAMPLES = {
  'a pair of arrays': DATA,
  'float64 and lists': (INPUTS[:24].astype(np.float64), LABELS[:24].tolist()),
  'arrays of JAX': (jnp.asarray(INPUTS[:24]), jnp.asarray(LABELS[:24])),
  'a dictionary': {'inputs': INPUTS[:24], 'labels': LABELS[:24]},
  'a list of pairs': [*zip(*DATA, strict=True)],
  'pairs by number': Items(lambda i: (INPUTS[i], int(LABELS[i]))),
  'dictionaries by number': Items(lambda i: {'inputs': INPUTS[i].tolist(), 'labels': LABELS[i]}),
}


@pytest.fixture(scope='module')
def on_arrays():
  return fitted(DATA)


@pytest.mark.parametrize('form', EXAMPLES)
def test_the_same_examples_in_another_form_train_the_same_bits(on_arrays, form):
  assert bits(fitted(EXAMPLES[form])) == bits(on_arrays)


def test_examples_are_seen_once_an_epoch_in_a_new_order():
  seen = []
  inputs = np.arange(26, dtype=np.float32)[:, None]
  batches = batches_of((inputs, None), batch_size=8, seed=3, steps_per_epoch=None, said=None, sharding=None)
  for epoch in range(2):
    rows = np.concatenate([np.asarray(batches[3 * epoch + i].inputs)[:, 0] for i in range(3)])
    assert len(set(rows.tolist())) == 24
    seen.append(rows.tolist())
  assert batches.steps_per_epoch == 3 and seen[0] != seen[1]


def in_batches(count):
  return ((DATA[0][8 * (i % 3) :][:8], DATA[1][8 * (i % 3) :][:8]) for i in range(count))


class Loader:
  """Batches that can be read again each epoch."""

  def __len__(self):
    return 3

  def __iter__(self):
    return in_batches(3)


def test_an_iterator_is_read_to_the_step_on_resume(tmp_path):
  expected = fitted(in_batches(12), epochs=4, steps_per_epoch=3)
  assert bits(fitted(Loader(), epochs=4)) == bits(expected)
  with pytest.raises(training.EndedError, match='data ended after 7 batches: give more, or train fewer epochs'):
    fitted(in_batches(7), epochs=4, steps_per_epoch=3, folder=tmp_path)
  assert kept(tmp_path)[-1] == 7
  assert bits(fitted(in_batches(12), epochs=4, steps_per_epoch=3, folder=tmp_path)) == bits(expected)


@pytest.mark.parametrize('form', ['one-hot', 'soft'])
def test_labels_may_be_probabilities(on_arrays, form):
  chances = np.eye(3, dtype=np.float32)[DATA[1]]
  found = fitted((DATA[0], chances if form == 'one-hot' else 0.9 * chances + 0.1 / 3))
  of_smoothed = training.supervised(MODEL, label_smoothing=0.1)
  expected = on_arrays if form == 'one-hot' else fitted(DATA, task=training.Task(training.linen(MODEL), of_smoothed))
  np.testing.assert_allclose(
    [entry['loss'] for entry in found.history], [entry['loss'] for entry in expected.history], rtol=1e-4
  )
  assert found.evaluate((DATA[0], chances)) == found.evaluate(DATA)


def a_function():
  def apply(params, stats, x, key):
    del key
    return jnp.tanh(x @ params['inner']['kernel']) @ params['outer']['kernel'], stats

  keys = jax.random.split(jax.random.key(1))
  inner, outer = jax.random.normal(keys[0], (4, 6)), jax.random.normal(keys[1], (6, 3))
  return training.function(apply, {'inner': {'kernel': inner}, 'outer': {'kernel': outer}})


FOUR_BITS = compress.masked(compress.uniform(4, bucket_size=None))


@pytest.fixture(scope='module')
def teacher():
  model = models.MLP((16,), 3, LMA)
  found = fitted((INPUTS, LABELS), epochs=15, task=model)
  return training.linen(model, found.variables)


def test_logits_from_elsewhere_teach_as_the_teacher_does(teacher):
  said = training.forward(teacher, *teacher.init(None, None), jnp.asarray(DATA[0]), None)[0]
  expected = fitted(DATA, task=training.distill(MODEL, teacher))
  found = fitted(DATA, task=training.distill(MODEL, training.logits(np.asarray(said))))
  np.testing.assert_allclose(found.history[-1]['loss'], expected.history[-1]['loss'], rtol=1e-4)
  wrong = fitted(DATA, task=training.distill(MODEL, training.logits(np.asarray(said)[::-1].copy())))
  assert abs(wrong.history[-1]['loss'] / expected.history[-1]['loss'] - 1) > 0.01


def test_without_labels_the_soft_targets_alone_are_learnt(teacher):
  of_soft = training.mixed(temperature=2.0, soft_weight=1.0)
  expected = fitted(DATA, task=training.distill(MODEL, teacher, loss=of_soft))
  for data in ((DATA[0], None), DATA[0]):
    found = fitted(data, task=training.distill(MODEL, teacher))
    np.testing.assert_allclose(found.history[-1]['loss'], expected.history[-1]['loss'], rtol=1e-5)


def test_augmented_are_the_training_batches_alone(on_arrays):
  drawn = []

  def augment(key, inputs):
    drawn.append(inputs.shape)
    return inputs + jax.random.normal(key, inputs.shape)

  found = fitted(DATA, augment=augment, validation=(INPUTS, LABELS))
  assert set(drawn) == {(8, 4)} and bits(found) != bits(on_arrays)
  assert bits(found) == bits(fitted(DATA, augment=augment))
  still = fitted(DATA, augment=lambda key, inputs: inputs)
  assert bits(still) == bits(on_arrays)


def test_every_step_is_augmented_by_a_draw_of_its_own():
  def objective(params, stats, frozen, batch, key):
    del frozen, key
    return batch.inputs.mean() + 0 * params.sum(), (stats, {})

  task = training.Task(noted([0]).network, objective)
  how = {'task': task, 'augment': lambda key, inputs: inputs + jax.random.uniform(key), 'epochs': 4}
  losses = [[entry['loss'] for entry in fitted(Still(), seed=seed, **how).history] for seed in (0, 0, 1)]
  assert losses[0] == losses[1] != losses[2] and len({*losses[0], *losses[2]}) == 8


def test_metrics_are_means_over_all_examples_and_the_first_decides(tmp_path):
  def distance(logits, labels):
    return jnp.abs(logits.argmax(-1) - labels).astype(jnp.float32)

  found = fitted(DATA, validation=(INPUTS, LABELS), metrics={'distance': distance}, folder=tmp_path)
  logits = np.asarray(found.logits(INPUTS))
  expected = np.abs(logits.argmax(1) - LABELS).mean()
  score = found.evaluate((INPUTS, LABELS), metrics={'distance': distance}, batch_size=7)
  np.testing.assert_allclose(score['distance'], expected, rtol=1e-6)
  assert set(found.history[0]) == {'epoch', 'loss', 'validation_distance'}


def test_statistics_are_those_of_the_weights_that_ship(on_arrays):
  params, stats = training.parted(training._fitted.shipped(on_arrays.reparam, on_arrays.progress))
  batches = [on_arrays.batches[step] for step in range(3)]
  expected = training.recalibrated(MODEL, params, batches, stats=stats)
  assert training.digests(on_arrays.stats) == training.digests(expected)
  elsewhere = on_arrays.recalibrated((INPUTS + 2, None), batch_size=8)
  means = [fitted.stats['batch_stats']['stages_0']['norm']['mean'] for fitted in (on_arrays, elsewhere)]
  assert float(jnp.abs(means[1] - means[0]).max()) > 0.01
  assert training.digests(elsewhere.params) == training.digests(on_arrays.params)


TOLD = training.logits(np.zeros((9, 3), np.float32))
THREE, FIVE = (training.function(lambda params, stats, x, key: (x @ params, stats), jnp.ones((4, n))) for n in (3, 5))
REFUSED = {
  'epochs is 0': {'epochs': 0},
  'seed is -1': {'seed': -1},
  'batch_size is 25, and there are 24 examples': {'batch_size': 25},
  r'data is a list of float32\[26, 4\] and int64\[26\]: give a tuple': {'data': [INPUTS, LABELS]},
  'data has the label 3 at .*, and there are 3 classes: give numbers from 0 to 2': {'data': (INPUTS, LABELS + 1)},
  'data has the label -1 at ': {'data': (INPUTS, LABELS - 1)},
  'validation has the label 3 at ': {'validation': (INPUTS, LABELS + 1)},
  'data has <U21 values: give numbers': {'data': (INPUTS, LABELS.astype(str))},
  r'labels is int32\[8, 1\], and logits float32\[8, 3\]: give integers \[8\], or floats': {
    'data': (INPUTS, LABELS[:, None])
  },
  r'labels is float32\[8\], and logits': {'data': (INPUTS, LABELS.astype(np.float32))},
  'data is int: give a pair of arrays': {'data': 3},
  'data is generator: give steps_per_epoch': {'data': in_batches(3)},
  'data has image, label: name the columns inputs and labels': {'data': {'image': INPUTS, 'label': LABELS}},
  'give as many labels as inputs': {'data': (INPUTS, LABELS[:5])},
  'data is empty': {'data': (INPUTS[:0], LABELS[:0])},
  r'data\[0\] has 3 parts: give inputs and labels': {'data': [(1, 2, 3)] * 9, 'batch_size': 9},
  'examples that do not go into one batch': {'data': [(INPUTS[0], 1), (INPUTS[0, :2], 1)], 'batch_size': 2},
  'steps_per_epoch is 5, and the data have 3: leave it out': {'steps_per_epoch': 5},
  'the data have no labels: give some, or train under a teacher': {'data': INPUTS},
  'the data have no labels, and soft_weight is 0.5': {
    'data': INPUTS,
    'task': training.distill(MODEL, THREE, loss=training.mixed(temperature=2.0, soft_weight=0.5)),
  },
  'validation has no labels': {'validation': INPUTS},
  'the metric sum gives float32': {'validation': DATA, 'metrics': {'sum': lambda logits, labels: logits.sum()}},
  'logits is float32.9, 3., and there are 24 examples': {'task': training.distill(MODEL, TOLD)},
  'the teacher is given by its logits, and data are batches': {'task': training.distill(MODEL, TOLD), 'data': Drawn()},
  r'the student gives float32\[8, 3\] and its teacher float32\[8, 5\]: give a teacher': {
    'task': training.distill(MODEL, FIVE)
  },
  r'callback gives float32\[\]: let it give a dictionary': {'callback': lambda fitted, entry: jnp.float32(0.5)},
}


@pytest.mark.parametrize('said', REFUSED)
def test_what_it_cannot_train_by_is_named(said, tmp_path):
  given = {'task': MODEL, 'data': DATA, 'tx': TX, 'epochs': 1, 'batch_size': 8, 'folder': tmp_path, 'sharding': ONE}
  given |= REFUSED[said]
  with pytest.raises(ValueError, match=said):
    training.fit(given.pop('task'), given.pop('data'), given.pop('tx'), **given)


@pytest.mark.skipif(jax.__version_info__ >= (0, 11), reason='jax2onnx 0.13 converts for JAX 0.10')
def test_a_file_for_onnx_runtime_answers_alike():
  onnxruntime = pytest.importorskip('onnxruntime')
  found = fitted(DATA, epochs=1, task=a_function(), reparam=FOUR_BITS)
  session = onnxruntime.InferenceSession(found.export(INPUTS[:1], 'onnx'), providers=['CPUExecutionProvider'])
  (given,) = session.get_inputs()
  np.testing.assert_allclose(session.run(None, {given.name: INPUTS})[0], found.logits(INPUTS), atol=1e-5)


def test_an_export_of_a_number_is_refused(on_arrays):
  with pytest.raises(ValueError, match='give an array whose first axis is that of the batch'):
    on_arrays.export(np.float32(1))


def test_all_devices_share_a_batch(on_arrays):
  found = fitted(DATA, sharding=None, validation=(INPUTS, LABELS))
  assert jax.device_count() > 1 and found.sharding.num_devices == jax.device_count()
  assert found.params['logits']['kernel'].sharding.is_fully_replicated
  for ours, theirs in zip(found.history, on_arrays.history, strict=True):
    np.testing.assert_allclose(ours['loss'], theirs['loss'], rtol=1e-4)
  with pytest.raises(ValueError, match='batch_size is 5, which does not spread evenly over the devices'):
    fitted(DATA, sharding=None, batch_size=5)


class Foreign(nn.Module):
  """Says what is training by another name."""

  @nn.compact
  def __call__(self, x, *, deterministic):
    return nn.Dense(3)(x)


def test_networks_that_are_called_otherwise_are_named():
  with pytest.raises(ValueError, match=r'Foreign is not called with train=…, .*: wrap it in a module that does'):
    fitted(DATA, task=Foreign())
  with pytest.raises(ValueError, match='apply is called with params, stats, inputs and a key, and takes others'):
    training.function(lambda params, x: x @ params, jnp.ones((4, 3)))


def test_what_is_fitted_teaches_as_it_ships(on_arrays):
  by_hand = training.linen(MODEL, on_arrays.variables)
  expected = fitted(DATA, task=training.distill(MODEL, by_hand))
  assert bits(fitted(DATA, task=training.distill(MODEL, on_arrays))) == bits(expected)


def test_other_data_are_not_gone_on_with(tmp_path):
  fitted(DATA, epochs=1, folder=tmp_path)
  with pytest.raises(training.UnfitError, match='was made with data '):
    fitted((2 * DATA[0], DATA[1]), folder=tmp_path)


def test_an_optimizer_may_look_at_the_loss():
  tx = optax.chain(optax.adam(0.05), optax.contrib.reduce_on_plateau(patience=1, factor=0.5))
  found = fitted(DATA, tx=tx)
  assert int(found.progress.state.step) == 6 and float(found.progress.state.opt_state[1].avg_value) >= 0


def test_a_callback_adds_to_an_entry_and_takes_nothing_from_it():
  found = fitted(Counted(1), epochs=1, task=noted([1.0]), callback=lambda fitted, entry: {'epoch': 77, 'more': 1})
  assert found.history[0]['epoch'] == 1 and found.history[0]['more'] == 1
