"""A teacher's recipe is its own and the students' is theirs; which seeds the students have."""

from dataclasses import replace

import jax
import numpy as np
import pytest

from train import build
from train.config import TEACHER
from train.programs.compress import run as compress
from train.programs.compress.config import Compress
from train.programs.distill import run as distill
from train.programs.distill.config import Distill
from train.programs.quantize import run as quantize
from train.programs.quantize.config import Quantize
from train.programs.slim import run as slim
from train.programs.slim.config import Slim

OWN = {
  'teacher_learning_rate': 0.3, 'teacher_schedule': 'constant', 'teacher_weight_decay': 0.5, 'teacher_batch_size': 8,
  'teacher_label_smoothing': 0.25,
}  # fmt: skip
SMALL = {'train_images': 100, 'epochs': 4, 'batch_size': 32, 'activations': ('relu',), 'width': (3,)}


def moved_by(plan, weights):
  """How far a step without a gradient moves weights at a rate of 1: by their decay."""
  tx = plan.optimizer(1.0)
  updates, _ = tx.update(0 * weights, tx.init(weights), weights)
  return np.asarray(updates / weights)


def test_rate_schedule_and_decay_are_its_own_or_the_students():
  config = Distill(**SMALL, teacher_epochs=7, learning_rate=0.05, schedule='cosine', weight_decay=1e-3)
  own, theirs = build.teacher_plan(replace(config, **OWN)), build.teacher_plan(config)
  assert (own.learning_rate, theirs.learning_rate) == (0.3, 0.05)
  assert [own.schedule([0.5] * epoch) for epoch in (0, 6, 7)] == [1.0, 1.0, None]
  assert theirs.schedule([0.5] * 6) < 0.1 and theirs.schedule([0.5] * 7) is None
  weights = jax.numpy.ones(3)
  np.testing.assert_allclose(moved_by(own, weights) / moved_by(theirs, weights), 0.5 / 1e-3, rtol=1e-5)


PROGRAMS = [
  (distill, Distill, {}),
  (quantize, Quantize, {'bits': (4,), 'methods': ('uniform',)}),
  (slim, Slim, {'rules': ('pca',), 'rate': (0.3,), 'width': (12, 8)}),
  (compress, Compress, {'rate': 0.3, 'width': (12, 8)}),
]


@pytest.mark.parametrize('recipe, kind, options', PROGRAMS, ids=[kind.__name__ for _, kind, _ in PROGRAMS])
class TestEveryProgram:
  def plan(self, recipe, kind, options, **changes):
    return recipe.experiment(kind(**{**SMALL, **options, 'seeds': 2, 'first_seed': 3, **changes}))

  def group(self, plan):
    """That of the teacher, or of the original."""
    if isinstance(plan, compress.Experiment):
      return compress.group(plan, compress.Stage(compress.ORIGINAL), plan.slimming.full)
    cohort = plan.cohort if isinstance(plan, slim.Experiment) else plan.teacher
    return next(iter(cohort.groups.values()))

  def test_batches_are_the_teachers_own(self, recipe, kind, options):
    own, theirs = (self.plan(recipe, kind, options, **changes) for changes in (OWN, {}))
    count = len(own.dataset.train.labels)
    assert (own.teacher_data.batches.steps_per_epoch, own.data.batches.steps_per_epoch) == (count // 8, count // 32)
    assert theirs.teacher_data.batches.steps_per_epoch == count // 32

  def test_labels_are_smoothed_for_it_alone(self, recipe, kind, options):
    own, theirs = (self.group(self.plan(recipe, kind, options, **changes)) for changes in (OWN, {}))
    plan = self.plan(recipe, kind, options)
    batch, key = plan.data.batches[0], jax.random.key(0)
    variables = dict(jax.jit(lambda key: own.model.init(key, batch.inputs, train=False))(key))
    params = variables.pop('params')
    losses = [float(jax.jit(group.objective)(params, variables, None, batch, key)[0]) for group in (own, theirs)]
    logits = own.model.apply({'params': params, **variables}, batch.inputs, train=True, mutable=['batch_stats'])[0][0]
    said = np.log(np.exp(logits) / np.exp(logits).sum(-1, keepdims=True))
    right = said[np.arange(len(said)), np.asarray(batch.labels)]
    np.testing.assert_allclose(losses, [-(0.75 * right + 0.25 * said.mean(-1)).mean(), -right.mean()], rtol=1e-4)

  def test_seeds_go_on_from_the_first(self, recipe, kind, options):
    plan = self.plan(recipe, kind, options)
    if isinstance(plan, distill.Experiment):
      assert {tuple(group.seeds) for group in plan.students.groups.values()} == {(3, 4)}
    elif isinstance(plan, quantize.Experiment):
      assert {tuple(quantize.group(plan, arm, None).seeds) for arm in plan.models} == {(3, 4)}
    else:
      assert tuple(self.group(plan).seeds) == (3, 4)


def test_the_teacher_of_many_students_has_one_seed():
  plan = distill.experiment(Distill(**SMALL, first_seed=3))
  assert tuple(plan.teacher.groups[TEACHER].seeds) == (0,)
