"""The page of any program's run shows its table and pictures, and says commands that the command line takes."""

import json
import shlex
import shutil
from types import SimpleNamespace

import pytest

from tests import ROOT
from tests.support.pages import Read
from tests.support.rows import RESULTS, ROW
from tests.support.runs import refused
from train.__main__ import _command, main
from train.commands import page
from train.config import command as command_of
from train.programs import PROGRAMS
from train.results.statistics import cells

RUNS = sorted(path.parent for path in ROOT.glob('results/*/results.json'))
ALWAYS = ['evaluate', '--resume', 'report', 'report']
AFTER = {
  **{name: ['export', 'predict'] for name in ('distill', 'quantize', 'compress', 'hash', 'prune', 'datafree')},
  'distill-text': ['translate'],
}


def words_of(line):
  """The words of a page's command; all are parsed as they would be typed."""
  start, *words = shlex.split(line)[2:]
  assert start == 'train' and _command(words)
  return words


def whole(folder, run):
  """A copy of committed results, with the options as a run's folder has them."""
  shutil.copytree(run, folder)
  results = json.loads((run / 'results.json').read_text())
  (folder / 'config.json').write_text(
    json.dumps({'recipe': results['recipe'], **results['config'], 'data_dir': '/a/b'})
  )
  return folder, results['recipe']


def test_runs_of_every_program_are_tried():
  assert {json.loads((run / 'results.json').read_text())['recipe'] for run in RUNS} == set(PROGRAMS)


@pytest.mark.parametrize('run', RUNS, ids=[run.name for run in RUNS])
def test_a_run_of_any_program_has_a_page(tmp_path, run):
  folder, command = whole(tmp_path / "a run's $HOME; & <b>", run)
  found = page.alone(folder)
  written = Read(page.write(folder, [folder], found).read_text())
  lines = [cells(line) for line in found.table.split('\n') if line.startswith('| ') and not line.startswith('| ---')]
  expected = [cell.removeprefix('**').removesuffix('**') for line in lines for cell in line]
  assert len(lines) > 2 and written.cells()[: len(expected)] == expected
  assert written.texts('h1') == [f'{command} on {found.results["config"]["data"]}']
  pictures = sorted(path.name for path in run.glob('*.png'))
  assert [each['alt'].split(': ')[0] for each in written.attributes('img')] == pictures
  assert not any('A picture of this run' in each['alt'] for each in written.attributes('img'))
  said = [words_of(line) for line in written.texts('code')]
  asked = [words[1] if words[1] == '--resume' else words[0] for words in said]
  lacks = {'trees': ['evaluate', 'report'], 'regions': ['evaluate', 'report']}.get(command, [])
  wanted = [each for each in ALWAYS if each not in lacks] + ['report'] * bool(lacks)
  assert sorted(asked) == sorted([*wanted, *AFTER.get(command, [])])
  assert all(any(str(folder) in word for word in words) for words in said)
  assert '--data-dir' in written.cells() and '--recipe' not in written.cells()


def test_results_alone_say_only_what_they_allow(tmp_path):
  folder = shutil.copytree(ROOT / 'results' / 'quantize-digits', tmp_path / 'run')
  written = Read(page.write(folder, [folder], page.alone(folder)).read_text())
  assert [words_of(line)[0] for line in written.texts('code')] == ['report', 'report']


def test_a_network_of_ones_own_is_named_where_it_is_needed(tmp_path):
  folder, _ = whole(tmp_path / 'run', ROOT / 'results' / 'quantize-digits')
  results = json.loads((folder / 'results.json').read_text())
  results['config']['student'] = 'mine:net'
  (folder / 'results.json').write_text(json.dumps(results))
  lines = [words for _, words in page.commands(folder, [folder], page.alone(folder))]
  export, predict = (next(words for words in lines if words[0] == name) for name in ('export', 'predict'))
  assert export[-2:] == ['--network', 'mine:net'] and predict[-2:] == ['--student', 'mine:net']


EVIL = '<script>alert(1)</script>&"\'|'


def evil(folder):
  """A run whose data, options, network and machine are named by somebody who means harm."""
  folder.mkdir()
  row = {**RESULTS['rows'][0], 'name': '<script>', 'loss': EVIL}
  config = {**RESULTS['config'], 'data': EVIL, EVIL: [EVIL], 'activations': [EVIL]}
  results = {**RESULTS, 'config': config, 'environments': [{EVIL: EVIL}], 'rows': [row]}
  (folder / 'results.json').write_text(json.dumps(results))
  (folder / 'config.json').write_text(json.dumps({'recipe': 'distill', **config, 'data_dir': EVIL}))
  for name in ('<script>.png', '.part.png'):
    shutil.copy(ROOT / 'results' / 'cifar10' / 'curves.png', folder / name)
  (folder / 'no picture.png').write_text(EVIL)
  return folder


def test_nothing_foreign_is_markup(tmp_path, capsys):
  folder = evil(tmp_path / '<script>"&')
  assert main(['report', str(folder), '--html']) == 0
  assert capsys.readouterr().out.splitlines()[-1] == str(folder / 'report.html')
  text = (folder / 'report.html').read_text()
  assert '<script' not in text and EVIL not in text
  written = Read(text)
  assert written.texts('h1') == [f'distill on {EVIL}'] and EVIL in written.cells()
  assert [each['alt'] for each in written.attributes('img')] == ['<script>.png: A picture of this run']
  assert all(words_of(line) for line in written.texts('code'))


def test_options_differ_from_the_defaults_of_their_data(tmp_path):
  run = ROOT / 'results' / 'losses-digits'
  gathered = page.gathered(run, [run], page.alone(run))
  assert gathered.defaults['width'] == (3, 5) and gathered.config['width'] == [5]
  assert page._defaults('lit', 'unknown') == {}
  assert (
    'used the data digits, 10 seeds, 60 epochs and the activations relu and lma. Training took 2' in gathered.summary
  )


def test_every_program_says_what_it_is_for():
  for name, program in PROGRAMS.items():
    found = SimpleNamespace(command=name, results={'config': {}})
    said = page._summary(found, 'd', '1 s')
    assert said.startswith(f'The program {name} is there to ') and '. This run used the data d.' in said
    assert said.removeprefix(f'The program {name} is there to ')[0].islower() and command_of(program.options) == name


def test_several_runs_have_a_page_in_a_folder_of_its_own(tmp_path, capsys):
  folders = []
  for seed in (0, 1):
    folders.append(tmp_path / f'run {seed}')
    folders[-1].mkdir()
    rows = [{**ROW, 'accuracy': [0.5 + seed / 10], 'parameters': 1, 'bytes': 4}]
    config = {'seeds': 1, 'first_seed': seed, 'data': 'digits'}
    (folders[-1] / 'results.json').write_text(json.dumps({**RESULTS, 'config': config, 'rows': rows}))
  shutil.copy(ROOT / 'results' / 'cifar10' / 'curves.png', folders[1])
  assert refused(capsys, 'report', *folders, '--html') == '--html is True: several runs need --out, its folder'
  out = tmp_path / 'both'
  assert main(['report', *map(str, folders), '--out', str(out), '--html']) == 0
  written = Read((out / 'report.html').read_text())
  assert '55.00 ± 7.07' in written.cells()
  assert [each['alt'].split(':')[0] for each in written.attributes('img')] == ['run 1/curves.png']
  (line,) = written.texts('code')
  assert words_of(line) == ['report', *map(str, folders), '--out', str(out), '--html']
  assert sorted(path.name for path in folders[0].iterdir()) == ['results.json']


BROKEN = [
  ({'recipe': 'bench'}, 'holds no finished run of distill, quantize'),
  ({'config': {'seeds': 1}}, 'data of its config: the content: expected `str`, got `null`'),
  ({'config': {'seeds': 1, 'data': ['digits']}}, 'data of its config: the content: expected `str`, got `array`'),
  ({'rows': [{}]}, 'names None'),
  ({'seconds_of_training': 'long'}, 'seconds_of_training: expected `float`'),
]


@pytest.mark.parametrize('changes, said', BROKEN, ids=[str(changes) for changes, _ in BROKEN])
def test_broken_results_are_refused_in_one_line(tmp_path, capsys, changes, said):
  (tmp_path / 'results.json').write_text(json.dumps({**RESULTS, **changes}))
  assert said in refused(capsys, 'report', tmp_path, '--html')
  assert not (tmp_path / 'report.html').exists()


def test_what_is_no_run_is_refused_in_one_line(tmp_path, capsys):
  assert 'cannot read' in refused(capsys, 'report', tmp_path, '--html')
  (tmp_path / 'results.json').write_text('{')
  assert 'is not JSON' in refused(capsys, 'report', tmp_path, '--html')


@pytest.mark.parametrize('name', ['trees', 'lit-gan', 'slim-digits', 'compress-digits', 'regions', 'datafree-digits'])
def test_rows_that_miss_those_they_are_compared_with_are_refused_in_one_line(tmp_path, capsys, name):
  results = json.loads((ROOT / 'results' / name / 'results.json').read_text())
  broken = 0
  for rows in (results['rows'][-1:], results['rows'][1::2], []):
    (tmp_path / 'results.json').write_text(json.dumps({**results, 'rows': rows}))
    code = main(['report', str(tmp_path), '--html'])
    lines = capsys.readouterr().err.splitlines()
    assert (code, len(lines)) in ((0, 0), (2, 1))
    broken += code == 2
  assert broken
