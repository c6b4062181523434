"""The README's Python runs as it is printed."""

import importlib
import importlib.util
import re
import shlex
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx, serialization

from lmajax import LMA, compress, models
from lmajax.activations import linen
from tests import ROOT
from tests.support.own import drawn, folder_of_images
from train.__main__ import main


def block(heading, *, number=0, language='python'):
  """A block of Python, or of commands, after a heading."""
  text = (ROOT / 'README.md').read_text(encoding='utf-8')
  blocks = re.findall(r'^```(\w*)\n(.*?)^```$', text[text.index(f'\n{heading}\n') :], re.DOTALL | re.MULTILINE)
  return [code for named, code in blocks if named == language][number]


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


@pytest.mark.slow
def test_the_command_line_with_data_and_networks_of_ones_own(tmp_path, monkeypatch, capsys):
  heading = '### From the command line'
  monkeypatch.chdir(tmp_path)
  monkeypatch.syspath_prepend(tmp_path)
  (tmp_path / 'my_net.py').write_text(block(heading))
  folder_of_images(tmp_path / 'flowers')
  images, labels = drawn(60)
  arrays = {'train_images': images[..., None], 'train_labels': labels}
  np.savez('flowers.npz', **arrays, classes=np.array(['cat', 'dog', 'eel']))
  program = compile(block(heading, number=1), 'README.md', 'exec')
  if importlib.util.find_spec('torch'):  # which no extra but bench brings
    torch = importlib.import_module('torch')
    exec(program, {'model': torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 3))})
  else:
    np.save('logits.npy', np.eye(3, dtype=np.float32)[labels])
  assert np.load('logits.npy').shape == (60, 3)
  large = importlib.import_module('my_net').large(linen.ReLU, 3)
  variables = large.init(jax.random.key(0), jnp.zeros((1, 8, 8, 1)), train=False)
  (tmp_path / 'large.msgpack').write_bytes(serialization.to_bytes(variables))
  commands = [shlex.split(line) for line in block(heading, language='').splitlines()]
  assert {command[3] for command in commands} == {'distill', 'quantize', 'evaluate'} and len(commands) == 4
  fewer = {
    'distill': '--activations relu --seeds 1 --epochs 1 --batch-size 8 --image-size 8',
    'quantize': '--activations lma --seeds 1 --epochs 1 --batch-size 8 --bits 4 --methods uniform',
  }
  for i, (*python, command) in enumerate((*line[:3], line[3:]) for line in commands):
    assert python == ['python', '-m', 'train']
    name, *options = command
    if name in fewer:
      less = fewer[name].split()
      less = less[:-2] if 'flowers.npz' in options else less
      own = ['--student', 'my_net:small'] if name == 'quantize' else []
      assert main([name, *options, *less, *own, '--workdir', f'run-{i}']) == 0, capsys.readouterr().err
    else:
      file = next(tmp_path.glob(options[0].replace('RUN', 'run-*')))
      assert main([name, str(file), *options[1:]]) == 0, capsys.readouterr().err
  assert 'of the 12 test images of flowers right' in capsys.readouterr().out
