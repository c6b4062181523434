"""Filters taken out for good: their scores, what is left, and when the network does not notice."""

import inspect
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lmajax.models
from lmajax import tree
from lmajax.activations.linen import APLU, LMA, PReLU, ReLU, Swish
from lmajax.compress import (
  Filters,
  full_widths,
  l1_norm,
  l2_norm,
  median_distance,
  norm_scale,
  random_order,
  slice_params,
)
from lmajax.models import CNN, MLP, ResNet, cifar10_student, cifar10_teacher, vgg16
from lmajax.types import Channels, Slimmable
from tests import oracles
from tests.support import model_files as models

KEY = jax.random.key(3)
ACTS = {'relu': ReLU, 'lma': LMA, 'swish': Swish, 'aplu': APLU, 'prelu': PReLU}
X = jnp.asarray(np.random.default_rng(5).normal(size=(2, 8, 8, 3)), jnp.float32)

perceptron = partial(MLP, (6, 5), 3)
convolutions = partial(CNN, (4, 6), (5,), 3, pool_after=(1,))
no_units = partial(CNN, (4, 6), (), 3, pool_after=(1,))
residual = partial(ResNet, 8, 3, channels=(3, 4, 6))
projected = partial(ResNet, 8, 3, channels=(3, 4, 6), projected=True)

# Of each how to build it, its graph, and the widths of a thin one.
MODELS = {
  'mlp': (perceptron, MLP.graph, (2, 3)),
  'cnn': (convolutions, CNN.graph, (3, 2, 4)),
  'no_units': (no_units, CNN.graph, (2, 5)),
  'student': (partial(cifar10_student, 3), CNN.graph, (9, 10, 3, 1, 77)),
  'resnet': (residual, ResNet.graph, (2, 4, 1)),
  'projected': (projected, partial(ResNet.graph, coupled=True), (2, 3, 1, 2, 3, 5)),
}
SMALL = [name for name in MODELS if name != 'student']
SLIMMABLE = {
  'mlp': MLP((5,), 3, LMA),
  'cnn': convolutions(LMA),
  'resnet': residual(act=LMA),
  'projected': projected(act=LMA),
  'vgg16': vgg16(LMA),
  'teacher': cifar10_teacher(LMA),
  **{f'student{number}': cifar10_student(number, LMA) for number in (1, 2, 3)},
}


def built(name, act):
  """A model, its graph and widths of a thin one."""
  make, graph, widths = MODELS[name]
  model = make(act=act)
  return model, graph(model), widths


@cache
def traced(model, shape):
  return jax.eval_shape(partial(model.init, train=False), KEY, jax.ShapeDtypeStruct(shape, jnp.float32))


def shapes(model, x=X):
  """Traced once for each model; the dictionaries are the caller's own."""
  return jax.tree.map(lambda leaf: leaf, traced(model, x.shape))


def typed(given):
  return jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), given)


LARGE = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)


def drawn(model, seed=0):
  """Parameters and collections of state, as training might leave them, with kernels that let much through."""
  rng = np.random.default_rng(seed)

  def leaf(path, shape):
    name = path.rpartition('/')[2]
    return jnp.asarray(models.drawn(rng, name, shape.shape) * np.float32(2 if name == 'kernel' else 1))

  variables = tree.map_with_path(leaf, shapes(model))
  return variables.pop('params'), variables


def evaluated(model, params, stats):
  return jax.jit(partial(model.apply, train=False))({'params': params, **stats}, X)[0]


def equal(ours, theirs):
  assert jax.tree.structure(ours) == jax.tree.structure(theirs)
  jax.tree.map(np.testing.assert_array_equal, ours, theirs)


def filters(shape=(9, 6), seed=0, number=0):
  rng = np.random.default_rng(seed)
  return Filters(jnp.asarray(rng.normal(size=shape), jnp.float32), jnp.asarray(rng.normal(size=shape[-1:])), number)


@pytest.mark.usefixtures('strict_dtypes')
class TestCriteria:
  @pytest.mark.parametrize('name', ['l1_norm', 'l2_norm', 'median_distance', 'norm_scale'])
  @pytest.mark.parametrize('shape', [(9, 6), (1, 4), (5, 1)], ids=str)
  def test_equals_its_oracle(self, name, shape):
    criterion = {f.__name__: f for f in (l1_norm, l2_norm, median_distance, norm_scale)}[name]
    for seed in range(3):
      given = filters(shape, seed)
      np.testing.assert_allclose(criterion(given), getattr(oracles, name)(given), rtol=1e-5)

  def test_the_scale_is_asked_for_by_norm_scale_alone(self):
    bare = filters()._replace(scale=None, number=4)
    for criterion in (l1_norm, l2_norm, median_distance, random_order(KEY)):
      assert criterion(bare).shape == (6,)
    with pytest.raises(ValueError, match='the channels of number 4 have no norm whose scale could rank them'):
      norm_scale(bare)

  def test_random_order_depends_on_the_key_and_the_number_and_on_nothing_else(self):
    draw = random_order(KEY)
    equal(draw(filters(seed=0)), draw(filters(seed=1)))
    for other in (draw(filters(number=1)), random_order(jax.random.key(4))(filters())):
      assert not np.any(np.isin(draw(filters()), other))

  def test_random_order_leaves_every_filter_as_often(self):
    scores = jax.vmap(lambda key: random_order(key)(filters((2, 5))))(jax.random.split(KEY, 2000))
    assert all(len(set(row)) == 5 for row in scores[:50].tolist())
    firsts = np.bincount(np.argmax(scores, axis=1), minlength=5)
    assert np.all(np.abs(firsts - 400) < 5 * np.sqrt(400 * 0.8))


def drawn_order(given):
  return random_order(KEY)(Filters(jnp.asarray(given.kernel), None, given.number))


CRITERIA = {
  'l1_norm': (l1_norm, oracles.l1_norm),
  'l2_norm': (l2_norm, oracles.l2_norm),
  'median_distance': (median_distance, oracles.median_distance),
  'norm_scale': (norm_scale, oracles.norm_scale),
  'random_order': (random_order(KEY), drawn_order),
}


@pytest.mark.parametrize('criterion', CRITERIA)
@pytest.mark.parametrize('name', ['cnn', 'no_units', 'mlp', 'projected'])
def test_equals_its_oracle(name, criterion):
  model, graph, widths = built(name, APLU)
  ours, theirs = CRITERIA[criterion]
  given = drawn(model)
  equal(slice_params(*given, graph, widths, ours), oracles.slice_params(*given, graph, widths, theirs))


@pytest.mark.parametrize('name', MODELS)
@pytest.mark.parametrize('act', ACTS)
class TestShapes:
  def test_are_those_of_the_thin_model(self, name, act):
    model, graph, widths = built(name, ACTS[act])
    given, thin = shapes(model), shapes(model.thinned(widths))
    stats = {collection: part for collection, part in given.items() if collection != 'params'}
    params, sliced = jax.eval_shape(lambda *given: slice_params(*given, graph, widths, l1_norm), given['params'], stats)
    assert typed({'params': params, **sliced}) == typed(thin)
    assert full_widths(thin, graph) == widths
    assert tree.size(thin) < tree.size(given)


@pytest.mark.parametrize('name', SMALL)
@pytest.mark.parametrize(
  'act, leaves', [(PReLU, {'slope'}), (LMA, {'slope_deltas', 'intercepts', 'mean', 'std', 'weight'})]
)
def test_what_belongs_to_a_layer_is_carried_over(name, act, leaves):
  model, graph, widths = built(name, act)
  params, stats = drawn(model)
  before = tree.by_path({'params': params, **stats})
  params, stats = slice_params(params, stats, graph, widths, l1_norm)
  after, sites = tree.by_path({'params': params, **stats}), set()
  for path in before:
    site, _, leaf = path.rpartition('/')
    if leaf in leaves and site.rpartition('/')[2].startswith('act'):
      np.testing.assert_array_equal(after[path], before[path])
      sites.add(path)
  assert len(sites) == len(leaves) * {'mlp': 2, 'cnn': 3, 'no_units': 2}.get(name, 7)
  np.testing.assert_array_equal(after['params/logits/bias'], before['params/logits/bias'])


def killed(params, stats, graph, widths, *, unread):
  """Channels of every entry made dead by their norms, in an order drawn; ``unread``: by their consumers too."""
  rng = np.random.default_rng(7)
  found = {path: np.array(leaf) for path, leaf in tree.by_path({'params': params, **stats}).items()}
  for channels, width in zip(graph, widths, strict=True):
    count = found[channels.kernels[0]].shape[-1]
    dead = rng.permutation(count)[: count - width]
    for scale in channels.scales:
      found[scale][dead] = found[scale.replace('/scale', '/bias')][dead] = 0
    for path in channels.consumers if unread else ():
      for row in range(found[path].shape[-2]):
        if row % count in dead:
          found[path][..., row, :] = 0
  variables = tree.map_with_path(lambda path, _: jnp.asarray(found[path]), {'params': params, **stats})
  return variables.pop('params'), variables


@pytest.mark.parametrize('name', SMALL)
class TestDeadFilters:
  @pytest.mark.parametrize('act, unread', [(ReLU, False), (Swish, False), (LMA, True)], ids=['relu', 'swish', 'lma'])
  def test_go_without_a_trace(self, name, act, unread):
    model, graph, widths = built(name, act)
    params, stats = killed(*drawn(model), graph, widths, unread=unread)
    before = evaluated(model, params, stats)
    after = evaluated(model.thinned(widths), *slice_params(params, stats, graph, widths, norm_scale))
    assert np.abs(before[0] - before[1]).min() > 1e-3
    np.testing.assert_allclose(after, before, rtol=1e-6, atol=1e-6)

  def test_leave_one_where_the_activation_is_not_0_at_0(self, name):
    model, graph, widths = built(name, LMA)
    params, stats = killed(*drawn(model), graph, widths, unread=False)
    before = evaluated(model, params, stats)
    after = evaluated(model.thinned(widths), *slice_params(params, stats, graph, widths, norm_scale))
    assert np.abs(after - before).max() > 1e-3


@pytest.mark.parametrize('name', ['cnn', 'projected'])
@pytest.mark.parametrize('criterion', ['median_distance', 'norm_scale', 'random_order'])
class TestTransforms:
  def test_under_jit_it_is_the_same(self, name, criterion):
    model, graph, widths = built(name, LMA)
    cut = partial(slice_params, graph=graph, widths=widths, criterion=CRITERIA[criterion][0])
    equal(jax.jit(cut)(*drawn(model)), cut(*drawn(model)))

  @pytest.mark.slow
  def test_networks_at_once_equal_one_after_the_other(self, name, criterion):
    model, graph, widths = built(name, LMA)
    cut = partial(slice_params, graph=graph, widths=widths, criterion=CRITERIA[criterion][0])
    each = [drawn(model, seed) for seed in range(3)]
    at_once = jax.vmap(cut)(*jax.tree.map(lambda *leaves: jnp.stack(leaves), *each))
    for i, one in enumerate(each):
      equal(jax.tree.map(lambda leaf, i=i: leaf[i], at_once), cut(*one))


@pytest.mark.parametrize('name', SMALL)
def test_full_widths_give_everything_back(name):
  model, graph, _ = built(name, LMA)
  params, stats = drawn(model)
  widths = full_widths({'params': params, **stats}, graph)
  equal(slice_params(params, stats, graph, widths, l1_norm), (params, stats))
  equal(slice_params(params, stats, graph, widths, norm_scale), (params, stats))


def test_kept_channels_stay_in_their_order():
  kernel = jnp.array([[5.0, 1.0, 4.0, 2.0, 3.0]])
  reader = jnp.arange(20.0).reshape(10, 2)
  params = {'a': {'kernel': kernel, 'bias': jnp.arange(5.0)}, 'b': {'kernel': reader}}
  graph = (Channels(('params/a/kernel',), ('params/a/bias',), ('params/b/kernel',)),)
  params, stats = slice_params(params, {}, graph, (3,), l1_norm)
  assert stats == {}
  assert params['a']['kernel'].tolist() == [[5, 4, 3]] and params['a']['bias'].tolist() == [0, 2, 4]
  equal(params['b']['kernel'], reader[jnp.array([0, 2, 4, 5, 7, 9])])  # the second position's follow the first's


def test_scores_of_kernels_that_write_the_same_channels_are_averaged():
  one, other = jnp.array([[5.0, 1.0, 3.0]]), jnp.array([[0.0, 6.0, 3.5]])
  graph = (Channels(('params/a/kernel', 'params/b/kernel')),)
  params, _ = slice_params({'a': {'kernel': one}, 'b': {'kernel': other}}, {}, graph, (2,), l1_norm)
  assert params['a']['kernel'].tolist() == [[1, 3]] and params['b']['kernel'].tolist() == [[6, 3.5]]


class TestErrors:
  @pytest.mark.parametrize(
    'widths, says',
    [
      ((2,), 'there are 1 widths for the 2 channels of the graph'),
      ((2, 3, 4), 'there are 3 widths for the 2 channels of the graph'),
      ((2, 0), 'the width of params/stages_1/Dense_0/kernel is 0, and must be from 1 to 5'),
      ((7, 5), 'the width of params/stages_0/Dense_0/kernel is 7, and must be from 1 to 6'),
      ((-1, 5), 'is -1, and must be from 1 to 6'),
    ],
  )
  def test_widths_that_do_not_fit(self, widths, says):
    model, graph, _ = built('mlp', ReLU)
    with pytest.raises(ValueError, match=says):
      slice_params(*drawn(model), graph, widths, l1_norm)

  def test_a_graph_that_does_not_fit(self):
    params, stats = drawn(perceptron(act=ReLU))
    with pytest.raises(ValueError, match='the graph names params/stages_2/Dense_0/kernel, which the variables lack'):
      slice_params(params, stats, MLP((6, 5, 4), 3, ReLU).graph(), (2, 3, 4), l1_norm)
    with pytest.raises(ValueError, match='the graph names batch_stats/stages_0/norm/mean'):
      slice_params(params, {}, perceptron(act=ReLU).graph(), (2, 3), l1_norm)

  def test_no_scale_for_norm_scale(self):
    model, graph, widths = built('mlp', ReLU)
    bare = tuple(channels._replace(scales=()) for channels in graph)
    with pytest.raises(ValueError, match='the channels of number 0 have no norm'):
      slice_params(*drawn(model), bare, widths, norm_scale)
    with pytest.raises(ValueError, match='the channels of number 1 have no norm'):
      slice_params(*drawn(model), (graph[0], bare[1]), widths, norm_scale)


class TestSlimmable:
  @pytest.mark.parametrize('model', SLIMMABLE.values(), ids=SLIMMABLE)
  def test_the_graph_fits_and_full_widths_make_the_same_model(self, model):
    given = shapes(model, LARGE)
    widths = full_widths(given, model.graph())
    assert typed(shapes(model.thinned(widths), LARGE)) == typed(given)

  @pytest.mark.parametrize('model', SLIMMABLE.values(), ids=SLIMMABLE)
  def test_every_norm_and_kernel_is_written_once_and_read_once(self, model):
    """But for the logits, which write none, and the first layer, which reads none."""
    graph = model.graph(coupled=True) if getattr(model, 'projected', False) else model.graph()
    paths = tree.by_path(shapes(model, LARGE))
    for part in ('kernels', 'along', 'consumers'):
      named = [path for channels in graph for path in getattr(channels, part)]
      assert len(named) == len(set(named))
    if isinstance(model, ResNet) and not model.projected:
      return  # its stages stay whole
    written = {path for channels in graph for path in (*channels.kernels, *channels.along)}
    read = {path for channels in graph for path in channels.consumers}
    kernels = {path for path in paths if path.endswith('/kernel')}
    assert kernels - written == {'params/logits/kernel'}
    assert kernels - read == {next(path for channels in graph if channels.first for path in channels.kernels)}
    assert {path for path in paths if '/norm/' in path or '/BatchNorm_0/' in path} <= written

  def test_none_is_missing(self):
    classes = [value for value in vars(lmajax.models).values() if inspect.isclass(value)]
    found = {kind for kind in classes if hasattr(kind, 'graph') and hasattr(kind, 'thinned')}
    assert found == {type(model) for model in SLIMMABLE.values()}
    assert all(isinstance(model, Slimmable) for model in SLIMMABLE.values())

  def test_stages_coupled_by_zeros_are_refused(self):
    with pytest.raises(ValueError, match='coupled by zeros: give it projected=True'):
      residual(act=ReLU).graph(coupled=True)
