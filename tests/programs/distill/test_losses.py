"""Students by several losses under one teacher, in distill and in quantize: what trains, what is kept and refused."""

import dataclasses

import jax
import numpy as np
import pytest

from lmajax import tree
from lmajax.training import WithBeside
from tests.support.rows import ROWS
from train.engine.cohort import fresh
from train.engine.fit import saved
from train.programs.distill import run as recipe
from train.programs.distill.config import Distill, check
from train.programs.distill.table import text
from train.programs.quantize import run as quantize
from train.programs.quantize import students as quantizers
from train.programs.quantize.config import Quantize
from train.runtime.errors import UserError
from train.runtime.run import Run

CONFIG = Distill(
  activations=('relu', 'lma'), width=(3,), seeds=2, epochs=2, save_every=1, train_images=200,
  loss=('kd', 'dist', 'hint'), loss_weights=(1.0, 1.0, 0.01),
)  # fmt: skip
HINT = 'relu-w3-hint-x0.01'


@pytest.fixture(scope='module')
def plan():
  return recipe.experiment(CONFIG)


@pytest.fixture(scope='module')
def folder(plan, tmp_path_factory):
  folder = tmp_path_factory.mktemp('losses')
  with Run(folder) as run:
    recipe.run(plan, run)
  return folder


def test_one_cohort_has_a_student_of_each_loss_and_one_of_labels(plan):
  kinds = ('distilled', 'dist', 'hint-x0.01', 'hard')
  assert list(plan.students.groups) == [f'{act}-w3-{kind}' for act in ('relu', 'lma-8') for kind in kinds]


def test_the_students_of_a_seed_begin_alike_whatever_their_loss(plan):
  begun = fresh(plan.students, plan.data.batches.blank)
  plain, hinted = begun['relu-w3-distilled'].state.params, begun[HINT].state.params
  assert isinstance(hinted, WithBeside)
  jax.tree.map(np.testing.assert_array_equal, plain, hinted.student)


def test_what_is_beside_the_students_is_trained_and_saved_and_does_not_ship(plan, folder):
  kept = saved(folder, recipe.STUDENTS, plan.students, plan.data)[HINT]
  begun = fresh(plan.students, plan.data.batches.blank)[HINT]
  moved = jax.tree.map(lambda a, b: bool((a != b).all()), kept.state.params.beside, begun.state.params.beside)
  assert all(jax.tree.leaves(moved))
  np.testing.assert_array_equal(kept.state.stats['beside']['step'], 2 * plan.data.batches.steps_per_epoch)
  found = recipe.restored(plan, folder)
  assert tree.size(found[HINT]) == tree.size(found['relu-w3-distilled'])
  assert jax.tree.structure(found[HINT]) == jax.tree.structure(found['relu-w3-distilled'])


def test_the_table_compares_the_losses(folder):
  lines = (folder / 'results.md').read_text().splitlines()
  assert (
    lines[0] == '| loss | relu % | − kd | 95 % interval | lma-8 % | − kd | 95 % interval | − ReLU | 95 % interval |'
  )
  assert [line.split(' | ')[0] for line in lines[2:]] == [
    '| teacher',
    '| kd',
    '| dist',
    '| hint-x0.01',
    '| labels alone',
  ]


def test_differences_are_of_the_same_kind_of_student():
  relu, lma = (next(row for row in ROWS if row.activation == act and not row.hard_label) for act in ('relu', 'lma'))
  other = [row._replace(name=f'{row.name}-dist', loss='dist', accuracy=[a + d for a in row.accuracy]) for row, d in
           ((relu, 0.01), (lma, 0.03))]  # fmt: skip
  line = next(line for line in text([*ROWS, *other]).splitlines() if line.startswith('| dist'))
  gains = [cell.strip() for cell in line.split('|')]
  assert gains[1] == 'dist'
  assert gains[3] == '+1.00' and gains[6] == '+3.00'
  assert gains[8] == f'{100 * (np.mean(np.subtract(lma.accuracy, relu.accuracy)) + 0.02):+.2f}'


def test_a_loss_of_maps_does_not_fit_a_perceptron():
  with pytest.raises(UserError, match='--loss is attention, which does not fit these networks: it compares maps'):
    recipe.experiment(dataclasses.replace(CONFIG, loss=('attention',), loss_weights=()))


def test_quantize_has_a_student_of_each_loss_and_a_grid_of_kd_alone():
  config = Quantize(
    activations=('relu',), width=(3,), bits=(4,), methods=('uniform',), loss=('kd', 'dist'), temperature=(1.0, 2.0),
    soft_weight=(0.5,),
  )  # fmt: skip
  kinds = ('float-t1-s0.5', 'float-t2-s0.5', 'uniform-4-t1-s0.5', 'uniform-4-t2-s0.5', 'float-dist', 'uniform-4-dist')
  assert [arm.name for arm in quantizers.arms(config)] == [f'relu-w3-{kind}' for kind in kinds]


def test_quantize_trains_by_them_too(tmp_path):
  config = Quantize(
    activations=('relu',), width=(3,), seeds=1, epochs=1, train_images=200, bits=(4,), methods=('uniform',),
    loss=('similarity',), loss_weights=(0.01,),
  )  # fmt: skip
  plan = quantize.experiment(config)
  with Run(tmp_path) as run:
    rows = quantize.run(plan, run)
  students = rows[1:]
  assert [row.name for row in students] == [f'relu-w3-{kind}-similarity-x0.01' for kind in ('float', 'uniform-4')]
  assert all(row.temperature is None and row.bytes for row in students)
  assert quantize.again(plan, tmp_path) == rows


def test_points_refuse_losses_of_taps():
  with pytest.raises(UserError, match='--loss is similarity: method points shares its levels out'):
    quantize.experiment(Quantize(methods=('points',), loss=('similarity',)))


@pytest.mark.parametrize('loss', ['hint', 'similarity'])
def test_what_is_heard_alone_refuses_losses_of_taps(loss):
  with pytest.raises(UserError, match=f'--loss is {loss}: the teacher is its logits alone here'):
    check(Distill(loss=(loss,), cached_logits=0))
