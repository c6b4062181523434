"""Parallel texts: what is read, what is left out, and what is refused; every file here is written by its test."""

import gzip
import hashlib
import sys

import numpy as np
import pooch
import pytest

from tests import SHARED
from train.data import fetch
from train.data.corpora import numbers, parallel
from train.data.corpora.pairs import Pairs
from train.runtime.errors import UserError

MULTI30K = SHARED / 'multi30k'
GERMAN = ['Ein Hund läuft.', 'Zwei Straßen', 'Drei', 'Vier „Katzen“']
ENGLISH = ['A dog runs.', 'Two streets', 'Three', 'Four “cats”']
LINES = {
  'train.de': GERMAN,
  'train.en': ENGLISH,
  'val.de': ['Fünf'],
  'val.en': ['Five'],
  'test.de': ['Sechs', 'Sieben'],
  'test.en': ['Six', 'Seven'],
}


def write(folder, files=LINES, **changes):
  """Lines, text or bytes by file name, in which __ is a dot; None leaves the file out."""
  for name, content in (files | {name.replace('__', '.'): content for name, content in changes.items()}).items():
    if isinstance(content, list):
      content = ''.join(f'{line}\n' for line in content)
    raw = content.encode() if isinstance(content, str) else content
    if raw is not None:
      (folder / name).write_bytes(gzip.compress(raw) if name.endswith('.gz') else raw)
  return folder


def tables(ending):
  def columns(part):
    return [f'{a}\t{b}' for a, b in zip(LINES[f'{part}.de'], LINES[f'{part}.en'], strict=True)]

  return {f'{part}.{ending}': columns(part) for part in ('train', 'val', 'test')}


def error_of(name, **options) -> str:
  with pytest.raises(UserError) as caught:
    parallel.load(str(name), **options)
  assert '\n' not in str(caught.value)
  return str(caught.value)


class TestFolders:
  @pytest.mark.parametrize(
    'files',
    [LINES, {f'{name}.gz': lines for name, lines in LINES.items()}, tables('tsv'), tables('tsv.gz')],
    ids=['plain', 'gz', 'tsv', 'tsv.gz'],
  )
  def test_reads_what_was_written(self, tmp_path, files):
    corpus = parallel.load(str(write(tmp_path, files)))
    assert corpus.name == tmp_path.name
    assert corpus.train == Pairs(GERMAN, ENGLISH)
    assert corpus.validation == (['Fünf'], ['Five']) and corpus.test == (['Sechs', 'Sieben'], ['Six', 'Seven'])

  def test_a_relative_path_and_the_other_direction(self, tmp_path, monkeypatch):
    write(tmp_path)
    monkeypatch.chdir(tmp_path.parent)
    assert parallel.load(tmp_path.name, source='en', target='de').train == (ENGLISH, GERMAN)
    monkeypatch.chdir(tmp_path)
    assert parallel.load('.').name == tmp_path.name

  def test_other_languages(self, tmp_path):
    files = {name.replace('.de', '.cs'): lines for name, lines in LINES.items()}
    assert parallel.load(str(write(tmp_path, files)), source='cs').train.source == GERMAN

  def test_lines_end_at_line_feeds_alone(self, tmp_path):
    inner = ['a\u2028b', 'c\x85d', 'e\x0bf\x0cg', 'h\x1ci\rj']
    write(tmp_path, train__de='\ufeff' + '\r\n'.join(inner) + '\r\n', train__en=' w \n\tx\n\u3000y\nz')
    assert parallel.load(str(tmp_path)).train == (inner, ['w', 'x', 'y', 'z'])

  def test_empty_sentences_stay_in_the_test_alone(self, tmp_path):
    write(tmp_path, train__de=['a', ' ', 'c', 'd'], train__en=['1', '2', '', '4'])
    write(tmp_path, {}, val__de=['', 'v'], val__en=['8', '9'], test__de=['', 's', ''], test__en=['5', '', ''])
    corpus = parallel.load(str(tmp_path))
    assert corpus.train == (['a', 'd'], ['1', '4']) and corpus.validation == (['v'], ['9'])
    assert corpus.test == (['', 's', ''], ['5', '', ''])

  def test_empty_sentences_of_a_table(self, tmp_path):
    write(tmp_path, tables('tsv') | {'train.tsv': 'a\t1\n\t2\nc\t\nd \t 4\r\n', 'test.tsv': '\t5\ns\t'})
    corpus = parallel.load(str(tmp_path))
    assert corpus.train == (['a', 'd'], ['1', '4']) and corpus.test == (['', 's'], ['5', ''])

  def test_the_test_of_2016_where_there_is_no_other(self, tmp_path):
    write(tmp_path, test_2016_flickr__de=['x'], test_2016_flickr__en=['y'])
    assert parallel.load(str(tmp_path)).test.source == ['Sechs', 'Sieben']
    for language in ('de', 'en'):
      (tmp_path / f'test.{language}').unlink()
    assert parallel.load(str(tmp_path)).test == (['x'], ['y'])

  def test_the_first_so_many(self, tmp_path):
    write(tmp_path, train__de=['a', '', 'c', 'd'], train__en=['1', '2', '3', '4'])
    corpus = parallel.load(str(tmp_path), train_sentences=2)
    assert corpus.train == (['a', 'c'], ['1', '3']) and len(corpus.test.source) == 2
    for count in (-1, 0, 4):
      assert f'{count} training sentences' in (message := error_of(tmp_path, train_sentences=count))
      assert 'from 1 to 3' in message
    assert parallel.load(str(tmp_path), train_sentences=3) == parallel.load(str(tmp_path))


class TestRefused:
  @pytest.mark.parametrize(
    'changes, parts',
    [
      (dict(train__en=None), ['train.en', 'no such file', '.gz']),
      (dict(val__de=None), ['val.de', 'no such file']),
      (dict(test__en=None, test_2016_flickr__de=['x'], test_2016_flickr__en=['y']), ['test.en', 'no such file']),
      (dict(val__de=None, val__en=None), ['val.de', 'val.tsv', 'name a folder']),
      (dict(test__de=None, test__en=None), ['test.de', 'name a folder']),
      (dict(train__en=ENGLISH[:3]), ['train.de has 4 lines', 'train.en 3']),
      (dict(test__de=['Sechs', 'Sieben', '']), ['test.de has 3 lines', 'test.en 2']),
      (dict(train__de=b'gut\nauch gut\nschl\xe4cht\nx\n'), ['train.de, line 3', 'UTF-8']),
      (dict(train__de=b'\xef\xbb\xbfab\n\xff\n\n\n'), ['train.de, line 2', 'UTF-8']),
      (dict(val__en=b''), ['val.en', 'is empty']),
      (dict(val__en='\n \r\n'), ['val.en', 'is empty']),
      (dict(val__de=['', 'a'], val__en=['b', '']), ['val.de', 'no pair']),
    ],
  )
  def test_a_folder(self, tmp_path, changes, parts):
    files = {name: lines for name, lines in LINES.items() if name.replace('.', '__') not in changes}
    message = error_of(write(tmp_path, files, **changes))
    assert str(tmp_path) in message
    for part in parts:
      assert part in message

  @pytest.mark.parametrize('line, tabs', [('no tab', 0), ('', 0), ('one\ttwo\tthree', 2)])
  def test_a_table(self, tmp_path, line, tabs):
    write(tmp_path, tables('tsv') | {'val.tsv': f'a\tb\n{line}\nc\td\n'})
    assert f'val.tsv, line 2: {tabs} tabs' in error_of(tmp_path)

  def test_a_cut_archive(self, tmp_path):
    write(tmp_path, tables('tsv.gz'))
    path = tmp_path / 'val.tsv.gz'
    path.write_bytes(path.read_bytes()[:-9])
    assert str(path) in error_of(tmp_path)

  def test_names(self, tmp_path):
    write(tmp_path)
    for name in ('', 'number', str(tmp_path / 'train.de'), str(tmp_path / 'other')):
      assert f'{name}: no such folder' in error_of(name)
    assert 'cannot be read' in error_of('x' * 5000)
    assert all(choice in error_of('number') for choice in ('numbers', 'multi30k', 'folder'))
    assert '--data-dir' in error_of(tmp_path, data_dir=tmp_path)
    assert '--data-dir' in error_of('numbers', data_dir=tmp_path)

  def test_languages(self, tmp_path):
    assert 'two languages' in error_of(write(tmp_path), source='en')
    assert 'train.fr' in error_of(tmp_path, source='fr')
    for source, target in (('en', 'de'), ('de', 'fr'), ('fr', 'en')):
      assert f'from {source} to {target}' in error_of('numbers', source=source, target=target)
    assert '--data-dir' in error_of('multi30k', source='fr')


class TestMulti30k:
  def test_a_folder_with_the_files(self, tmp_path):
    files = {f'{name.replace("test", "test_2016_flickr")}.gz': lines for name, lines in LINES.items()}
    corpus = parallel.load('multi30k', data_dir=write(tmp_path, files))
    assert corpus.name == 'multi30k' and corpus.train == (GERMAN, ENGLISH) and corpus.test.target == ['Six', 'Seven']

  def test_is_downloaded_in_either_direction(self, tmp_path, monkeypatch):
    asked = []

    def retrieve(url, known_hash, fname, path, downloader):
      asked.append((url, known_hash))
      path.mkdir(exist_ok=True, parents=True)
      write(path, {fname: LINES[fname.replace('_2016_flickr', '').removesuffix('.gz')]})

    monkeypatch.setattr(pooch, 'os_cache', lambda project: tmp_path / project)
    monkeypatch.setattr(pooch, 'retrieve', retrieve)
    assert parallel.load('multi30k').train == (GERMAN, ENGLISH)
    assert parallel.load('multi30k', source='en', target='de').test == (['Six', 'Seven'], ['Sechs', 'Sieben'])
    address = 'https://raw.githubusercontent.com/multi30k/dataset/master/data/task1/raw/'
    parts = ('train', 'val', 'test_2016_flickr')
    assert [url for url, _ in asked[:6]] == [f'{address}{part}.{end}.gz' for part in parts for end in ('de', 'en')]
    assert {known.partition(':')[0] for _, known in asked} == {'sha256'}

  def test_a_wrong_sha256_is_refused_and_the_right_one_taken(self, tmp_path):
    kept = tmp_path / 'kept.gz'
    kept.write_bytes(b'content')
    right = hashlib.sha256(b'content').hexdigest()
    fetch._retrieve('http://127.0.0.1:9/kept.gz', kept, f'sha256:{right}')
    with pytest.raises(UserError, match='download'):
      fetch._retrieve('http://127.0.0.1:9/kept.gz', kept, f'sha256:{right[::-1]}')

  def test_the_real_files(self):
    if not MULTI30K.is_dir():
      return  # published files, which do not come with a package
    corpus = parallel.load('multi30k', data_dir=MULTI30K)
    assert [len(side) for part in corpus[1:] for side in part] == [29_000] * 2 + [1_014] * 2 + [1_000] * 2
    for name, known in parallel.FILES.items():
      assert f'sha256:{hashlib.sha256((MULTI30K / name).read_bytes()).hexdigest()}' == known


class TestNumbers:
  def test_counts_and_no_number_twice(self):
    corpus = parallel.load('numbers')
    assert corpus.name == 'numbers'
    for part, count in zip(corpus[1:], (20_000, 500, 1_000), strict=True):
      assert len(part.source) == len(part.target) == count
    for side in (0, 1):
      assert len({sentence for part in corpus[1:] for sentence in part[side]}) == 21_500

  def test_sentences_are_those_of_the_package(self):
    """All thousands, all rests, and drawn ones; each again from the package."""
    from num2words import num2words

    german, english = numbers._writers()
    draw = np.random.default_rng(5).integers(0, 1_000_000, 200).tolist()
    some = [*draw, *range(0, 1100), *range(1000, 1_000_000, 7001), *range(101_000, 101_130), 999_999, 200_001]
    for number in some:
      assert german(number) == num2words(number, lang='de')
      assert english(number) == num2words(number, lang='en')

  def test_a_pair_says_one_number(self):
    from num2words import num2words

    drawn = np.random.default_rng(0).permutation(1_000_000)[:1510].tolist()
    corpus = numbers.load(train_count=10)
    for language, side in (('de', 0), ('en', 1)):
      spelled = [num2words(number, lang=language) for number in drawn]
      assert [corpus.test[side], corpus.validation[side], corpus.train[side]] == [
        spelled[:1000],
        spelled[1000:1500],
        spelled[1500:],
      ]

  def test_fewer_are_the_first_of_more(self):
    whole, part = numbers.load(train_count=300), numbers.load(train_count=20)
    assert part == whole._replace(train=whole.train.first(20))
    assert parallel.load('numbers', train_sentences=20) == part
    assert 'from 1 to 20000' in error_of('numbers', train_sentences=20_001)
    for count in (0, 998_501):
      with pytest.raises(UserError, match='from 1 to 998500'):
        numbers.load(train_count=count)

  def test_without_the_package(self, monkeypatch):
    monkeypatch.setitem(sys.modules, 'num2words', None)
    assert 'pip install -e ".[text]"' in error_of('numbers')
