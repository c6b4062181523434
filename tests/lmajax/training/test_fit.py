"""The loop: the steps of a plain loop, told epoch by epoch, and resumed with the same bits."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lmajax import LMA, models, training
from lmajax.training import Checkpoints
from lmajax.types import Batch

MODEL = models.MLP((3,), 3, LMA)
TX = optax.adam(0.05)


class Drawn:
  """Three batches an epoch, drawn by the number of the step."""

  steps_per_epoch = 3

  def __init__(self):
    self.asked = []

  def __getitem__(self, step):
    self.asked.append(step)
    draw = np.random.default_rng(step)
    return Batch(jnp.asarray(draw.normal(size=(8, 4)), jnp.float32), jnp.asarray(draw.integers(0, 3, 8), jnp.int32))


def fresh(tx=TX):
  return training.init_state(MODEL, tx, jax.random.key(0), Drawn()[0].inputs)


@pytest.fixture(scope='module')
def step():
  made = training.make_train_step(training.supervised(MODEL), TX)
  return lambda state, batch: made(state, None, batch)


def bits(state):
  return training.digests(state)


def test_it_makes_the_steps_of_a_plain_loop_and_tells_their_means(step):
  told = []
  found, history = training.fit(
    step, fresh(), Drawn(), epochs=2, callback=lambda state, means: told.append((int(state.step), means))
  )
  state, losses = fresh(), []
  for number in range(6):
    state, metrics = step(state, Drawn()[number])
    losses.append(float(metrics['loss']))
  assert bits(found) == bits(state)
  assert [entry['epoch'] for entry in history] == [1, 2]
  assert [step for step, _ in told] == [3, 6]
  means = np.reshape(losses, (2, 3)).mean(1)
  np.testing.assert_allclose([entry['loss'] for entry in history], means, rtol=1e-6)
  np.testing.assert_allclose([means['loss'] for _, means in told], means, rtol=1e-6)


class Interrupted(Exception):
  """A power cut."""


def test_interrupted_it_goes_on_with_the_same_bits(step, tmp_path):
  whole, expected = training.fit(step, fresh(), Drawn(), epochs=4)

  def cut(state, means):
    if int(state.step) == 9:
      raise Interrupted

  with pytest.raises(Interrupted):
    training.fit(step, fresh(), Drawn(), epochs=4, callback=cut, checkpoints=Checkpoints(tmp_path / 'run'))
  batches = Drawn()
  found, history = training.fit(step, fresh(), batches, epochs=4, checkpoints=Checkpoints(tmp_path / 'run'))
  assert batches.asked == [6, 7, 8, 9, 10, 11]
  assert bits(found) == bits(whole) and history == expected
  again, same = training.fit(step, fresh(), Drawn(), epochs=4, checkpoints=Checkpoints(tmp_path / 'run'))
  assert bits(again) == bits(whole) and same == expected


def test_what_the_callback_returns_is_kept_and_its_score_decides_the_best(step, tmp_path):
  scores = iter([0.9, 0.1, 0.2, 0.3, 0.4])
  checkpoints = Checkpoints(tmp_path / 'run')
  _, history = training.fit(
    step, fresh(), Drawn(), epochs=5, callback=lambda *_: {'score': next(scores)}, checkpoints=checkpoints
  )
  assert [entry['score'] for entry in history] == [0.9, 0.1, 0.2, 0.3, 0.4]
  kept = sorted(int(path.name) for path in (tmp_path / 'run').iterdir() if path.name.isdigit())
  assert kept == [3, 12, 15]  # the best, and the latest two


def test_checkpoints_of_another_student_are_refused(step, tmp_path):
  training.fit(step, fresh(), Drawn(), epochs=1, checkpoints=Checkpoints(tmp_path / 'run'))
  sgd = training.make_train_step(training.supervised(MODEL), optax.sgd(0.1))
  with pytest.raises(training.UnfitError, match='does not fit: '):
    training.fit(
      lambda state, batch: sgd(state, None, batch),
      fresh(optax.sgd(0.1)),
      Drawn(),
      epochs=2,
      checkpoints=Checkpoints(tmp_path / 'run'),
    )


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


class Longer(Drawn):
  steps_per_epoch = 4


def test_the_least_loss_decides_the_best_where_nobody_says_more(tmp_path):
  losses = iter([3.0, 3.0, 3.0, 1.0, 1.0, 1.0, 2.0, 2.0, 2.0, 4.0, 4.0, 4.0, 5.0, 5.0, 5.0])

  def step(state, batch):
    return state._replace(step=state.step + 1), {'loss': next(losses), 'right': True}

  checkpoints = Checkpoints(str(tmp_path / 'run'), {'betas': (0.9, 0.99)})
  _, history = training.fit(step, fresh(), Drawn(), epochs=5, checkpoints=checkpoints)
  assert [entry['loss'] for entry in history] == [3, 1, 2, 4, 5] and history[0]['right'] == 1.0
  assert sorted(int(path.name) for path in (tmp_path / 'run').iterdir() if path.name.isdigit()) == [6, 12, 15]
  again = Checkpoints(str(tmp_path / 'run'), {'betas': (0.9, 0.99)})
  with pytest.raises(ValueError, match='epochs is 4, and the checkpoint has 5 already'):
    training.fit(step, fresh(), Drawn(), epochs=4, checkpoints=again)
  with pytest.raises(training.UnfitError, match='has 3 steps an epoch, not 4'):
    training.fit(step, fresh(), Longer(), epochs=6, checkpoints=again)


def counted(state, batch):
  return state._replace(step=state.step + 1), {'loss': 0.5}


REFUSED = {
  'epochs is 0': {'epochs': 0},
  'state is of step 4: give a new one': {'state': fresh()._replace(step=jnp.int32(4))},
  'step gives something else': {'step': lambda state, batch: state},
  r'callback gives float32\[\]: let it give a dictionary': {'callback': lambda state, means: jnp.float32(0.5)},
}


@pytest.mark.parametrize('said', REFUSED)
def test_what_it_cannot_train_by_is_named(said):
  given = {'step': counted, 'state': fresh(), 'batches': Drawn(), 'epochs': 1, **REFUSED[said]}
  with pytest.raises(ValueError, match=said):
    training.fit(given.pop('step'), given.pop('state'), given.pop('batches'), **given)


def test_weights_of_numpy_are_resumed_and_arrays_of_a_callback_are_kept(tmp_path):
  state = fresh()
  state = state._replace(params=jax.tree.map(np.asarray, state.params))
  for epochs in (1, 2):
    _, history = training.fit(
      counted,
      state,
      Drawn(),
      epochs=epochs,
      callback=lambda state, means: {'score': np.float32(0.5), 'each': jnp.arange(2)},
      checkpoints=Checkpoints(tmp_path / 'run'),
    )
  assert history[1] == {'epoch': 2, 'loss': 0.5, 'score': 0.5, 'each': [0, 1]}


class Long(Drawn):
  steps_per_epoch = 600


def test_means_of_narrow_metrics_are_those_of_float32():
  def step(state, batch):
    return state._replace(step=state.step + 1), {'loss': jnp.bfloat16(1.0078125), 'right': jnp.bool_(True)}

  _, [entry] = training.fit(step, fresh(), Long(), epochs=1)
  np.testing.assert_allclose([entry['loss'], entry['right']], [1.0078125, 1], rtol=1e-5)
