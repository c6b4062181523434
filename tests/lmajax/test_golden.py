"""Figures of the authors' implementation, which lmajax must give to 1e-5 of each array's largest magnitude."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmajax import LMA, RunningStats, Stats, init_stats, lma, measure, relu_init, update_stats
from lmajax.compress import uniform
from lmajax.losses import distillation
from tests import GOLDEN, oracles

STEPS = range(3)


def close(ours, theirs):
  np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5 * np.abs(theirs).max())


def files(pattern):
  paths = sorted(GOLDEN.glob(pattern))
  assert paths, f'no golden file fits {pattern}'
  return [pytest.param(dict(np.load(path)), id=path.stem) for path in paths]


@pytest.mark.parametrize('golden', files('lma_*.npz'))
class TestLMA:
  def test_outputs_and_gradients(self, golden):
    slopes = relu_init(int(golden['num_segments']))[0] + golden['slope_delta']
    intercepts = jnp.asarray(golden['intercept'])
    for s in STEPS:
      x = jnp.asarray(golden[f'x{s}'])
      y, pull = jax.vjp(lambda x, a, b: lma(x, a, b, measure(x)), x, slopes, intercepts)
      close(y, golden[f'y{s}'])
      for ours, name in zip(pull(jnp.asarray(golden[f'ct{s}'])), ('dx', 'dslope', 'dintercept'), strict=True):
        close(ours, golden[f'{name}{s}'])

  def test_running_statistics(self, golden):
    running = init_stats()
    for s in STEPS:
      running = update_stats(running, measure(jnp.asarray(golden[f'x{s}'])), decay=float(golden['momentum']))
      close(running.mean, golden[f'ema_mean{s}'])
      close(running.std, golden[f'ema_std{s}'])

  def test_evaluation_with_frozen_statistics(self, golden):
    slopes = relu_init(int(golden['num_segments']))[0] + golden['slope_delta']
    stats = Stats(jnp.float32(golden['ema_mean2']), jnp.float32(golden['ema_std2']))
    close(lma(jnp.asarray(golden['x_eval']), slopes, jnp.asarray(golden['intercept']), stats), golden['y_eval_frozen'])

  def test_module_trains_and_evaluates_alike(self, golden):
    act = LMA(num_segments=int(golden['num_segments']), decay=float(golden['momentum']))
    params = {'slope_deltas': jnp.asarray(golden['slope_delta']), 'intercepts': jnp.asarray(golden['intercept'])}
    stats = act.init(jax.random.key(0), jnp.asarray(golden['x0']), train=True)['batch_stats']
    for s in STEPS:

      def forward(params, x, stats=stats):
        y, updated = act.apply({'params': params, 'batch_stats': stats}, x, train=True, mutable=['batch_stats'])
        return y, updated['batch_stats']

      y, pull, stats = jax.vjp(forward, params, jnp.asarray(golden[f'x{s}']), has_aux=True)
      dparams, dx = pull(jnp.asarray(golden[f'ct{s}']))
      close(y, golden[f'y{s}'])
      close(dx, golden[f'dx{s}'])
      close(dparams['slope_deltas'], golden[f'dslope{s}'])
      close(dparams['intercepts'], golden[f'dintercept{s}'])
      close(stats['mean'], golden[f'ema_mean{s}'])
      close(stats['std'], golden[f'ema_std{s}'])
    # Theirs is not debiased: a weight of 1 makes ours divide by nothing.
    stats = RunningStats(stats['mean'], stats['std'], jnp.ones(()))._asdict()
    y = act.apply({'params': params, 'batch_stats': stats}, jnp.asarray(golden['x_eval']), train=False)
    close(y, golden['y_eval_frozen'])


@pytest.mark.parametrize('golden', files('kd_*.npz'))
def test_distillation_and_its_gradient(golden):
  def loss(student):
    teacher, labels = jnp.asarray(golden['teacher_logits']), jnp.asarray(golden['labels'].astype(np.int32))
    options = {name: float(golden[name]) for name in ('temperature', 'soft_weight')}
    return distillation(student, teacher, labels, **options).mean()

  value, gradient = jax.jit(jax.value_and_grad(loss))(jnp.asarray(golden['student_logits']))
  close(value, golden['loss'])
  close(gradient, golden['dstudent'])


@pytest.mark.parametrize('golden', files('quant_*.npz'))
class TestUniform:
  def test_weights(self, golden):
    reparam = uniform(int(golden['bits']), bucket_size=int(golden['bucket']))
    theta, code = reparam.init(jnp.asarray(golden['w']), jax.random.key(0))
    for ours in (reparam.apply(theta, code, None), reparam.stored(theta, code).decode()):
      np.testing.assert_allclose(ours, golden['q'], rtol=0, atol=1e-6)

  def test_the_oracle_agrees(self, golden):
    close(oracles.uniform(golden['w'], int(golden['bits']), bucket_size=int(golden['bucket'])), golden['q'])
