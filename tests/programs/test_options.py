"""What the options of every program refuse, the defaults of its data sets, and configurations in their files."""

from dataclasses import replace

import pytest

from tests.programs import CASES
from tests.support.runs import refused
from train.config import load, recipe, save
from train.programs import PROGRAMS

WRONG = [(command, *wrong) for command, case in CASES.items() for wrong in case.wrong]
DATA = [(command, data) for command, case in CASES.items() for data in case.data]
SAVED = [(command, config) for command, case in CASES.items() for config in case.saved]


@pytest.mark.parametrize('command, options, expected', WRONG, ids=[f'{command} {given}' for command, given, _ in WRONG])
def test_a_wrong_one_is_named_in_one_line(capsys, tmp_path, command, options, expected):
  assert refused(capsys, command, '--workdir', tmp_path / 'run', *options.split()).startswith(expected)
  assert not (tmp_path / 'run').exists()


@pytest.mark.parametrize('command, data', DATA)
def test_every_default_may_be_run(command, data):
  config = PROGRAMS[command].defaults(data)
  CASES[command].check(config)
  assert recipe(config) == command


@pytest.mark.parametrize('command, config', SAVED, ids=[f'{command}-{i}' for i, (command, _) in enumerate(SAVED)])
def test_a_saved_configuration_is_loaded_as_it_was(tmp_path, command, config):
  save(config, tmp_path)
  assert load(PROGRAMS[command].options, tmp_path) == replace(config, workdir=tmp_path)
