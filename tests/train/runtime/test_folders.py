"""The folders of runs: none is written over, shared or adopted."""

import json

import pytest

from tests.support.processes import SMALL
from tests.support.runs import refused
from train.config import save
from train.programs.distill import run as distill
from train.programs.distill.config import Distill
from train.runtime import folders
from train.runtime.errors import UserError
from train.runtime.run import Run


def test_a_folder_that_holds_a_run_is_not_written_over(capsys, tmp_path):
  save(Distill(), tmp_path)
  before = (tmp_path / 'config.json').read_bytes()
  assert 'already holds files' in refused(capsys, 'distill', '--workdir', tmp_path)
  assert (tmp_path / 'config.json').read_bytes() == before


def test_a_folder_with_leftovers_is_not_adopted(capsys, tmp_path):
  (tmp_path / 'checkpoints').mkdir()
  assert 'already holds files' in refused(capsys, 'distill', '--workdir', tmp_path)


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
