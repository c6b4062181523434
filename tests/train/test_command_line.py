"""What a person can mend ends in one clear line and exit code 2, and leaves nothing behind."""

import json
import signal

import pytest

from tests.support.processes import LONGEST, SMALL, finished, start, train
from tests.support.runs import refused
from train.config import load, save
from train.programs.distill import run as distill
from train.programs.distill.config import Distill, check, defaults
from train.runtime import folders
from train.runtime.errors import UserError
from train.runtime.run import Run

WRONG = [
  (['--seeds', '0'], '--seeds is 0'),
  (['--epochs', '-1'], '--epochs is -1'),
  (['--teacher-epochs', '-3'], '--teacher-epochs is -3'),
  (['--batch-size', '0'], '--batch-size is 0'),
  (['--batch-size', '5000'], 'batch size 5000 with 1097 training examples'),
  (['--temperature', '0'], '--temperature is 0'),
  (['--soft-weight', '1.5'], '--soft-weight is 1.5'),
  (['--segments', '1'], '--segments is 1'),
  (['--segments', '8', '8'], '--segments is 8 8'),
  (['--width', '0'], '--width is 0'),
  (['--activations'], '--activations is empty'),
  (['--learning-rate', '0'], '--learning-rate is 0'),
  (['--train-images', '100000'], '100000 training images asked of digits'),
  (['--activations', 'aplu', '--segments', '2'], '--segments is 2'),
  (['--temperature', 'inf'], '--temperature is inf'),
  (['--data-dir', 'nowhere'], '--data-dir is nowhere'),
  (['--resume'], '--resume needs --workdir'),
  (['--data', 'cifar10', '--data-dir', 'nowhere'], 'nowhere'),
  (['--data', 'fashion-mnist', '--data-dir', 'nowhere'], 'nowhere'),
]


@pytest.mark.parametrize('options, expected', WRONG, ids=[' '.join(options) for options, _ in WRONG])
def test_a_wrong_option_is_named(capsys, tmp_path, options, expected):
  folder = tmp_path / 'run'
  where = [] if options == ['--resume'] else ['--workdir', folder]
  assert expected in refused(capsys, 'distill', *where, *options)
  assert not folder.exists()


SYNTAX = [
  (['distill', '--activations', 'gelu'], "invalid choice 'gelu' for argument '--activations'. Expected one of"),
  (['distill', '--seeds', 'ten'], "Error parsing --seeds: invalid literal for int() with base 10: 'ten'; see"),
  (['distill', '--sedes', '3'], 'Unrecognized options: --sedes, 3, perhaps --seeds INT was meant; see'),
  (['predict'], 'Missing from python -m train predict: PATH'),
  ([], 'Expected one of {distill, quantize'),
]


@pytest.mark.parametrize('arguments, expected', SYNTAX, ids=[' '.join(arguments) for arguments, _ in SYNTAX])
def test_what_tyro_says_of_options_is_one_line_too(capsys, arguments, expected):
  line = refused(capsys, *arguments)
  assert line.startswith(expected) and line.endswith('see python -m train --help')


MOST = [
  ('distill', 'segments', 1_000_000_000, 4096),
  ('distill', 'width', 10**9, 65_536),
  ('distill', 'seeds', 10**7, 4096),
  ('lit-text', 'length', 10**9, 65_536),
  ('regions', 'grid', 10**6, 2000),
  ('distill-text', 'buckets', 10**6, 256),
  ('distill-text', 'beams', 10**6, 256),
]


@pytest.mark.parametrize('command, name, value, bound', MOST)
def test_what_would_ask_for_all_memory_is_told_its_bound(capsys, tmp_path, command, name, value, bound):
  line = refused(capsys, command, '--workdir', tmp_path / 'run', f'--{name}', value)
  assert line == f'--{name} is {value}: give {bound} or less'


def test_what_standard_output_cannot_show_is_said(tmp_path):
  (tmp_path / 'results.json').write_text(json.dumps(RESULTS))
  done = finished(start('-m', 'train', 'report', tmp_path, PYTHONIOENCODING='latin-1'))
  assert (done.returncode, done.stderr) == (
    2, "error: standard output is latin-1 and cannot show '\\u2212': set PYTHONIOENCODING=utf-8\n"
  )  # fmt: skip


def test_whoever_has_read_enough_may_leave(tmp_path):
  (tmp_path / 'results.json').write_text(json.dumps(RESULTS))
  process = start('-m', 'train', 'report', tmp_path, PYTHONUNBUFFERED='')
  process.stdout.close()
  said = process.stderr.read()
  process.stderr.close()
  assert (process.wait(LONGEST), said) == (128 + signal.SIGPIPE, '')


ROW = {'name': 'a', 'activation': 'relu', 'width': 3, 'segments': None, 'hard_label': True, 'accuracy': [0.5]}
RESULTS = {
  'recipe': 'distill', 'config': {'seeds': 1}, 'environments': [], 'seconds_of_training': 1.0,
  'rows': [{**ROW, 'parameters': 1, 'bytes': 4}],
}  # fmt: skip
WRONG_ROWS = [
  ({'accuracy': 'high'}, 'accuracy of a row: the content: expected `array`, got `str`'),
  ({'accuracy': ['high']}, 'accuracy of a row: [0]: expected `float`, got `str`'),
  ({'width': True}, 'width of a row: the content: expected `int`, got `bool`'),
  ({'bytes': None}, 'bytes of a row: the content: expected `int`, got `null`'),
  ({'name': 3}, 'names 3, which is no file of'),
  ({'name': '../../evil'}, "names '../../evil', which is no file of"),
]


@pytest.mark.parametrize('changes, said', WRONG_ROWS, ids=[str(changes) for changes, _ in WRONG_ROWS])
def test_rows_of_other_types_are_named(capsys, tmp_path, changes, said):
  path = tmp_path / 'results.json'
  path.write_text(json.dumps({**RESULTS, 'rows': [{**RESULTS['rows'][0], **changes}]}))
  line = refused(capsys, 'report', tmp_path)
  assert line.startswith(str(path)) and said in line


@pytest.mark.parametrize(
  'changes',
  [
    {'rows': {}},
    {'rows': [[]]},
    {'config': []},
    {'config': {'seeds': []}},
    {'recipe': []},
    {'config': {'seeds': 1, 'width': [[]]}},
  ],
)
def test_results_of_another_form_are_refused(capsys, tmp_path, changes):
  (tmp_path / 'results.json').write_text(json.dumps({**RESULTS, **changes}))
  assert str(tmp_path) in refused(capsys, 'report', tmp_path)


def test_a_width_that_is_no_student_of_the_paper_is_named(capsys, tmp_path):
  folder = tmp_path / 'cifar-10-batches-bin'
  folder.mkdir()
  record = bytes(range(10))
  for name in [*(f'data_batch_{i}.bin' for i in range(1, 6)), 'test_batch.bin']:
    (folder / name).write_bytes(b''.join(bytes([label]) + bytes(3072) for label in record * 7))
  options = ['--data', 'cifar10', '--data-dir', tmp_path, '--width', '30', '--workdir', tmp_path / 'run']
  assert '--width 30' in refused(capsys, 'distill', *options)


def test_a_folder_that_holds_a_run_is_not_written_over(capsys, tmp_path):
  save(Distill(), tmp_path)
  before = (tmp_path / 'config.json').read_bytes()
  assert 'already holds files' in refused(capsys, 'distill', '--workdir', tmp_path)
  assert (tmp_path / 'config.json').read_bytes() == before


@pytest.mark.parametrize('config', [{}, {'seeds': 3, 'width': 8}], ids=str)
@pytest.mark.parametrize('command', ['regions', 'bench', 'unknown'])
def test_report_takes_no_run_without_seeds(capsys, tmp_path, command, config):
  (tmp_path / 'results.json').write_text(json.dumps({**RESULTS, 'recipe': command, 'config': config}))
  assert f'{tmp_path} holds no finished run of seeds' in refused(capsys, 'report', str(tmp_path))


@pytest.mark.parametrize('command', ['regions', 'unknown'])
def test_evaluate_takes_no_run_without_networks(capsys, tmp_path, command):
  (tmp_path / 'config.json').write_text(json.dumps({'recipe': command}))
  assert refused(capsys, 'evaluate', str(tmp_path)).startswith(f'{tmp_path} is of {command}, which leaves no networks')


def test_a_folder_with_leftovers_is_not_adopted(capsys, tmp_path):
  (tmp_path / 'checkpoints').mkdir()
  assert 'already holds files' in refused(capsys, 'distill', '--workdir', tmp_path)


SPOILT = [
  ({'seeds': 'ten'}, 'seeds: expected `int`, got `str`'),
  ({'seeds': None}, 'seeds: expected `int`, got `null`'),
  ({'seeds': True}, 'seeds: expected `int`, got `bool`'),
  ({'seeds': 0}, '--seeds is 0: give a positive number'),
  ({'activations': ['gelu']}, "activations[0]: invalid enum value 'gelu'"),
  ({'width': '3 5'}, 'width: expected `array`, got `str`'),
  ({'data_dir': 3}, 'data_dir: expected `str`, got `int`'),
  ({'teacher_digests': ['a']}, '--teacher-from is missing'),
]


@pytest.mark.parametrize('changes, said', SPOILT, ids=[str(changes) for changes, _ in SPOILT])
def test_a_spoilt_value_in_a_configuration_is_named_with_its_file(capsys, tmp_path, changes, said):
  save(Distill(), tmp_path)
  path = tmp_path / 'config.json'
  path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
  assert refused(capsys, 'distill', '--workdir', tmp_path, '--resume').startswith(f'{path}: {said}')


def test_a_folder_that_another_run_has_begun_meanwhile_is_left_alone(capsys, tmp_path, monkeypatch):
  """The data are read in between."""
  folder, read = tmp_path / 'run', distill.experiment

  def meanwhile(config):
    save(Distill(seeds=3), _made(folder))
    return read(config)

  monkeypatch.setattr(distill, 'experiment', meanwhile)
  assert 'already holds files' in refused(capsys, 'distill', '--workdir', folder, *SMALL)
  assert json.loads((folder / 'config.json').read_text())['seeds'] == 3


def _made(folder):
  folder.mkdir()
  return folder


def test_no_two_runs_have_one_folder_by_default(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr(folders.time, 'strftime', lambda form: 'now')
  made = [str(folders.new('distill-digits')) for _ in range(3)]
  assert made == ['runs/distill-digits-now', 'runs/distill-digits-now-2', 'runs/distill-digits-now-3']


def test_two_processes_do_not_work_in_one_folder(tmp_path):
  with Run(tmp_path), pytest.raises(UserError, match='another process'), Run(tmp_path):
    pass


def test_a_folder_that_cannot_be_made_is_named(capsys, tmp_path):
  (tmp_path / 'file').write_text('')
  assert str(tmp_path / 'file') in refused(capsys, 'distill', '--workdir', tmp_path / 'file' / 'run')


@pytest.mark.parametrize('command', ['evaluate', 'report'])
def test_a_folder_without_a_run_is_named(capsys, tmp_path, command):
  assert str(tmp_path) in refused(capsys, command, tmp_path)


def test_resuming_a_folder_without_a_run_is_refused(capsys, tmp_path):
  assert 'config.json' in refused(capsys, 'distill', '--workdir', tmp_path, '--resume')


@pytest.mark.parametrize('text', ['{', '[]', '{"colour": 1}'])
def test_a_spoilt_configuration_is_named(capsys, tmp_path, text):
  (tmp_path / 'config.json').write_text(text)
  assert str(tmp_path / 'config.json') in refused(capsys, 'distill', '--workdir', tmp_path, '--resume')


def test_an_unfinished_run_is_not_evaluated(capsys, tmp_path):
  save(Distill(seeds=2, activations=('relu',), width=(3,)), tmp_path)
  assert 'holds no whole checkpoint' in refused(capsys, 'evaluate', tmp_path)
  assert not (tmp_path / 'checkpoints').exists()


CHANGED = [
  (['--seeds', '3'], '--seeds 3', 'has 2'),
  (['--width', '4', '5'], '--width 4 5', 'has 3'),
  (['--activations', 'relu'], '--activations relu', 'has relu lma'),
  (['--temperature', '4'], '--temperature 4.0', 'has 2.0'),
]


@pytest.mark.parametrize('options, asked, kept', CHANGED, ids=[asked for _, asked, _ in CHANGED])
def test_a_resumed_run_keeps_its_configuration(capsys, tmp_path, options, asked, kept):
  save(Distill(seeds=2, width=(3,), activations=('relu', 'lma')), tmp_path)
  line = refused(capsys, 'distill', '--workdir', tmp_path, '--resume', *options)
  assert asked in line and kept in line


def test_a_configuration_survives_its_file(tmp_path):
  config = defaults('cifar100')
  save(config, tmp_path)
  assert load(Distill, tmp_path).__dict__ == {**config.__dict__, 'workdir': tmp_path}


@pytest.mark.parametrize('data', ['digits', 'mnist', 'fashion-mnist', 'cifar10', 'cifar100'])
def test_every_default_may_be_run(data):
  check(defaults(data))


def test_a_check_names_the_field():
  with pytest.raises(UserError, match='--width is 0'):
    check(Distill(width=(0,)))


def test_the_command_writes_its_folder_and_prints_its_table(tmp_path):
  folder = tmp_path / 'run'
  done = train('distill', '--workdir', folder, *SMALL[2:], '--activations', 'relu', 'lma', '--segments', '2', '4')
  assert done.returncode == 0, done.stderr
  for name in ('config.json', 'metrics.jsonl', 'results.json', 'results.md', 'curves.png', 'against_segments.png'):
    assert (folder / name).stat().st_size > 0
  assert list((folder / 'tensorboard').rglob('events.*'))
  assert (folder / 'results.md').read_text() in done.stdout
  assert '100%' in done.stderr  # the progress bar
  rows = json.loads((folder / 'results.json').read_text())['rows']
  assert rows[0]['name'] == 'teacher'
  students = {(row['activation'], row['segments'], row['hard_label']) for row in rows[1:]}
  assert students == {(a, k, h) for a, k in [('relu', None), ('lma', 2), ('lma', 4)] for h in (True, False)}
  assert all(len(row['accuracy']) == 2 and min(row['accuracy']) >= 0 for row in rows[1:])
  assert all(row['bytes'] >= 4 * row['parameters'] for row in rows)


@pytest.mark.parametrize('name, value', [('seeds', 10**12), ('seeds', 0), ('first_seed', -1), ('first_seed', 2**40)])
def test_seeds_of_results_are_bounded(capsys, tmp_path, name, value):
  (tmp_path / 'results.json').write_text(json.dumps({**RESULTS, 'config': {'seeds': 1, name: value}}))
  assert f'{name} of its config: the content: expected `int`' in refused(capsys, 'report', tmp_path)
