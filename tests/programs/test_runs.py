"""A small run of every program: stopped at any moment it ends with the same bits, and its figures can be had again."""

import shutil
import signal

import pytest

from tests.programs import CASES
from tests.support.pages import Read
from tests.support.processes import train
from tests.support.runs import assert_same_run, assert_teacher_is_taken, files, refused, results, saved_steps
from train.__main__ import main
from train.commands.tables import filled
from train.programs import PROGRAMS
from train.results.statistics import cells

COMMANDS = [pytest.param(command, marks=() if command == 'distill' else pytest.mark.slow) for command in CASES]


@pytest.fixture(params=COMMANDS)
def command(request):
  return request.param


@pytest.fixture
def whole(command, whole_run):
  return whole_run(command)


def test_stopped_again_and_again_it_ends_with_the_same_bits(command, whole, tmp_path, capsys):
  case, folder, given = CASES[command], tmp_path / 'run', CASES[command].options(whole.parent)
  for number, stop in enumerate(case.stops):
    dots = tmp_path / f'dots {number}'
    moment = {'counted': dots, 'kind': stop.kind, 'after': stop.after, 'at': stop.at, 'signum': stop.signum}
    stopped = train(command, '--workdir', folder, *given, **moment)
    expected = -stop.signum if stop.signum == signal.SIGKILL else 128 + stop.signum
    assert stopped.returncode == expected, stopped.stderr
    assert dots.stat().st_size == stop.at
    assert saved_steps(folder) == stop.saved
    given = ['--resume']
  refused(capsys, 'evaluate', folder)
  once = [(folder / name).stat() for name in case.once]
  resumed = train(command, '--workdir', folder, '--resume', counted=tmp_path / 'dots')
  assert resumed.returncode == 0, resumed.stderr
  assert (tmp_path / 'dots').exists() == (case.left > 0)
  assert case.left == 0 or (tmp_path / 'dots').stat().st_size == case.left
  again = [(folder / name).stat() for name in case.once]
  assert [(found.st_ino, found.st_mtime_ns) for found in again] == [(found.st_ino, found.st_mtime_ns) for found in once]
  assert_same_run(folder, whole)


def test_resuming_a_finished_run_computes_nothing_and_says_the_same(command, whole, tmp_path):
  folder = shutil.copytree(whole, tmp_path / 'run')
  again = train(command, '--workdir', folder, '--resume', counted=tmp_path / 'dots')
  assert again.returncode == 0, again.stderr
  assert not (tmp_path / 'dots').exists()
  assert (folder / 'results.json').read_bytes() == (whole / 'results.json').read_bytes()
  assert_same_run(folder, whole)


def test_evaluate_report_and_a_page_say_its_table_again(command, whole, tmp_path, capsys):
  table = (whole / 'results.md').read_text().strip()
  assert table in filled('<!-- table of run -->\n<!-- end of table -->', whole.parent)
  if not hasattr(PROGRAMS[command].run(), 'again'):
    assert 'leaves no networks to score again' in refused(capsys, 'evaluate', whole)
    return
  folder = shutil.copytree(whole, tmp_path / 'run')
  scored = train('evaluate', folder)
  assert scored.returncode == 0, scored.stderr
  assert scored.stdout.strip() == table
  assert main(['report', str(folder)]) == 0
  assert capsys.readouterr().out.strip().startswith(table)
  assert files(folder) == files(whole)


def test_it_leaves_a_page_with_its_table(command, whole, tmp_path):
  written = (whole / 'report.html').read_text()
  folder = shutil.copytree(whole, tmp_path / 'run')
  assert main(['report', str(folder), '--html']) == 0
  assert (folder / 'report.html').read_text() == written.replace(str(whole), str(folder))
  line = next(line for line in (whole / 'results.md').read_text().split('\n') if '---' not in line)
  assert Read(written).cells()[: len(cells(line))] == cells(line)


TAUGHT = [command for command, case in CASES.items() if case.teacher]


@pytest.mark.slow
@pytest.mark.parametrize('command', TAUGHT)
def test_it_takes_the_teacher_of_a_run(command, whole, capsys, tmp_path):
  case = CASES[command]
  file = whole / 'models' / f'{case.teacher}-seed0.safetensors'
  folder = assert_teacher_is_taken(capsys, tmp_path, command, case.options(whole.parent), whole, file)
  assert results(folder)['rows'] == results(whole)['rows']
