"""Runs of distill on mixed images: who sees which, what is kept of them, and stopped they end with the same bits."""

import dataclasses
import signal

import chex
import jax
import numpy as np
import pytest

from tests.support.processes import train
from tests.support.runs import assert_same_run
from train.engine.cohort import cohort_step, fresh
from train.engine.logits_cache import FOLDER
from train.programs.distill import run as recipe
from train.programs.distill.config import Distill
from train.programs.quantize import run as quantize
from train.programs.quantize.config import Quantize
from train.runtime.run import Run

SMALL = {'activations': ('relu',), 'width': (3,), 'seeds': 1, 'epochs': 2, 'train_images': 200}
PATIENT = '--mixup 1 --soft-weight 1 --temperature 1'


@pytest.fixture(scope='module')
def plans():
  plain = Distill(**SMALL)
  return tuple(recipe.experiment(dataclasses.replace(plain, mixup=mixup)) for mixup in (None, 1.0))


def variables_of(model, plan):
  return model.init(jax.random.key(0), plan.data.batches.blank, train=False)


def test_students_get_mixed_images_and_the_teacher_learns_from_images_as_they_are(plans):
  plain, mixed = plans
  assert plain.data is plain.teacher_data
  for step in (0, 3):
    chex.assert_trees_all_equal(mixed.teacher_data.batches[step], plain.data.batches[step])
    images, own = plain.data.batches[step], mixed.data.batches[step]
    assert own.labels.shape == (64, 10) and not np.array_equal(own.inputs, images.inputs)
    assert np.all(np.take_along_axis(np.asarray(own.labels), np.asarray(images.labels)[:, None], -1) > 0)
  chex.assert_trees_all_equal(mixed.data.validation, plain.data.validation)


def test_quantize_mixes_what_distill_mixes(plans):
  plan = quantize.experiment(Quantize(**{**SMALL, 'mixup': 1.0}))
  chex.assert_trees_all_equal(plan.data.batches[1], plans[1].data.batches[1])
  chex.assert_trees_all_equal(plan.teacher_data.batches[1], plans[0].data.batches[1])
  chex.assert_trees_all_equal(plan.plain.batches[1], plans[0].data.batches[1])


def test_teacher_and_students_see_one_view(plans):
  config = dataclasses.replace(plans[1].config, soft_weight=1.0, temperature=1.0)
  plan = recipe.experiment(config)
  batch, name = plan.data.batches[0], 'relu-w3-distilled'
  teacher = jax.tree.map(lambda leaf: 3 * leaf, variables_of(plan.teacher.groups['teacher'].model, plan))
  students = plan.students._replace(groups={name: plan.students.groups[name]})
  begun = fresh(students, plan.data.batches.blank)
  moved = jax.jit(cohort_step(students))(begun, teacher, batch)
  params, stats = (jax.tree.map(lambda leaf: leaf[0], part) for part in (begun[name].end.theta, begun[name].end.stats))
  student = students.groups[name].model
  (own, _), _ = student.apply({'params': params, **stats}, batch.inputs, train=True, mutable=[*stats])
  theirs, _ = plan.teacher.groups['teacher'].model.apply(teacher, batch.inputs, train=False)
  own, theirs = (np.asarray(jax.nn.log_softmax(logits), np.float64) for logits in (own, theirs))
  divergence = (np.exp(theirs) * (theirs - own)).sum(-1).mean()
  np.testing.assert_allclose(moved[name].sums['loss'], [divergence], rtol=1e-4)


def test_what_the_teacher_says_of_each_mix_is_kept(plans, tmp_path):
  plan = plans[1]._replace(config=dataclasses.replace(plans[1].config, cached_logits=0))
  model, batches = plan.teacher.groups['teacher'].model, plan.data.batches
  variables = jax.tree.map(lambda leaf: 3 * leaf, variables_of(model, plan))
  with Run(tmp_path) as run:
    _, data, _ = recipe.under(plan, run, variables)
  for step in range(2 * batches.steps_per_epoch):
    told, own = data.batches[step], batches[step]
    chex.assert_trees_all_equal((told.inputs, told.labels), tuple(own))
    logits, _ = model.apply(variables, own.inputs, train=False)
    np.testing.assert_allclose(told.said.astype(np.float32), jax.nn.log_softmax(logits), rtol=1e-3, atol=1e-3)
  rows = np.load(tmp_path / FOLDER / 'log-probabilities.npy')
  assert rows.shape == (2 * batches.size, 10)


@pytest.mark.slow
def test_stopped_within_an_epoch_a_run_ends_with_the_same_bits(plans, tmp_path):
  small = '--activations relu --width 3 --seeds 1 --epochs 2 --train-images 200'
  options = [*small.split(), *PATIENT.split()]
  steps = 2 * plans[1].data.batches.steps_per_epoch
  whole, folder, dots = (tmp_path / name for name in ('whole', 'run', 'dots'))
  done = train('distill', '--workdir', whole, *options)
  assert done.returncode == 0, done.stderr
  stopped = train('distill', '--workdir', folder, *options, counted=dots, at=steps + 1, signum=signal.SIGTERM)
  assert stopped.returncode == 128 + signal.SIGTERM, stopped.stderr
  resumed = train('distill', '--workdir', folder, '--resume', counted=dots)
  assert resumed.returncode == 0, resumed.stderr
  assert dots.stat().st_size == 2 * steps
  assert_same_run(folder, whole)
