"""The README's Python runs as it is printed."""

import importlib
import importlib.util
import re
import shlex
import types
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx, serialization
from sklearn.datasets import load_iris

from lmajax import LMA, compress, models, training, tree
from lmajax.activations import linen
from tests import ROOT
from tests.support.own import drawn, folder_of_images
from train.__main__ import _command, main

README = (ROOT / 'README.md').read_text(encoding='utf-8')
BLOCKS = re.findall(r'^```python\n(.*?)^```$', README, re.DOTALL | re.MULTILINE)
ALONE = ('### Training it', '### From the command line')  # whose blocks have tests of their own


def blocks(heading, language='python'):
  """The blocks of Python, or of commands, in the section of a heading."""
  section = re.split(r'^##+ .*$', README[README.index(f'\n{heading}\n') + len(heading) + 2 :], flags=re.MULTILINE)[0]
  found = re.findall(r'^```(\w*)\n(.*?)^```$', section, re.DOTALL | re.MULTILINE)
  return [code for named, code in found if named == language]


def block(heading, *, number=0, language='python'):
  return blocks(heading, language)[number]


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


def perceptron():
  model, images = models.MLP((48, 32), 3, LMA), jnp.ones((5, 4))
  variables = model.init(jax.random.key(0), images, train=False)
  return {
    **{'model': model, 'images': images, 'variables': variables, 'key': jax.random.key(0), 'jax': jax},
    **{'params': variables['params'], 'stats': {'batch_stats': variables['batch_stats']}},
    'your_loss': lambda params: sum(jnp.square(leaf).sum() for leaf in jax.tree.leaves(params)),
  }


def residual():
  model, images = models.ResNet(8, 10, linen.ReLU), jnp.ones((2, 8, 8, 3))
  variables = jax.jit(partial(model.init, train=False))(jax.random.key(0), images)
  return {'teacher': model, 'teacher_variables': variables, 'variables': variables, 'images': images}


def pair():
  student, teacher, images = models.MLP((4,), 3, LMA), models.MLP((8,), 3, LMA), jnp.ones((5, 4))
  variables = teacher.init(jax.random.key(0), images, train=False)
  return {'student': student, 'teacher': training.linen(teacher, variables), 'images': images}


def sentences():
  source = jnp.array([[3, 4, 2, 0], [5, 2, 0, 0]])
  return {
    **{'key': jax.random.key(0), 'source': source, 'target': source, 'labels': source},
    'teacher_logits': jnp.zeros((2, 4, 6000)),
  }


def beliefs():
  features, labels = load_iris(return_X_y=True)
  return {'features': features, 'beliefs': np.eye(3)[labels], 'held_out': (features, labels)}


def with_norms():
  model, quantized = (models.MLP((6,), 3, act) for act in (LMA, partial(linen.Quantized, LMA, bits=4)))
  noise, key = jax.random.normal(jax.random.key(0), (64, 4)), jax.random.key(1)
  variables = model.init(key, noise, train=False)
  stats = training.recalibrated(model, variables['params'], [2 * noise + 1] * 30)
  return {
    'model': model, 'quantized': quantized, 'variables': {**variables, **stats}, 'noise': noise, 'key': key,
  }  # fmt: skip


GIVEN = {
  'class Net(nn.Module):  # any': dict,
  'relu_init(8)': lambda: {'x': jnp.linspace(-1.0, 1.0, 8)},
  'reparam = masked(uniform(4))': perceptron,
  'reparam = masked(sparse(bits=4': perceptron,
  'reparam = masked(multi_hash(0.1))': perceptron,
  'student = models.ResNet(8, 10, ReLU)': residual,
  'graph = model.graph()': perceptron,
  'found = crembo(beliefs': beliefs,
  'models.Transformer(': sentences,
  'def of_norms(': with_norms,
  'alike = training.criterion(': pair,
  'traffic(step.lower(': dict,
}


@pytest.mark.slow
@pytest.mark.parametrize('words', GIVEN)
def test_a_block_of_python(words, monkeypatch):
  monkeypatch.setattr(training, 'chips', lambda target: jax.devices()[:1])  # whose compilers are not installed
  (code,) = [each for each in BLOCKS if words in each]
  names = GIVEN[words]()
  exec(compile(code, 'README.md', 'exec'), names)
  if 'Net' in names:
    variables = names['Net']().init(jax.random.key(0), jnp.ones((2, 4)), train=False)
    assert len(variables['batch_stats']) == 2
  if 'your_loss' in names and 'loss' in names:
    assert np.isfinite(names['loss'](names['theta'], jax.random.key(0)))
  if 'widths' in names:
    assert tree.size(names['params']) <= 0.71 * tree.size(perceptron()['params'])
  if 'task' in names:
    fitted = training.fit(
      names['task'], (np.ones((8, 4), np.float32), np.arange(8) % 3), optax.sgd(0.1), epochs=1, batch_size=8
    )
    assert np.isfinite(fitted.history[0]['loss'])
  if words == 'found = crembo(beliefs':
    assert names['found'].hypothesis.score(*names['held_out']) > 0.9
  for value in [each for each in names.values() if isinstance(each, jax.Array) and each.dtype == jnp.float32]:
    assert np.isfinite(value).all()


def test_every_block_of_python_is_run_by_a_test():
  counted = [block for block in BLOCKS if any(words in block for words in GIVEN)]
  own = [each for heading in ALONE for each in blocks(heading)]
  assert len(counted) == len(GIVEN) and sorted([*counted, *own]) == sorted(BLOCKS)


_CALL = re.compile(r'(?:^|`|&& )python -m train ((?:[^`\n\\]|\\\n)+)', re.MULTILINE)
COMMANDS = sorted({re.split(r' +#| < |"', call.replace('\\\n', ' '))[0] for call in _CALL.findall(README)})


@pytest.mark.parametrize('command', COMMANDS)
def test_a_command_is_one(command):
  assert _command(shlex.split(command)) is not None
