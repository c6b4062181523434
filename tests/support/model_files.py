"""Small students in packed files: with weights and statistics that are not those of the start."""

import jax
import jax.numpy as jnp
import numpy as np

from lmajax import compress, tree
from tests.support.trees import drawn
from train.build import Arm, described
from train.config import Named
from train.data import load
from train.deploy import model_file as shipped

QUANTIZED = compress.uniform(4)


def written(path, *, data='digits', data_dir=None, width=5, weights=QUANTIZED, activation_bits=None):
  """Writes an LMA student whose kernels are what ``weights`` makes of them; returns its description and variables."""
  dataset = load(data, data_dir=data_dir)
  arm = Arm('lma', 8, width, False, activation_bits)
  description = described(Named(data=data), arm, dataset)
  model, images = shipped.model(description), jnp.zeros((1, *description['image_shape']))
  shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), images, train=False))  # compiling it takes ten seconds
  rng = np.random.default_rng(0)
  rest = tree.map_with_path(lambda path, leaf: drawn(rng, path.rpartition('/')[2], leaf.shape), shapes)
  params = rest.pop('params')
  reparam = compress.masked(weights)
  theta, code = reparam.init(params, jax.random.key(0))
  size = shipped.write(path, reparam.stored(theta, code), rest, description)
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
