"""What the README and the documentation print runs: their Python as it is, their commands as far as their options."""

import functools
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

from lmajax import LMA, models, training, tree
from lmajax.activations import linen
from tests import ROOT
from tests.support.own import drawn, folder_of_images
from train.__main__ import _command, main

TEXTS = {
  str(path.relative_to(ROOT)): path.read_text('utf-8')
  for path in (
    ROOT / 'README.md',
    ROOT / 'CONTRIBUTING.md',
    ROOT / 'zoo' / 'README.md',
    *sorted(ROOT.glob('docs/**/*.md')),
  )
  if '_build' not in path.parts and not path.read_text('utf-8').startswith('% Made by')
}
FENCED = re.compile(r'^(?:<!-- not run: ([^\n]+) -->\n\n?)?```(\w*)\n(.*?)^```$', re.DOTALL | re.MULTILINE)
"""Why a block is not run, its language, and what it says."""
TUTORIAL = 'docs/tutorials/own-model.md'  # whose blocks are one script
BLOCKS = [
  code
  for page, text in TEXTS.items()
  for _, language, code in FENCED.findall(text)
  if language == 'python' and page != TUTORIAL
]
ALONE = ('# my_net.py', "np.load('flowers.npz')")  # words of blocks that have tests of their own
README = TEXTS['README.md']


def blocks(page, language='python'):
  return [code for _, named, code in FENCED.findall(TEXTS[page]) if named == language]


def block(words, language='python'):
  """The only block that has the words."""
  (found,) = [code for page in TEXTS for code in blocks(page, language) if words in code]
  return found


@pytest.mark.slow
def test_the_tutorial_from_top_to_bottom(tmp_path, monkeypatch, capsys):
  monkeypatch.chdir(tmp_path)
  names = {}
  for code in blocks(TUTORIAL):
    exec(compile(re.sub(r'epochs=\d+', 'epochs=1', code), TUTORIAL, 'exec'), names)
  found = types.SimpleNamespace(**names)
  assert [entry['epoch'] for entry in found.student.history] == [1]
  assert capsys.readouterr().out.count('accuracy') == 3
  np.testing.assert_allclose(found.answers, found.logits, atol=1e-4)
  assert len(np.unique(found.packed.decode()['Dense_0']['kernel'])) <= 16 * 4  # a bucket has 256 weights
  np.testing.assert_allclose(found.module(found.test_images), found.fitted.logits(found.test_images), atol=1e-5)
  assert found.metrics['loss'].shape == (5,) and len(set(found.metrics['loss'].tolist())) == 5
  resumed = training.fit(found.Net(128), found.train, optax.adam(1e-3), epochs=1, folder='teacher')
  jax.tree.map(np.testing.assert_array_equal, resumed.params, found.teacher.params)


@pytest.mark.slow
def test_the_command_line_with_data_and_networks_of_ones_own(tmp_path, monkeypatch, capsys):
  monkeypatch.chdir(tmp_path)
  monkeypatch.syspath_prepend(tmp_path)
  (tmp_path / 'my_net.py').write_text(block('# my_net.py'))
  folder_of_images(tmp_path / 'flowers')
  images, labels = drawn(60)
  arrays = {'train_images': images[..., None], 'train_labels': labels}
  np.savez('flowers.npz', **arrays, classes=np.array(['cat', 'dog', 'eel']))
  program = compile(block("np.load('flowers.npz')"), 'own-data.md', 'exec')
  if importlib.util.find_spec('torch'):  # which no extra but bench brings
    torch = importlib.import_module('torch')
    exec(program, {'model': torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 3))})
  else:
    np.save('logits.npy', np.eye(3, dtype=np.float32)[labels])
  assert np.load('logits.npy').shape == (60, 3)
  large = importlib.import_module('my_net').large(linen.ReLU, 3)
  variables = large.init(jax.random.key(0), jnp.zeros((1, 8, 8, 1)), train=False)
  (tmp_path / 'large.msgpack').write_bytes(serialization.to_bytes(variables))
  pages = ('docs/how-to/own-data.md', 'docs/how-to/own-teacher.md')
  written = [
    line
    for page in pages
    for code in blocks(page, '')
    for line in code.replace('\\\n', ' ').splitlines()
    if 'my_net' in line
  ]
  commands = [shlex.split(line) for line in written]
  assert [command[3] for command in commands] == ['distill', 'quantize', 'evaluate', 'distill', 'distill']
  fewer = {
    'distill': '--activations relu --seeds 1 --epochs 1 --batch-size 8 --image-size 8',
    'quantize': '--activations lma --seeds 1 --epochs 1 --batch-size 8 --image-size 8 --bits 4 --methods uniform',
  }
  for i, (*python, command) in enumerate((*line[:3], line[3:]) for line in commands):
    assert python == ['python', '-m', 'train']
    name, *options = command
    if name in fewer:
      less = fewer[name].split()
      less = less[:-2] if 'flowers.npz' in options else less
      assert main([name, *options, *less, '--workdir', f'run-{i}']) == 0, capsys.readouterr().err
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


def given(units=(4,)):
  draw = np.random.default_rng(0)
  images, labels = draw.normal(size=(256, 4)).astype(np.float32), draw.integers(0, 3, 256)
  student = models.MLP(units, 3, LMA)
  variables = student.init(jax.random.key(0), jnp.asarray(images[:1]), train=False)
  teacher = training.linen(student, variables)
  return {'student': student, 'teacher': teacher, 'variables': variables, 'images': images, 'labels': labels}


def teachers():
  return {
    **given(),
    **{
      'module': models.MLP((4,), 3, LMA),
      'your_teacher': nnx.Linear(4, 3, rngs=nnx.Rngs(0)),
      'params': jnp.ones((4, 3)),
    },
    **{'apply': lambda params, stats, inputs, key: (inputs @ params, stats), 'logits': np.ones((256, 3), np.float32)},
    'fitted': fitted(),
  }


@functools.cache
def fitted():
  names = given()
  return training.fit(names['student'], (names['images'], names['labels']), optax.sgd(0.1), epochs=1)


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
  'teacher = training.fit(Net(128), (images, labels)': dict,
  'zoo/cifar10-cnn.safetensors': lambda: {'images': np.full((2, 32, 32, 3), 0.5, np.float32)},
  'quantized = training.fit(': given,
  'reparam = masked(uniform(4))': perceptron,
  'pruned = training.fit(': given,
  'stream = to_stream(': perceptron,
  'hashed = training.fit(': partial(given, (48, 32)),
  'smallest = least_ratio(': perceptron,
  'your_teacher': teachers,
  "fitted.export(images[:1], 'safetensors')": teachers,
  "folder='my-run'": given,
  'class Snake(nn.Module)': dict,
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
def test_a_block_of_python(words, tmp_path, monkeypatch):
  monkeypatch.setattr(training, 'chips', lambda target: jax.devices()[:1])  # whose compilers are not installed
  (code,) = [each for each in BLOCKS if words in each]
  monkeypatch.chdir(ROOT if 'zoo/' in words else tmp_path)
  names = GIVEN[words]()
  exec(compile(code, 'a page', 'exec'), names)
  if 'your_loss' in names and 'loss' in names:
    assert np.isfinite(names['loss'](names['theta'], jax.random.key(0)))
  if 'widths' in names:
    assert tree.size(names['params']) <= 0.71 * tree.size(perceptron()['params'])
  if 'alike' in names:
    fitted = training.fit(
      names['task'], (np.ones((8, 4), np.float32), np.arange(8) % 3), optax.sgd(0.1), epochs=1, batch_size=8
    )
    assert np.isfinite(fitted.history[0]['loss'])
  if words == 'found = crembo(beliefs':
    assert names['found'].hypothesis.score(*names['held_out']) > 0.9
  for value in [each for each in names.values() if isinstance(each, jax.Array) and each.dtype == jnp.float32]:
    assert np.isfinite(value).all()


def test_every_block_of_python_is_run_by_a_test():
  words = [*GIVEN, *ALONE]
  assert [code for code in BLOCKS if sum(each in code for each in words) != 1] == []
  assert [each for each in words if sum(each in code for code in BLOCKS) != 1] == []


_CALL = re.compile(r'python -m train ((?:[^\n\\]|\\\n)+)')
_SPAN = re.compile(r'`python -m train ([^`]+)`')


def _commands():
  """All commands in blocks, without their comments and what reads or writes them, and in the text."""
  for text in TEXTS.values():
    for _, language, code in FENCED.findall(text):
      if language in ('', 'bash', 'console'):
        calls = (re.split(r' +#| < ', call.replace('\\\n', ' '))[0] for call in _CALL.findall(code))
        yield from (call.removesuffix('"') if call.count('"') % 2 else call for call in calls)
    yield from (' '.join(call.split()) for call in _SPAN.findall(FENCED.sub('', text)))


COMMANDS = sorted({re.split(r' < ', each)[0] for each in _commands()} - {'COMMAND --help'})


@pytest.mark.parametrize('command', COMMANDS)
def test_a_command_is_one(command):
  assert _command(shlex.split(command)) is not None


def test_what_no_test_runs_says_why():
  """A block of anything but Python and our own commands has a comment above: not run, and why."""
  unsaid = []
  for page, text in TEXTS.items():
    for why, language, code in FENCED.findall(text):
      foreign = [line for line in code.splitlines() if line and not re.match(r'python -m train |  ', line)]
      if language != 'python' and not language.startswith('{') and foreign and len(why.split()) < 3:
        unsaid.append((page, foreign[0]))
  assert unsaid == []


_LINK = re.compile(r'\]\(([^)\s]+)\)')


@pytest.mark.parametrize('page', TEXTS)
def test_links_and_images_lead_somewhere(page):
  links = _LINK.findall(FENCED.sub('', TEXTS[page]))
  inside = [link.partition('#') for link in links if not re.match(r'https?://|mailto:', link)]
  folder = (ROOT / page).parent
  assert [path for path, _, _ in inside if path and not (folder / path).exists()] == []
  for path, _, anchor in inside:
    target = (folder / path).resolve() if path else ROOT / page
    if anchor and target.suffix == '.md':
      assert anchor in _anchors(target.read_text('utf-8')), f'{page}: {path}#{anchor}'


def _anchors(text):
  titles = re.findall(r'^#+ (.*)$', FENCED.sub('', text), re.MULTILINE)
  return {re.sub(r'[^\w\- ]', '', title.lower()).replace(' ', '-') for title in titles}


def test_the_readme_is_short():
  assert len(README.splitlines()) <= 150


def test_the_results_in_the_readme_stand_on_their_pages():
  rows = re.findall(r'^\| \[[^]]+\]\((docs/results/\S+\.md)\) \| (.*) \|$', README, re.MULTILINE)
  assert len(rows) == 6
  for page, said in rows:
    shown, told = (re.sub('−', '-', text) for text in (TEXTS[page], said))
    for figure in re.findall(r'[+-]?\d+\.\d+(?: … [+-]?\d+\.\d+)?', told):  # an interval is one figure
      assert re.search(rf'(?<![\d.]){re.escape(figure)}(?!\d)', shown), f'{figure} is not on {page}'
