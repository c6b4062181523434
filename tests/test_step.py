"""The training step: one trace, the same on any number of devices, a cohort equal to its members, for any platform."""

from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from lmajax import LMA, models
from lmajax.activations import linen
from train import step as steps
from train.data.batches import Batch
from train.loop import optimizer
from train.objectives import distill, supervised

TEACHER = models.MLP((16,), 10, linen.ReLU)
STUDENT = models.MLP((4,), 10, LMA)
TX = optimizer(1e-3)


def batch_of(step, rows=16, shape=(4, 4, 1)):
  rng = np.random.default_rng(step)
  images = rng.normal(size=(rows, *shape)).astype(np.float32)
  return Batch(jnp.asarray(images), jnp.asarray(rng.integers(0, 10, rows), jnp.int32))


def state_of(model, seed=0, images=None):
  state = steps.init_state(model, TX, jax.random.key(seed), batch_of(0).images if images is None else images)
  return state._replace(opt_state=state.opt_state._replace(hyperparams={'learning_rate': jnp.float32(0.1)}))


def frozen_of(model=TEACHER):
  return model.init(jax.random.key(9), batch_of(0).images, train=False)


def objective():
  return distill(STUDENT, TEACHER, temperature=2.0, soft_weight=0.7)


def ten_steps(train_step, state, frozen, place=lambda batch: batch):
  losses = []
  for i in range(10):
    state, metrics = train_step(state, frozen, place(batch_of(i)))
    losses.append(np.asarray(metrics['loss']))  # waits: steps in flight at once starve each other's collectives
  return state, np.stack(losses)


assert_close = partial(chex.assert_trees_all_close, rtol=1e-5, atol=1e-5)


def numbers(state):
  return state.params, state.stats, state.opt_state


def test_loss_falls_on_one_batch():
  train_step = steps.make_train_step(objective(), TX)
  state, frozen, batch, losses = state_of(STUDENT), frozen_of(), batch_of(0), []
  for _ in range(60):
    state, metrics = train_step(state, frozen, batch)
    losses.append(float(metrics['loss']))
  assert losses[-1] < 0.8 * losses[0]
  assert int(state.step) == 60


@pytest.mark.parametrize('over', [steps.alone, steps.vmapped, steps.unrolled])
def test_traces_once(over):
  traces = []

  def counted(*arguments):
    traces.append(1)
    return objective()(*arguments)

  train_step = steps.make_train_step(counted, TX, over=over)
  state = state_of(STUDENT)
  if over is not steps.alone:
    state = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), state)
  ten_steps(train_step, state, frozen_of())
  assert len(traces) == (2 if over is steps.unrolled else 1)  # once a member of the one program


@pytest.mark.parametrize('over', [steps.vmapped, steps.unrolled])
def test_a_cohort_equals_its_members_trained_alone(over):
  alone = [ten_steps(steps.make_train_step(objective(), TX), state_of(STUDENT, s), frozen_of()) for s in range(3)]
  stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(state_of(STUDENT, seed) for seed in range(3)))
  state, losses = ten_steps(steps.make_train_step(objective(), TX, over=over), stacked, frozen_of())
  for seed, (member, member_losses) in enumerate(alone):
    assert_close(numbers(jax.tree.map(lambda leaf, seed=seed: leaf[seed], state)), numbers(member))
    assert_close(losses[:, seed], member_losses)
  assert not np.allclose(losses[:, 0], losses[:, 1])


def test_a_cohort_of_unrolled_members_runs_the_teacher_once():
  def flops(members):
    state = jax.tree.map(lambda leaf: jnp.stack([leaf] * members), state_of(STUDENT))
    wide = models.MLP((512, 512), 10, linen.ReLU)
    soft = distill(STUDENT, wide, temperature=2.0, soft_weight=0.7)
    compiled = steps.make_train_step(soft, TX, over=steps.unrolled).lower(state, frozen_of(wide), batch_of(0)).compile()
    return compiled.cost_analysis()['flops']

  assert flops(3) < 1.3 * flops(1)


@pytest.mark.parametrize('devices', [2, 8])
def test_data_parallel_steps_equal_those_of_one_device(devices):
  _, one = ten_steps(steps.make_train_step(objective(), TX), state_of(STUDENT), frozen_of())
  reference, _ = ten_steps(steps.make_train_step(objective(), TX), state_of(STUDENT), frozen_of())
  mesh = jax.make_mesh((devices,), ('data',), axis_types=(AxisType.Auto,), devices=jax.devices()[:devices])
  spread, copied = NamedSharding(mesh, PartitionSpec('data')), NamedSharding(mesh, PartitionSpec())

  def place(batch):
    batch = jax.device_put(batch, spread)
    assert {shard.data.shape[0] for shard in batch.images.addressable_shards} == {16 // devices}
    return batch

  state, frozen = jax.device_put((state_of(STUDENT), frozen_of()), copied)
  state, losses = ten_steps(steps.make_train_step(objective(), TX), state, frozen, place)
  assert_close(losses, one)
  assert_close(numbers(state), numbers(reference))


def test_a_student_that_has_stopped_stays_as_it_is_beside_one_that_goes_on():
  stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), state_of(STUDENT, 0), state_of(STUDENT, 1))
  rates = {'learning_rate': jnp.array([0.0, 0.1])}
  stacked = stacked._replace(opt_state=stacked.opt_state._replace(hyperparams=rates))
  before = jax.tree.map(lambda leaf: np.asarray(leaf[0]), numbers(stacked))
  train_step = steps.make_train_step(objective(), TX, over=lambda step: steps.vmapped(steps.unless_stopped(step)))
  state, _ = ten_steps(train_step, stacked, frozen_of())
  alone, _ = ten_steps(steps.make_train_step(objective(), TX), state_of(STUDENT, 1), frozen_of())
  chex.assert_trees_all_equal(jax.tree.map(lambda leaf: np.asarray(leaf[0]), numbers(state)), before)
  assert_close(jax.tree.map(lambda leaf: leaf[1], numbers(state)), numbers(alone))
  assert state.step.tolist() == [10, 10]


def test_only_the_state_is_donated():
  train_step = steps.make_train_step(objective(), TX)
  state, frozen, batch = state_of(STUDENT), frozen_of(), batch_of(0)
  train_step(state, frozen, batch)
  assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state.params))
  assert not any(leaf.is_deleted() for leaf in jax.tree.leaves((frozen, batch)))


def test_the_teacher_is_run_in_evaluation_mode_and_gets_no_gradient():
  frozen = frozen_of()
  state = state_of(STUDENT)

  def loss(frozen):
    return objective()(state.params, state.stats, frozen, batch_of(1), state.key)[0]

  gradient = jax.grad(loss)(frozen)
  assert all(not leaf.any() for leaf in jax.tree.leaves(gradient))


def test_bfloat16_computes_in_bfloat16_and_keeps_parameters_and_statistics_in_float32():
  model = models.MLP((4,), 10, LMA, jnp.bfloat16)
  state = state_of(model)
  logits, _ = model.apply({'params': state.params, **state.stats}, batch_of(0).images, train=False)
  assert logits.dtype == jnp.bfloat16
  state, metrics = steps.make_train_step(supervised(model), TX)(state, None, batch_of(0))
  assert {leaf.dtype for leaf in jax.tree.leaves((state.params, state.stats))} == {jnp.dtype('float32')}
  assert metrics['loss'].dtype == jnp.float32


def test_weight_decay_is_coupled_and_pulls_slopes_toward_relu():
  state = state_of(STUDENT)
  params = jax.tree.map(jnp.ones_like, state.params)
  updates, _ = TX.update(jax.tree.map(jnp.zeros_like, params), state.opt_state, params)
  slopes = updates['stages_0']['act']['slope_deltas']
  np.testing.assert_allclose(slopes, -0.1 * 1e-3 * (1 + 0.9), rtol=1e-6)  # Nesterov's first step counts 1 + momentum


STUDENT_1 = (partial(models.cifar10_student, 1, LMA), models.cifar10_teacher, 10)
WRN_10_4 = (partial(models.WideResNet, 10, 4, 100, LMA), lambda act: models.WideResNet(16, 10, 100, act), 100)


@pytest.mark.parametrize('platform', ['cuda', 'tpu'])
@pytest.mark.parametrize('student, teacher, classes', [STUDENT_1, WRN_10_4], ids=['student 1', 'WRN 10-4'])
def test_the_whole_step_lowers_for_other_platforms(student, teacher, classes, platform):
  student, teacher = student(), teacher(linen.ReLU)
  images = jax.ShapeDtypeStruct((64, 32, 32, 3), jnp.float32)
  batch = Batch(images, jax.ShapeDtypeStruct((64,), jnp.int32))
  state = jax.eval_shape(lambda images: steps.init_state(student, TX, jax.random.key(0), images), images)
  frozen = jax.eval_shape(lambda images: teacher.init(jax.random.key(0), images, train=False), images)
  train_step = steps.make_train_step(distill(student, teacher, temperature=2.0, soft_weight=0.7), TX)
  exported = jax.export.export(train_step, platforms=[platform])(state, frozen, batch)
  assert exported.platforms == (platform,)
  assert 'stablehlo.convolution' in exported.mlir_module()
  assert 'tf.aliasing_output' in exported.mlir_module() or 'jax.buffer_donor' in exported.mlir_module()
