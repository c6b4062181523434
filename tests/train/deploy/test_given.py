"""Teachers that are trained already: every image program takes those of runs and files that fit, and no others."""

import inspect
import json
from dataclasses import replace

import pytest

from lmajax import compress
from tests.support.processes import train
from tests.support.runs import assert_teacher_is_taken, refused, results
from train.deploy.given import teachers
from train.programs.distill.config import Distill
from train.runtime.errors import UserError

SMALL = ['--train-images', '130', '--epochs', '1', '--activations', 'relu', '--batch-size', '32']
STUDENTS = [*SMALL, '--width', '3', '--seeds', '2']
THIN = [*SMALL, '--rules', 'pca', '--rate', '.5', '--seeds', '2']
CHAIN = [*SMALL, '--finetune-epochs', '1', '--rate', '.5', '--width', '12', '8']
SHALLOW = [
  *SMALL, '--finetune-epochs', '1', '--seeds', '1', '--methods', 'kd', '--student', 'resnet-8',
  '--width', '2', '3', '4',
]  # fmt: skip


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  return tmp_path_factory.mktemp('sources')


def ran(folder, command, *options):
  """The folder of a run, which is made once."""
  if not folder.exists():
    done = train(command, '--workdir', folder, *options)
    assert done.returncode == 0, done.stderr
  return folder


@pytest.fixture(scope='module')
def distilled(folder):
  return ran(folder / 'distill', 'distill', *STUDENTS, '--teacher', 'mlp', '--teacher-width', '9')


@pytest.fixture(scope='module')
def slimmed(folder):
  return ran(folder / 'slim', 'slim', *THIN, '--width', '12', '8')


def file_of(run, name='teacher', seed=0):
  return run / 'models' / f'{name}-seed{seed}.safetensors'


def test_distill_under_the_teacher_of_a_run_has_the_same_students(capsys, tmp_path, distilled):
  folder = assert_teacher_is_taken(capsys, tmp_path, 'distill', STUDENTS, distilled, file_of(distilled))
  assert results(folder)['rows'] == results(distilled)['rows']
  scored = train('evaluate', folder)
  assert scored.returncode == 0, scored.stderr
  assert scored.stdout.strip() == (folder / 'results.md').read_text().strip()


def test_quantize_takes_the_teacher_of_distill(capsys, tmp_path, distilled):
  options = [*STUDENTS, '--bits', '2', '--methods', 'uniform']
  folder = assert_teacher_is_taken(capsys, tmp_path, 'quantize', options, distilled, file_of(distilled))
  teacher = json.loads((folder / 'results.json').read_text())['rows'][0]
  assert (teacher['width'], teacher['parameters']) == (9, 64 * 9 + 3 * 9 + 9 * 10 + 10)


@pytest.mark.slow
def test_slim_takes_one_original_and_trains_once_what_no_seed_changes(capsys, tmp_path, slimmed):
  file = file_of(slimmed, 'relu-original', 1)
  folder = assert_teacher_is_taken(capsys, tmp_path, 'slim', THIN, file, file)
  rows = {row['start'] or row['rule']: row for row in results(folder)['rows']}
  assert {start: len(row['accuracy']) for start, row in rows.items()} == {
    'original': 1, 'pruned': 1, 'distilled': 2, 'scratch': 2
  }  # fmt: skip
  assert json.loads((folder / 'config.json').read_text())['width'] == [12, 8]
  scored = train('evaluate', folder)
  assert scored.stdout.strip() == (folder / 'results.md').read_text().strip(), scored.stderr


@pytest.mark.slow
def test_slim_takes_as_many_originals_as_seeds(tmp_path, slimmed):
  taken = ran(tmp_path / 'run', 'slim', *THIN, '--teacher-from', slimmed)
  assert results(taken)['rows'] == results(slimmed)['rows']


@pytest.mark.slow
def test_compress_takes_an_original_for_each_chain(capsys, tmp_path, folder):
  own = ran(folder / 'compress', 'compress', *CHAIN, '--seeds', '1')
  taken = assert_teacher_is_taken(capsys, tmp_path, 'compress', CHAIN, own, file_of(own, 'original'))
  config = json.loads((taken / 'config.json').read_text())
  assert (config['network'], config['width'], config['seeds']) == ('mlp', [12, 8], 1)
  assert results(taken)['rows'][0]['accuracy'] == results(own)['rows'][0]['accuracy']


@pytest.mark.slow
def test_lit_takes_a_teacher_of_each_activation(capsys, tmp_path, folder):
  own = ran(folder / 'lit', 'lit', *SHALLOW, '--teacher', 'resnet-8', '--teacher-epochs', '1')
  taken = assert_teacher_is_taken(capsys, tmp_path, 'lit', SHALLOW, own, file_of(own, 'relu-teacher'))
  assert results(taken)['rows'] == results(own)['rows']
  assert json.loads((taken / 'config.json').read_text())['teacher'] == 'resnet-8'
  line = refused(capsys, 'lit', *SHALLOW, '--activations', 'lma', '--teacher-from', own, '--workdir', tmp_path / 'none')
  assert line == '--teacher-from has relu, and --activations asks for lma-8: give one of each'


FOREIGN = [
  ('classes', ['a'] * 10, 'its classes is a a a'),
  ('image_shape', [8, 8, 3], 'its image shape is 8 8 3, and 8 8 1 in digits'),
  ('pixel_mean', [7.5], 'its pixel mean is 7.5, and 8.0 in digits'),
  ('pixel_std', [7.5], 'its pixel std is 7.5, and 8.0 in digits'),
  ('brightest', 255, 'its brightest is 255, and 16 in digits'),
]


@pytest.mark.parametrize('name, value, expected', FOREIGN, ids=[name for name, _, _ in FOREIGN])
def test_a_teacher_of_other_images_is_refused(capsys, tmp_path, distilled, name, value, expected):
  packed, stats, description = compress.unpack(file_of(distilled).read_bytes())
  other = tmp_path / 'other.safetensors'
  other.write_bytes(compress.pack(packed, stats, {**description, name: value}))
  line = refused(capsys, 'distill', '--workdir', tmp_path / 'run', '--teacher-from', other)
  assert line.startswith(f'--teacher-from {other}: {expected}')
  assert not (tmp_path / 'run').exists()


def test_a_file_whose_weights_are_not_what_it_says_is_refused(capsys, tmp_path, distilled):
  packed, stats, description = compress.unpack(file_of(distilled).read_bytes())
  other = tmp_path / 'other.safetensors'
  other.write_bytes(compress.pack(packed, stats, {**description, 'width': [8]}))
  line = refused(capsys, 'distill', '--workdir', tmp_path / 'run', '--teacher-from', other)
  assert line.startswith(f'{other}: its description does not fit its weights')


@pytest.mark.parametrize('command', ['distill', 'lit-gan'])
@pytest.mark.parametrize('description', [[], 7, None, {'colour': 1}], ids=repr)
def test_a_file_that_says_nothing_of_a_teacher_is_refused(capsys, tmp_path, distilled, command, description):
  packed, stats, _ = compress.unpack(file_of(distilled).read_bytes())
  other = tmp_path / 'other.safetensors'
  other.write_bytes(inspect.unwrap(compress.pack)(packed, stats, description))  # of any type: it comes from outside
  line = refused(capsys, command, '--workdir', tmp_path / 'run', '--teacher-from', other)
  assert line.startswith(f'{other}: without the description of a ')


@pytest.mark.slow
def test_a_resumed_run_that_finds_another_number_of_teachers_says_so(tmp_path, slimmed):
  paths = tuple(file_of(slimmed, 'relu-original', seed) for seed in (0, 1))
  config, _ = teachers(Distill(teacher_from=paths), several=True)
  with pytest.raises(UserError, match=r'relu-original-seed0.* is not the teacher that this run began with'):
    teachers(replace(config, teacher_from=paths[:1]), several=True)
  config, _ = teachers(Distill(teacher_from=paths[:1]), several=True)
  with pytest.raises(UserError, match=r'seed1\.safetensors is not the teacher that this run began with'):
    teachers(replace(config, teacher_from=paths), several=True)


WRONG = [
  ('distill', ['--teacher-epochs', '3'], '--teacher-epochs is 3: with --teacher-from nothing of a teacher is trained'),
  ('quantize', ['--teacher', 'cnn'], '--teacher is cnn: with --teacher-from nothing of a teacher is trained'),
  ('distill', ['--teacher-digests', 'x'], 'Unrecognized options: --teacher-digests, x'),
  ('slim', ['--activations', 'relu'], '--rules is norm-scale: its original is trained with a penalty'),
  ('slim', ['--activations', 'lma', '--rules', 'pca'], '--teacher-from is '),
  ('compress', ['--teacher-batch-size', '7'], '--teacher-batch-size is 7: with --teacher-from nothing'),
]


@pytest.mark.parametrize('command, options, expected', WRONG, ids=[' '.join([c, *o]) for c, o, _ in WRONG])
def test_what_a_given_teacher_leaves_no_room_for_is_named(capsys, tmp_path, distilled, command, options, expected):
  arguments = [command, '--workdir', tmp_path / 'run', '--teacher-from', distilled, *options]
  assert refused(capsys, *arguments).startswith(expected)
  assert not (tmp_path / 'run').exists()


@pytest.mark.slow
def test_a_thinned_network_is_no_original(capsys, tmp_path, folder):
  own = ran(folder / 'compress', 'compress', *CHAIN, '--seeds', '1')
  thin = file_of(own, 'slimmed')
  arguments = ['slim', '--workdir', tmp_path / 'run', *THIN, '--teacher-from', thin]
  assert refused(capsys, *arguments) == f'--teacher-from is {thin}: it has lost channels already; give its original'


@pytest.mark.slow
def test_what_holds_no_teacher_is_named(capsys, tmp_path, distilled, slimmed):
  def line(*paths):
    return refused(capsys, 'distill', '--workdir', tmp_path / 'run', '--teacher-from', *paths)

  assert line(tmp_path).startswith(f'cannot read {tmp_path / "config.json"}')
  (tmp_path / 'config.json').write_text('{"recipe": "distill"}')
  assert line(tmp_path) == f'{tmp_path} holds no teacher yet: finish the run by --resume'
  assert line(tmp_path / 'nothing').startswith(f'cannot read the model {tmp_path / "nothing"}')
  assert line(distilled / 'results.json').startswith(f'{distilled / "results.json"}: not a model packed by lmajax')
  assert line(file_of(distilled), file_of(distilled)).endswith('give one')


@pytest.mark.slow
def test_of_a_run_with_several_seeds_the_first_original_teaches(slimmed):
  config, found = teachers(Distill(teacher_from=(slimmed,)))
  assert [each.path for each in found] == [file_of(slimmed, 'relu-original')]
  assert config.teacher_digests == (found[0].digest,)


@pytest.mark.slow
def test_a_run_with_several_teachers_is_ambiguous(tmp_path, slimmed):
  (tmp_path / 'models').mkdir()
  for name in ('relu-original', 'lma-8-original'):
    file_of(tmp_path, name).write_bytes(file_of(slimmed, 'relu-original').read_bytes())
  with pytest.raises(UserError, match='holds lma-8-original, relu-original: give one of their files'):
    teachers(Distill(teacher_from=(tmp_path,)))
