"""The README's Python runs as it is printed."""

import re
import types

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from lmajax import LMA, compress, models
from tests import ROOT


def block(beginning):
  """The first block of Python after a heading."""
  text = (ROOT / 'README.md').read_text(encoding='utf-8')
  return re.search(r'```python\n(.*?)```', text[text.index(beginning) :], re.DOTALL).group(1)


def test_a_training_of_ones_own(tmp_path, capsys):
  draw = np.random.default_rng(0)
  images = draw.normal(size=(256, 8)).astype(np.float32)
  names = {
    'your_teacher': nnx.Linear(8, 3, rngs=nnx.Rngs(0)),
    'student': models.MLP((4,), 3, LMA),
    'images': images,
    'labels': draw.integers(0, 3, 256),
    'held_out': images[:32],
    'their_labels': draw.integers(0, 3, 32),
    'folder': tmp_path / 'run',
  }
  code = block('### Training it')
  assert code.count('epochs=20') == 1
  exec(compile(code.replace('epochs=20', 'epochs=2'), 'README.md', 'exec'), names)
  found = types.SimpleNamespace(**names)
  assert [entry['epoch'] for entry in found.fitted.history] == [1, 2]
  assert re.fullmatch(r"{'accuracy': [\d.]+}\n", capsys.readouterr().out)
  packed, stats, _ = compress.unpack(found.data)
  variables = jax.tree.map(jnp.asarray, {'params': packed.decode(), **stats})
  logits, _ = found.student.apply(variables, jnp.asarray(images), train=False)
  assert logits.shape == (256, 3) and np.isfinite(logits).all()
  assert len(np.unique(packed.decode()['logits']['kernel'])) <= 16
  runs = jax.export.deserialize(bytearray(found.program))
  np.testing.assert_allclose(runs.call(images), logits, atol=1e-5)
