"""Configurations in their files: what is spoilt is named, and a resumed run keeps its own."""

import json

import pytest

from tests.support.runs import refused
from train.config import save
from train.programs.distill.config import Distill, check
from train.runtime.errors import UserError

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


@pytest.mark.parametrize('text', ['{', '[]', '{"colour": 1}'])
def test_a_spoilt_configuration_is_named(capsys, tmp_path, text):
  (tmp_path / 'config.json').write_text(text)
  assert str(tmp_path / 'config.json') in refused(capsys, 'distill', '--workdir', tmp_path, '--resume')


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


def test_a_check_names_the_field():
  with pytest.raises(UserError, match='--width is 0'):
    check(Distill(width=(0,)))
