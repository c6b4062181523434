"""A student of one's own under a teacher, in Linen, NNX and as a function: killed, resumed, scored and shipped."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from sklearn.datasets import load_digits

from lmajax import LMA, compress, models, training, tree

PIXELS, LABELS = load_digits(return_X_y=True)
PIXELS = (PIXELS / 16).astype(np.float32)
TRAIN, HELD = (PIXELS[:320], LABELS[:320]), (PIXELS[320:420], LABELS[320:420])
ONE = jax.sharding.NamedSharding(jax.make_mesh((1,), ('data',)), jax.sharding.PartitionSpec('data'))
FOUR_BITS = compress.masked(compress.uniform(4, bucket_size=None))


class Net(nnx.Module):
  """A network in NNX, with what moves and with what is drawn."""

  def __init__(self, rngs):
    self.inner = nnx.Linear(64, 16, rngs=rngs)
    self.norm = nnx.BatchNorm(16, rngs=rngs)
    self.dropout = nnx.Dropout(0.1, rngs=rngs)
    self.outer = nnx.Linear(16, 10, rngs=rngs)

  def __call__(self, x):
    return self.outer(self.dropout(nnx.relu(self.norm(self.inner(x)))))


def a_function():
  def apply(params, stats, x, key):
    del key
    return jnp.tanh(x @ params['inner']['kernel']) @ params['outer']['kernel'], stats

  keys = jax.random.split(jax.random.key(1))
  inner, outer = jax.random.normal(keys[0], (64, 16)) / 8, jax.random.normal(keys[1], (16, 10)) / 4
  return training.function(apply, {'inner': {'kernel': inner}, 'outer': {'kernel': outer}})


STUDENTS = {
  'Linen': lambda: training.linen(models.MLP((16,), 10, LMA)),
  'NNX': lambda: training.nnx(Net(nnx.Rngs(0))),
  'a function': a_function,
}


@pytest.fixture(scope='module')
def teacher():
  model = models.MLP((32,), 10, LMA)
  found = training.fit(model, TRAIN, optax.adam(0.01), epochs=15, batch_size=32, sharding=ONE)
  assert found.evaluate(HELD)['accuracy'] > 0.8
  return training.linen(model, found.variables)


class PowerCut(Exception):
  pass


@pytest.mark.parametrize('reparam', [None, FOUR_BITS], ids=['whole', 'four bits'])
@pytest.mark.parametrize('kind', STUDENTS)
def test_a_student_under_a_teacher_is_killed_resumed_and_shipped(teacher, tmp_path, kind, reparam):
  def run(**options):
    task = training.distill(STUDENTS[kind](), teacher)
    how = {'epochs': 6, 'seed': 5, 'reparam': reparam, 'validation': HELD, 'batch_size': 32, 'sharding': ONE}
    return training.fit(task, TRAIN, optax.adamw(0.02), **how, **options)

  def cut(fitted, entry):
    if entry['epoch'] == 2:
      raise PowerCut

  expected = run()
  with pytest.raises(PowerCut):
    run(folder=tmp_path, callback=cut)
  found = run(folder=tmp_path)
  assert training.digests(found.progress) == training.digests(expected.progress)
  assert found.history == expected.history
  assert found.evaluate(HELD)['accuracy'] > 0.6
  packed, stats, config = compress.unpack(found.pack({'classes': 10}))
  params, stats = jax.tree.map(jnp.asarray, (packed.decode(), stats))
  logits, _ = training.forward(found.network, params, stats, jnp.asarray(HELD[0]), None)
  assert config == {'classes': 10}
  kernels = [leaf for path, leaf in tree.by_path(params).items() if path.endswith('kernel')]
  assert all(len(np.unique(kernel)) <= 16 for kernel in kernels) or reparam is None
  np.testing.assert_allclose(logits, found.logits(HELD[0]), atol=1e-5)
  right = np.mean(np.asarray(logits).argmax(1) == HELD[1])
  np.testing.assert_allclose(found.evaluate(HELD)['accuracy'], right, atol=0.011)  # but for one image, by rounding
  runs = jax.export.deserialize(bytearray(found.export(HELD[0][:1])))
  np.testing.assert_allclose(runs.call(jnp.asarray(HELD[0])), logits, atol=1e-4)
