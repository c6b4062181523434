"""A user's own images, networks, weights and logits, from the command line to the file that is scored and asked."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import serialization
from orbax.checkpoint import v1 as ocp
from PIL import Image
from safetensors.numpy import save_file

from lmajax import tree
from lmajax.activations import linen
from tests.support import own
from tests.support.runs import refused
from train import networks
from train.__main__ import main
from train.build import read
from train.config import load
from train.data import load as read_data
from train.deploy import weights
from train.programs.distill import run as distill
from train.programs.distill.config import Distill
from train.runtime.errors import UserError

SMALL = ['--activations', 'lma', '--seeds', '1', '--epochs', '1', '--batch-size', '8']
STUDENT = ['--student', 'own_networks:small']
OWN = [*STUDENT, '--teacher', 'own_networks:large']


@pytest.fixture(autouse=True)
def modules(tmp_path, monkeypatch):
  own.networks(tmp_path, monkeypatch)


@pytest.fixture
def animals(tmp_path):
  return own.folder_of_images(tmp_path / 'animals')


def rows(folder):
  return {row['name']: row for row in json.loads((folder / 'results.json').read_text())['rows']}


def test_a_folder_of_images_and_two_networks_are_distilled_and_resumed(capsys, tmp_path, animals):
  run = tmp_path / 'run'
  assert main(['distill', '--data', str(animals), *OWN, *SMALL, '--workdir', str(run)]) == 0
  assert list(rows(run)) == ['teacher', 'lma-8-distilled', 'lma-8-hard']
  assert (run / 'curves.png').stat().st_size > 1000
  assert [row['parameters'] for row in rows(run).values()] == [9 * 6 + 12 + 21, *[9 * 3 + 6 + 16 + 12] * 2]
  config = load(Distill, run)
  assert (config.data, config.data_dir, len(config.data_digest)) == ('animals', animals, 64)
  assert main(['evaluate', str(run)]) == 0
  assert main(['distill', '--resume', '--workdir', str(run)]) == 0
  capsys.readouterr()
  Image.fromarray(np.zeros((8, 8), np.uint8)).save(animals / 'cat' / '0.png')
  assert refused(capsys, 'evaluate', run).endswith('holds other images than this run began with: restore them')


def test_the_teacher_in_a_file_of_a_run_is_named_by_whoever_takes_it(capsys, tmp_path, animals):
  first = ['distill', '--data', str(animals), *OWN, *SMALL]
  assert main([*first, '--workdir', str(tmp_path / 'run')]) == 0
  capsys.readouterr()
  taken = [
    'distill',
    '--data',
    animals,
    *STUDENT,
    *SMALL,
    '--teacher-from',
    tmp_path / 'run',
    '--workdir',
    tmp_path / 'b',
  ]
  assert refused(capsys, *taken).endswith(
    'give --student own_networks:large (of a teacher --teacher, to export --network)'
  )
  assert main([*map(str, taken), '--teacher', 'own_networks:large']) == 0
  assert rows(tmp_path / 'b')['teacher'] == rows(tmp_path / 'run')['teacher']


@pytest.mark.slow
def test_a_packed_own_student_is_scored_and_asked_by_its_name_alone(capsys, tmp_path, animals):
  run, options = tmp_path / 'run', ['--bits', '4', '--methods', 'uniform', *SMALL]
  assert main(['quantize', '--data', str(animals), *OWN, *options, '--workdir', str(run)]) == 0
  assert main(['evaluate', str(run)]) == 0
  capsys.readouterr()
  file = run / rows(run)['lma-8-uniform-4']['file']
  assert 'give --student own_networks:small' in refused(capsys, 'evaluate', file, '--data', animals)
  assert 'give --student own_networks:small' in refused(capsys, 'predict', file, animals / 'cat' / '0.png')
  assert main(['evaluate', str(file), '--data', str(animals), *STUDENT]) == 0
  accuracy = 100 * rows(run)['lma-8-uniform-4']['accuracy'][0]
  assert f'{accuracy:.2f} % of the 12 test images of animals right' in capsys.readouterr().out
  assert main(['predict', str(file), str(animals / 'cat' / '0.png'), *STUDENT]) == 0
  assert capsys.readouterr().out.split(': ')[1].split()[0] in ('cat', 'dog', 'eel')
  assert 'does not fit its weights' in refused(
    capsys, 'evaluate', file, '--data', animals, '--student', 'own_networks:large'
  )
  shutil.copy(file, tmp_path / 'a.safetensors')
  out = ['--format', 'stablehlo', '--data-dir', str(animals), '--out', str(tmp_path / 'a.stablehlo')]
  assert 'to export --network' in refused(capsys, 'export', tmp_path / 'a.safetensors', *out)
  assert main(['export', str(tmp_path / 'a.safetensors'), *out, '--network', 'own_networks:small']) == 0
  assert main(['evaluate', str(tmp_path / 'a.stablehlo'), '--data', str(animals)]) == 0
  assert f'{accuracy:.2f} % of the 12 test images' in capsys.readouterr().out
  other = own.folder_of_images(tmp_path / 'others')
  shutil.move(other / 'eel', other / 'fox')
  assert 'knows other classes than others' in refused(capsys, 'evaluate', file, '--data', other, *STUDENT)
  assert refused(capsys, 'evaluate', file, '--data', 'mnist', *STUDENT).startswith('--data is mnist: ')
  assert refused(capsys, 'evaluate', run, *STUDENT).startswith('--student is own_networks:small: a run knows')


def test_logits_from_elsewhere_are_a_teacher_in_the_order_of_the_images(capsys, tmp_path, animals):
  dataset = read_data('animals', data_dir=animals)
  assert dataset.read == 60
  said = np.zeros((60, 3), np.float64)
  said[dataset.rows, dataset.train.labels] = 5.0
  np.save(tmp_path / 'said.npy', said)
  first = ['distill', '--data', str(animals), *STUDENT, *SMALL, '--teacher-logits', str(tmp_path / 'said.npy')]
  plan = distill.experiment(Distill(data=str(animals), teacher_logits=tmp_path / 'said.npy', batch_size=8, epochs=1))
  _, data, frozen = distill.under(plan, None, None)
  batch = data.batches[0]
  assert frozen is None and np.array_equal(np.asarray(batch.said).argmax(1), batch.labels)
  assert main([*first, '--workdir', str(tmp_path / 'run')]) == 0
  assert list(rows(tmp_path / 'run')) == ['lma-8-distilled', 'lma-8-hard']
  assert main(['evaluate', str(tmp_path / 'run')]) == 0
  capsys.readouterr()
  np.save(tmp_path / 'said.npy', said + 1)
  assert refused(capsys, 'evaluate', tmp_path / 'run').startswith(f'{tmp_path / "said.npy"} is not the teacher that')
  for wrong, expected in (
    (said[:5], r'it is float64[5, 3], and the data have floats [60, 3]'),
    (said.astype(int), 'it is int64[60, 3]'),
    (np.full_like(said, np.nan), 'it has numbers that are not finite'),
    (np.array([{}], object), 'Array can'),
  ):
    np.save(tmp_path / 'said.npy', wrong)
    assert refused(capsys, *first).startswith(f'--teacher-logits is {tmp_path / "said.npy"}: {expected}')
  (tmp_path / 'said.npy').unlink()
  assert 'No such file' in refused(capsys, *first)
  assert refused(capsys, *first, '--teacher', 'mlp').startswith('--teacher is mlp: with --teacher-logits nothing of')
  assert refused(capsys, *first, '--cached-logits', 2).startswith('--cached-logits is 2: the logits are in a file')
  both = refused(capsys, *first, '--teacher-checkpoint', 'a.msgpack')
  assert both.startswith('--teacher-checkpoint is a.msgpack: --teacher-logits gives one already')


def large():
  model = networks.own('own_networks:large', linen.ReLU, num_classes=3)
  return model, jax.device_get(model.init(jax.random.key(3), jnp.zeros((1, 8, 8, 1)), train=False))


def orbax(path, variables):
  with ocp.training.Checkpointer(str(path)) as checkpoints:
    checkpoints.save(2, jax.tree.map(jnp.zeros_like, variables))
    checkpoints.save(5, variables)


FORMATS = {
  't.msgpack': lambda path, variables: path.write_bytes(serialization.to_bytes(variables)),
  't.safetensors': lambda path, variables: save_file(tree.by_path(variables), path),
  'dotted.safetensors': lambda path, variables: save_file(
    {name.replace('/', '.'): leaf for name, leaf in tree.by_path(variables).items()}, path
  ),
  'orbax': orbax,
}


@pytest.mark.parametrize('name', FORMATS)
def test_weights_are_read_from_whatever_holds_them(tmp_path, name):
  model, variables = large()
  FORMATS[name](tmp_path / name, variables)
  found, digest = weights.load(tmp_path / name, model, jnp.zeros((1, 8, 8, 1)))
  assert len(digest) == 64
  for path, leaf in tree.by_path(variables).items():
    np.testing.assert_array_equal(tree.by_path(found)[path], leaf)


def test_weights_that_do_not_fit_are_named_leaf_by_leaf(tmp_path):
  model, variables = large()
  inputs = jnp.zeros((1, 8, 8, 1))
  path = tmp_path / 't.msgpack'
  del variables['params']['Conv_0']
  variables['params']['Dense_0']['kernel'] = np.zeros((2, 2))
  path.write_bytes(serialization.to_bytes(variables))
  with pytest.raises(UserError) as caught:
    weights.load(path, model, inputs)
  assert str(caught.value) == (
    f'{path} does not fit the teacher: params/Conv_0/kernel is missing there and [3, 3, 1, 6] in the network;'
    ' params/Dense_0/kernel is [2, 2] there and [6, 3] in the network'
  )
  for content in (b'', b'nothing', serialization.to_bytes({'a': 3})):
    path.write_bytes(content)
    with pytest.raises(UserError, match=r'cannot be read|does not fit'):
      weights.load(path, model, inputs)
  with pytest.raises(UserError, match='cannot be read'):
    weights.load(tmp_path / 'nowhere', model, inputs)


def test_a_checkpoint_is_a_teacher_and_options_come_from_a_file(capsys, tmp_path, animals):
  model, variables = large()
  del model
  FORMATS['t.msgpack'](tmp_path / 't.msgpack', variables)
  given = ['--data', str(animals), *OWN, '--teacher-checkpoint', str(tmp_path / 't.msgpack')]
  assert main(['distill', *given, *SMALL, '--workdir', str(tmp_path / 'a')]) == 0
  assert rows(tmp_path / 'a')['teacher']['parameters'] == 9 * 6 + 12 + 21
  options = ['distill', '--config', str(tmp_path / 'a' / 'config.json')]
  assert main([*options, '--workdir', str(tmp_path / 'b')]) == 0
  assert rows(tmp_path / 'b') == rows(tmp_path / 'a')
  assert main([*options, '--seeds', '2', '--workdir', str(tmp_path / 'c')]) == 0
  assert load(Distill, tmp_path / 'c').seeds == 2
  capsys.readouterr()
  resumed = refused(capsys, *options, '--resume', '--workdir', tmp_path / 'a')
  assert resumed.startswith('--config is ') and resumed.endswith('a run that is resumed has its own; leave it out')
  assert 'is not the configuration of a quantize run' in refused(capsys, 'quantize', *options[1:])
  assert refused(capsys, 'distill', *given, '--teacher-epochs', 3).startswith('--teacher-epochs is 3: with --teacher-')


NO_NETWORKS = {
  'nowhere:small': 'it cannot be imported (ModuleNotFoundError',
  'own_networks:nothing': 'it cannot be imported (AttributeError',
  'own_networks:number': 'it is a int: give a function that makes a module',
  'own_networks:without_act': 'its factory takes no act: let it take act, num_classes',
  'own_networks:broken': 'its factory fails (RuntimeError: out of order)',
  'own_networks:not_linen': 'its factory gives a function: give a module of flax.linen',
  'own_networks:five': 'it gives [1, 5] for an input of [1, 8, 8, 1]: give [batch, 10]',
}


@pytest.mark.parametrize('name', NO_NETWORKS)
def test_what_is_no_network_is_named(capsys, name):
  for option in ('--student', '--teacher'):
    assert refused(capsys, 'distill', option, name).startswith(f'{option} is {name}: {NO_NETWORKS[name]}')


def test_a_student_that_leaves_its_activation_out_is_named(capsys):
  said = refused(capsys, 'distill', '--student', 'own_networks:same')
  assert said == '--student is own_networks:same: it never calls act, and all its activations would be one'


def test_a_network_without_a_graph_cannot_lose_channels(capsys):
  said = refused(capsys, 'slim', '--network', 'own_networks:small')
  assert said.startswith('--network is own_networks:small: a Net does not say where its channels are; give it graph()')


def test_a_student_by_name_has_the_width_of_its_first_stage(capsys):
  config = Distill(student='resnet-8', width=(8, 4), activations=('relu',))
  plan = distill.experiment(config)
  assert [plan.students.groups[name].model.channels for name in ('relu-w8-hard', 'relu-w4-hard')] == [
    (8, 16, 32),
    (4, 8, 16),
  ]
  wide = distill.experiment(Distill(student='own_networks:wide', width=(2, 4), activations=('relu',)))
  assert [wide.students.groups[f'relu-w{n}-hard'].model.width for n in (2, 4)] == [2, 4]
  assert refused(capsys, 'distill', '--student', 'nothing').startswith('--student is nothing: give one of mlp, cnn')
  assert read(config)[0] is config
