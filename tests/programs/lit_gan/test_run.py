"""lit-gan: two players under one objective, frozen ends, what translations are worth, a run killed in each phase."""

from functools import partial
from types import SimpleNamespace

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lmajax import LMA, models, tree
from lmajax.activations.linen import ReLU
from lmajax.losses import gradient_penalty
from lmajax.training import Stages, blockwise, make_train_step
from lmajax.training import init_state as new_state
from lmajax.types import Batch
from tests.programs.lit_gan.cases import PHASES
from tests.support.processes import metrics
from train.engine.cohort import cohort_step, fresh, optimizer_of
from train.engine.optimizers import adam, adjustable, adversarial, sgd
from train.programs.lit.table import Arm
from train.programs.lit_gan import run as lit_gan
from train.programs.lit_gan import table as report_lit_gan
from train.programs.lit_gan.config import LitGan
from train.programs.lit_gan.metrics import Made, agreement, answered, apart, asked, frechet, in_every_style, told_apart
from train.programs.lit_gan.objective import _BETWEEN, Adversaries, Weights, draw, one_hot, representing, translate
from train.programs.lit_gan.styles import STYLES, styled
from train.programs.lit_gan.table import Row
from train.results.rows import read_rows

RNG = np.random.default_rng(0)
IMAGES = jnp.asarray(RNG.uniform(-1, 1, (4, 8, 8, 1)), jnp.float32)
BATCH = Batch(IMAGES, jnp.asarray([0, 1, 2, 1], jnp.int32))
WEIGHTS = Weights(domain=2.0, reconstruction=5.0, penalty=3.0)
STUDENT, TEACHER = 1, 2


def players(act=ReLU, blocks=STUDENT):
  return Adversaries(models.Generator(2, blocks, 1, act), models.Discriminator(2, 2, len(STYLES)))


def initial(model, seed=0):
  variables = jax.jit(partial(model.init, train=False))(jax.random.key(seed), IMAGES)
  waves = jax.tree.map(lambda leaf: 0.05 * np.sin(np.arange(leaf.size, dtype=np.float32)), variables)
  return jax.tree.map(lambda leaf, wave: jnp.asarray(np.asarray(leaf) + wave.reshape(leaf.shape)), variables, waves)


def losses(model, drawn, key):
  """Of the two players, each as a function of its own parameters and the other's, as the paper has them."""
  cross = optax.losses.softmax_cross_entropy_with_integer_labels

  def made(mine, images, styles):
    return model.generator.apply({'params': mine}, (images, one_hot(styles)), train=False)[0]

  def of_discriminator(mine, other):
    judge = partial(model.discriminator.apply, {'params': mine})
    fake = made(other, drawn.images, drawn.target)
    penalty = gradient_penalty(lambda x: judge(x)[0], drawn.images, fake, jax.random.fold_in(key, _BETWEEN))
    values, logits = judge(drawn.images)
    return judge(fake)[0].mean() - values.mean() + 3 * penalty.mean() + 2 * cross(logits, drawn.source).mean()

  def of_generator(mine, other):
    fake = made(mine, drawn.images, drawn.target)
    values, logits = model.discriminator.apply({'params': other}, fake)
    back = jnp.abs(made(mine, fake, drawn.source) - drawn.images).mean()
    return -values.mean() + 2 * cross(logits, drawn.target).mean() + 5 * back

  return of_generator, of_discriminator


class TestTranslate:
  @pytest.mark.slow
  def test_steps_are_those_of_two_players_in_turn(self):
    """By SGD with momentum, which remembers; the discriminator at every step, the generator at every second."""
    model, rate = players(), jnp.float32(0.05)
    tx = adjustable(adversarial(sgd(0.0), 2))
    state = new_state(model, tx, jax.random.key(0), IMAGES)
    state = state._replace(opt_state=state.opt_state._replace(hyperparams={'learning_rate': rate}))
    params, own = jax.tree.map(jnp.array, state.params), sgd(0.0)(rate)
    remembered = {player: own.init(part) for player, part in params.items()}

    @jax.jit
    def gradients(params, key):
      generator, discriminator = params['generator'], params['discriminator']
      of_generator, of_discriminator = losses(model, draw(IMAGES, key), key)
      return {
        'generator': jax.grad(of_generator)(generator, discriminator),
        'discriminator': jax.grad(of_discriminator)(discriminator, generator),
      }

    keys = [jax.random.fold_in(state.key, i) for i in range(4)]
    step = make_train_step(translate(model, WEIGHTS), tx)
    for i, key in enumerate(keys):
      state, _ = step(state, (), BATCH)
      for player, gradient in gradients(params, key).items():
        if player == 'discriminator' or i % 2 == 1:
          updates, remembered[player] = own.update(gradient, remembered[player], params[player])
          params = {**params, player: optax.apply_updates(params[player], updates)}
      chex.assert_trees_all_close(state.params, params, rtol=1e-4, atol=1e-5)

  def test_the_generators_memory_rests_between_its_turns(self):
    tx, alone = adversarial(adam(0.5, 0.999, 0.0), 3)(0.1), adam(0.5, 0.999, 0.0)(0.1)
    params = {'generator': jnp.ones(2), 'discriminator': jnp.ones(3)}
    state, expected = tx.init(params), alone.init(params['generator'])
    for i in range(6):
      gradient = jax.tree.map(lambda leaf, i=i: leaf * (i + 1.0), params)
      updates, state = tx.update(gradient, state, params)
      assert np.all(updates['discriminator'] != 0)
      if i % 3 == 2:
        wanted, expected = alone.update(gradient['generator'], expected, params['generator'])
        np.testing.assert_allclose(updates['generator'], wanted, rtol=1e-6)
      else:
        np.testing.assert_array_equal(updates['generator'], 0)

  def test_statistics_move_under_the_images_then_under_those_made_of_them(self):
    model, key = players(partial(LMA, num_segments=4)), jax.random.key(1)
    variables = initial(model)
    stats = {name: part for name, part in variables.items() if name != 'params'}
    _, (moved, _) = jax.jit(translate(model, WEIGHTS))(variables['params'], stats, (), BATCH, key)
    drawn = draw(IMAGES, key)
    run = jax.jit(partial(model.apply, method='translate', train=True, mutable=list(stats)))
    made, once = run(variables, drawn.images, drawn.target)
    _, twice = run({**variables, **once}, made, drawn.source)
    chex.assert_trees_all_close(moved, twice, rtol=1e-4, atol=1e-6)

  def test_images_are_drawn_in_all_styles(self):
    drawn = draw(jnp.zeros((400, 4, 4, 1)), jax.random.key(0))
    pairs = np.bincount(np.asarray(drawn.source * 4 + drawn.target), minlength=16)
    assert pairs.min() > 10
    np.testing.assert_array_equal(drawn.images, styled(jnp.zeros((400, 4, 4, 1)), drawn.source))


def plan_of(**options):
  """The fits of a small run, whose images are those of this file."""
  config = LitGan(width=(2,), teacher_blocks=TEACHER, student_blocks=STUDENT, seeds=1, critic_steps=2, **options)
  data = SimpleNamespace(batches=SimpleNamespace(blank=IMAGES[:1]))
  fits = lit_gan.generators(config, Arm('teacher', 'lma', 4), IMAGES.shape)
  return lit_gan.Experiment(config, None, data, [], fits, {})


def three_steps(cohort, frozen, starts):
  (name,) = cohort.groups
  progress, step = fresh(cohort, IMAGES, starts)[name], jax.jit(cohort_step(cohort))
  rates = {'learning_rate': jnp.full(1, 0.01, jnp.float32)}
  state = progress.state._replace(opt_state=progress.state.opt_state._replace(hyperparams=rates))
  progress = {name: progress._replace(state=state)}
  for _ in range(3):
    progress = step(progress, frozen, BATCH)
  end = progress[name].end
  return {'params': end.theta, **end.stats}


def errors_of(student, teacher):
  stages = blockwise(student, lambda *_: jnp.zeros(()), Stages(0.0, (0,), (0,)))
  return representing(stages, teacher)


class TestPhases:
  @pytest.mark.slow
  def test_the_ends_stay_to_the_bit_in_the_first_phase_and_all_moves_in_the_second(self):
    plan = plan_of(weight_decay=0.1)  # which moves what has no gradient
    teacher, only, lit, _ = plan.fits
    theirs = initial(plan.fits[teacher].group.model, 9)
    starts = lit_gan.starts(plan, only, {}, theirs)
    begun = jax.tree.map(np.array, starts[only.name])
    first = three_steps(plan.fits[only].cohort, theirs, starts)
    for given, new in ((theirs['params'], first['params']), (theirs['batch_stats'], first['batch_stats'])):
      for part in ('down', 'up'):
        kept = jax.tree.map(lambda leaf: np.stack([leaf]), given['generator'][part])
        chex.assert_trees_all_equal(new['generator'][part], kept)
    assert all(self.moved(begun.theta['generator']['stages_0'], first['params']['generator']['stages_0']))
    old, new = begun.stats['batch_stats'], first['batch_stats']
    assert all(self.moved(old['generator']['stages_0'], new['generator']['stages_0']))
    discriminator = jax.tree.map(lambda leaf: np.stack([leaf]), theirs['params']['discriminator'])
    chex.assert_trees_all_equal(first['params']['discriminator'], discriminator)

    starts = lit_gan.starts(plan, lit, {only: first}, None)
    before = jax.tree.map(np.array, starts[lit.name].theta)
    chex.assert_trees_all_equal(before, jax.tree.map(np.array, first['params']))
    after = three_steps(plan.fits[lit].cohort, None, starts)['params']
    for part in ('down', 'stages_0', 'up'):
      assert all(self.moved(before['generator'][part], after['generator'][part]))
    assert all(self.moved(before['discriminator'], after['discriminator']))

  def test_as_many_steps_from_scratch_as_in_both_phases(self):
    plan = plan_of(epochs=3, finetune_epochs=4)
    lengths = {arm.method: each.epochs for arm, each in plan.fits.items()}
    assert lengths == {'teacher': 7, 'lit-only': 3, 'lit': 4, 'scratch': 7}
    for each in plan.fits.values():
      assert each.cohort.plan.schedule([0.5] * (each.epochs - 1)) == 1.0
      assert each.cohort.plan.schedule([0.5] * each.epochs) is None
    assert plan_of(teacher_epochs=9).fits[Arm('teacher', 'lma', 4)].epochs == 9

  def test_in_the_first_phase_too_the_blocks_move_at_every_so_many_th_step(self):
    plan = plan_of()
    only = plan.fits[Arm('lit-only', 'lma', 4)]
    tx, params = optimizer_of(only.group, only.cohort.plan), initial(only.group.model)['params']
    state = tx.init(params)
    state = state._replace(hyperparams={'learning_rate': jnp.float32(0.1)})
    for step in range(4):
      updates, state = tx.update(jax.tree.map(jnp.ones_like, params), state, params)
      moved = [bool(np.any(leaf != 0)) for leaf in jax.tree.leaves(updates['generator']['stages_0'])]
      assert {*moved} == {step % 2 == 1}

  @staticmethod
  def moved(old, new):
    """Whether each kernel did, or running statistic; slopes of segments without an input do not."""
    named = tree.map_with_path(lambda path, a, b: (path, bool(np.any(a != b))), old, new)
    pairs = jax.tree.leaves(named, is_leaf=lambda pair: isinstance(pair, tuple))
    found = [moved for path, moved in pairs if path.endswith(('kernel', 'mean', 'std', 'weight'))]
    assert found
    return found

  def test_the_teacher_itself_has_no_error(self):
    model = players(blocks=TEACHER)
    variables = initial(model)
    loss, _ = jax.jit(errors_of(model, model))(variables['params'], {}, variables, BATCH, jax.random.key(0))
    assert float(loss) < 1e-10

  def test_the_error_is_that_of_the_blocks_on_the_teachers_stem(self):
    student, teacher, key = players(), players(blocks=TEACHER), jax.random.key(0)
    mine, theirs = initial(student), initial(teacher, 9)
    drawn = draw(IMAGES, key)
    inputs = drawn.images, one_hot(drawn.target)
    whole = jax.jit(partial(teacher.generator.apply, train=False))
    _, taps = whole({'params': theirs['params']['generator']}, inputs)
    blocks = jax.jit(lambda given, tap: student.generator.apply(given, 0, tap, method='stage', train=True))
    ours = blocks({'params': mine['params']['generator']}, taps[0])
    loss, _ = jax.jit(errors_of(student, teacher))(mine['params'], {}, theirs, BATCH, key)
    np.testing.assert_allclose(loss, np.square(np.asarray(ours) - np.asarray(taps[1])).mean(), rtol=1e-4)


class Sayer(nn.Module):
  """Says what it is told, whatever the images."""

  @nn.compact
  def __call__(self, inputs, *, train):
    logits = self.param('said', lambda key: jnp.arange(12.0))
    return jnp.broadcast_to(logits, (len(inputs), 12)), ()


class TestTranslations:
  def test_every_image_is_asked_for_in_every_style_from_each_other_in_turn(self):
    question = asked(IMAGES)
    for target in range(len(STYLES)):
      sources = []
      for i, image in enumerate(IMAGES):
        of_each = styled(jnp.stack([image] * len(STYLES)), jnp.arange(len(STYLES)))
        sources += [s for s in range(len(STYLES)) if np.array_equal(of_each[s], question.images[target, i])]
        np.testing.assert_array_equal(question.answers[target, i], of_each[target])
      assert len(sources) == len(IMAGES) and {*sources} == {*range(len(STYLES))} - {target}
      assert sources[0] == sources[3]

  def test_the_agreement_is_one_less_the_pixel_error(self):
    model = players()
    variables, mask = initial(model), jnp.array([True, True, False, True])
    kept = np.asarray(mask)
    made = jax.jit(partial(answered, model))(variables, IMAGES)
    expected = [
      1 - np.abs(np.asarray(made[:, i] - asked(IMAGES).answers[:, i])).mean() / 2 for i in np.flatnonzero(kept)
    ]
    np.testing.assert_allclose(jax.jit(agreement(model))(variables, BATCH, mask), sum(expected), rtol=1e-5)
    cut = [Made(images[:, kept], None) for images in (made, asked(IMAGES).answers)]
    np.testing.assert_allclose(1 - apart(*cut), np.mean(expected), rtol=1e-5)

  def test_the_distance_is_a_mean_over_styles_and_of_true_images_zero(self):
    features = RNG.normal(size=(4, 9, 3))
    made = Made(None, features)
    assert frechet(made, made) < 1e-9
    shifts = np.arange(4.0)[:, None, None]  # moved by s along each of three axes
    np.testing.assert_allclose(frechet(Made(None, features + shifts), made), np.mean([3 * s**2 for s in range(4)]))

  def test_classes_are_of_style_and_class_together(self):
    model, key = Sayer(), jax.random.key(2)
    variables = model.init(key, IMAGES, train=False)
    loss, _ = told_apart(model, 3)(variables['params'], {}, (), BATCH, key)
    logits, source = np.arange(12.0), np.asarray(draw(IMAGES, key).source)
    expected = np.log(np.exp(logits).sum()) - logits[source * 3 + np.asarray(BATCH.labels)]
    np.testing.assert_allclose(loss, expected.mean(), rtol=1e-5)
    right = in_every_style(3).of(model)(variables, BATCH, jnp.ones(4, bool))  # always says style 3 and class 2
    assert float(right) == 1 / 4


def row(method, frechet, pixel_error, **changes):
  given = Row(
    f'relu-{method}', method, 'relu', None, 2, frechet, pixel_error, [0.1] * len(frechet), [0.2] * len(frechet),
    1234, 4936, 2_500_000, 0.05,
  )  # fmt: skip
  return given._replace(**changes)


def test_the_table_says_what_came_of_it():
  rows = [
    row('teacher', [1.0], [0.05], blocks=6),
    row('lit-only', [4.0, 5.0], [0.2, 0.2]),
    row('lit', [2.0, 3.0], [0.10, 0.12]),
    row('scratch', [3.0, 5.0], [0.15, 0.15]),
  ]
  lines = report_lit_gan.text(rows).splitlines()
  assert lines[2].startswith('| teacher | 6 | relu | 1.000 | 5.00 |  | 20.00 | 1,234 | 4,936 | 2.5 | 50.00 |')
  assert lines[4].startswith('| lit | 2 | relu | 2.500 ± 0.707 | 11.00 ± 1.41 | 10.00 ± 0.00 |')
  assert '| lit − scratch | -1.500 | -7.853 … +4.853 | -4.00 | -16.71 … +8.71 |' in lines
  assert '| lit − lit-only | -2.000 | -2.000 … -2.000 | -9.00 | -21.71 … +3.71 |' in lines
  assert 'our own classifier' in lines[-1]


@pytest.fixture(scope='module')
def whole(whole_run):
  return whole_run('lit-gan')


@pytest.mark.slow
def test_a_run_writes_its_folder(whole):
  for name in ('config.json', 'metrics.jsonl', 'results.json', 'results.md', 'errors.png', 'sheet-lma-4.png'):
    assert (whole / name).stat().st_size > 0
  rows = read_rows(whole, 'lit-gan', Row)
  assert [each.name for each in rows] == [f'lma-4-{method}' for method in ('teacher', 'lit-only', 'lit', 'scratch')]
  assert [len(each.frechet) for each in rows] == [1, 2, 2, 2]
  assert rows[0].teacher_error == [0.0]
  assert rows[0].parameters > rows[1].parameters == rows[2].parameters == rows[3].parameters
  assert rows[0].macs > rows[1].macs
  for each in rows:
    assert all(0 < error < 1 for error in each.pixel_error + each.validation_error)
  epochs = [line['phase'].removeprefix('lma-4-') for line in metrics(whole)]
  assert epochs == [name.replace('classifier', 'relu-classifier') for name, n in PHASES.items() for _ in range(n)]
