"""The Transformer: against loops in NumPy, blind to padding and to what comes later, and token by token."""

import functools
import itertools
from types import SimpleNamespace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lmajax import tree
from lmajax.activations.linen import LMA, ReLU
from lmajax.models import Marks, Sentences, Transformer, beam_search, greedy
from tests import oracles

SOURCES = np.array([[5, 7, 2, 9, 3], [4, 2, 8, 0, 0], [9, 0, 0, 0, 0]], np.int32)
TARGETS = np.array([[1, 9, 4, 10], [1, 6, 0, 0], [1, 3, 3, 0]], np.int32)
INPUTS = jnp.asarray(SOURCES), jnp.asarray(TARGETS)
FEATURES, UNITS, ROWS, LENGTH, MARKS = 8, 12, 9, 6, Marks()


class Layout(NamedTuple):
  pre_norm: bool
  tied: bool
  projected: bool


LAYOUTS = list(itertools.starmap(Layout, itertools.product((False, True), repeat=3)))
FEW = [Layout(False, False, False), Layout(True, True, True)]  # the LMA paper's, and its opposite


def named(layout):
  return ' '.join(name for name, on in layout._asdict().items() if on) or 'plain'


def mostly(one, other):
  """Every layout with the one, and two with the other."""
  pairs = [*((layout, one) for layout in LAYOUTS), *((layout, other) for layout in FEW)]
  return [pytest.param(*pair, id=f'{named(pair[0])}-{getattr(pair[1], "__name__", pair[1])}') for pair in pairs]


every_layout = pytest.mark.parametrize('layout', LAYOUTS, ids=named)
two_layouts = pytest.mark.parametrize('layout', FEW, ids=named)


def small(layout, act=LMA, **options):
  how = {'layers': (1, 2), 'features': FEATURES, 'units': UNITS, 'heads': 2, **options}
  return Transformer((13, 13) if layout.tied else (11, 13), act, **how, **layout._asdict())


def drawn(model):
  """Variables as training might leave them; running statistics have a weight of 0.3, and are biased by it."""
  rng = np.random.default_rng(0)
  shapes = jax.eval_shape(functools.partial(model.init, train=False), jax.random.key(0), INPUTS)

  def leaf(path, shape):
    name, noise = path.rpartition('/')[2], rng.normal(size=shape.shape)
    around = {'scale': 1 + noise / 5, 'std': 0.3 + noise / 20, 'mean': noise / 8, 'weight': np.array(0.3)}
    size = {'embedding': 1.0, 'kernel': 0.5, 'bias': 0.2}.get(name, 0.4)
    return jnp.asarray(around.get(name, size * noise), jnp.float32)

  return tree.map_with_path(leaf, shapes)


@functools.cache
def case(layout, act=LMA, **options):
  """A model, its variables, and its programs, each compiled once."""
  model = small(layout, act, **options)

  def learn(variables, inputs):
    def loss(params):
      changing = {'train': True, 'mutable': ['batch_stats']}
      (logits, _), updated = model.apply({**variables, 'params': params}, inputs, **changing)
      each = optax.softmax_cross_entropy_with_integer_labels(logits, (inputs[1] + 3) % 13)
      return jnp.sum(each, where=inputs[1] != 0) / jnp.sum(inputs[1] != 0), (logits, updated)

    return jax.grad(loss, has_aux=True)(variables['params'])

  full = functools.partial(model.apply, train=False)
  return SimpleNamespace(model=model, variables=drawn(model), full=jax.jit(full), learn=jax.jit(learn))


def evaluated(this, source, target):
  """The logits and the taps, of inputs laid into one shape, so that a model is compiled once."""
  (rows, places), length = source.shape, target.shape[1]
  wide = (np.pad(x, ((0, ROWS - rows), (0, most - x.shape[1]))) for x, most in ((source, 5), (target, LENGTH)))
  logits, taps = this.full(this.variables, tuple(wide))
  cut = places, length, places, length
  return logits[:rows, :length], [Sentences(*(x[:rows, :n] for x, n in zip(tap, cut, strict=True))) for tap in taps]


def numbers_of(ours):
  return [np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(ours)]


def assert_close(ours, expected, rtol=1e-5, atol=1e-5):
  for one, other in zip(numbers_of(ours), numbers_of(expected), strict=True):
    assert one.shape == other.shape
    np.testing.assert_allclose(one, other, rtol=rtol, atol=atol)


def judged(this, source, target, measured=None):
  """By the oracle, in evaluation; or with the statistics of the batch, of which the updated go to ``measured``."""
  variables = jax.tree.map(np.asarray, this.variables)

  def act(i):
    name = f'stages_{i}'
    if 'batch_stats' not in variables:
      return lambda x, where: oracles.relu(x)
    table = variables['params'][name]['dense']['act']
    slopes = oracles.relu_init(8)[0] + table['slope_deltas']
    running = [variables['batch_stats'][name]['dense']['act'][leaf] for leaf in ('mean', 'std', 'weight')]

    def lma(x, where):
      stats = oracles.debias(running)
      if measured is not None:
        stats = oracles.measure(x, where=where)
        measured.append(oracles.update_stats(running, stats, decay=0.99))
      return oracles.lma(x, slopes, table['intercepts'], stats)

    return lma

  return oracles.transformer(variables['params'], source, target, [act(i) for i in range(3)])


class TestForward:
  @pytest.mark.parametrize('layout, act', mostly(LMA, ReLU))
  def test_equals_the_oracle(self, layout, act):
    this = case(layout, act)
    logits, taps = evaluated(this, SOURCES, TARGETS)
    expected, sides = judged(this, SOURCES, TARGETS)
    assert logits.shape == (3, 4, 13) and len(taps) == 4
    assert np.median(np.std(expected, axis=(0, 1))) > 0.1
    assert_close(logits, expected)
    for tap, (source, target) in zip(taps, sides, strict=True):
      assert isinstance(tap, Sentences)
      assert_close(tap, Sentences(source, target, SOURCES != 0, TARGETS != 0))

  @two_layouts
  def test_equals_the_oracle_in_training(self, layout):
    this, measured = case(layout, dropout=0.0), []
    _, (logits, updated) = this.learn(this.variables, INPUTS)
    expected, _ = judged(this, SOURCES, TARGETS, measured)
    assert_close(logits, expected)
    for i, stats in enumerate(measured):
      leaves = updated['batch_stats'][f'stages_{i}']['dense']['act']
      assert_close([leaves[name] for name in ('mean', 'std', 'weight')], stats)

  @every_layout
  def test_has_the_parts_of_its_layout(self, layout):
    params = case(layout).variables['params']
    pre_norm, tied, projected = layout
    tables = {'embed'} if tied else {'embed', 'target_embed', 'logits'}
    assert set(params) == {'stages_0', 'stages_1', 'stages_2'} | tables | ({'norm'} if pre_norm else set())
    assert [('norm' in params[f'stages_{i}']) for i in range(3)] == [pre_norm, False, False]
    attention = (4 if projected else 3) * FEATURES**2
    dense = 2 * FEATURES * UNITS + UNITS + FEATURES + 16
    encoder, decoder = attention + dense + 4 * FEATURES, 2 * attention + dense + 6 * FEATURES
    words = 13 * FEATURES if tied else (11 + 13 + 13) * FEATURES + 13
    assert tree.size(params) == encoder + 2 * decoder + words + (4 * FEATURES if pre_norm else 0)

  def test_starts_as_its_docstring_says(self):
    model = Transformer((500, 400), ReLU, layers=(1, 1), features=64, units=128)
    inputs = jnp.arange(500)[None], jnp.arange(400)[None]
    (_, taps), variables = jax.jit(functools.partial(model.init_with_output, train=False))(jax.random.key(0), inputs)
    for side in (taps[0].source, taps[0].target):
      tokens = side[0] - oracles.sinusoids(side.shape[1], 64)
      assert np.std(tokens) == pytest.approx(1, abs=0.02)
    params = variables['params']
    for kernel in (params['stages_1']['across']['key'], params['stages_1']['within']['output']):
      assert np.abs(kernel['kernel']).max() == pytest.approx(np.sqrt(6 / (64 + 64)), rel=0.02)
    assert np.abs(params['stages_0']['dense']['Dense_0']['kernel']).max() == pytest.approx(np.sqrt(6 / 192), rel=0.02)
    assert np.abs(params['logits']['kernel']).max() == pytest.approx(np.sqrt(6 / 464), rel=0.02)

  @pytest.mark.parametrize(
    'features, layers, size, more',
    [(512, 6, 116_238_164, 192), (256, 3, 46_534_996, 96), (128, 3, 22_856_276, 96), (64, 3, 11_348_692, 96)],
  )
  def test_published_sizes(self, features, layers, size, more):
    for act, of_act in ((ReLU, 0), (LMA, more)):
      model = Transformer((50002, 50004), act, (layers, layers), features, projected=False)
      shapes = jax.eval_shape(functools.partial(model.init, train=False), jax.random.key(0), INPUTS)
      assert tree.size(shapes['params']) == size + of_act


def padded(tokens, more):
  """Longer, the rows in another order, and blank ones before and after them."""
  return np.pad(tokens[[2, 0, 1]], ((1, 2), (0, more)))


class TestPadding:
  @two_layouts
  def test_changes_nothing_in_training(self, layout):
    this = case(layout, dropout=0.0)
    gradients, (logits, updated) = this.learn(this.variables, INPUTS)
    longer = padded(SOURCES, 3), padded(TARGETS, 2)
    others, (more, after) = this.learn(this.variables, longer)
    assert_close(more[1:4, :4][longer[1][1:4, :4] != 0], logits[jnp.array([2, 0, 1])][TARGETS[[2, 0, 1]] != 0])
    assert_close(after, updated, rtol=1e-6, atol=1e-6)
    assert_close(others, gradients)
    assert np.isfinite(more).all()
    assert min(np.abs(leaf).max() for leaf in jax.tree.leaves(gradients)) > 1e-4
    if not layout.tied:
      assert not np.any(others['embed']['embedding'][0]) and not np.any(others['target_embed']['embedding'][0])

  def test_changes_nothing_in_evaluation(self):
    this = case(FEW[0])
    logits, _ = evaluated(this, SOURCES, TARGETS)
    alone, _ = this.full(this.variables, (SOURCES[1:2, :3], TARGETS[1:2, :2]))
    assert_close(alone[0], logits[1, :2])

  @two_layouts
  @pytest.mark.parametrize('blank', ['source', 'target', 'both'])
  def test_of_a_whole_row_is_finite(self, layout, blank):
    this = case(layout, dropout=0.0)
    source, target = SOURCES.copy(), TARGETS.copy()
    for tokens in {'source': [source], 'target': [target], 'both': [source, target]}[blank]:
      tokens[1] = 0
    gradients, (logits, updated) = this.learn(this.variables, (source, target))
    for leaf in jax.tree.leaves((gradients, logits, updated)):
      assert np.isfinite(leaf).all()

  def test_of_a_whole_batch_leaves_the_statistics(self):
    this = case(FEW[0], dropout=0.0)
    _, (_, updated) = this.learn(this.variables, (0 * SOURCES, 0 * TARGETS))
    assert_close(updated['batch_stats'], this.variables['batch_stats'], rtol=0, atol=0)

  @pytest.mark.parametrize('i', [0, 1])
  def test_may_hold_anything(self, i):
    this = case(FEW[0], dropout=0.0)
    _, taps = evaluated(this, SOURCES, TARGETS)

    @jax.jit
    def stage(tap):
      return this.model.apply(this.variables, i, tap, train=True, method='stage', mutable=['batch_stats'])

    garbage = 1e3 * np.random.default_rng(1).normal(size=taps[i].source.shape).astype(np.float32)
    sides = (
      jnp.where(mask[..., None], x, garbage[:, : x.shape[1]]) for x, mask in zip(taps[i][:2], taps[i][2:], strict=True)
    )
    (clean, stats), (ours, updated) = stage(taps[i]), stage(taps[i]._replace(source=next(sides), target=next(sides)))
    assert_close(updated, stats, rtol=1e-6, atol=1e-6)
    for x, y, mask in ((ours.source, clean.source, SOURCES != 0), (ours.target, clean.target, TARGETS != 0)):
      assert_close(x[mask], y[mask])
    assert not np.allclose(ours.source, clean.source)


class TestCausality:
  @every_layout
  def test_a_token_of_the_target_is_seen_from_its_place_on(self, layout):
    this, target = case(layout), np.repeat(TARGETS[:1], 5, axis=0)
    for j in range(4):
      target[j, j] += 1
    logits, _ = evaluated(this, np.repeat(SOURCES[:1], 5, axis=0), target)
    for j in range(4):
      assert_close(logits[j, :j], logits[4, :j])
      assert np.abs(logits[j, j:] - logits[4, j:]).max(axis=-1).min() > 1e-3

  @every_layout
  def test_a_token_of_the_source_is_seen_everywhere(self, layout):
    this, source = case(layout), np.repeat(SOURCES[:1], 6, axis=0)
    for j in range(5):
      source[j, j] += 1
    logits, _ = evaluated(this, source, np.repeat(TARGETS[:1], 6, axis=0))
    for j in range(5):
      assert np.abs(logits[j] - logits[5]).max(axis=-1).min() > 1e-3


def prefixes_of(rows):
  return np.random.default_rng(rows).integers(1, 13, (rows, LENGTH), np.int32)


@functools.partial(jax.jit, static_argnums=0, static_argnames='length')
def stepped(model, variables, source, prefixes, *, length):
  memory, cache = model.apply(variables, source, length=length, method='start')
  assert all(leaf.shape == (3, length, 2, FEATURES // 2) for leaf in jax.tree.leaves(cache))
  cache = jax.tree.map(lambda leaf: jnp.repeat(leaf, len(prefixes) // 3, axis=0), cache)

  def step(cache, place):
    logits, cache = model.apply(variables, memory, cache, *place, method='step')
    return cache, logits

  places = prefixes.T, jnp.arange(prefixes.shape[1])
  return jnp.swapaxes(jax.lax.scan(step, cache, places)[1], 0, 1)


def fed(this, prefixes, *, length=LENGTH):
  """The logits of prefixes [n, t], as many for each of the sources: token by token, in one program for all places."""
  return stepped(this.model, this.variables, SOURCES, prefixes, length=length)


class TestSteps:
  @pytest.mark.parametrize('layout, beams', mostly(3, 1))
  def test_give_the_logits_of_the_full_pass(self, layout, beams):
    this, prefixes = case(layout), prefixes_of(3 * beams)
    expected, _ = evaluated(this, np.repeat(SOURCES, beams, axis=0), prefixes)
    assert min(np.median(np.std(expected, axis=axis)) for axis in (0, 1)) > 0.05  # by row, and by place
    assert_close(fed(this, prefixes), expected)

  def test_look_at_no_place_behind_theirs(self):
    this, prefixes = case(FEW[0]), prefixes_of(9)
    assert_close(fed(this, prefixes, length=8), fed(this, prefixes))

  def test_follow_the_source_of_their_row(self):
    """With one prefix for all, nothing but the source tells rows apart."""
    this = case(FEW[0])
    logits = fed(this, np.repeat(prefixes_of(1), 9, axis=0))
    for source in range(3):
      assert_close(logits[3 * source : 3 * source + 3], jnp.repeat(logits[3 * source][None], 3, axis=0))
      assert np.abs(logits[3 * source] - logits[3 * source - 1]).max(axis=-1).min() > 1e-2

  def test_find_the_sentences_of_a_loop_without_a_cache(self):
    this, tokens = talkative(), np.asarray(found(greedy))
    target, expected, done = np.zeros((3, LENGTH), np.int32), np.zeros((3, LENGTH), np.int32), np.zeros(3, bool)
    target[:, 0] = MARKS.start
    for position in range(LENGTH):
      logits = np.array(evaluated(this, SOURCES, target)[0][:, position])
      logits[:, [MARKS.padding, MARKS.start]] = -np.inf
      expected[:, position] = np.where(done, MARKS.padding, logits.argmax(axis=-1))
      done |= expected[:, position] == MARKS.end
      target[:, position + 1 : position + 2] = expected[:, position : position + 1]
    assert np.array_equal(tokens, expected)
    assert done.any() and len({tuple(row) for row in tokens}) == 3 and len(set(tokens.ravel())) > 4

  def test_find_in_one_beam_what_is_found_greedily(self):
    assert np.array_equal(found(beam_search, beams=1).tokens[:, 0], found(greedy))

  def test_find_the_beams_of_the_oracle(self):
    this, ours = talkative(), found(beam_search, beams=3)

    def prefix(row):
      return lambda tokens: evaluated(this, SOURCES[[row]], np.array([tokens], np.int32))[0][0, -1]

    for row in range(3):
      tokens, scores = oracles.beam_search(prefix(row), beams=3, length=LENGTH, length_penalty=1.0, marks=MARKS)
      assert np.array_equal(ours.tokens[row], tokens)
      assert_close(ours.scores[row], np.array(scores))
    assert len({tuple(beam) for row in np.asarray(ours.tokens) for beam in row}) > 4


def talkative():
  """Sentences of its own: some end, for its variables are drawn, and then it likes the end a little more."""
  this = case(FEW[0])
  params, head = this.variables['params'], this.variables['params']['logits']
  head = head | {'bias': head['bias'].at[MARKS.end].add(0.5)}
  return SimpleNamespace(**vars(this) | {'variables': this.variables | {'params': params | {'logits': head}}})


@functools.cache
def found(search, **options):
  """The sentences of a search, all of it in one program."""
  this = talkative()

  @jax.jit
  def program(variables):
    memory, cache = this.model.apply(variables, INPUTS[0], length=LENGTH, method='start')

    def step(cache, tokens, position):
      return this.model.apply(variables, memory, cache, tokens, position, method='step')

    return search(step, cache, length=LENGTH, **options)

  return program(this.variables)


class TestTraining:
  def test_dropout_follows_the_key(self):
    this = case(FEW[0], dropout=0.3)

    @functools.partial(jax.jit, static_argnums=1)
    def run(seed, train):
      rngs, inputs = {'dropout': jax.random.key(seed)}, INPUTS
      return this.model.apply(this.variables, inputs, train=train, rngs=rngs, mutable=['batch_stats'])[0]

    (one, taps), (again, _), (other, _) = run(0, True), run(0, True), run(1, True)
    assert np.array_equal(one, again) and np.abs(one - other).max() > 0.1
    assert np.array_equal(run(0, False)[0], run(1, False)[0])
    _, clean = run(0, False)
    kept = []
    for x, y in zip(taps[0][:2], clean[0][:2], strict=True):
      kept.append(np.asarray(x) != 0)
      assert 0.5 < kept[-1].mean() < 0.9
      assert_close(x[kept[-1]], y[kept[-1]] / 0.7)
      assert len({place.tobytes() for row in kept[-1] for place in row}) > 5
    assert not np.array_equal(kept[0][:, :4], kept[1])

  def test_all_that_is_added_is_dropped(self):
    """With everything dropped a layer that has its norms inside gives what it gets; the last encoder ends in one."""
    this = case(FEW[1], dropout=1.0)
    _, taps = evaluated(this, SOURCES, TARGETS)

    @jax.jit
    def stages(taps):
      how = {'train': True, 'rngs': {'dropout': jax.random.key(0)}, 'mutable': ['batch_stats'], 'method': 'stage'}
      return [this.model.apply(this.variables, i, tap, **how)[0] for i, tap in enumerate(taps[:-1])]

    first, *others = stages(taps)
    assert_close(others, taps[1:3], rtol=0, atol=0)
    norm = jax.tree.map(np.asarray, this.variables['params']['stages_0']['norm'])
    assert_close(first.source, oracles.layer_norm(np.float64(taps[0].source), norm))

  def test_bfloat16_is_near_float32_and_its_steps_near_the_full_pass(self):
    this, half = case(FEW[1], ReLU), case(FEW[1], ReLU, dtype=jnp.bfloat16)
    prefixes = prefixes_of(3)
    (expected, _), (logits, _) = (evaluated(each, SOURCES, prefixes) for each in (this, half))
    steps = fed(half, prefixes)
    assert {leaf.dtype for leaf in jax.tree.leaves(half.variables)} == {np.dtype(np.float32)}
    assert logits.dtype == steps.dtype == jnp.bfloat16
    assert 0 < np.abs(logits.astype(jnp.float32) - expected).max() < 0.1
    assert_close(steps, logits, rtol=0, atol=0.1)

  def test_seeds_side_by_side_equal_each_alone(self):
    model, inputs = small(FEW[0], layers=(1, 1)), INPUTS
    keys = jax.random.split(jax.random.key(3), 2)
    made = functools.partial(model.init_with_output, train=False)
    together, alone = jax.jit(jax.vmap(made, in_axes=(0, None)))(keys, inputs), jax.jit(made)
    for i in range(2):
      assert_close(jax.tree.map(lambda leaf, i=i: leaf[i], together), alone(keys[i], inputs))
    logits = together[0][0]
    assert np.abs(logits[0] - logits[1]).max() > 0.1


class TestErrors:
  @pytest.mark.parametrize('features, heads', [(8, 3), (9, 3), (8, 16)])
  def test_no_heads_that_do_not_part_the_width_and_no_odd_width(self, features, heads):
    model = Transformer((11, 13), LMA, features=features, heads=heads)
    with pytest.raises(ValueError, match=f'features are {features}, and must be even and a multiple of the {heads}'):
      jax.eval_shape(functools.partial(model.init, train=False), jax.random.key(0), INPUTS)

  def test_no_table_of_two_sizes(self):
    model = Transformer((11, 13), LMA, features=8, heads=2, tied=True)
    with pytest.raises(ValueError, match=r'vocabularies of \(11, 13\) cannot share a table'):
      jax.eval_shape(functools.partial(model.init, train=False), jax.random.key(0), INPUTS)
