"""Block-wise training: what each stage sees, what moves, and what stays to the bit."""

from functools import cache, partial

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lmajax import LMA, losses, tree
from lmajax.activations.linen import ReLU
from lmajax.training import (
  Stages,
  Taught,
  blockwise,
  check_boundaries,
  compiled,
  distilled,
  hint,
  in_stages,
  mixed,
  parallel_stages,
  supervised,
  teach,
  unrolled,
  vmapped,
  with_ends,
)
from tests import oracles
from tests.lmajax.training import test_step as plain
from tests.lmajax.training.test_step import at_rate, batch_of
from tests.support.towers import Tower
from train.engine.cohort import Cohort, Group, Plan, cohort_step, fresh
from train.engine.optimizers import sgd

ALL = (0, 1, 2)
TEACHER, STUDENT = Tower((3, 2, 2)), Tower((1, 1, 1))
ACTS = pytest.mark.parametrize('act', [ReLU, LMA], ids=['relu', 'lma'])
STAGES = pytest.mark.parametrize('i', ALL)
BATCH, KEY = batch_of(0), jax.random.key(7)


def split(variables):
  variables = dict(variables)
  return variables.pop('params'), variables


@cache
def trained(model, seed=0):
  """Variables whose statistics have seen a batch."""

  @jax.jit
  def make(key, inputs):
    variables = model.init(key, inputs, train=False)
    return {**variables, **model.apply(variables, inputs, train=True, mutable=['batch_stats'])[1]}

  return make(jax.random.key(seed), BATCH.inputs)


@cache
def pair(act=ReLU):
  """Teacher and student, the variables of both, and what the teacher says; stem and head are the teacher's."""
  teacher, student = Tower((3, 2, 2), act=act), Tower((1, 1, 1), act=act)
  theirs = trained(teacher, 9)
  mine = with_ends(student, trained(student, 1), teacher, theirs)
  return teacher, student, theirs, mine, jax.jit(teach(teacher))(theirs, BATCH)


def soft(logits, taught, batch, *, soft_weight=0.7):
  return losses.distillation(logits, taught.logits, batch.labels, soft_weight=soft_weight).mean()


def never(*arguments):
  raise AssertionError('the loss of the logits was asked for')


def result(objective, variables, frozen, *, key=KEY, batch=BATCH):
  """((loss, (statistics, metrics)), gradient), compiled."""
  return jax.jit(jax.value_and_grad(objective, has_aux=True))(*split(variables), frozen, batch, key)


def errors_alone(student, i):
  return blockwise(student, never, Stages(0.0, (i,), (i,)))


@partial(jax.jit, static_argnames=('model', 'i', 'method', 'train'))
def part(model, variables, *args, i=None, method, train):
  """What a part gives, and all variables after it."""
  args = args if i is None else (i, *args)
  output, moved = model.apply(variables, *args, train=train, method=method, mutable=['batch_stats'])
  return output, {**variables, **moved}


def touched(tree_):
  return {name for name, leaves in tree_.items() if any(leaf.any() for leaf in jax.tree.leaves(leaves))}


def calls(objective, variables, frozen):
  """The parts of the student that are run, in order."""
  found = []

  def note(call, args, kwargs, context):
    if context.method_name in ('stem', 'stage', 'head'):
      found.append((context.method_name, *args[: context.method_name == 'stage']))
    return call(*args, **kwargs)

  with nn.intercept_methods(note):
    jax.eval_shape(objective, *split(variables), frozen, BATCH, KEY)
  return found


class TestErrors:
  @ACTS
  def test_a_student_that_is_the_teacher_has_none_under_running_statistics(self, act):
    teacher, _, variables, _, _ = pair(act)
    _, taps = teacher.apply(variables, BATCH.inputs, train=False)  # not compiled: each operation by itself, to the bit
    for i in ALL:
      mine = teacher.apply(variables, i, taps[i], train=False, method='stage')
      np.testing.assert_array_equal(losses.representation_error(mine, taps[i + 1]), 0)

  @ACTS
  def test_in_training_it_has_none_where_the_running_statistics_are_the_batchs(self, act):
    """A stage in training goes by its batch, the teacher by what it remembers: equal weights are not enough."""
    still = Tower((3, 2, 2), act=act, momentum=0.0)  # what it remembers is the last batch
    start = jax.jit(partial(still.init, train=False))(jax.random.key(0), BATCH.inputs)
    stem, _ = part(still, start, BATCH.inputs, method='stem', train=False)
    tap, exact = stem, start
    for i in ALL:
      tap, exact = part(still, exact, tap, i=i, method='stage', train=True)
    objective = blockwise(still, never, Stages(0.0, ALL, ALL))
    (loss, _), _ = result(objective, exact, jax.jit(teach(still))(exact, BATCH))
    (other, _), _ = result(objective, start, jax.jit(teach(still))(start, BATCH))
    assert loss < 1e-9
    assert other > 1e-2

  @ACTS
  @STAGES
  def test_each_is_that_of_the_stage_on_the_teachers_tap(self, act, i):
    _, student, _, mine, frozen = pair(act)
    (loss, (_, metrics)), grads = result(errors_alone(student, i), mine, frozen)
    tap, _ = part(student, mine, frozen.taps[i], i=i, method='stage', train=True)
    slow = oracles.representation_error(np.asarray(tap), np.asarray(frozen.taps[i + 1])).mean()
    np.testing.assert_allclose([loss, metrics[f'error_{i}']], slow, rtol=1e-5)
    assert touched(grads) == {f'stages_{i}'}

  @pytest.mark.parametrize(
    'distance, slow',
    [
      (optax.losses.squared_error, lambda s, t: (s - t) ** 2),
      (lambda s, t: jnp.abs(s - t), lambda s, t: abs(s - t)),
      (optax.losses.huber_loss, lambda s, t: (s - t) ** 2 / 2 if abs(s - t) <= 1 else abs(s - t) - 0.5),
    ],
    ids=['squared', 'absolute', 'huber'],
  )
  def test_distances(self, distance, slow):
    _, student, _, mine, frozen = pair()
    objective = blockwise(student, never, Stages(0.0, (1,), (1,)), distance=distance)
    (loss, _), _ = result(objective, mine, frozen)
    tap, _ = part(student, mine, frozen.taps[1], i=1, method='stage', train=True)
    taps = np.asarray(tap), np.asarray(frozen.taps[2])
    assert np.abs(taps[0] - taps[1]).max() > 1 > np.abs(taps[0] - taps[1]).min()
    np.testing.assert_allclose(loss, oracles.representation_error(*taps, distance=slow).mean(), rtol=1e-5)

  @ACTS
  def test_one_gradient_of_all_is_those_of_each(self, act):
    _, student, _, mine, frozen = pair(act)
    (loss, (stats, metrics)), grads = result(blockwise(student, never, Stages(0.0, ALL, ALL)), mine, frozen)
    each = [result(errors_alone(student, i), mine, frozen) for i in ALL]
    np.testing.assert_allclose(loss, sum(value for (value, _), _ in each), rtol=1e-6)
    chex.assert_trees_all_close(metrics, {k: v for (_, (_, one)), _ in each for k, v in one.items()}, rtol=1e-6)
    summed = jax.tree.map(lambda *leaves: sum(leaves), *(gradient for _, gradient in each))
    chex.assert_trees_all_close(grads, summed, rtol=1e-6, atol=1e-7)
    for i, ((_, (moved, _)), _) in enumerate(each):
      own = {name: moved['batch_stats'][name] for name in moved['batch_stats'] if name != f'stages_{i}'}
      chex.assert_trees_all_equal(own, {name: mine['batch_stats'][name] for name in own})
      chex.assert_trees_all_close(moved['batch_stats'][f'stages_{i}'], stats['batch_stats'][f'stages_{i}'], rtol=1e-6)

  def test_no_gradient_reaches_the_teacher(self):
    teacher, student, theirs, mine, _ = pair()
    objective = blockwise(student, soft, Stages(0.5, ALL, ALL))

    @jax.jit
    @jax.grad
    def gradient(theirs):
      return objective(*split(mine), teach(teacher)(theirs, BATCH), BATCH, KEY)[0]

    assert not any(leaf.any() for leaf in jax.tree.leaves(gradient(theirs)))


class TestMix:
  def test_beta_1_is_distillation_of_the_stages_and_runs_none_on_the_teachers_taps(self):
    _, student, _, mine, frozen = pair()
    objective = blockwise(student, soft, Stages(1.0, ALL, ALL))
    assert calls(objective, mine, frozen) == [('stem',), ('stage', 0), ('stage', 1), ('stage', 2), ('head',)]
    (loss, (stats, metrics)), grads = result(objective, mine, frozen)

    def by_hand(params):
      tap, variables = part(student, {**mine, 'params': params}, BATCH.inputs, method='stem', train=False)
      for i in ALL:
        tap, variables = part(student, variables, tap, i=i, method='stage', train=True)
      logits, _ = part(student, variables, tap, method='head', train=False)
      loss = losses.distillation(logits, frozen.logits, BATCH.labels, temperature=2.0, soft_weight=0.7).mean()
      return loss, variables['batch_stats']

    (expected, moved), slow = jax.jit(jax.value_and_grad(by_hand, has_aux=True))(mine['params'])
    chex.assert_trees_all_close((loss, stats['batch_stats'], grads), (expected, moved, slow), rtol=1e-6, atol=1e-6)
    assert metrics == {}

  def test_where_stem_and_head_have_no_statistics_it_is_that_objective(self):
    variables, frozen = trained(plain.STUDENT), plain.SHARE(plain.frozen_of(), BATCH)
    end_to_end = partial(soft, soft_weight=0.7)
    ours = result(blockwise(plain.STUDENT, end_to_end, Stages(1.0, (0,), (0,))), variables, frozen)
    theirs = result(distilled(plain.STUDENT, mixed(temperature=2.0, soft_weight=0.7)), variables, frozen)
    chex.assert_trees_all_close(ours, theirs, rtol=1e-6, atol=1e-7)

  def test_without_soft_targets_beta_1_is_hard_labels(self):
    variables, frozen = trained(plain.STUDENT), plain.SHARE(plain.frozen_of(), BATCH)
    hard = blockwise(plain.STUDENT, partial(soft, soft_weight=0.0), Stages(1.0, (0,), (0,)))
    ours, theirs = result(hard, variables, frozen), result(supervised(plain.STUDENT), variables, None)
    chex.assert_trees_all_close(ours, theirs, rtol=1e-6, atol=1e-7)

  def test_beta_weighs_the_two(self):
    _, student, _, mine, frozen = pair()
    value = {
      beta: result(blockwise(student, soft, Stages(beta, ALL, ALL)), mine, frozen)[0][0] for beta in (0.0, 0.25, 1.0)
    }
    np.testing.assert_allclose(value[0.25], 0.25 * value[1.0] + 0.75 * value[0.0], rtol=1e-6)

  def test_statistics_move_under_the_students_own_activations_first(self):
    """Twice a step, with the norm's momentum: m (m r + (1 - m) own) + (1 - m) fed."""
    _, student, _, mine, frozen = pair()
    (_, (stats, _)), _ = result(blockwise(student, soft, Stages(0.5, ALL, ALL)), mine, frozen)
    own, _ = part(student, mine, BATCH.inputs, method='stem', train=False)
    for i in ALL:
      dense = mine['params'][f'stages_{i}']['Dense_0']
      running = mine['batch_stats'][f'stages_{i}']['BatchNorm_0']
      expected = {name: np.asarray(leaf, np.float64) for name, leaf in running.items()}
      for tap in (own, frozen.taps[i]):
        y = np.asarray(tap, np.float64) @ np.asarray(dense['kernel'], np.float64) + np.asarray(
          dense['bias'], np.float64
        )
        expected['mean'] = 0.9 * expected['mean'] + 0.1 * y.mean(0)
        expected['var'] = 0.9 * expected['var'] + 0.1 * y.var(0)
      chex.assert_trees_all_close(stats['batch_stats'][f'stages_{i}']['BatchNorm_0'], expected, rtol=1e-5, atol=1e-6)
      own, _ = part(student, mine, own, i=i, method='stage', train=True)
    for name in ('first', 'norm'):
      chex.assert_trees_all_equal(stats['batch_stats'][name], mine['batch_stats'][name])


class TestSwitches:
  SEEN = (
    ('no end to end', 0.0, ALL, ALL, [('stage', 0), ('stage', 1), ('stage', 2)]),
    ('own inputs', 0.0, (), ALL, [('stem',), ('stage', 0), ('stage', 1), ('stage', 2)]),
    ('own inputs beside labels', 0.5, (), (0,), [('stem',), ('stage', 0), ('stage', 1), ('stage', 2), ('head',)]),
    ('one boundary', 0.0, (1,), (1,), [('stage', 1)]),
    ('one boundary of all', 0.0, ALL, (2,), [('stage', 2)]),
    ('the first two merged', 0.0, (0, 2), (1, 2), [('stage', 0), ('stage', 1), ('stage', 2)]),
    ('all merged', 0.0, (0,), (2,), [('stage', 0), ('stage', 1), ('stage', 2)]),
    ('own until the last', 0.0, (2,), ALL, [('stem',), ('stage', 0), ('stage', 1), ('stage', 2)]),
  )

  @pytest.mark.parametrize('beta, fed, compared, expected', [row[1:] for row in SEEN], ids=[row[0] for row in SEEN])
  def test_no_part_runs_for_nothing(self, beta, fed, compared, expected):
    _, student, _, mine, frozen = pair()
    assert calls(blockwise(student, soft, Stages(beta, fed, compared)), mine, frozen) == expected

  @pytest.mark.parametrize('fed, compared', [((), ALL), ((0, 2), (1, 2)), ((0,), (2,)), ((2,), ALL), ((1,), (0, 2))])
  def test_each_stage_takes_the_teachers_tap_or_that_of_the_one_before(self, fed, compared):
    _, student, _, mine, frozen = pair()
    (loss, (_, metrics)), _ = result(blockwise(student, never, Stages(0.0, fed, compared)), mine, frozen)
    tap, _ = part(student, mine, BATCH.inputs, method='stem', train=False)
    expected = {}
    for i in ALL:
      tap, _ = part(student, mine, frozen.taps[i] if i in fed else tap, i=i, method='stage', train=True)
      if i in compared:
        expected[f'error_{i}'] = np.square(np.asarray(tap) - np.asarray(frozen.taps[i + 1])).mean()
    chex.assert_trees_all_close(metrics, expected, rtol=1e-5)
    np.testing.assert_allclose(loss, sum(expected.values()), rtol=1e-5)

  def test_noise_is_drawn_anew_each_step_and_for_each_stage_and_0_is_none(self):
    _, student, _, mine, frozen = pair()

    def errors(noise, step):
      objective = blockwise(student, never, Stages(0.0, ALL, ALL, noise))
      return result(objective, mine, frozen, key=jax.random.fold_in(KEY, step))[0][1][1]

    chex.assert_trees_all_equal(errors(0.0, 0), errors(0.0, 1))
    first, second = errors(0.1, 0), errors(0.1, 1)
    assert all(first[name] != second[name] for name in first)
    chex.assert_trees_all_equal(first, errors(0.1, 0))

    # Stages 0 and 1 alike but for the draw, so that the same noise would show as the same error.
    seen = []
    alike = Taught(frozen.logits, (jnp.zeros((16, 6)),) * 4)
    objective = blockwise(_Kept(seen), never, Stages(0.0, (0, 1), (0, 1), 0.1))
    objective({}, {}, alike, BATCH, KEY)
    np.testing.assert_allclose([np.std(tap) for tap in seen], 0.1, rtol=0.2)
    assert not np.array_equal(*seen)

  @STAGES
  def test_a_hint_is_one_boundary_on_the_students_own_activations(self, i):
    _, student, _, mine, frozen = pair()
    assert calls(hint(student, i), mine, frozen) == [('stem',), *(('stage', j) for j in range(i + 1))]
    (loss, _), grads = result(hint(student, i), mine, frozen)
    (_, taps), _ = part(student, mine, BATCH.inputs, method='__call__', train=True)
    np.testing.assert_allclose(loss, jnp.square(taps[i + 1] - frozen.taps[i + 1]).mean(), rtol=1e-5)
    assert touched(grads) == {'first', *(f'stages_{j}' for j in range(i + 1))}


class _Kept:
  """A student that keeps what its stages are fed."""

  def __init__(self, seen):
    self._seen = seen

  def apply(self, variables, i, tap, **options):
    self._seen.append(np.asarray(tap))
    return tap, {}


class TestStart:
  def test_stem_and_head_are_the_teachers_in_arrays_of_their_own(self):
    _, student, theirs, mine, _ = pair()
    before = trained(student, 1)
    for collection in ('params', 'batch_stats'):
      for name, leaves in mine[collection].items():
        source = before if name.startswith('stages_') else theirs
        chex.assert_trees_all_equal(leaves, source[collection][name])
    pointers = {leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(theirs)}
    assert not pointers & {leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(mine)}

  @pytest.mark.parametrize(
    'student, message',
    [
      (Tower((1, 1, 1), (6, 6, 4)), r"params/logits/kernel is \(4, 10\) in the student, the teacher's \(5, 10\)"),
      (Tower((1, 1, 1), act=LMA), r'first/act_0/\w+ is in the stem or head of the student and not of the teacher'),
    ],
    ids=['width', 'structure'],
  )
  def test_a_stem_or_head_that_does_not_fit_is_named(self, student, message):
    with pytest.raises(ValueError, match=message):
      with_ends(student, student.init(KEY, BATCH.inputs, train=False), TEACHER, trained(TEACHER))

  @pytest.mark.parametrize(
    'student, message',
    [
      (Tower((1, 1, 1), (6, 7, 5)), r"^stages_1 of the student gives \(7,\), the teacher's \(6,\): give both the same"),
      (Tower((1, 1), (6, 5)), r'^the student has 2 stages, the teacher 3: '),
    ],
    ids=['width', 'number'],
  )
  def test_boundaries_that_do_not_fit_are_named(self, student, message):
    check_boundaries(STUDENT, TEACHER, BATCH.inputs)
    with pytest.raises(ValueError, match=message):
      check_boundaries(student, TEACHER, BATCH.inputs)


def cohort(act=ReLU, over=vmapped, seeds=(0, 1), share=None, objective=None):
  """LIT students, frozen but for their stages, with a weight decay that would be seen."""
  student, teacher = Tower((1, 1, 1), act=act), Tower((3, 2, 2), act=act)
  objective = objective or blockwise(student, soft, Stages(0.75, ALL, ALL, 0.1))
  metrics = tuple(f'error_{i}' for i in ALL)
  group = Group(student, objective, seeds, over, trained=in_stages(student), metrics=metrics)
  return Cohort({'lit': group}, Plan(0.1, sgd(1e-2), lambda errors: 1.0, 1), share or teach(teacher))


def started(one, theirs, act=ReLU):
  """The cohort before its first step, each student with the teacher's stem and head."""
  (group,), teacher = one.groups.values(), Tower((3, 2, 2), act=act)
  progress = fresh(one, BATCH.inputs)['lit']

  def with_teachers(params, stats):
    return split(with_ends(group.model, {'params': params, **stats}, teacher, theirs))

  params, stats = jax.vmap(with_teachers)(progress.state.params, progress.state.stats)
  return at_rate({'lit': progress._replace(state=progress.state._replace(params=params, stats=stats))})


def ten_steps(one, progress, theirs):
  step = compiled(cohort_step(one))
  for i in range(10):
    progress = step(progress, theirs, batch_of(i))
  return progress['lit']


@cache
def fitted(act, seeds=(0, 1)):
  """Parameters and statistics before and after ten steps, and the sums of the metrics."""
  theirs = trained(Tower((3, 2, 2), act=act), 9)
  start = started(one := cohort(act, seeds=seeds), theirs, act)
  before = jax.tree.map(np.array, (start['lit'].state.params, start['lit'].state.stats['batch_stats']))
  end = ten_steps(one, start, theirs)
  return before, (end.state.params, end.state.stats['batch_stats']), end.sums


class TestTraining:
  @ACTS
  def test_stem_and_head_stay_to_the_bit_and_stages_move(self, act):
    theirs, (before, after, _) = trained(Tower((3, 2, 2), act=act), 9), fitted(act)
    for old, new, given in zip(before, after, (theirs['params'], theirs['batch_stats']), strict=True):
      for name in old:
        if name.startswith('stages_'):
          moved = jax.tree.map(lambda a, b: bool((a != b).any()), new[name], old[name])
          assert any(jax.tree.leaves(moved))
          assert all(jax.tree.leaves(tree.map_with_path(lambda path, yes: yes or not path.endswith('kernel'), moved)))
        else:
          twice = jax.tree.map(lambda leaf: np.stack([leaf, leaf]), given[name])
          chex.assert_trees_all_equal(new[name], twice)

  @pytest.mark.parametrize('over, members', [(vmapped, 1), (unrolled, 2)])
  def test_traces_once_and_donates_the_students_alone(self, over, members):
    theirs, traces, teachers = trained(TEACHER, 9), [], []
    objective = blockwise(STUDENT, soft, Stages(0.75, ALL, ALL))

    def counting(*arguments):
      traces.append(1)
      return objective(*arguments)

    def share(*arguments):
      teachers.append(1)
      return teach(TEACHER)(*arguments)

    one = cohort(over=over, objective=counting, share=share)
    start = started(one, theirs)
    ten_steps(one, start, theirs)
    assert (len(traces), len(teachers)) == (members, 1)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(start['lit'].state.params))
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(theirs))

  def test_a_cohort_of_seeds_equals_its_members_alone(self):
    _, *together = fitted(LMA)
    _, *alone = fitted(LMA, seeds=(1,))
    second, first = (jax.tree.map(lambda leaf, i=i: leaf[i], together) for i in (1, 0))
    chex.assert_trees_all_close(second, jax.tree.map(lambda leaf: leaf[0], alone), rtol=1e-5, atol=1e-5)
    assert abs(first[1]['error_0'] - second[1]['error_0']) > 1e-3


class TestParallel:
  @ACTS
  def test_stages_over_devices_give_the_numbers_of_one(self, act):
    _, student, _, mine, frozen = pair(act)
    mesh = jax.make_mesh((3,), ('stage',), devices=jax.devices()[:3])
    spread = parallel_stages([errors_alone(student, i) for i in ALL], mesh)
    ours = jax.jit(spread)(*split(mine), frozen, BATCH, KEY)
    one = result(blockwise(student, never, Stages(0.0, ALL, ALL)), mine, frozen)
    chex.assert_trees_all_close(jax.device_get(ours), jax.device_get(one), rtol=1e-6, atol=1e-6)

  def test_another_number_of_devices_is_named(self):
    mesh = jax.make_mesh((2,), ('stage',), devices=jax.devices()[:2])
    with pytest.raises(ValueError, match=r"3 stages over a mesh of \{'stage': 2\}"):
      parallel_stages([errors_alone(STUDENT, i) for i in ALL], mesh)
