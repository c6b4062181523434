"""Small students in packed files: with weights and statistics that are not those of the start."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from lmajax import compress
from train import shipped
from train.build import Arm
from train.config import Training
from train.data import load


def written(path, *, data='digits', data_dir=None, width=5, bits=4, activation_bits=None):
  """Writes an LMA student, quantized to ``bits`` or not at all for None; returns its description and variables."""
  dataset = load(data, data_dir=data_dir)
  arm = Arm('lma', 8, width, False, activation_bits)
  description = shipped.description(Training(data=data), arm, dataset)
  model, images = shipped.model(description), jnp.asarray(dataset.test.images, jnp.float32) / 16
  variables = jax.jit(partial(model.init, train=False))(jax.random.key(0), images)
  draw = np.random.default_rng(0).normal
  params = jax.tree.map(lambda leaf: leaf + 0.1 * draw(size=leaf.shape).astype(np.float32), variables['params'])
  rest = {name: state for name, state in variables.items() if name != 'params'}
  rngs = {'dropout': jax.random.key(1)}
  train = jax.jit(partial(model.apply, train=True, mutable=list(rest)))
  _, rest = train({'params': params, **rest}, images, rngs=rngs)
  reparam = compress.identity() if bits is None else compress.masked(compress.uniform(bits))
  theta, code = reparam.init(params, jax.random.key(0))
  size = shipped.write(path, reparam.stored(theta, code), jax.device_get(rest), description)
  assert size == path.stat().st_size
  return description, {'params': reparam.apply(theta, code, None), **rest}


def cifar10(folder):
  """Ten images of each file in the published layout, drawn at random."""
  where = folder / 'cifar-10-batches-bin'
  where.mkdir(parents=True)
  draw = np.random.default_rng(0).integers
  for name in [*(f'data_batch_{i}.bin' for i in range(1, 6)), 'test_batch.bin']:
    (where / name).write_bytes(b''.join(bytes([i]) + draw(0, 256, 3072, np.uint8).tobytes() for i in range(10)))
  return folder
