"""The README says what the committed results say."""

from tests import ROOT
from train.commands.readme import filled


def test_the_readme_shows_the_committed_results():
  text = (ROOT / 'README.md').read_text()
  assert filled(text, ROOT) == text, 'run: python -m train readme'
  assert text.count('<!-- table of ') >= 3


def test_a_readme_that_differs_is_noticed():
  text = (ROOT / 'README.md').read_text()
  digit = text.index('| teacher |') + len('| teacher | ')
  assert filled(text[:digit] + '7' + text[digit:], ROOT) == text
