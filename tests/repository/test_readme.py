"""The README's Python runs as it is printed."""

import re
import types

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from lmajax import LMA, compress, models
from lmajax.types import Batch
from tests import ROOT


def block(beginning):
  """The first block of Python after a heading."""
  text = (ROOT / 'README.md').read_text(encoding='utf-8')
  return re.search(r'```python\n(.*?)```', text[text.index(beginning) :], re.DOTALL).group(1)


class Digits:
  steps_per_epoch = 2

  def __getitem__(self, step):
    draw = np.random.default_rng(step)
    return Batch(jnp.asarray(draw.normal(size=(16, 8)), jnp.float32), jnp.asarray(draw.integers(0, 3, 16), jnp.int32))


def test_a_training_of_ones_own(tmp_path):
  names = {
    'your_teacher': nnx.Linear(8, 3, rngs=nnx.Rngs(0)),
    'student': models.MLP((4,), 3, LMA),
    'batches': Digits(),
    'folder': tmp_path / 'run',
  }
  code = block('### Training it')
  assert code.count('epochs=20') == 1
  exec(compile(code.replace('epochs=20', 'epochs=2'), 'README.md', 'exec'), names)
  found = types.SimpleNamespace(**names)
  assert [entry['epoch'] for entry in found.history] == [1, 2]
  packed, stats, _ = compress.unpack(found.data)
  logits, _ = found.student.apply(
    jax.tree.map(jnp.asarray, {'params': packed.decode(), **stats}), jnp.ones((5, 8)), train=False
  )
  assert logits.shape == (5, 3) and np.isfinite(logits).all()
  assert len(np.unique(packed.decode()['logits']['kernel'])) <= 16
