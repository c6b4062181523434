"""The pages say what the committed results say."""

import csv
import re

import pytest

from tests import ROOT
from train.commands.tables import files, filled

PAGES = sorted(path for path in (ROOT / 'docs' / 'results').glob('*.md') if '<!-- table of ' in path.read_text('utf-8'))
TABLES = 'python -m train tables docs/results/*.md'


@pytest.mark.parametrize('page', PAGES, ids=lambda page: page.stem)
def test_a_page_and_its_files_show_the_committed_results(page):
  text = page.read_text('utf-8')
  assert filled(text, page.parent) == text, f'run: {TABLES}'
  for path, table in files(text, page.parent).items():
    assert path.read_text('utf-8') == table, f'run: {TABLES}'


def test_all_committed_results_are_shown():
  shown = ''.join(page.read_text('utf-8') for page in PAGES)
  for results in (ROOT / 'results').rglob('results.json'):
    mark = rf'<!-- table of \.\./\.\./{results.parent.relative_to(ROOT)}(, rows .*)? -->'
    assert re.search(mark, shown) or results.parent.name in _PICTURED


_PICTURED = ('digits-segments', 'digits-widths')
"""Shown by their pictures."""


def test_a_page_that_differs_is_noticed():
  page = PAGES[0]
  text = page.read_text('utf-8')
  begins = text.index('\n', text.index('| ---')) + 2
  assert filled(text[:begins] + '7' + text[begins:], page.parent) == text


@pytest.mark.parametrize('page', PAGES, ids=lambda page: page.stem)
def test_no_table_on_a_page_is_long(page):
  tables = re.findall(r'(?:^\|.*\n)+', page.read_text('utf-8'), re.MULTILINE)
  assert max(len(table.splitlines()) - 2 for table in tables) <= 40


def test_some_rows_of_a_table_and_a_file_of_all():
  mark = r'<!-- table of results/slim-digits, rows pca \| scratch \| relu|^\| lma-8 \| 90 -->'
  text = filled(f'{mark}\n<!-- end of table -->', ROOT)
  begins = [line.partition(' | ')[0] for line in text.splitlines() if line.startswith('|')]
  assert begins == ['| widths by', '| ---', *['| pca'] * 3, '| activation', '| ---', '| lma-8']
  assert '3 of 94 rows; [all of them](results/slim-digits/results.csv).' in text
  assert '1 of 6 rows; [all of them](results/slim-digits/results-2.csv).' in text
  first, second = files(text, ROOT).values()
  rows = list(csv.DictReader(first.splitlines()))
  assert len(rows) == 94 and rows[0]['parameters'] == '27594' and rows[0]['accuracy %'] == '97.76 ± 0.55'
  assert len(second.splitlines()) == 1 + 6
  whole = mark.replace(r'lma-8 \| 90 -->', '(relu|lma-8) -->')
  (path,) = files(f'{whole}\n<!-- end of table -->', ROOT)
  assert path.name == 'results.csv'  # the second table is shown whole
