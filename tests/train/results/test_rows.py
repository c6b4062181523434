"""Files of results that others have written: typed and bounded before they are used."""

import json
from typing import NamedTuple

import pytest

from tests.support.rows import RESULTS
from tests.support.runs import refused
from train.config import TEACHER
from train.results.rows import alike

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


@pytest.mark.parametrize('name, value', [('seeds', 10**12), ('seeds', 0), ('first_seed', -1), ('first_seed', 2**40)])
def test_seeds_of_results_are_bounded(capsys, tmp_path, name, value):
  (tmp_path / 'results.json').write_text(json.dumps({**RESULTS, 'config': {'seeds': 1, name: value}}))
  assert f'{name} of its config: the content: expected `int`' in refused(capsys, 'report', tmp_path)


class Kind(NamedTuple):
  name: str
  activation: str
  width: int


def test_rows_are_alike_in_all_fields_but_those_that_change_and_no_teacher_is():
  rows = [
    Kind(TEACHER, 'relu', 3),
    Kind('a', 'relu', 3),
    Kind('b', 'lma', 3),
    Kind('c', 'lma', 5),
    Kind('d', 'relu', 3),
  ]
  fields = ('activation', 'width')
  assert alike(rows[2], rows, fields, activation='relu') == [rows[1], rows[4]]
  assert alike(rows[3], rows, fields) == [rows[3]]
  assert alike(rows[3], rows, fields, activation='relu') == []
