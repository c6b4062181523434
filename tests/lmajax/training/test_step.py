"""The training step: one trace, the same on any number of devices, a cohort equal to its members, for any platform."""

from functools import partial

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from lmajax import LMA, compress, models, tree
from lmajax.activations import linen
from lmajax.training import (
  Start,
  WithCode,
  compiled,
  distilled,
  forward,
  init_state,
  make_train_step,
  mixed,
  reparameterized,
  supervised,
  teach,
  unrolled,
  vmapped,
)
from lmajax.training._step import _CODE
from lmajax.types import Batch
from train.engine.cohort import Cohort, Group, Plan, cohort_step, fresh, weights
from train.engine.optimizers import adjustable, sgd

TEACHER = models.MLP((16,), 10, linen.ReLU)
STUDENT = models.MLP((4,), 10, LMA)
TX = adjustable(sgd(1e-3))


def batch_of(step, rows=16, shape=(4, 4, 1)):
  rng = np.random.default_rng(step)
  images = rng.normal(size=(rows, *shape)).astype(np.float32)
  return Batch(jnp.asarray(images), jnp.asarray(rng.integers(0, 10, rows), jnp.int32))


def state_of(model, seed=0, images=None):
  state = init_state(model, TX, jax.random.key(seed), batch_of(0).inputs if images is None else images)
  return state._replace(opt_state=state.opt_state._replace(hyperparams={'learning_rate': jnp.float32(0.1)}))


def made_state(group, seed):
  """The state of a student alone, whose weights are made from less."""
  state = state_of(group.model, seed)
  theta, _ = group.reparam.init(state.params, jax.random.fold_in(jax.random.key(seed), _CODE))
  rate = {'learning_rate': jnp.float32(0.1)}
  return state._replace(params=theta, opt_state=TX.init(theta)._replace(hyperparams=rate))


def frozen_of(model=TEACHER):
  return model.init(jax.random.key(9), batch_of(0).inputs, train=False)


def objective(student=STUDENT):
  return distilled(student, mixed(temperature=2.0, soft_weight=0.7))


SHARE = teach(TEACHER)
MADE = {
  'uniform': compress.masked(compress.uniform(3)),
  'noise': compress.masked(compress.noise(compress.uniform(3), 0.5)),
  'product': compress.masked(compress.product_codebook(4, 4)),
}


def step_alone():
  return make_train_step(objective(), TX, share=SHARE)


def assorted(over=vmapped):
  """Students of several activations and widths, under soft targets and under labels alone, two seeds each."""
  joined = models.MLP((6,), 10, partial(LMA, num_segments=4, joined=True))
  students = {
    'relu': (relu := models.MLP((5,), 10, linen.ReLU), objective(relu)),
    'lma': (STUDENT, objective()),
    'lma-joined': (joined, objective(joined)),
    'hard lma': (STUDENT, supervised(STUDENT)),
  }
  groups = {name: Group(model, aim, (0, 1), over) for name, (model, aim) in students.items()}
  return Cohort(groups, Plan(0.1, sgd(1e-3), lambda errors: 1.0, 1), SHARE)


def made(over=vmapped):
  """Students whose weights are made from less, beside one whose weights are its own."""
  reparams = {'lma': compress.identity(), **MADE}
  groups = {name: Group(STUDENT, objective(), (0, 1), over, reparam) for name, reparam in reparams.items()}
  return assorted()._replace(groups=groups)


def at_rate(progress, rate=0.1):
  """The students of a cohort with that learning rate, or that of each seed."""

  def one(state):
    hyperparams = state.opt_state.hyperparams
    rates = {'learning_rate': jnp.zeros_like(hyperparams['learning_rate']) + jnp.float32(rate)}
    return state._replace(opt_state=state.opt_state._replace(hyperparams=rates))

  return {name: p._replace(state=one(p.state)) for name, p in progress.items()}


def ten_steps_together(cohort, progress):
  step = compiled(cohort_step(cohort))
  for i in range(10):
    progress = step(progress, frozen_of(), batch_of(i))
  return progress


def counted(function, calls):
  def counting(*arguments, **options):
    calls.append(1)
    return function(*arguments, **options)

  return counting


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
  train_step = step_alone()
  state, frozen, batch, losses = state_of(STUDENT), frozen_of(), batch_of(0), []
  for _ in range(60):
    state, metrics = train_step(state, frozen, batch)
    losses.append(float(metrics['loss']))
  assert losses[-1] < 0.8 * losses[0]
  assert int(state.step) == 60


@pytest.mark.parametrize('over, members, kinds', [(vmapped, 1, assorted), (unrolled, 2, assorted), (vmapped, 1, made)])
def test_traces_once_and_the_teacher_once_for_all(over, members, kinds):
  students, teachers = [], []
  cohort = kinds(over)
  groups = {name: group._replace(objective=counted(group.objective, students)) for name, group in cohort.groups.items()}
  cohort = cohort._replace(groups=groups, share=counted(SHARE, teachers))
  ten_steps_together(cohort, fresh(cohort, batch_of(0).inputs))
  assert len(students) == members * len(groups)
  assert len(teachers) == 1


@pytest.mark.parametrize('over, kinds', [(vmapped, assorted), (unrolled, assorted), (vmapped, made)])
def test_a_mixed_cohort_equals_its_members_trained_alone(over, kinds):
  cohort = kinds(over)
  start = at_rate(fresh(cohort, batch_of(0).inputs))
  codes = {name: jax.tree.map(np.array, progress.code) for name, progress in start.items()}  # the step donates its own
  together = ten_steps_together(cohort, start)
  for name, group in cohort.groups.items():
    aim = reparameterized(group.objective, group.reparam) if name in MADE else group.objective
    train_step = make_train_step(aim, TX, share=SHARE)
    for i, seed in enumerate(group.seeds):
      code = jax.tree.map(lambda leaf, i=i: jnp.asarray(leaf[i]), codes[name])
      frozen = WithCode(frozen_of(), code) if name in MADE else frozen_of()
      state, losses = ten_steps(train_step, made_state(group, seed), frozen)
      found = jax.tree.map(lambda leaf, i=i: leaf[i], together[name])
      assert_close(numbers(found.state), numbers(state))
      assert_close(found.sums['loss'], losses.sum())
      chex.assert_trees_all_equal(found.code, code)
  assert len({round(float(loss), 4) for progress in together.values() for loss in progress.sums['loss']}) == 8


def test_the_teacher_runs_once_for_any_number_of_students():
  wide = models.MLP((512, 512), 10, linen.ReLU)

  def flops(number):
    groups = {str(i): Group(STUDENT, objective(), (0, 1, 2), unrolled) for i in range(number)}
    cohort = assorted()._replace(groups=groups, share=teach(wide))
    start = fresh(cohort, batch_of(0).inputs)
    program = compiled(cohort_step(cohort)).lower(start, frozen_of(wide), batch_of(0)).compile()
    return program.cost_analysis()['flops']

  assert flops(4) < 1.3 * flops(1)


@pytest.mark.parametrize('devices', [2, 8])
def test_data_parallel_steps_equal_those_of_one_device(devices):
  _, one = ten_steps(step_alone(), state_of(STUDENT), frozen_of())
  reference, _ = ten_steps(step_alone(), state_of(STUDENT), frozen_of())
  mesh = jax.make_mesh((devices,), ('data',), axis_types=(AxisType.Auto,), devices=jax.devices()[:devices])
  spread, copied = NamedSharding(mesh, PartitionSpec('data')), NamedSharding(mesh, PartitionSpec())

  def place(batch):
    batch = jax.device_put(batch, spread)
    assert {shard.data.shape[0] for shard in batch.inputs.addressable_shards} == {16 // devices}
    return batch

  state, frozen = jax.device_put((state_of(STUDENT), frozen_of()), copied)
  state, losses = ten_steps(step_alone(), state, frozen, place)
  assert_close(losses, one)
  assert_close(numbers(state), numbers(reference))


def test_a_student_that_has_stopped_stays_as_it_is_beside_others_that_go_on():
  cohort = assorted()
  start = at_rate(fresh(cohort, batch_of(0).inputs), rate=[0.0, 0.1])
  before = jax.tree.map(lambda leaf: np.asarray(leaf[0]), {name: numbers(p.state) for name, p in start.items()})
  together = ten_steps_together(cohort, start)
  after = {name: numbers(p.state) for name, p in together.items()}
  chex.assert_trees_all_equal(jax.tree.map(lambda leaf: np.asarray(leaf[0]), after), before)
  alone, _ = ten_steps(step_alone(), state_of(STUDENT, 1), frozen_of())
  assert_close(jax.tree.map(lambda leaf: leaf[1], after['lma']), numbers(alone))
  assert together['lma'].state.step.tolist() == [10, 10]


def test_only_the_states_are_donated():
  cohort = made()
  progress, frozen, batch = fresh(cohort, batch_of(0).inputs), frozen_of(), batch_of(0)
  compiled(cohort_step(cohort))(progress, frozen, batch)
  donated = [(p.state.params, p.code, p.sums) for p in progress.values()]
  assert all(leaf.is_deleted() for leaf in jax.tree.leaves(donated))
  assert not any(leaf.is_deleted() for leaf in jax.tree.leaves((frozen, batch)))


def test_the_teacher_is_run_in_evaluation_mode_and_gets_no_gradient():
  frozen = frozen_of()
  state = state_of(STUDENT)

  def loss(frozen):
    return objective()(state.params, state.stats, SHARE(frozen, batch_of(1)), batch_of(1), state.key)[0]

  gradient = jax.grad(loss)(frozen)
  assert all(not leaf.any() for leaf in jax.tree.leaves(gradient))


def test_bfloat16_computes_in_bfloat16_and_keeps_parameters_and_statistics_in_float32():
  model = models.MLP((4,), 10, LMA, jnp.bfloat16)
  state = state_of(model)
  logits, _ = model.apply({'params': state.params, **state.stats}, batch_of(0).inputs, train=False)
  assert logits.dtype == jnp.bfloat16
  state, metrics = make_train_step(supervised(model), TX)(state, None, batch_of(0))
  assert {leaf.dtype for leaf in jax.tree.leaves((state.params, state.stats))} == {jnp.dtype('float32')}
  assert metrics['loss'].dtype == jnp.float32


class Plain(nn.Module):
  """Logits alone, or with taps behind them."""

  taps: bool

  @nn.compact
  def __call__(self, x, *, train):
    logits = nn.Dense(10)(LMA(name='act')(x.reshape(len(x), -1), train=train))
    return (logits, (x,)) if self.taps else logits


def test_a_model_may_give_logits_alone():
  found = []
  for taps in (False, True):
    student, teacher = Plain(taps), Plain(taps)
    reparam = compress.masked(compress.uniform(4))
    state = init_state(student, TX, jax.random.key(0), batch_of(0).inputs)
    theta, code = reparam.init(state.params, jax.random.key(1))
    state = state._replace(params=theta, opt_state=TX.init(theta))
    aim = reparameterized(distilled(student, mixed(temperature=2.0, soft_weight=0.7)), reparam)
    frozen = WithCode(teacher.init(jax.random.key(2), batch_of(0).inputs, train=False), code)
    found.append(make_train_step(aim, TX, share=teach(teacher))(state, frozen, batch_of(0)))
  assert found[0][1]['loss'] > 1
  chex.assert_trees_all_equal(numbers(found[0][0]), numbers(found[1][0]))


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
  state = jax.eval_shape(lambda images: init_state(student, TX, jax.random.key(0), images), images)
  frozen = jax.eval_shape(lambda images: teacher.init(jax.random.key(0), images, train=False), images)
  train_step = make_train_step(objective(student), TX, share=teach(teacher))
  exported = jax.export.export(train_step, platforms=[platform])(state, frozen, batch)
  assert exported.platforms == (platform,)
  assert 'stablehlo.convolution' in exported.mlir_module()
  assert 'tf.aliasing_output' in exported.mlir_module() or 'jax.buffer_donor' in exported.mlir_module()


class TestMadeWeights:
  """Objectives of weights that are made from less."""

  @staticmethod
  def noted(params, stats, frozen, batch, key):
    """An objective of all weights alike, that tells what it was handed."""
    loss = sum(jnp.square(leaf).sum() for leaf in jax.tree.leaves(params))
    return loss, (stats, {'key': jax.random.key_data(key), 'frozen': frozen})

  @pytest.mark.parametrize('name', MADE)
  def test_the_objective_sees_what_the_reparam_makes_its_own_frozen_and_its_own_key(self, name):
    reparam, key = MADE[name], jax.random.key(5)
    theta, code = reparam.init(state_of(STUDENT).params, jax.random.key(1))
    seen = []

    def apply(theta, code, key):
      seen.append(key)
      return reparam.apply(theta, code, key)

    aim = reparameterized(self.noted, reparam._replace(apply=apply))
    loss, (stats, metrics) = aim(theta, 'stats', WithCode('shared', code), batch_of(0), key)
    assert (stats, metrics['frozen']) == ('stats', 'shared')
    np.testing.assert_array_equal(metrics['key'], jax.random.key_data(key))
    assert (jax.random.key_data(seen[0]) != jax.random.key_data(key)).any()  # noise apart from dropout
    expected, _ = self.noted(reparam.apply(theta, code, seen[0]), None, None, None, key)
    assert loss == expected
    assert loss != self.noted(state_of(STUDENT).params, None, None, None, key)[0]

  @pytest.mark.parametrize('name', ['uniform', 'noise'])
  def test_the_gradient_goes_straight_through_to_the_weights(self, name):
    reparam = MADE[name]
    theta, code = reparam.init(state_of(STUDENT).params, jax.random.key(1))
    seen = []

    def apply(theta, code, key):
      seen.append(reparam.apply(theta, code, key))
      return seen[0]

    gradient = jax.grad(
      lambda t: reparameterized(self.noted, reparam)(t, {}, WithCode(None, code), None, jax.random.key(5))[0]
    )
    reparameterized(self.noted, reparam._replace(apply=apply))(theta, {}, WithCode(None, code), None, jax.random.key(5))
    expected = jax.tree.map(lambda w: 2 * w, seen[0])  # at the weights that were made, as if they were free
    assert_close(tree.combine(*gradient(theta)), expected)

  def test_without_one_the_step_is_that_of_the_objective_alone_to_the_bit(self):
    aim = reparameterized(objective(), Group(STUDENT, objective(), (0,), vmapped).reparam)
    own = make_train_step(aim, TX, share=SHARE)
    plain, losses = ten_steps(step_alone(), state_of(STUDENT), frozen_of())
    found, other = ten_steps(own, state_of(STUDENT), WithCode(frozen_of(), ()))
    chex.assert_trees_all_equal((numbers(found), other), (numbers(plain), losses))

  def test_on_eight_devices_as_on_one(self):
    cohort = made()
    cohort = cohort._replace(groups={name: cohort.groups[name] for name in ('noise', 'product')})
    mesh = jax.make_mesh((8,), ('data',), axis_types=(AxisType.Auto,))
    spread, copied = NamedSharding(mesh, PartitionSpec('data')), NamedSharding(mesh, PartitionSpec())
    progress, frozen = jax.device_put((at_rate(fresh(cohort, batch_of(0).inputs)), frozen_of()), copied)
    step = compiled(cohort_step(cohort))
    for i in range(10):
      progress = jax.block_until_ready(step(progress, frozen, jax.device_put(batch_of(i), spread)))
    one = ten_steps_together(cohort, at_rate(fresh(cohort, batch_of(0).inputs)))
    for name in cohort.groups:
      assert_close(numbers(progress[name].state), numbers(one[name].state))
      chex.assert_trees_all_equal(progress[name].code, one[name].code)

  def test_a_group_goes_on_from_its_start_with_a_new_optimizer(self):
    cohort = made()
    images = batch_of(0).inputs
    before = ten_steps_together(cohort, at_rate(fresh(cohort, images)))
    start = jax.tree.map(np.asarray, before['product'].end)
    again, new = fresh(cohort, images, {'product': Start(*start)}), fresh(cohort, images)
    chex.assert_trees_all_equal(again['product'].end, start)
    assert all(not leaf.any() for leaf in jax.tree.leaves(again['product'].state.opt_state))
    rest = [name for name in cohort.groups if name != 'product']
    for name in rest:
      chex.assert_trees_all_equal(numbers(again[name].state), numbers(new[name].state))
    assert again['product'].state.step.tolist() == [0, 0]

  def test_the_weights_of_a_cohort_are_those_that_would_be_shipped(self):
    cohort = made()
    progress = fresh(cohort, batch_of(0).inputs)
    found = weights(cohort)(progress)
    for name, reparam in MADE.items():
      theta, code = jax.tree.map(lambda leaf: leaf[1], (progress[name].state.params, progress[name].code))
      one = jax.tree.map(lambda leaf: leaf[1], found[name])
      assert_close(one['params'], reparam.apply(theta, code, None))
      chex.assert_trees_all_equal(
        one['batch_stats'], jax.tree.map(lambda x: x[1], progress[name].state.stats)['batch_stats']
      )
    chex.assert_trees_all_equal(found['lma']['params'], progress['lma'].state.params)


def test_a_smoothed_label_is_spread_evenly_over_all_classes():
  state, batch, key = state_of(STUDENT), batch_of(0), jax.random.key(1)
  logits = np.asarray(forward(STUDENT, state.params, state.stats, batch.inputs, key)[0], np.float64)
  classes, smoothing = logits.shape[-1], 0.3
  total = 0.0
  for row, label in zip(logits, np.asarray(batch.labels), strict=True):
    chances = np.exp(row) / np.exp(row).sum()
    wanted = [(1 - smoothing) * (k == label) + smoothing / classes for k in range(classes)]
    total -= sum(want * np.log(chance) for want, chance in zip(wanted, chances, strict=True))
  loss, _ = supervised(STUDENT, label_smoothing=smoothing)(state.params, state.stats, None, batch, key)
  assert float(loss) == pytest.approx(total / len(logits), rel=1e-5)
