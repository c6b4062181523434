"""Two ways through an epoch: a step a call from the host, or many a call on resident images; with the same numbers."""

import itertools
import json
import os
import signal
from functools import partial
from types import SimpleNamespace

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from lmajax import LMA, models
from lmajax.activations import linen
from lmajax.training import distilled, mixed, supervised, teach, unrolled, vmapped
from train.data import Examples
from train.data.batches import Batches, evaluation_batches, pixels
from train.engine import fit as loop
from train.engine.cohort import Cohort, Group, Plan, cohort_step, fresh
from train.engine.fit import fit, saved
from train.engine.optimizers import sgd
from train.engine.schedules import cosine
from train.engine.walk import Data, looped, stepped
from train.runtime.run import Run, Stopped

TEACHER = models.MLP((8,), 10, linen.ReLU)
PIXELS = (100.0, 120.0, 140.0), (50.0, 60.0, 70.0)
SHORT = partial(looped, chunk=5)  # an epoch of 12 steps is no whole number of chunks


def images(size=8):
  draw = np.random.default_rng(0)
  pixels = draw.integers(0, 256, (100, size, size, 3), np.uint8)
  return Examples(pixels, draw.integers(0, 10, 100).astype(np.int32))


def spread(devices):
  mesh = jax.make_mesh((devices,), ('data',), axis_types=(AxisType.Auto,), devices=jax.devices()[:devices])
  return NamedSharding(mesh, PartitionSpec('data'))


def batches(sharding=None, size=8):
  return Batches(images(size), batch_size=8, seed=3, prepare=pixels(*PIXELS, augment=True), sharding=sharding)


def cohort(epochs=2):
  soft, hard = models.MLP((4,), 10, LMA), models.MLP((5,), 10, linen.Swish)
  groups = {
    'soft': Group(soft, distilled(soft, mixed(temperature=2.0, soft_weight=0.7)), (0, 1), vmapped),
    'hard': Group(hard, supervised(hard), (0, 1, 2), unrolled),
  }
  return Cohort(groups, Plan(0.05, sgd(1e-3), cosine(epochs), 1), teach(TEACHER))


def frozen_of(teacher=TEACHER, size=8):
  return teacher.init(jax.random.key(9), jnp.zeros((1, size, size, 3)), train=False)


@pytest.mark.parametrize('devices', [1, 8])
def test_a_batch_is_the_same_from_the_host_and_inside_a_program(devices):
  data = batches(spread(devices))
  inside = jax.jit(data.batch)
  for step in (0, 5, 11, 12, 30):
    batch = inside(data.epoch(step // data.steps_per_epoch), step)
    chex.assert_trees_all_close(batch, data[step], rtol=1e-6, atol=1e-6)
    assert {leaf.sharding.shard_shape(leaf.shape)[0] for leaf in batch} == {8 // devices}


def walked(walk, sharding, calls=()):
  """From within the first epoch to the end of the second."""
  data, students = batches(sharding), cohort()
  share = students.share if calls == () else lambda *given: calls.append(1) or students.share(*given)
  advance = walk(cohort_step(students._replace(share=share)), data)
  everywhere = NamedSharding(sharding.mesh, PartitionSpec())
  progress, frozen = jax.device_put((with_rate(fresh(students, data[0].inputs)), frozen_of()), everywhere)
  step, met = 3, []
  for end in (data.steps_per_epoch, 2 * data.steps_per_epoch):
    while step < end:
      progress, step = advance(progress, frozen, step, end)
      met.append(step)
      jax.block_until_ready(progress)  # programs in flight at once starve each other's collectives
  return progress, met


def with_rate(progress):
  def one(state):
    hyperparams = jax.tree.map(lambda rate: jnp.full_like(rate, 0.05), state.opt_state.hyperparams)
    return state._replace(opt_state=state.opt_state._replace(hyperparams=hyperparams))

  return {name: p._replace(state=one(p.state)) for name, p in progress.items()}


def numbers(progress):
  return {name: (p.state.params, p.state.stats, p.state.opt_state, p.sums) for name, p in progress.items()}


@pytest.mark.parametrize('devices', [1, 8])
def test_both_ways_give_the_same_numbers(devices):
  calls = []
  found, met = walked(SHORT, spread(devices), calls)
  expected, every = walked(stepped, spread(devices))
  chex.assert_trees_all_close(numbers(found), numbers(expected), rtol=1e-5, atol=1e-5)
  assert met == [8, 12, 17, 22, 24] and every == list(range(4, 25))
  assert len(calls) == 1  # one trace for chunks of any length


def test_the_seconds_of_all_lines_are_the_seconds_of_the_run(tmp_path, monkeypatch):
  clock = itertools.count()
  monkeypatch.setattr(loop, 'time', SimpleNamespace(perf_counter=lambda: next(clock)))
  with Run(tmp_path) as run:
    fit(run, 'students', cohort(), data_with(SHORT), frozen_of())
  seconds = [json.loads(line)['seconds'] for line in (tmp_path / 'metrics.jsonl').read_text().splitlines()]
  assert seconds == [0.5] * 4  # two groups of students, two epochs of one tick


def data_with(walk):
  sharding = spread(1)
  return Data(
    batches(sharding), list(evaluation_batches(images(), batch_size=20, prepare=pixels(*PIXELS))), sharding, walk
  )


@pytest.mark.slow
def test_a_signal_is_heard_at_the_end_of_a_chunk_and_the_run_goes_on_from_there(tmp_path):
  def signalled(step, batches):
    advance = SHORT(step, batches)

    def advanced(states, frozen, first, end):
      if first == 5:
        os.kill(os.getpid(), signal.SIGTERM)
      return advance(states, frozen, first, end)

    return advanced

  for name in ('whole', 'stopped'):
    (tmp_path / name).mkdir()
  with Run(tmp_path / 'whole') as run:
    whole = fit(run, 'students', cohort(), data_with(SHORT), frozen_of())
  with pytest.raises(Stopped), Run(tmp_path / 'stopped') as run:
    fit(run, 'students', cohort(), data_with(signalled), frozen_of())
  assert run.bar.n == 10
  assert [path.name for path in (tmp_path / 'stopped' / 'checkpoints' / 'students').iterdir()] == ['10']
  with Run(tmp_path / 'stopped') as run:
    chex.assert_trees_all_equal(fit(run, 'students', cohort(), data_with(SHORT), frozen_of()), whole)
  assert run.bar.n == 24
  chex.assert_trees_all_equal(saved(tmp_path / 'stopped', 'students', cohort(), data_with(SHORT)), whole)


@pytest.mark.parametrize('platform', ['cuda', 'tpu'])
def test_a_chunk_lowers_for_other_platforms(platform):
  student, teacher = models.cifar10_student(3, LMA), models.cifar10_teacher(linen.ReLU)
  group = Group(student, distilled(student, mixed(temperature=2.0, soft_weight=0.7)), (0, 1), vmapped)
  students, data = cohort()._replace(groups={'cnn': group}, share=teach(teacher)), batches(size=32)
  start = jax.eval_shape(lambda images: fresh(students, images), data[0].inputs)
  frozen = jax.eval_shape(lambda: frozen_of(teacher, 32))
  advance = looped(cohort_step(students), data)
  chunk = jax.jit(lambda states, frozen: advance(states, frozen, 0, 12)[0])
  exported = jax.export.export(chunk, platforms=[platform])(start, frozen)
  assert exported.platforms == (platform,)
  assert 'stablehlo.while' in exported.mlir_module() and 'stablehlo.convolution' in exported.mlir_module()
