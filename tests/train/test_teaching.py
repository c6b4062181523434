"""Losses by name: each trains a student that it fits and names one that it does not, with the weights of its source."""

from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmajax import LMA
from lmajax.activations.linen import ReLU
from lmajax.models import CNN, MLP
from lmajax.training import Taught, WithBeside, teach
from lmajax.types import Batch
from tests import oracles
from train.programs.distill.config import Distill
from train.runtime.errors import UserError
from train.teaching import (
  KD,
  LOGITS,
  LOSSES,
  Losses,
  check_losses,
  end_to_end,
  named,
  pairs,
  parted,
  per_label,
  teaching,
)

RNG = np.random.default_rng(0)
KD_OPTIONS = {'temperature': 2.0, 'soft_weight': 0.7}
BATCH = Batch(jnp.asarray(RNG.normal(size=(6, 4)), jnp.float32), jnp.asarray(RNG.integers(0, 3, 6)))
IMAGES = Batch(jnp.asarray(RNG.normal(size=(6, 4, 4, 1)), jnp.float32), BATCH.labels)
OF_MAPS = ('hint', 'attention', 'selectivity', 'heads')
OF_VECTORS = tuple(name for name in (KD, *LOSSES) if name not in ('attention', 'selectivity'))
HALF, LABELS = 'similarity-x0.5', 'similarity-x0'


class Bare(nn.Module):
  """Gives logits and no taps."""

  @nn.compact
  def __call__(self, x, *, train):
    return nn.Dense(3)(x)


MLPS = MLP((5, 4), 3, LMA), MLP((7, 6, 6), 3, ReLU)
CNNS = (  # of one size, 2 × 2, besides that of the images
  CNN(channels=(2, 3), units=(), num_classes=3, act=LMA, pool_after=(0,)),
  CNN(channels=(3, 2), units=(5,), num_classes=3, act=ReLU, pool_after=(1,)),
)


def gradients(models, batch, asked):
  """Losses and gradients of a student at its first weights, by the names, in one program."""
  student, teacher = models
  key = jax.random.key(0)

  @jax.jit
  def each():
    own, other = (model.init(key, batch.inputs, train=False) for model in models)
    stats = {name: part for name, part in own.items() if name != 'params'}
    found = {}
    for name in asked:
      how = teaching(name, student, teacher, batch.inputs, **KD_OPTIONS)
      params, counted = own['params'], stats
      if how.beside is not None:
        params = WithBeside(params, how.beside(key, batch.inputs))
        counted = {**stats, 'beside': {'step': jnp.zeros((), jnp.int32)}}
      said = teach(teacher)(other, batch)
      objective = jax.value_and_grad(lambda p, how=how, c=counted, s=said: how.objective(p, c, s, batch, key)[0])
      found[name] = objective(params)
    return found

  return jax.device_get(each())


@pytest.fixture(scope='module')
def of_vectors():
  return gradients(MLPS, BATCH, (*OF_VECTORS, HALF, LABELS))


@pytest.fixture(scope='module')
def of_maps():
  return gradients(CNNS, IMAGES, OF_MAPS)


def assert_it_trains(loss, slopes):
  assert np.isfinite(loss) and loss > 0
  leaves = jax.tree.leaves(slopes)
  assert all(np.isfinite(leaf).all() for leaf in leaves)
  assert any(np.abs(leaf).max() > 1e-6 for leaf in jax.tree.leaves(getattr(slopes, 'student', slopes)))
  beside = jax.tree.leaves(getattr(slopes, 'beside', ()))
  assert not beside or any(np.abs(leaf).max() > 1e-6 for leaf in beside)


class TestTeaching:
  @pytest.mark.parametrize('name', OF_VECTORS)
  def test_every_loss_of_logits_and_features_trains(self, of_vectors, name):
    assert_it_trains(*of_vectors[name])

  @pytest.mark.parametrize('name', OF_MAPS)
  def test_every_loss_of_maps_trains(self, of_maps, name):
    assert_it_trains(*of_maps[name])

  def test_every_loss_is_tried_and_some_train_more_than_the_student(self, of_vectors):
    assert {*OF_VECTORS, *OF_MAPS} == {KD, *LOSSES}
    more = {name for name, (_, slopes) in of_vectors.items() if jax.tree.leaves(getattr(slopes, 'beside', ()))}
    assert more == {'hint', 'heads'}

  def test_a_weight_is_of_what_is_compared_and_not_of_the_labels(self, of_vectors):
    labels, whole, half = (float(of_vectors[name][0]) for name in (LABELS, 'similarity', HALF))
    assert half - labels == pytest.approx((whole - labels) / 2, rel=1e-3) and whole > 2 * labels

  @pytest.mark.parametrize(
    'name, models, batch, why',
    [
      ('attention', MLPS, BATCH, 'it compares maps, and the two networks have none of one size'),
      ('hint', (Bare(), MLPS[1]), BATCH, 'the two networks have no taps that can be compared'),
      ('relational-x2', (Bare(), MLPS[1]), BATCH, 'a network gives no taps'),
    ],
  )
  def test_one_that_does_not_fit_is_named(self, name, models, batch, why):
    with pytest.raises(UserError) as error:
      teaching(name, *models, batch.inputs, **KD_OPTIONS)
    assert str(error.value) == f'--loss is {parted(name)[0]}, which does not fit these networks: {why}'


def said(*shapes):
  return Taught(jnp.zeros((2, 3)), tuple(jnp.zeros((2, *shape)) for shape in shapes))


class TestPairs:
  def test_of_maps_the_last_of_each_size_that_both_have_and_never_the_first(self):
    student = said((8, 8, 1), (8, 8, 2), (8, 8, 3), (4, 4, 4), (2, 2, 4), (7,))
    teacher = said((8, 8, 1), (8, 8, 5), (2, 2, 6), (2, 2, 7), (1, 1, 8), (9,))
    assert pairs(student, teacher) == [(2, 1), (4, 3)]
    assert pairs(said((8, 8, 1), (4, 4, 2)), said((8, 8, 1), (2, 2, 2))) == []

  def test_without_maps_hidden_layers_from_the_last_one_back(self):
    student, teacher = said((4,), (5,), (6,)), said((4,), (7,), (8,), (9,))
    assert pairs(student, teacher) == [(1, 2), (2, 3)] and pairs(teacher, student) == [(2, 1), (3, 2)]
    assert pairs(said((8, 8, 1), (4, 4, 2), (5,)), teacher) == [(2, 3)]
    assert pairs(said((4,)), teacher) == pairs(said(), teacher) == []


LOGITS_OF = [2 * RNG.normal(size=(5, 4)).astype(np.float32) for _ in range(2)]
NUMBERS, WHERE = RNG.integers(0, 4, 5).astype(np.int32), np.array([True, False, True, True, True])
OF_ORACLES = {
  'jsd': lambda s, t, y, where: oracles.losses.jensen_shannon(s, t, temperature=4.0, where=where),
  'decoupled': oracles.losses.decoupled,
  'dist': lambda s, t, y, where: oracles.losses.dist(s, t, where=where),
}
WEIGHTS = {'jsd': (0.1, 0.9), 'decoupled': (1.0, 1.0), 'dist-x0.5': (1.0, 1.0), 'dist': (1.0, 2.0)}


class TestPerLabel:
  @pytest.mark.parametrize('asked', WEIGHTS)
  def test_is_labels_and_the_loss_each_with_its_weight(self, asked):
    hard, weight = WEIGHTS[asked]
    of = OF_ORACLES[parted(asked)[0]](*LOGITS_OF, NUMBERS, where=WHERE)
    labels = oracles.losses.distillation(*LOGITS_OF, NUMBERS, soft_weight=0.0, where=WHERE)
    found = per_label(asked)(*map(jnp.asarray, (*LOGITS_OF, NUMBERS, WHERE)))
    np.testing.assert_allclose(found, hard * labels + weight * of, rtol=1e-4, atol=1e-6)
    assert found[1] == 0

  def test_end_to_end_is_its_mean_and_of_kd_the_mix_of_the_options(self):
    student, teacher, labels = map(jnp.asarray, (*LOGITS_OF, NUMBERS))
    batch = Batch((), labels)
    of_dist, of_kd = (end_to_end(name, **KD_OPTIONS)(student, Taught(teacher, ()), batch) for name in ('dist', KD))
    assert float(of_dist) == pytest.approx(float(per_label('dist')(student, teacher, labels, None).mean()))
    expected = oracles.losses.distillation(*LOGITS_OF, NUMBERS, temperature=2.0, soft_weight=0.7).mean()
    assert float(of_kd) == pytest.approx(expected, rel=1e-5)


class TestNames:
  def test_the_weight_stands_where_it_is_not_1(self):
    config = Losses(('kd', 'hint', 'reverse-kl', 'hint'), (1.0, 0.1, 250.0, 1.0))
    assert named(config) == ('kd', 'hint-x0.1', 'reverse-kl-x250', 'hint')
    assert tuple(map(parted, named(config))) == tuple(zip(config.loss, config.loss_weights, strict=True))
    assert named(Losses(('dist', 'kd'))) == ('dist', 'kd')

  def test_those_of_logits_are_known(self):
    assert LOGITS == ('kd', 'jsd', 'reverse-kl', 'standardized', 'decoupled', 'dist', 'value', 'rank')


def asking(loss, weights=(), **options):
  return Distill(loss=loss, loss_weights=weights, **options)


class TestOptions:
  @pytest.mark.parametrize(
    'config, expected',
    [
      (asking(()), '--loss is empty: give at least one'),
      (asking(('kd', 'dist'), (2.0, 1.0)), '--loss-weights is 2.0 1.0: give kd the weight 1'),
      (asking(('dist', 'dist')), '--loss is dist dist: give each once, or with other weights'),
      (asking(('dist', 'dist'), (2.0, 2.0)), '--loss is dist dist: give each once, or with other weights'),
      (asking(('dist', 'jsd'), (2.0,)), '--loss-weights is 2.0: give one for each --loss'),
      (asking(('dist',), (0.0,)), '--loss-weights is 0.0: give positive numbers'),
      (asking(('dist',), (float('nan'),)), '--loss-weights is nan: give positive numbers'),
      (asking(('decoupled',), mixup=1.0), '--loss is decoupled: it asks for class numbers, and --mixup leaves none'),
      (asking(('kd', 'hint'), cached_logits=0), '--loss is hint: the teacher is its logits alone here; give kd jsd'),
      (asking(('jsd', 'hint'), temperature=3.0), '--temperature is 3.0: it is of kd alone, and --loss is jsd hint'),
      (
        asking(('heads',), teacher_logits=Path('said.npy')),
        '--loss is heads: the teacher is its logits alone here; give kd',
      ),
    ],
  )
  def test_what_cannot_be_is_named(self, config, expected):
    with pytest.raises(UserError) as error:
      check_losses(config)
    assert str(error.value).startswith(expected)

  def test_what_fits_is_let_through(self):
    check_losses(asking(('dist', 'dist', 'decoupled'), (1.0, 2.0, 1.0), mixup=None, cached_logits=3))
    check_losses(asking(('kd', 'hint', 'jsd'), mixup=1.0, cached_logits=None))
