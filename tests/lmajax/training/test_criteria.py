"""Criteria: losses of all that two networks give, and what is trained beside the student for them."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lmajax import LMA, compress, losses, training, tree
from lmajax.models import CNN, MLP
from lmajax.training import Taught
from lmajax.types import Batch
from tests import oracles

RNG = np.random.default_rng(0)
LABELS = jnp.asarray(RNG.integers(0, 3, 6))


def said(*shapes: tuple[int, ...]) -> Taught:
  """Logits of 6 examples and 3 classes, and taps of these shapes."""
  drawn = [jnp.asarray(RNG.normal(size=(6, *shape)), jnp.float32) for shape in ((3,), *shapes)]
  return Taught(drawn[0], tuple(drawn[1:]))


def dense(params, rows):
  """A linear map of each row, in loops."""
  kernel, bias = np.asarray(params['kernel'], np.float64), np.asarray(params['bias'], np.float64)
  return (
    np.array([[sum(x * w for x, w in zip(row, column, strict=True)) for column in kernel.T] for row in rows]) + bias
  )


class TestProjected:
  @pytest.mark.parametrize('shapes', [((4,), (5,)), ((4, 4, 2), (2, 2, 3)), ((2, 2, 2), (4, 4, 3))])
  def test_is_the_error_after_a_linear_map_at_each_place(self, shapes):
    student, teacher = said(shapes[0]), said(shapes[1])
    loss = training.projected()
    params = loss.init(jax.random.key(0), student, teacher)
    params['bias'] += 0.5
    own, other = student.taps[0], teacher.taps[0]
    if own.ndim > 2:
      own, other = oracles.to_smaller(np.asarray(own), np.asarray(other))
    mapped = dense(params, np.asarray(own).reshape(-1, own.shape[-1])).reshape(other.shape)
    np.testing.assert_allclose(
      loss.loss(params, 0, student, teacher, None), oracles.representation_error(mapped, np.asarray(other)), rtol=1e-5
    )

  def test_has_no_gradient_to_the_teacher(self):
    student, teacher = said((4,)), said((5,))
    loss = training.projected()
    params = loss.init(jax.random.key(0), student, teacher)
    total = jax.jit(jax.grad(lambda p, t: loss.loss(p, 0, student, t, None).sum(), (0, 1)))
    gradients = total(params, teacher)
    assert all(jnp.abs(leaf).max() > 0 for leaf in jax.tree.leaves(gradients[0]))
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(gradients[1]))

  @pytest.mark.parametrize(
    'student, teacher, match',
    [
      (said(), said((5,)), 'tap -1 of the student is asked for, which gives no taps'),
      (said((4,)), said(), 'tap -1 of the teacher is asked for, which gives no taps'),
      (said((4,)), said((2, 2, 5)), 'one is a multiple of the other'),
      (said((3, 3, 2)), said((2, 2, 5)), 'one is a multiple of the other'),
    ],
  )
  def test_what_cannot_be_compared_is_refused(self, student, teacher, match):
    with pytest.raises(ValueError, match=match):
      training.projected().init(jax.random.key(0), student, teacher)


class TestHeads:
  def test_are_the_sum_of_their_losses(self):
    student, teacher = said((2, 2, 4), (5,), (6,)), said((7,), (2, 2, 8), (9,))
    loss = training.heads(temperature=2.0, student_at=(0, 1), teacher_at=(1, 0))
    params = loss.init(jax.random.key(0), student, teacher)
    slow = np.zeros(6)
    for i, (own, other) in enumerate([(student.taps[0], teacher.taps[1]), (student.taps[1], teacher.taps[0])]):
      pooled = [np.asarray(tap).reshape(6, -1, tap.shape[-1]).mean(1) for tap in (own, other)]
      mine, theirs = (dense(params[name][i], x) for name, x in zip(('student', 'teacher'), pooled, strict=True))
      slow += oracles.soft_targets(mine, theirs, temperature=2.0)
      slow += oracles.distillation(theirs, theirs, np.asarray(LABELS), soft_weight=0.0)
    found = jax.jit(loss.loss)(params, 0, student, teacher, Batch(None, LABELS))
    np.testing.assert_allclose(found, slow / 2, rtol=1e-4)

  def test_the_teachers_learn_from_labels_alone(self):
    student, teacher = said((4,), (4,)), said((5,), (5,))
    loss = training.heads()
    params = loss.init(jax.random.key(0), student, teacher)
    of_all = jax.grad(lambda p: loss.loss(p, 0, student, teacher, Batch(None, LABELS)).sum())
    of_heads = jax.jit(of_all)(params)['teacher'][0]

    def on_labels(head):
      z = teacher.taps[0] @ head['kernel'] + jnp.broadcast_to(head['bias'], (6, 3))
      return losses.distillation(z, z, LABELS, soft_weight=0.0).sum()

    of_labels = jax.jit(jax.grad(on_labels))(params['teacher'][0])
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5), of_heads, of_labels)

  def test_as_many_of_each_are_asked_for(self):
    with pytest.raises(ValueError, match='give as many of each'):
      training.heads(student_at=(0, 1), teacher_at=(0,))

  def test_labels_are_asked_for(self):
    both = said((4,), (4,))
    loss = training.heads()
    with pytest.raises(ValueError, match='have no labels'):
      loss.loss(loss.init(jax.random.key(0), both, both), 0, both, both, Batch(None, None))


class TestWeighted:
  def test_parts_draw_apart_from_each_other(self):
    both = said((4,)), said((5,))
    one, other = training.weighted((1.0, training.projected()), (1.0, training.projected())).init(
      jax.random.key(0), *both
    )
    assert not np.array_equal(one['kernel'], other['kernel'])

  @pytest.mark.parametrize(
    'parts, match',
    [
      ((training.of_labels(),), 'give pairs of a weight and a criterion'),
      ((1.0,), 'give pairs of a weight and a criterion'),
      (((1.0, lambda s, t, batch: 0.0),), 'makes one of a function'),
    ],
  )
  def test_what_is_no_pair_is_refused(self, parts, match):
    with pytest.raises((ValueError, TypeError), match=f'{match}|parts'):
      training.weighted(*parts)

  def test_weights_follow_their_schedules(self):
    z, t = said(), said()
    kl = training.criterion(lambda s, t, batch: losses.soft_targets(s.logits, t.logits))
    loss = training.weighted((0.5, training.of_labels()), (optax.linear_schedule(0.0, 2.0, 10), kl))
    hard = oracles.distillation(np.asarray(z.logits), np.asarray(z.logits), np.asarray(LABELS), soft_weight=0.0).mean()
    soft = oracles.soft_targets(np.asarray(z.logits), np.asarray(t.logits)).mean()
    at = jax.jit(lambda step: loss.loss(((), ()), step, z, t, Batch(None, LABELS)))
    for step in (0, 5, 20):
      np.testing.assert_allclose(at(step), 0.5 * hard + min(step / 5, 2) * soft, rtol=1e-5)
    assert at._cache_size() == 1

  @pytest.mark.parametrize('parts', [(), ((np.nan, training.of_labels()),), (('1', training.of_labels()),)])
  def test_what_is_no_weight_is_refused(self, parts):
    with pytest.raises((ValueError, TypeError)):
      training.weighted(*parts)


def test_a_temperature_may_follow_a_schedule():
  z, t = said(), said()
  falling = optax.linear_schedule(4.0, 1.0, 3)

  def at(step):
    kl = partial(losses.soft_targets, temperature=falling(step))
    return training.criterion(lambda s, t, batch: kl(s.logits, t.logits))

  found = jax.jit(lambda step: training.scheduled(at).loss((), step, z, t, None))
  for step in range(4):
    slow = oracles.soft_targets(np.asarray(z.logits), np.asarray(t.logits), temperature=4.0 - step)
    np.testing.assert_allclose(found(step), slow, rtol=1e-4)
  assert found._cache_size() == 1


STUDENT, TEACHER = MLP((4,), 3, LMA), MLP((8,), 3, LMA)
INPUTS, NUMBERS = RNG.normal(size=(24, 5)).astype(np.float32), RNG.integers(0, 3, 24)


@pytest.fixture(scope='module')
def teacher():
  return training.linen(TEACHER, TEACHER.init(jax.random.key(7), jnp.asarray(INPUTS), train=False))


def of_all_kinds():
  """Labels, relations, a projector and heads, one of them on a schedule."""
  alike = training.criterion(lambda s, t, batch: losses.similarity_preserving(s.taps[-1], t.taps[-1]))
  return training.weighted(
    (1.0, training.of_labels()),
    (optax.linear_schedule(0.0, 1.0, 4), alike),
    (2.0, training.projected()),
    (0.5, training.heads(student_at=(-1,), teacher_at=(-1,))),
  )


@pytest.fixture(scope='module')
def fitted(teacher):
  task = training.distill(STUDENT, teacher, loss=of_all_kinds())
  return training.fit(task, (INPUTS, NUMBERS), optax.adam(0.02), epochs=6, batch_size=8)


class TestTraining:
  def test_trains_what_is_beside_the_student(self, fitted, teacher):
    assert fitted.history[-1]['loss'] < fitted.history[0]['loss']
    begun = training.distill(STUDENT, teacher, loss=of_all_kinds()).beside(jax.random.key(0), jnp.asarray(INPUTS[:1]))
    ended = fitted.progress.state.params.beside
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), begun, ended)
    assert all(jax.tree.leaves(moved))

  def test_counts_the_steps(self, fitted):
    assert int(fitted.progress.state.stats['beside']['step']) == 18

  def test_ships_the_student_alone(self, fitted):
    plain = STUDENT.init(jax.random.key(0), jnp.asarray(INPUTS), train=False)
    assert jax.tree.structure(fitted.variables) == jax.tree.structure(dict(plain))
    assert tree.size(fitted.params) == tree.size(plain['params'])
    assert fitted.evaluate((INPUTS, NUMBERS))['accuracy'] > 0.3
    assert len(fitted.pack()) > 0

  def test_what_goes_on_starts_without_it(self, fitted):
    end = fitted.progress.end
    assert not isinstance(end.theta, training.WithBeside)
    assert 'beside' not in end.stats

  def test_resumes_with_the_same_bits(self, fitted, teacher, tmp_path):
    task = training.distill(STUDENT, teacher, loss=of_all_kinds())
    how = partial(training.fit, task, (INPUTS, NUMBERS), optax.adam(0.02), batch_size=8, folder=tmp_path)
    how(epochs=2)
    again = how(epochs=6)
    jax.tree.map(np.testing.assert_array_equal, again.progress.state.params, fitted.progress.state.params)

  def test_quantizes_the_student_alone(self, teacher):
    task = training.distill(STUDENT, teacher, loss=of_all_kinds())
    levels = compress.masked(compress.uniform(2), where=compress.kernels)
    fitted = training.fit(task, (INPUTS, NUMBERS), optax.adam(0.02), epochs=2, batch_size=8, reparam=levels)
    kernels = tree.partition(fitted.params, compress.kernels)[0]
    assert len(np.unique(jax.tree.leaves(kernels)[0])) <= 4
    assert len(np.unique(fitted.progress.state.params.beside[2]['kernel'])) > 4

  def test_a_teacher_that_is_its_logits_is_refused(self):
    with pytest.raises(ValueError, match='its logits alone'):
      training.distill(STUDENT, training.logits(np.zeros((24, 3), np.float32)), loss=of_all_kinds())

  def test_a_loss_that_gives_no_array_is_refused(self, teacher):
    task = training.distill(STUDENT, teacher, loss=training.criterion(lambda s, t, batch: 0.0))
    with pytest.raises(ValueError, match='let it give an array'):
      training.fit(task, (INPUTS, NUMBERS), optax.sgd(0.1), epochs=1, batch_size=8)

  def test_features_that_are_no_tuple_are_no_taps(self, teacher):
    bare = training.function(lambda params, stats, x, key: ((x @ params, x), stats), jnp.ones((5, 3)))
    task = training.distill(bare, teacher, loss=training.projected())
    with pytest.raises(ValueError, match='which gives no taps: let it give logits and a tuple of taps'):
      training.fit(task, (INPUTS, NUMBERS), optax.sgd(0.1), epochs=1, batch_size=8)

  def test_a_network_without_taps_is_refused_before_it_is_trained(self, teacher):
    bare = training.function(lambda params, stats, x, key: (x @ params, stats), jnp.ones((5, 3)))
    task = training.distill(bare, teacher, loss=of_all_kinds())
    with pytest.raises(ValueError, match='which gives no taps'):
      training.fit(task, (INPUTS, NUMBERS), optax.sgd(0.1), epochs=1, batch_size=8)


def test_maps_of_convolutions_are_compared():
  """On a pair of convolutional networks, of other widths and depths, in one step."""
  student, teacher = CNN((2,), (), 3, LMA), CNN((4, 6), (), 3, LMA)
  images = jnp.asarray(RNG.normal(size=(8, 8, 8, 1)), jnp.float32)
  loss = training.weighted(
    (1.0, training.criterion(lambda s, t, batch: losses.attention_transfer(s.taps[-1], t.taps[-1]))),
    (1.0, training.projected()),
  )
  variables = teacher.init(jax.random.key(0), images, train=False)
  task = training.distill(student, training.linen(teacher, variables), loss=loss)
  fitted = training.fit(task, (np.asarray(images), NUMBERS[:8]), optax.sgd(0.1), epochs=3, batch_size=8)
  assert fitted.history[-1]['loss'] < fitted.history[0]['loss']
