"""The pages say what the committed results say."""

import pytest

from tests import ROOT
from train.commands.tables import filled

PAGES = sorted(path for path in (ROOT / 'docs' / 'results').glob('*.md') if '<!-- table of ' in path.read_text('utf-8'))
TABLES = 'python -m train tables docs/results/*.md'


@pytest.mark.parametrize('page', PAGES, ids=lambda page: page.stem)
def test_a_page_shows_the_committed_results(page):
  text = page.read_text('utf-8')
  assert filled(text, page.parent) == text, f'run: {TABLES}'


def test_all_committed_results_are_shown():
  shown = ''.join(page.read_text('utf-8') for page in PAGES)
  for results in (ROOT / 'results').rglob('results.json'):
    assert f'<!-- table of ../../{results.parent.relative_to(ROOT)} -->' in shown or results.parent.name in _PICTURED


_PICTURED = ('digits-segments', 'digits-widths')
"""Shown by their pictures."""


def test_a_page_that_differs_is_noticed():
  page = PAGES[0]
  text = page.read_text('utf-8')
  begins = text.index('\n', text.index('| ---')) + 2
  assert filled(text[:begins] + '7' + text[begins:], page.parent) == text
