"""Every loss that compares a student with its teacher keeps the same promises: an entry of MEMBERS for each."""

from collections.abc import Callable
from functools import cache, partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmajax import losses
from tests import oracles

RNG = np.random.default_rng(0)
LABELS = RNG.integers(0, 7, 5).astype(np.int32)
WHERE = np.array([True, False, True, True, True])
ALL = np.ones(5, bool)
LOGITS, MAPS = (7,), (2, 2, 3)


class Member(NamedTuple):
  """A loss of (student, teacher, where=), its oracle, of what, and what it promises."""

  loss: Callable
  oracle: Callable
  shape: tuple[int, ...]
  keeps: set[str]  # the changes of the student alone that change nothing
  alone: bool = True  # whether the other examples of the batch make no difference
  other: tuple[int, ...] | None = None  # another shape that the teacher may have


def of(name: str, **options: object) -> tuple[Callable, Callable]:
  return partial(getattr(losses, name), **options), partial(getattr(oracles, name), **options)


def decoupled(module, s, t, where):
  likeliest = (jnp if module is losses else np).argmax(t, -1)  # labels that go with the examples
  return module.decoupled(s, t, likeliest, where=where)


def standard(module, s, t, where):
  both = (module.standardized(z, where=where) for z in (s, t))
  return module.soft_targets(*both, temperature=2.0, where=where)


def twice(function: Callable) -> tuple[Callable, Callable]:
  return tuple(lambda s, t, *, where, m=module: function(m, s, t, where) for module in (losses, oracles))


SHIFT, TURNED = {'shift'}, {'scale', 'sign', 'sign_channel', 'order_channels', 'rotate'}
MEMBERS = {
  'soft_targets': Member(*of('soft_targets', temperature=3.0), LOGITS, SHIFT),
  'jensen_shannon': Member(*of('jensen_shannon'), LOGITS, SHIFT),
  'jensen_shannon_uneven': Member(*of('jensen_shannon', share=0.1, temperature=2.0), LOGITS, SHIFT),
  'reverse_kl': Member(*of('jensen_shannon', share=1.0, temperature=2.0), LOGITS, SHIFT),
  'decoupled': Member(*twice(decoupled), LOGITS, SHIFT),
  'standardized': Member(*twice(standard), LOGITS, SHIFT | {'scale', 'scale_example'}),
  'dist': Member(*of('dist', across_weight=2.0), LOGITS, SHIFT, alone=False),
  'value_agreement': Member(*of('value_agreement'), LOGITS, SHIFT, alone=False),
  'rank_agreement': Member(*of('rank_agreement'), LOGITS, SHIFT),
  'attention_transfer': Member(
    *of('attention_transfer'),
    MAPS,
    {'scale', 'sign', 'scale_example', 'sign_channel', 'order_channels'},
    other=(4, 2, 5),
  ),
  'neuron_selectivity': Member(
    *of('neuron_selectivity'),
    MAPS,
    {'scale', 'sign', 'scale_example', 'scale_channel', 'sign_channel', 'order_channels'},
    other=(4, 2, 5),
  ),
  'similarity_preserving': Member(*of('similarity_preserving'), MAPS, TURNED, alone=False, other=(4,)),
  'relational_distance': Member(*of('relational_distance'), MAPS, TURNED | {'move'}, alone=False, other=(4,)),
  'relational_angle': Member(*of('relational_angle'), MAPS, TURNED | {'move'}, alone=False, other=(4,)),
  'probabilistic_transfer': Member(
    *of('probabilistic_transfer'), MAPS, TURNED | {'scale_example'}, alone=False, other=(4,)
  ),
}


def numbers(shape: tuple[int, ...], seed: int) -> np.ndarray:
  return (1.5 * np.random.default_rng(seed).normal(size=(5, *shape))).astype(np.float32)


@pytest.fixture(params=MEMBERS)
def name(request):
  return request.param


@pytest.fixture
def member(name):
  return MEMBERS[name]


@pytest.fixture
def pair(member):
  return numbers(member.shape, 1), numbers(member.shape, 2)


@cache
def compiled(name: str) -> Callable:
  """The losses, and the gradients of their sum to the student and to the teacher, in one program a member."""
  loss = MEMBERS[name].loss

  def total(student, teacher, where):
    each = loss(student, teacher, where=where)
    return each.sum(), each

  def everything(student, teacher, where):
    (_, each), gradients = jax.value_and_grad(total, (0, 1), has_aux=True)(student, teacher, where)
    return each, *gradients

  return jax.jit(everything)


def changed(student: np.ndarray) -> dict[str, np.ndarray]:
  """The student after each of the changes that a loss may or may not see."""
  examples, channels = student.shape[0], student.shape[-1]
  of_example = (1 + np.arange(examples, dtype=np.float32)).reshape(-1, *[1] * (student.ndim - 1)) / 2
  of_channel = 1 + np.arange(channels, dtype=np.float32) / 2
  flat = student.reshape(examples, -1)
  turn, _ = np.linalg.qr(RNG.normal(size=(flat.shape[1],) * 2))
  return {
    'scale': 1.7 * student,
    'sign': -student,
    'scale_example': of_example * student,
    'scale_channel': of_channel * student,
    'sign_channel': np.where(np.arange(channels) % 2, -1, 1).astype(np.float32) * student,
    'order_channels': student[..., np.roll(np.arange(channels), 1)],
    'shift': student + of_example,
    'move': student + of_channel,
    'rotate': (flat @ turn).reshape(student.shape).astype(np.float32),
  }


def close(a, b, rtol=2e-4, atol=2e-6):
  np.testing.assert_allclose(a, b, rtol=rtol, atol=atol)


class TestEveryComparison:
  @pytest.mark.parametrize('where', [ALL, WHERE], ids=['all', 'masked'])
  def test_equals_its_oracle(self, name, member, pair, where):
    each, *_ = compiled(name)(*pair, where)
    assert (each.shape, each.dtype) == ((5,), jnp.float32)
    close(each, member.oracle(*(a.astype(np.float64) for a in pair), where=where))

  def test_gradient_equals_the_differences_of_the_oracle(self, name, member, pair):
    _, gradient, _ = compiled(name)(*pair, WHERE)
    slow = oracles.slope_of(lambda s: member.oracle(s, pair[1].astype(np.float64), where=WHERE).sum(), pair[0])
    close(gradient, slow, rtol=1e-3, atol=1e-5)
    assert np.abs(slow).max() > 1e-3

  def test_no_gradient_reaches_the_teacher(self, name, pair):
    np.testing.assert_array_equal(compiled(name)(*pair, WHERE)[2], 0)

  def test_is_least_where_the_student_is_the_teacher(self, name, pair):
    value, gradient, _ = compiled(name)(pair[1], pair[1], ALL)
    close(value, 0, atol=1e-6)
    close(gradient, 0, atol=2e-6)
    assert (compiled(name)(*pair, ALL)[0] > 1e-4).all()

  def test_keeps_its_digits_near_the_teacher(self, name, member, pair):
    student = pair[1] + 0.1 * pair[0]
    each, gradient, _ = compiled(name)(student, pair[1], WHERE)
    wide = [a.astype(np.longdouble) for a in (student, pair[1])]
    close(each, member.oracle(*wide, where=WHERE).astype(float), rtol=2e-4, atol=1e-9)
    slow = oracles.slope_of(lambda s: member.oracle(s, wide[1], where=WHERE).sum(), student)
    close(gradient, slow, rtol=2e-3, atol=1e-3 * np.abs(slow).max())

  def test_follows_the_order_of_the_batch(self, name, pair):
    order = np.array([3, 1, 4, 0, 2])
    close(compiled(name)(*(a[order] for a in pair), ALL)[0], np.asarray(compiled(name)(*pair, ALL)[0])[order])

  def test_looks_at_the_rest_of_the_batch_only_where_it_says_so(self, name, member, pair):
    student, teacher = (a.copy() for a in pair)
    student[1:], teacher[2:] = teacher[1:], -student[2:]
    before, after = (compiled(name)(*both, ALL)[0][0] for both in (pair, (student, teacher)))
    assert (abs(before - after) < 1e-6) == member.alone

  def test_what_is_masked_is_as_if_it_were_not_there(self, name, member, pair):
    spoilt = [np.where(WHERE.reshape(-1, *[1] * len(member.shape)), a, np.nan).astype(np.float32) for a in pair]
    each, gradient, _ = compiled(name)(*spoilt, WHERE)
    np.testing.assert_array_equal(np.asarray(each)[~WHERE], 0)
    np.testing.assert_array_equal(np.asarray(gradient)[~WHERE], 0)
    assert np.isfinite(gradient).all()
    close(np.asarray(each)[WHERE], member.oracle(*(a[WHERE].astype(np.float64) for a in pair), where=None))

  def test_keeps_what_it_says_and_sees_every_other_change(self, name, member, pair):
    before = np.asarray(compiled(name)(*pair, ALL)[0])
    same = {
      change
      for change, student in changed(pair[0]).items()
      if np.allclose(compiled(name)(student, pair[1], ALL)[0], before, rtol=1e-3, atol=1e-5)
    }
    assert same == member.keeps

  def test_is_finite_at_the_edges(self, name, pair):
    once = np.repeat(pair[0][:1], 5, 0)
    flat = np.ones_like(pair[0])
    for student in (once, flat, 0 * flat, 1e3 * pair[0], 1e-30 * pair[0], -1e4 * pair[1]):
      for teacher in (once, flat, 0 * flat, 1e3 * pair[1]):
        each, gradient, _ = compiled(name)(student, teacher, ALL)
        assert np.isfinite(each).all()
        assert np.isfinite(gradient).all()
    nobody = compiled(name)(*pair, ~ALL)
    assert all((np.asarray(part) == 0).all() for part in nobody)

  def test_a_small_step_down_lowers_it(self, name, pair):
    each, gradient, _ = compiled(name)(*pair, ALL)
    step = 0.01 * np.asarray(each).sum() / np.square(gradient).sum()
    assert compiled(name)(pair[0] - step * np.asarray(gradient), pair[1], ALL)[0].sum() < each.sum()

  def test_half_precision_computes_in_float32(self, member, pair, strict_dtypes):
    half = [jnp.asarray(a, 'bfloat16') for a in pair]
    each = jax.jit(member.loss)(*half, where=jnp.asarray(ALL))
    assert each.dtype == jnp.float32
    close(each, member.oracle(*(np.asarray(a, np.float64) for a in half), where=ALL))

  def test_refuses_what_does_not_fit(self, member, pair):
    student, teacher = map(jnp.asarray, pair)
    rows = (student[..., :2], teacher[..., :3]) if member.shape == LOGITS else (student.ravel(), teacher.ravel())
    for wrong in ((student.astype(int), teacher), (student, teacher[:3]), rows):
      with pytest.raises((ValueError, TypeError)):
        member.loss(*wrong, where=None)
    with pytest.raises((ValueError, TypeError)):
      member.loss(student, teacher, where=jnp.ones(4, bool))


@pytest.mark.parametrize('name', ['dist', 'value_agreement', 'rank_agreement'])
def test_where_there_is_little_to_agree_on_the_last_coordinate_counts(name):
  """Probabilities that differ by about the root of ε."""
  pair = [0.003 * numbers(LOGITS, seed) for seed in (1, 2)]
  slow = MEMBERS[name].oracle(*(a.astype(np.longdouble) for a in pair), where=None)
  close(MEMBERS[name].loss(*map(jnp.asarray, pair), where=None), slow.astype(float), rtol=1e-3, atol=0)


@pytest.mark.parametrize('name', [name for name, member in MEMBERS.items() if member.other])
class TestFeaturesOfOtherShapes:
  def test_are_compared_as_the_oracle_does(self, name):
    member = MEMBERS[name]
    student, teacher = numbers(member.shape, 3), numbers(member.other, 4)
    for one, other in ((student, teacher), (teacher, student)):
      each = jax.jit(member.loss)(one, other, where=None)
      close(each, member.oracle(one.astype(np.float64), other.astype(np.float64), where=None))

  def test_a_single_example_is_fine(self, name):
    member = MEMBERS[name]
    each, gradient = jax.jit(jax.value_and_grad(lambda s, t: member.loss(s, t, where=None).sum()))(
      numbers(member.shape, 3)[:1], numbers(member.other, 4)[:1]
    )
    assert np.isfinite(each)
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize('name', ['attention_transfer', 'neuron_selectivity'])
def test_maps_of_which_neither_is_a_multiple_are_refused(name):
  with pytest.raises(ValueError, match='one is a multiple of the other'):
    MEMBERS[name].loss(jnp.ones((5, 2, 2, 3)), jnp.ones((5, 3, 4, 3)), where=None)


@pytest.mark.parametrize('value', [0.1, 3.3, 1000.1, -7.7])
def test_equal_logits_are_standardized_to_zeros(value):
  def total(rows):
    return losses.soft_targets(losses.standardized(rows), jnp.asarray(np.eye(2, 100, dtype=np.float32))).sum()

  flat = jnp.full((2, 100), value)
  np.testing.assert_array_equal(losses.standardized(flat), 0)
  assert jnp.abs(jax.grad(total)(flat)).max() < 1


@pytest.mark.parametrize('name', ['decoupled', 'similarity_preserving'])
def test_what_has_nothing_to_compare_is_refused(name):
  of_one = jnp.ones((5, 1)) if name == 'decoupled' else jnp.ones((0, 3))
  with pytest.raises(ValueError, match=r'two classes or more|nothing to compare'):
    MEMBERS[name].loss(of_one, of_one, where=None)


@pytest.mark.parametrize('share', [1e-300, 1 - 1e-17])
def test_a_share_beside_an_end_is_the_end(share):
  pair = [jnp.asarray(numbers(LOGITS, seed)) for seed in (1, 2)]
  np.testing.assert_array_equal(
    losses.jensen_shannon(*pair, share=share), losses.jensen_shannon(*pair, share=float(round(share)))
  )


class TestAveraged:
  @pytest.mark.parametrize('weights', [None, [0.7, 0.2, 0.1]])
  @pytest.mark.parametrize('temperature', [1.0, 4.0])
  def test_equals_its_oracle(self, weights, temperature):
    each = [numbers(LOGITS, seed) for seed in range(3)]
    ours = losses.averaged(list(map(jnp.asarray, each)), weights=weights, temperature=temperature)
    close(ours, oracles.averaged(each, weights=weights, temperature=temperature))
    stacked = losses.averaged(jnp.stack(each), weights=weights, temperature=temperature)
    np.testing.assert_array_equal(stacked, ours)

  def test_teaches_as_the_mean_of_the_teachers_does(self):
    student, *teachers = (jnp.asarray(numbers(LOGITS, seed)) for seed in range(4))
    kl = partial(losses.soft_targets, temperature=2.0)
    one = jax.grad(lambda s: kl(s, losses.averaged(teachers, temperature=2.0)).sum())(student)
    mean = jax.grad(lambda s: sum(kl(s, t).sum() for t in teachers) / 3)(student)
    close(one, mean, atol=1e-5)

  @pytest.mark.parametrize('weights', [[0.5], [0.5, 0.4], [1.5, -0.5], ['a', 'b']])
  def test_weights_that_do_not_fit_are_refused(self, weights):
    with pytest.raises((ValueError, TypeError)):
      losses.averaged([jnp.ones(3), jnp.ones(3)], weights=weights)


def test_the_parts_of_decoupled_are_the_whole():
  """Where the others weigh what the teacher leaves them, it is the KL: the identity of Zhao et al. 2022."""
  student, teacher = (jnp.asarray(numbers(LOGITS, seed)) for seed in (1, 2))
  left = 1 - jnp.take_along_axis(jax.nn.softmax(teacher), jnp.asarray(LABELS)[:, None], 1)[:, 0]
  parts = partial(losses.decoupled, student, teacher, jnp.asarray(LABELS), temperature=1.0)
  of_label = parts(others_weight=0.0)
  close(of_label + left * (parts(others_weight=1.0) - of_label), losses.soft_targets(student, teacher))


@pytest.mark.parametrize('shapes', [((4, 6, 3), (2, 2, 5)), ((2, 6, 3), (4, 2, 5)), ((6,), (2,))])
def test_the_larger_map_is_averaged(shapes):
  maps = [numbers(shape, seed) for seed, shape in enumerate(shapes)]
  for ours, slow in zip(losses.to_smaller(*map(jnp.asarray, maps)), oracles.to_smaller(*maps), strict=True):
    close(ours, slow)
