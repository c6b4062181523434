"""The gradient rule of LMA against the plain form and the oracles: what it gives, what it keeps, and where it runs."""

import contextlib
import re
from functools import partial

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from jax.ad_checkpoint import print_saved_residuals
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from lmajax import Stats, joined_intercepts, lma, lma_plain, measure
from lmajax._versions import as_varying
from lmajax.activations import _gradient
from tests import oracles

STATS = Stats(jnp.float32(0.5), jnp.float32(2))  # with which all cuts of 2, 4, 8 or 16 segments are exact in float32
BLOCK = 4 * 2**15 // 8  # elements that the CPU sums at once, for 8 segments
CACHE = 2 * 4 * 2**15 + 2**10  # bytes of its running total, and a little for the tables
EVERY_DTYPE = pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])


def drawn(shape, k=8, dtype='float32', seed=0):
  """An input, slopes and intercepts."""
  rng = np.random.default_rng(seed)
  x, tables = 0.5 + 2 * rng.normal(size=shape), rng.normal(size=(2, k))
  return jnp.asarray(x, dtype), *(jnp.asarray(table, jnp.float32) for table in tables)


def joined(f, x, slopes, intercepts, stats):
  """Intercepts that depend on the slopes too."""
  return f(x, slopes, intercepts + joined_intercepts(slopes, stats), stats)


def loss(f, x, slopes, intercepts, stats=STATS):
  return jnp.sin(f(x, slopes, intercepts, stats).astype(jnp.float32)).sum() / max(x.size, 1)


def gradients(f, *args):
  return jax.grad(partial(loss, f), (0, 1, 2))(*args)


def derivatives(order, f, *args):
  """The gradients of a weighted sum of the gradients of …"""
  if order == 0:
    return f(*args, STATS)
  if order == 1:
    return gradients(f, *args)

  def along(*args):
    parts = derivatives(order - 1, f, *args)
    return sum(jnp.vdot(jnp.cos(jnp.arange(p.size)) + 1.5, p.astype(jnp.float32).ravel()) for p in parts)

  return jax.grad(along, (0, 1, 2))(*args)


def close(tree, other, rtol=1e-5):
  """To within ``rtol`` of each array's largest entry."""
  for ours, theirs in zip(jax.tree.leaves(tree), jax.tree.leaves(other), strict=True):
    assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype)
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=rtol * float(np.abs(theirs).max(initial=0)))


class TestPlainForm:
  @pytest.mark.parametrize(
    'k, shape, dtype',
    [
      (2, (8 * BLOCK + 3,), 'float32'),
      (2, (5, 9), 'bfloat16'),
      (5, (2 * BLOCK + 1,), 'float32'),
      (5, (2, 3, 7), 'bfloat16'),
      (16, (BLOCK // 2, 3), 'bfloat16'),
      (16, (BLOCK + 5,), 'float32'),
      *((8, shape, 'float32') for shape in [(), (1,), (0,), (3, 0), (7,), (BLOCK,), (3 * BLOCK,), (3, BLOCK - 1)]),
      *((8, shape, 'bfloat16') for shape in [(1,), (0,), (2 * BLOCK,), (3, BLOCK - 1)]),
    ],
  )
  def test_derivatives_up_to_the_second(self, k, shape, dtype):
    self.agree(lambda f: f, k, shape, dtype)

  @EVERY_DTYPE
  def test_joined_intercepts(self, dtype):
    self.agree(lambda f: partial(joined, f), 8, (5, 9), dtype)

  def agree(self, form, k, shape, dtype):
    ours, plain = (
      jax.jit(lambda *args, f=f: [derivatives(order, form(f), *args) for order in range(3)])(*drawn(shape, k, dtype))
      for f in (lma, lma_plain)
    )
    close(ours, plain, 2e-5 if dtype == 'float32' else 2e-2)
    assert 0 in shape or all(np.any(leaf) for leaf in jax.tree.leaves(ours))

  def test_third_derivatives(self):
    ours, plain = (jax.jit(partial(derivatives, 3, f))(*drawn((50,))) for f in (lma, lma_plain))
    close(ours, plain, 2e-5)

  def test_forward_mode(self):
    args, tangents = drawn((9,)), drawn((9,), seed=1)
    _, along = jax.jit(lambda *both: jax.jvp(partial(loss, lma_plain), *both))(args, tangents)
    backward = jax.jit(partial(gradients, lma))(*args)
    np.testing.assert_allclose(along, sum(jnp.vdot(*pair) for pair in zip(backward, tangents, strict=True)), rtol=1e-5)
    rows = jax.jit(jax.jacrev(partial(lma, stats=STATS), (0, 1, 2)))(*args)
    close(jax.jit(jax.jacfwd(partial(lma_plain, stats=STATS), (0, 1, 2)))(*args), rows)
    twice = jax.jit(jax.jacrev(jax.jacrev(partial(loss, lma), (0, 1, 2)), (0, 1, 2)))(*args)
    close(jax.jit(jax.hessian(partial(loss, lma_plain), (0, 1, 2)))(*args), twice)

  @pytest.mark.parametrize('transform', [jax.jacfwd, jax.hessian])
  def test_forward_mode_of_the_rule_raises(self, transform):
    with pytest.raises(TypeError, match=r'forward-mode autodiff \(jvp\) to a custom_vjp'):
      transform(partial(loss, lma))(*drawn((9,)))


class TestMemory:
  @EVERY_DTYPE
  def test_nothing_of_the_size_of_x_is_kept_but_x(self, dtype, capsys):
    def kept(f):
      print_saved_residuals(partial(f, stats=STATS), *drawn((64, 6), dtype=dtype))
      return re.findall(r'^(\w+)\[64,6\] (.*)$', capsys.readouterr().out, re.MULTILINE)

    ((name, origin),) = kept(lma)
    assert name == {'float32': 'f32', 'bfloat16': 'bf16'}[dtype]
    assert origin.startswith('from the argument')
    assert len(kept(lma_plain)) > 8

  @EVERY_DTYPE
  def test_needs_no_more_beside_its_results_than_relu_and_a_running_total(self, dtype):
    def temporaries(f, size):
      def step(x, slopes, intercepts, g):
        y, back = jax.vjp(f, x, slopes, intercepts)
        return y, back(g)

      x, table = jax.ShapeDtypeStruct((size,), dtype), jax.ShapeDtypeStruct((8,), 'float32')
      return jax.jit(step).lower(x, table, table, x).compile().memory_analysis().temp_size_in_bytes

    relu = temporaries(lambda x, slopes, intercepts: jax.nn.relu(x), 2**20)
    ours = temporaries(partial(lma, stats=STATS), 2**20)
    assert ours <= relu + CACHE + 128  # bytes of bookkeeping, which differ with the compiler
    assert temporaries(partial(lma, stats=STATS), 2**22) == ours
    assert temporaries(partial(lma_plain, stats=STATS), 2**20) > relu + 20 * CACHE


@pytest.fixture(scope='module')
def many():
  return 0.5 + 2 * np.random.default_rng(0).standard_normal(10**7, np.float32)


def on_gpu(*args):
  """The sums of a GPU, on the CPU."""
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(_gradient, '_one_by_one', _gradient._in_one_pass)
    return _gradient._by_segments(*args)


FORMS = (_gradient._by_lanes, _gradient._by_segments, on_gpu)


class TestSums:
  @pytest.mark.parametrize('noise', ['centred', 'off_centre', 'heavy_tailed'])
  def test_ten_million_elements(self, many, noise):
    g = np.random.default_rng(1).standard_normal(many.size, np.float32)
    g = {'centred': g, 'off_centre': g + 3, 'heavy_tailed': g**5}[noise]
    cuts = np.array(oracles.cuts(STATS, 8), np.float32)
    sums = jax.jit(lambda x, g: jax.vjp(lambda *t: lma(x, *t, STATS), *drawn((), 8)[1:])[1](g))
    ours, again = sums(many, g), sums(many, g)
    index = sum((many >= cut).astype(np.int8) for cut in cuts)
    exact = [np.bincount(index, weights, 8) for weights in (many.astype(np.float64) * g, g)]
    for mine, wanted in zip(ours, exact, strict=True):
      np.testing.assert_allclose(mine, wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())
    for mine, second in zip(ours, again, strict=True):
      np.testing.assert_array_equal(mine, second)

  @pytest.mark.parametrize('form', FORMS)
  @pytest.mark.parametrize('shape', [(), (0,), (31,), (32,), (96,), (3, 33), (2, 3, 17)])
  def test_every_form_equals_the_oracle(self, form, shape, monkeypatch):
    monkeypatch.setattr(_gradient, '_TOTALS', 64)  # blocks of 32 elements
    at, x, g = (drawn(shape, seed=seed)[0] for seed in range(3))
    cuts = np.array(oracles.cuts(STATS, 8), np.float32)
    exact = oracles.segment_sums(at, x, g, cuts)
    for ours, wanted in zip(jax.jit(lambda *args: form(*args))(at, x, g, jnp.asarray(cuts)), exact, strict=True):
      np.testing.assert_allclose(ours, wanted, rtol=1e-5, atol=1e-5)

  @pytest.mark.parametrize('form', FORMS)
  @pytest.mark.parametrize('k', [2, 3, 17, 32])
  @pytest.mark.parametrize('dtype', ['float32', 'bfloat16', 'float16'])
  def test_every_form_for_few_and_many_segments(self, form, k, dtype):
    x, g = (drawn((9, 7), dtype=dtype, seed=seed)[0] for seed in range(2))
    cuts = np.array(oracles.cuts(STATS, k), np.float32)
    exact = oracles.segment_sums(x, x, g, cuts)
    for ours, wanted in zip(jax.jit(form)(x, x, g, jnp.asarray(cuts)), exact, strict=True):
      assert ours.dtype == jnp.float32
      np.testing.assert_allclose(ours, wanted, rtol=1e-5, atol=1e-5)

  @pytest.mark.parametrize('form', FORMS)
  @pytest.mark.parametrize('at', [0.0, -0.0, np.inf])
  def test_equal_cuts_part_what_is_below_from_what_is_not(self, form, at):
    """As with a deviation of 0; the segments between them stay empty."""
    x, cuts = jnp.array([-1.0, -0.0, 0.0, 2.0]), jnp.full(7, at, jnp.float32)
    low = (np.asarray(x) < at).sum()
    np.testing.assert_array_equal(jax.jit(form)(x, x, jnp.ones(4), cuts)[1], [low, *6 * [0], 4 - low])

  @pytest.mark.parametrize('platform, loops', [('cpu', True), ('cuda', False), ('tpu', False)])
  def test_only_the_cpu_sums_in_a_loop(self, platform, loops):
    exported = jax.export.export(jax.jit(partial(gradients, lma)), platforms=[platform])(*drawn((3 * BLOCK,)))
    assert ('stablehlo.while' in exported.mlir_module()) == loops

  @pytest.mark.parametrize('form', FORMS)
  @pytest.mark.parametrize('odd, segment', [(np.nan, 0), (-np.inf, 0), (np.inf, 7)])
  @pytest.mark.parametrize('back', [0.0, 1.5])
  def test_what_is_not_finite_adds_nothing_to_its_slope(self, form, odd, segment, back):
    """Though 0 · inf is NaN; its intercept and x itself get what comes back, and the plain form gives the same."""
    x, slopes, intercepts = drawn((40,))
    g, cuts = drawn((40,), seed=1)[0].at[5].set(back), jnp.array(oracles.cuts(STATS, 8))
    spoilt, zero = x.at[5].set(odd), x.at[5].set(0)
    dslopes, dintercepts = jax.jit(form)(spoilt, spoilt, g, cuts)
    wanted = oracles.segment_sums(spoilt, zero, g, cuts)
    np.testing.assert_allclose(dslopes, wanted[0], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(dintercepts, wanted[1], rtol=1e-5, atol=1e-5)
    ours, plain = (
      jax.jit(lambda g, *args, f=f: jax.vjp(partial(f, stats=STATS), *args)[1](g))(g, spoilt, slopes, intercepts)
      for f in (lma, lma_plain)
    )
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5), ours, plain)
    np.testing.assert_allclose(ours[0][5], back * slopes[segment], rtol=1e-6)
    assert np.isfinite(np.concatenate([leaf.ravel() for leaf in ours])).all()

  @pytest.mark.parametrize('form', FORMS)
  def test_what_is_not_finite_counts_in_its_segment(self, form):
    x, cuts = jnp.array([np.nan, -np.inf, np.inf]), jnp.array(oracles.cuts(STATS, 8))
    np.testing.assert_array_equal(form(x, jnp.ones(3), jnp.ones(3), cuts)[1], [2, 0, 0, 0, 0, 0, 0, 1])


def layers(f, x, slopes, intercepts):
  def layer(x, tables):
    return f(x, *tables, measure(x)), None

  return jax.lax.scan(jax.checkpoint(layer), x, (slopes, intercepts))[0]


def stacked(count):
  return [jnp.stack(leaves) for leaves in zip(*(drawn((6, 5), seed=seed) for seed in range(count)), strict=True)]


class TestTransformations:
  def test_vmap_over_everything(self):
    stats = jax.vmap(measure)(stacked(3)[0])
    ours, plain = (jax.jit(jax.vmap(partial(gradients, f)))(*stacked(3), stats) for f in (lma, lma_plain))
    close(ours, plain)

  @pytest.mark.parametrize('axes', [(None, 0, None), (0, None, None), (None, None, 0), (None, 0, 0)])
  def test_vmap_over_some(self, axes):
    args = [leaf if axis == 0 else leaf[0] for leaf, axis in zip(stacked(3), axes, strict=True)]
    ours, plain = (jax.jit(jax.vmap(partial(gradients, f), axes))(*args) for f in (lma, lma_plain))
    close(ours, plain)

  def test_checkpoint_in_a_scan_over_layers(self):
    x, slopes, intercepts = stacked(3)
    ours, plain = (
      jax.jit(jax.grad(lambda *t, f=f: jnp.sin(layers(f, *t)).mean(), (0, 1, 2)))(x[0], slopes, intercepts)
      for f in (lma, lma_plain)
    )
    close(ours, plain)


@pytest.mark.parametrize('kind', [AxisType.Auto, AxisType.Explicit], ids=['auto', 'explicit'])
class TestEightDevices:
  @pytest.mark.parametrize('ambient', [False, True], ids=['as_placed', 'set_mesh'])
  def test_jit(self, kind, ambient):
    args, mesh = drawn((16, 6)), jax.make_mesh((8,), ('data',), axis_types=(kind,))
    with jax.set_mesh(mesh) if ambient else contextlib.nullcontext():
      placed = [jax.device_put(a, NamedSharding(mesh, P('data') if a.ndim > 1 else P())) for a in args]
      ours = jax.tree.map(np.asarray, jax.jit(lambda *t: [derivatives(order, lma, *t) for order in (1, 2)])(*placed))
    close(ours, jax.jit(lambda *t: [derivatives(order, lma_plain, *t) for order in (1, 2)])(*args))

  @pytest.mark.parametrize(
    'where, check_vma',
    [('outside', True), ('outside', False), ('inside', True), ('by_hand', True), ('by_hand', False)],
  )
  def test_shard_map(self, kind, where, check_vma):
    """``inside``, JAX sums the gradients of what the devices share; ``by_hand``, the caller does."""
    mesh, specs = jax.make_mesh((8,), ('data',), axis_types=(kind,)), (P('data'), P(), P())

    def mean(f, *args):
      return jax.lax.pmean(loss(partial(joined, f), *args), 'data')

    def by_hand(f, x, *tables):
      local = tables if not check_vma else [as_varying(table, ('data',)) for table in tables]
      dx, *dtables = gradients(partial(joined, f), x, *local)
      return dx / 8, *jax.lax.pmean(dtables, 'data')

    def whole(f):
      mapped = partial(jax.shard_map, mesh=mesh, in_specs=specs, check_vma=check_vma)
      if where == 'outside':
        return jax.grad(mapped(partial(mean, f), out_specs=P()), (0, 1, 2))
      inside = partial(by_hand, f) if where == 'by_hand' else jax.grad(partial(mean, f), (0, 1, 2))
      return mapped(inside, out_specs=specs)

    args, plain = drawn((16, 6)), partial(joined, lma_plain)
    placed = [jax.device_put(a, NamedSharding(mesh, spec)) for a, spec in zip(args, specs, strict=True)]
    close(jax.tree.map(np.asarray, jax.jit(whole(lma))(*placed)), jax.jit(partial(gradients, plain))(*args))


@pytest.fixture(params=['tpu', 'gpu'])
def elsewhere(request, monkeypatch):
  """The rule as on another device."""
  monkeypatch.setattr(_gradient, '_by_lanes', _gradient._by_segments)
  if request.param == 'gpu':
    monkeypatch.setattr(_gradient, '_one_by_one', _gradient._in_one_pass)


class TestElsewhere:
  def test_vmap_and_second_derivatives(self, elsewhere):
    def both(f):
      return jax.jit(jax.vmap(lambda *t: [derivatives(order, f, *t) for order in (1, 2)]))(*stacked(3))

    close(both(lma), both(lma_plain))

  @pytest.mark.parametrize('kind', [AxisType.Auto, AxisType.Explicit], ids=['auto', 'explicit'])
  def test_eight_devices(self, elsewhere, kind):
    args, mesh = drawn((16, 6)), jax.make_mesh((8,), ('data',), axis_types=(kind,))
    specs = P('data'), P(), P()
    placed = [jax.device_put(a, NamedSharding(mesh, spec)) for a, spec in zip(args, specs, strict=True)]
    mean = jax.shard_map(lambda *t: jax.lax.pmean(loss(lma, *t), 'data'), mesh=mesh, in_specs=specs, out_specs=P())
    mapped, ours = jax.jit(lambda *t: (jax.grad(mean, (0, 1, 2))(*t), gradients(lma, *t)))(*placed)
    plain = jax.jit(partial(gradients, lma_plain))(*args)
    close(jax.tree.map(np.asarray, ours), plain)
    close(jax.tree.map(np.asarray, mapped), plain)
