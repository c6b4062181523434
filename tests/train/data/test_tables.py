"""Tables of one's own: what is a number, a word or missing, and what is refused."""

import numpy as np
import pytest

from tests.support.trees import assert_same
from train.data import tables
from train.runtime.errors import UserError


def read(tmp_path, text, target='kind'):
  path = tmp_path / 'a.csv'
  path.write_bytes(text if isinstance(text, bytes) else text.encode())
  return tables.read(path, target)


GOOD = 'size,color,kind\n1.5,red,no\n2,blue,yes\n,red,no\n-3e1,?,yes\n'


class TestRead:
  def test_numbers_words_and_what_is_missing(self, tmp_path):
    found = read(tmp_path, GOOD)
    assert (found.name, found.columns, found.classes) == ('a', ['size', 'color = blue', 'color = red'], ['no', 'yes'])
    np.testing.assert_array_equal(found.features, [[1.5, 0, 1], [2, 1, 0], [np.nan, 0, 1], [-30, 0, 0]])
    assert_same(found.labels, np.array([0, 1, 0, 1]))

  @pytest.mark.parametrize('text', [GOOD.encode('utf-8-sig'), GOOD.replace('\n', '\r\n'), GOOD + '\n\n'])
  def test_marks_and_ends_of_lines_make_no_difference(self, tmp_path, text):
    np.testing.assert_array_equal(read(tmp_path, text).features, read(tmp_path, GOOD).features)

  def test_without_names_columns_have_numbers(self, tmp_path):
    found = read(tmp_path, '1,2,0\n3,4,1\n5,6,0\n', target='3')
    assert (found.columns, found.classes) == (['1', '2'], ['0', '1'])
    np.testing.assert_array_equal(found.features, [[1, 2], [3, 4], [5, 6]])

  def test_numbers_of_classes_are_ordered_as_numbers(self, tmp_path):
    assert read(tmp_path, 'x,kind\n1,10\n2,9\n3,9\n').classes == ['9', '10']

  def test_columns_that_say_nothing_are_left_out(self, tmp_path):
    text = 'none,name,x,kind\n?,ann,1,a\nNA,bob,2,b\n,carl,3,a\n'
    assert read(tmp_path, text).columns == ['x']


REFUSED = [
  (GOOD, None, r'--target is missing: name the column .*size, color, kind'),
  (GOOD, 'weight', "--target is 'weight', and the columns of .* are size, color, kind"),
  (GOOD, '4', "--target is '4'"),
  (GOOD.replace('no', '?'), 'kind', 'example 1: has no kind'),
  (GOOD.replace('no', 'yes'), 'kind', 'kind is the same for all 4 examples'),
  ('x,x,kind\n1,2,a\n1,2,b\n', 'kind', 'two columns have one name'),
  ('x,kind\n1,a\n1\n', 'kind', 'row 3: 1 fields, where row 1 has 2'),
  ('x,kind\n1,a\n', 'kind', 'holds no table'),
  ('kind\na\nb\nc\n', 'kind', 'holds no table'),
  ('name,kind\nann,a\nbob,b\ncarl,a\n', 'kind', 'has 0 features'),
  ('x,kind\n"1,a\n2,b\n', 'kind', 'quote fields by'),
  (b'x,kind\n\xff,a\n1,b\n', 'kind', 'byte 7 is no UTF-8'),
]


@pytest.mark.parametrize(('text', 'target', 'line'), REFUSED, ids=[line for *_, line in REFUSED])
def test_what_is_no_table_is_refused(tmp_path, text, target, line):
  with pytest.raises(UserError, match=line):
    read(tmp_path, text, target)


@pytest.mark.parametrize('name', tables.KNOWN)
def test_those_of_scikit_learn(name):
  found = tables.load(name)
  assert found.features.shape == (len(found.labels), len(found.columns))
  assert np.isfinite(found.features).all() and set(found.labels) == set(range(len(found.classes)))
