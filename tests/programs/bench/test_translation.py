"""The translation benchmark: PyTorch's Transformer is ours, and both ways of decoding write what a loop writes."""

import dataclasses
import functools
import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmajax import tree
from tests.programs.bench.test_bench import LIBRARIES, TORCH, ran, sensible
from train.data.corpora.vocabulary import END, PADDING, START, UNKNOWN
from train.programs.bench import run, translation
from train.programs.bench.config import Translation, check
from train.runtime.errors import UserError

torch_text = importlib.import_module('train.programs.bench.transformer') if TORCH else None
in_pytorch = pytest.mark.parametrize('label', ('relu', 'lma-8') if TORCH else ())
VOCABULARY = 23


def small(label, **changed):
  model = translation.network(Translation(vocabulary=VOCABULARY), 'student', label)
  return model.clone(**{'layers': (1, 2), 'features': 8, 'units': 12, 'heads': 2, **changed})


def drawn(model, inputs, spread=0.5):
  """Variables as training might leave them; running statistics have a weight of 0.3, and are biased by it."""
  rng = np.random.default_rng(1)
  shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), inputs, train=False))

  def leaf(path, shape):
    name, noise = path.rpartition('/')[2], spread * rng.normal(size=shape.shape)
    around = {
      'embedding': 0.3 * noise, 'bias': noise / 5, 'scale': 1 + noise,
      'std': 0.3 * np.exp(noise), 'mean': 0.3 * noise, 'weight': np.array(0.3),
    }  # fmt: skip
    return jnp.asarray(around.get(name, noise), jnp.float32)

  return tree.map_with_path(leaf, shapes)


def copied(network, variables):
  """Puts our weights into PyTorch's network, one by one, until it has no others; kernels lie the other way there."""
  left = dict(network.state_dict())
  for part in ('params', 'batch_stats'):
    for path, leaf in jax.tree_util.tree_leaves_with_path(variables.get(part, {})):
      site, _, name = their_name(jax.tree_util.keystr(path, simple=True, separator='.')).rpartition('.')
      value = np.asarray(leaf)
      if name in ('mean', 'std'):
        value = value / variables[part][path[0].key]['dense']['act']['weight']
      if name == 'slope_deltas':
        name, value = 'slopes', value + (np.arange(8) >= 4)
      if name == 'kernel':
        rows = np.prod(value.shape[:2]) if site.endswith('output') else value.shape[0]
        name, value = 'weight', value.reshape(rows, -1).T
      if not (part == 'batch_stats' and name == 'weight'):
        target = left.pop(f'{site}.{name}')
        target.copy_(torch_text.torch.from_numpy(np.array(value, np.float32)))
  assert not left
  return network


def their_name(path):
  names = {
    'stages_': 'stages.', 'LayerNorm_0': 'norm', 'Dense_0': 'first', 'Dense_1': 'second', 'scale': 'weight',
    'embedding': 'weight',
  }  # fmt: skip
  for ours, theirs in names.items():
    path = path.replace(ours, theirs)
  return path


@in_pytorch
def test_logits_of_pytorch_are_ours(label):
  model = small(label)
  (source, target), _ = translation.batch(3, 5, VOCABULARY)
  source, target = source.at[1, 3:].set(PADDING), target[:, :4].at[2, 2:].set(PADDING)
  variables = drawn(model, (source, target))
  ours, _ = jax.jit(functools.partial(model.apply, train=False))(variables, (source, target))
  theirs = copied(torch_text.network(model, label), variables).eval()
  tokens = (torch_text.torch.from_numpy(np.array(side, np.int64)) for side in (source, target))
  theirs = theirs(*tokens).detach().numpy()
  assert np.std(ours) > 0.2  # no two networks of zeros
  np.testing.assert_allclose(theirs, ours, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('label', ('lma-8',) if TORCH else ())
def test_steps_of_pytorch_are_ours(monkeypatch, label):
  """Without dropout, which each draws for itself, losses fall alike: the same gradients, cut alike, in one Adam."""
  recipe = torch_text.Recipe(learning_rate=0.05, warmup=2, clip=0.5, label_smoothing=0.2)
  monkeypatch.setattr(translation, '_RECIPE', dataclasses.replace(translation._RECIPE, **recipe._asdict()))
  model, pairs = small(label, layers=(1, 1), dropout=0.0), translation.batch(3, 5, VOCABULARY)
  call = translation.contestant(model, pairs)
  variables = translation.networks.variables(model, pairs.inputs)
  theirs = copied(torch_text.network(model, label), variables)
  step = torch_text.training(theirs, tuple(map(np.asarray, pairs.inputs)), np.asarray(pairs.labels), recipe)
  totals = [float(call().sums['loss'][0]) for _ in range(10)]
  losses = np.diff([0.0, *totals])
  assert losses[-1] < losses[0] - 0.5
  np.testing.assert_allclose([float(step()) for _ in range(10)], losses, rtol=1e-5)


def written(model, variables, source, length):
  """The likeliest words one after another, from the whole network every time."""
  logits = jax.jit(lambda target: model.apply(variables, (source, target), train=False)[0])
  said = np.full((len(source), length + 1), PADDING, np.int32)
  said[:, 0] = START
  for i in range(length):
    each = np.array(logits(said[:, :-1])[:, i])
    each[:, [PADDING, START, END]] = -np.inf
    said[:, i + 1] = each.argmax(axis=1)
  return said[:, 1:]


def test_both_ways_decode_what_the_network_says():
  model, length = small('lma-8'), 6
  source = translation.batch(4, 5, VOCABULARY).inputs[0].at[0, 3:].set(PADDING)
  variables = drawn(model, (source, source))
  expected = written(model, variables, source, length)
  assert len(np.unique(expected)) >= 5
  assert len(np.unique(expected, axis=0)) == len(source)  # each source is told otherwise
  for write in translation.WAYS.values():
    assert np.array_equal(jax.jit(write(model, length))(variables, source), expected)


def test_no_sentence_ends_before_its_length():
  """Not even where the end is the likeliest word by far: here every other has the same logit."""
  model = small('relu', layers=(1, 1))
  source = translation.batch(2, 3, VOCABULARY).inputs[0]
  variables = jax.tree.map(jnp.zeros_like, drawn(model, (source, source)))
  params = {**variables['params'], 'norm': {'scale': jnp.zeros(8), 'bias': jnp.ones(8)}}
  params['embed'] = {'embedding': jnp.zeros((VOCABULARY, 8)).at[END].set(1.0).at[7].set(0.5)}
  for write in translation.WAYS.values():
    assert np.array_equal(jax.jit(write(model, 4))({'params': params}, source), np.full((2, 4), 7))


def test_sentences_have_no_padding_and_targets_are_moved_by_one():
  (source, target), labels = translation.batch(50, 4, 9)
  assert set(np.unique(source)) == set(np.unique(labels)) == set(range(UNKNOWN + 1, 9))
  assert np.all(target[:, 0] == START)
  assert np.array_equal(target[:, 1:], labels[:, :-1])


def test_the_networks_are_those_of_multi30k():
  pairs = translation.batch(1, 2, 6000)
  for name, width in (('teacher', 256), ('student', 64)):
    model = translation.network(Translation(), name, 'relu')
    assert (model.features, model.units, model.layers, model.heads, model.dropout) == (width, 4 * width, (3, 3), 4, 0.1)
    attention, dense, norm = 4 * width**2, 8 * width**2 + 5 * width, 2 * width
    encoder, decoder = attention + dense + 2 * norm, 2 * attention + dense + 3 * norm
    assert translation.parameters(model, pairs) == 6000 * width + 3 * (encoder + decoder) + 2 * norm


@pytest.mark.slow
def test_translation(tmp_path, capsys):
  sizes = {'layers': 1, 'vocabulary': 30, 'batch-size': 2, 'length': 3, 'source-length': 3, 'decoder-batch-size': 2}
  given = [word for name, number in sizes.items() for word in (f'--{name}', str(number))]
  options = ['--networks', 'student', '--activations', 'relu', '--decoder', 'student', '--decoder-lengths', '2', '4']
  figures, table = ran(tmp_path, capsys, 'translation', *options, *given)
  found = [(row['library'], row['activation']) for row in figures['training']]
  assert found == [(library, 'relu') for library in LIBRARIES]
  for row in figures['training']:
    sensible(row)
    assert row['tokens_per_second'] == pytest.approx(2 * 3 / row['seconds'])
  assert [row['length'] for row in figures['decoding']] == [2, 4]
  for row in figures['decoding']:
    sensible(row)
    assert row['uncached_seconds'] > 0
    assert row['tokens_per_second'] == pytest.approx(2 * row['length'] / row['seconds'])
    assert row['same_tokens'] == 1
  assert sum(line.startswith('| ---') for line in table) == 2
  assert len(table) == 2 + 1 + 1 + 2 + 2 + 2


WRONG = [
  (Translation(vocabulary=4), '--vocabulary is 4'),
  (Translation(activations=('lma-8',)), '--activations is without relu'),
  (Translation(decoder_lengths=(16, 16)), '--decoder-lengths is 16 16'),
  (Translation(source_length=0), '--source-length is 0'),
]


@pytest.mark.parametrize('config, expected', WRONG, ids=[expected for _, expected in WRONG])
def test_a_wrong_option_is_named(tmp_path, config, expected):
  with pytest.raises(UserError, match=expected):
    run.run(dataclasses.replace(config, out=tmp_path / 'out'))
  assert not (tmp_path / 'out').exists()


def test_the_defaults_may_be_run():
  check(Translation())
