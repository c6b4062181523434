"""Reading, cutting and numbering texts; every file here is written by the test that reads it."""

import csv
import gzip
import io
from importlib import resources

import numpy as np
import pytest

from tests import SHARED
from train.data.texts import descriptions, text
from train.runtime.errors import UserError

ROWS = [
  [1, '', 'Plain.'],
  [2, 'A title', 'with, a comma'],
  [3, 'Say "so"', 'two\r\nlines'],
  [1, '标题', 'Ünï: ΣΑΣ, @ \\ naïve…'],
  [2, 'x', 'y'],
  [3, '', 'Z' * 50],
]


def table(rows) -> str:
  out = io.StringIO()
  csv.writer(out, quoting=csv.QUOTE_ALL).writerows(rows)
  return out.getvalue()


@pytest.fixture
def write(tmp_path):
  def files(*, zipped=False, **parts):
    for name, content in parts.items():
      raw = content if isinstance(content, bytes) else content.encode()
      path = tmp_path / (f'{name}.csv.gz' if zipped else f'{name}.csv')
      path.write_bytes(gzip.compress(raw) if zipped else raw)
    return tmp_path

  return files


def spelled(numbers) -> list[str]:
  """The texts again, one number at a time; ~ for what is not in the vocabulary."""
  letters = '\0~abcdefghijklmnopqrstuvwxyz0123456789-,;.!?:\'"/|_#$%^&*~`+=<>()[]{} '
  assert len(letters) == text.VOCABULARY == 69
  return [''.join(letters[number] for number in row) for row in numbers]


def pairs(part):
  return sorted(zip(spelled(part.inputs), part.labels.tolist(), strict=True))


def error_of(folder, name='csv', **options) -> str:
  with pytest.raises(UserError) as caught:
    text.load(name, data_dir=folder, **options)
  assert '\n' not in str(caught.value)
  return str(caught.value)


class TestNumbering:
  def test_every_character_of_the_vocabulary_comes_back(self):
    texts = [f'{text.CHARACTERS[i:]}' for i in range(0, 67, 9)]
    assert [one.rstrip('\0') for one in spelled(text.encode(texts, 70))] == texts
    assert len(set(text.encode([text.CHARACTERS], 67)[0])) == 67

  def test_lower_case_padding_cutting_and_the_unknown(self):
    numbers = text.encode(['AbC', '', 'a long text', 'é\n\t@\\\x00\U0001f600z'], 9)
    assert (numbers.dtype, numbers.shape) == (np.uint8, (4, 9))
    assert spelled(numbers) == ['abc' + 6 * '\0', 9 * '\0', 'a long te', '~~~~~~~z\0']
    assert (numbers[3, :7] == text.UNKNOWN).all() and (numbers[0, 3:] == text.PADDING).all()


class TestTables:
  @pytest.mark.parametrize('zipped', [False, True])
  @pytest.mark.parametrize('mark', ['', '\ufeff'])
  def test_reads_what_was_written(self, write, zipped, mark):
    data = text.load('csv', data_dir=write(train=mark + table(ROWS), test=table(ROWS[:3]), zipped=zipped), length=24)
    texts = ['plain.', 'a title with, a comma', 'say "so" two~~lines', '~~ ~n~: ~~~, ~ ~ na~ve~', 'x y', 24 * 'z']
    expected = [(one.ljust(24, '\0'), (1, 2, 3, 1, 2, 3)[i] - 1) for i, one in enumerate(texts)]
    assert pairs(data.test) == sorted(expected[:3])
    assert sorted(pairs(data.train) + pairs(data.validation)) == sorted(expected)
    assert (data.name, data.num_classes, len(data.validation.labels)) == ('csv', 3, 1)
    assert {part.labels.dtype for part in data[1:4]} == {np.dtype(np.int32)}

  @pytest.mark.parametrize(
    'name, columns, expected',
    [
      ('csv', None, 'a title with, a comma'),
      ('csv', (1,), 'a title'),
      ('csv', (2,), 'with, a comma'),
      ('csv', (-1,), 'with, a comma'),
      ('csv', (2, 1), 'with, a comma a title'),
      ('ag-news', None, 'with, a comma'),
      ('ag-news', (1, 2), 'a title with, a comma'),
    ],
  )
  def test_columns(self, write, name, columns, expected):
    rows = [[1, 'b', 'c'], ROWS[1]]
    data = text.load(name, data_dir=write(train=table(rows), test=table(ROWS[1:2])), columns=columns, length=30)
    assert spelled(data.test.inputs) == [expected.ljust(30, '\0')]

  @pytest.mark.parametrize('end', ['\n', '\r\n\n\n'])
  def test_blank_lines_at_the_end_are_no_rows(self, write, end):
    data = text.load('csv', data_dir=write(train=table(ROWS) + end, test=table(ROWS)), length=24)
    assert len(data.train.labels) + len(data.validation.labels) == len(ROWS)

  def test_a_field_may_be_long(self, write):
    rows = [*ROWS, [1, '', 'long' * 50_000]]
    data = text.load('csv', data_dir=write(train=table(rows), test=table(ROWS)), length=8)
    assert 'longlong' in [words for words, _ in pairs(data.train) + pairs(data.validation)]

  def test_lengths(self, write):
    folder = write(train=table(ROWS), test=table(ROWS[:3]))
    assert text.load('csv', data_dir=folder).train.inputs.shape[1] == 1014
    assert text.load('ag-news', data_dir=folder).train.inputs.shape[1] == 256
    assert error_of(folder, length=0) == 'texts of 0 characters; choose a length from 1'

  def test_parts_are_stratified_and_a_slice_holds_all_classes(self, write):
    rows = [[i // 50 + 1, f'{i:03}'] for i in range(200)]
    folder = write(train=table(rows), test=table(rows[:4]))
    data, few = (
      text.load('csv', data_dir=folder, length=3),
      text.load('csv', data_dir=folder, length=3, train_examples=40),
    )
    assert [np.bincount(part.labels).tolist() for part in data[1:3]] == [[45] * 4, [5] * 4]
    assert sorted(pairs(data.train) + pairs(data.validation)) == [(one[1], int(one[0]) - 1) for one in rows]
    assert [np.bincount(part.labels).tolist() for part in few[1:3]] == [[9] * 4, [1] * 4]
    assert set(pairs(few.train)) < set(pairs(data.train)) and set(pairs(few.validation)) < set(pairs(data.validation))
    for a, b in zip(data[1:4], text.load('csv', data_dir=folder, length=3)[1:4], strict=True):
      np.testing.assert_array_equal(a.inputs, b.inputs)

  @pytest.mark.parametrize('count', [1, 7])
  def test_too_few_or_too_many(self, write, count):
    folder = write(train=table(ROWS), test=table(ROWS))
    message = f'{count} training texts asked of csv; choose from 2 to 6'
    assert error_of(folder, train_examples=count) == message


WRONG = {
  'no rows': ('', 'train.csv: holds no rows'),
  'a header': ([['class', 't', 'd'], *ROWS], "train.csv, row 1: class 'class' is no number from 1; leave out a header"),
  'a class of 0': ([*ROWS, [0, 'a', 'b']], "train.csv, row 7: class '0' is no number from 1"),
  'a negative class': ([*ROWS, [-1, 'a', 'b']], "row 7: class '-1' is no number"),
  'half a class': ([*ROWS, [1.5, 'a', 'b']], "row 7: class '1.5' is no number"),
  'a huge class': ([*ROWS, ['9' * 5000, 'a', 'b']], "row 7: class '99999999999999999999' is no number"),
  'a gap': ([*ROWS, [5, 'a', 'b']], 'train.csv: there are rows of class 5 and none of class 4; number them'),
  'one class': ([[1, 'a', 'b']] * 4, 'train.csv: all rows are of class 1; give two classes at least'),
  'a short row': ([*ROWS, [1, 'a']], 'train.csv, row 7: 2 fields; every row needs a class and as many texts as row 1'),
  'a long row': ([*ROWS, [1, 'a', 'b', 'c']], 'row 7: 4 fields'),
  'classes alone': ([[1], [2]], 'row 1: 1 fields; every row needs a class'),
  'an empty line': ('"1","a","b"\r\n\r\n"2","a","b"\r\n', 'row 2: 0 fields'),
  'no text': ([*ROWS, [1, ' ', '']], 'train.csv, row 7: no text in the chosen columns'),
  'an open quote': ('"1","a","b"\n"2","a","b\n', 'train.csv, row 2: unexpected end of data; quote fields'),
  'a stray quote': ('"1","a","b"\n"2","a" c,"b"\n', 'train.csv, row 2: '),
  'not UTF-8': (b'"1","a","caf\xe9"\n', 'train.csv: byte 12 is no UTF-8 text; save the file as UTF-8'),
}


class TestErrors:
  @pytest.mark.parametrize('content, message', WRONG.values(), ids=WRONG)
  def test_one_line_names_the_file_and_the_row(self, write, content, message):
    folder = write(train=table(content) if isinstance(content, list) else content, test=table(ROWS))
    error = error_of(folder)
    assert error.startswith(str(folder)) and message in error

  @pytest.mark.parametrize('part', ['train', 'test'])
  def test_a_missing_file(self, write, part):
    folder = write(**{{'train': 'test', 'test': 'train'}[part]: table(ROWS)})
    (folder / f'{part}.tgz').touch()
    (folder / f'{part}.pickle').touch()
    assert error_of(folder) == (
      f'{folder / part}.csv: no such file, nor with .gz; '
      '--data-dir must hold train.csv and test.csv, unpacked or gzipped'
    )

  def test_a_damaged_archive(self, write):
    folder = write(train=table(ROWS), test=table(ROWS), zipped=True)
    path = folder / 'train.csv.gz'
    path.write_bytes(path.read_bytes()[:-9])
    assert error_of(folder).startswith(f'{path}: cannot be read')

  def test_a_test_file_that_does_not_fit(self, write):
    folder = write(train=table(ROWS), test=table([[1, 'a', 'b'], [4, 'a', 'b']]))
    assert error_of(folder) == f'{folder / "test.csv"}, row 2: class 4, of which train.csv has no row'
    write(test=table([[1, 'a']]))
    assert error_of(folder) == f'{folder / "test.csv"}: rows of 2 fields where train.csv has 3'

  @pytest.mark.parametrize('column', [0, 3, -3])
  def test_no_such_column(self, write, column):
    folder = write(train=table(ROWS), test=table(ROWS))
    expected = f'{folder / "train.csv"}: no text column {column}; choose from 1 to 2, or from -1 to -2, the first'
    assert error_of(folder, columns=(column,)) == expected

  def test_no_folder_and_no_such_set(self):
    assert error_of(None, 'ag-news') == (
      'ag-news: is not downloaded; pass a folder with train.csv and test.csv as --data-dir'
    )
    assert error_of(None, 'agnews') == 'agnews: no such set of texts; choose one of descriptions, ag-news, csv'


class TestDescriptions:
  def test_parts_share_no_run_of_characters(self):
    """Half a passage long: shorter ones are the lines of tables."""
    parts = descriptions.load()
    for label, name in enumerate(descriptions.FILES):
      whole = ' '.join((resources.files('sklearn.datasets.descr') / f'{name}.rst').read_text(encoding='utf-8').split())
      of_class = [[one for one, its in zip(part.texts, part.labels, strict=True) if its == label] for part in parts]
      assert all(len(one) == descriptions.PASSAGE and one in whole for texts in of_class for one in texts)
      runs = [{one[i : i + 64] for one in texts for i in range(65)} for texts in of_class]
      assert not runs[0] & runs[1] and not runs[0] & runs[2] and not runs[1] & runs[2]
      assert len(runs[0]) > 0.3 * len(whole) and min(map(len, runs)) > 0.1 * len(whole)

  def test_classes_are_balanced_and_the_set_is_always_the_same(self):
    data, again = text.load('descriptions'), text.load('descriptions')
    assert [part.inputs.shape for part in data[1:4]] == [(720, 128), (240, 128), (240, 128)]
    assert all((np.bincount(part.labels) == len(part.labels) // 6).all() for part in data[1:4])
    assert (data.num_classes, (data.train.inputs == text.PADDING).sum()) == (6, 0)
    for a, b in zip(data[1:4], again[1:4], strict=True):
      np.testing.assert_array_equal(a.inputs, b.inputs)

  def test_a_slice(self):
    data = text.load('descriptions', train_examples=48, length=40)
    assert [part.inputs.shape for part in data[1:4]] == [(36, 40), (12, 40), (240, 40)]
    assert [np.bincount(part.labels).tolist() for part in data[1:3]] == [[6] * 6, [2] * 6]


def test_the_real_ag_news():
  if not (SHARED / 'ag_news').is_dir():
    pytest.skip('the files of AG News are not in ../shared/data')
  data = text.load('ag-news', data_dir=SHARED / 'ag_news')
  assert [len(part.labels) for part in data[1:4]] == [13_479, 1_498, 7_600]
  assert data.num_classes == 4 and (np.bincount(data.test.labels) == 1_900).all()
  lengths = [np.median((part.inputs != text.PADDING).sum(1)) for part in data[1:4]]
  assert 180 < min(lengths) <= max(lengths) < 210
  assert (data.train.inputs == text.UNKNOWN).mean() < 1e-3
