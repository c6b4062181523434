"""A start page is whole HTML that holds everything foreign as text, asks for nothing, and fits a screen and paper."""

import html
import os
import re
import shutil
import subprocess

import pytest

from tests.support.pages import Read
from train.results.page import Page, Picture, document, lasting
from train.results.statistics import markdown

EVIL = '<script>alert(1)</script>&"\' | x'
PNG = bytes.fromhex(
  '89504e470d0a1a0a0000000d49484452000000010000000108000000003a7e9b550000000a49444154789c63f80f0001010100'
  '1bb6ee560000000049454e44ae426082'
)
HEAD = ('student', *(f'a long column {number}' for number in range(14)))
TABLES = markdown(HEAD, [(EVIL, '**1.50**', *['92.24 ± 0.94'] * 13), ('b' * 60, *['-0.83 … +1.07'] * 14)])
PAGE = Page(
  title=f'distill on {EVIL}',
  date='2026-12-01',
  summary=EVIL,
  tables=f'{TABLES}\n\n{EVIL}\n\n{markdown(("a", "b"), [("c", "1")])}',
  pictures=[Picture(EVIL, EVIL, PNG)],
  config={'data': EVIL, EVIL: [EVIL, 2], 'digest': 'f' * 64, 'seeds': 3, 'width': None},
  defaults={'seeds': 3, 'width': ()},
  environments=[{'jax': EVIL, EVIL: None}, EVIL],
  lasted=EVIL,
  commands=[(EVIL, f'python -m train evaluate {EVIL} {"x" * 200}')],
)
ELEMENTS = (
  'html head meta title style body main header h1 h2 h3 p section div table caption thead tbody tr th td figure img'
  ' figcaption details summary pre code strong'
)
NOTHING = Page('t', '', '', '', (), {}, {}, (), '', ())


def test_it_is_whole_and_asks_for_nothing():
  text = document(PAGE)
  page = Read(text)
  headings = [int(name[1]) for name in page.starts if re.fullmatch('h[1-6]', name)]
  assert headings.count(1) == 1 and all(b - a <= 1 for a, b in zip([0, *headings], headings, strict=False))
  assert text.startswith('<!doctype html>') and page.attributes('html') == [{'lang': 'en'}]
  assert page.attributes('meta')[0] == {'charset': 'utf-8'}
  assert {'name': 'viewport', 'content': 'width=device-width, initial-scale=1'} in page.attributes('meta')
  policy = {'http-equiv': 'Content-Security-Policy'}
  assert any(
    policy.items() <= each.items() and each['content'].startswith("default-src 'none';")
    for each in page.attributes('meta')
  )
  assert set(page.starts) <= set(ELEMENTS.split())
  names = {name for _, attributes, _ in page.found for name in attributes}
  assert names <= {
    'lang',
    'charset',
    'http-equiv',
    'content',
    'name',
    'class',
    'role',
    'tabindex',
    'aria-label',
    'scope',
    'src',
    'alt',
  }
  assert all(each['src'].startswith('data:image/png;base64,') and each['alt'] for each in page.attributes('img'))
  assert all(each.get('scope') in ('col', 'row') for each in page.attributes('th'))
  assert page.starts.count('caption') == page.starts.count('table') == 5
  assert 'url(' not in text and '@import' not in text


def test_whatever_is_foreign_is_text():
  text = document(PAGE)
  assert '<script' not in text and EVIL not in text
  page = Read(text)
  for tag in ('h1', 'title', 'p', 'td', 'th', 'figcaption', 'h3', 'code'):
    assert any(EVIL in each for each in page.texts(tag)), tag
  assert page.attributes('img')[0]['alt'] == f'{EVIL}: {EVIL}'
  assert r'a\u202eb\n' in document(NOTHING._replace(summary='a\u202eb\n'))


def test_tables_come_as_the_program_formats_them():
  page = Read(document(PAGE))
  assert page.cells()[: 3 * len(HEAD)] == [
    *HEAD,
    EVIL,
    '1.50',
    *['92.24 ± 0.94'] * 13,
    'b' * 60,
    *['-0.83 … +1.07'] * 14,
  ]
  assert page.texts('strong') == ['1.50']
  assert page.texts('caption')[:2] == [f'Table 1: distill on {EVIL}, 2 rows', f'Table 2: distill on {EVIL}, 1 row']


def test_options_that_differ_come_first():
  text = document(PAGE)
  assert text.index('--digest') < text.index('<details>') < text.index('--seeds') < text.index('--width')
  assert 'All options have the defaults' in document(PAGE._replace(config={'seeds': 3}))


def test_a_page_of_nothing_is_whole_too():
  assert Read(document(NOTHING)).texts('h2') == ['Results', 'Options', 'Environment', 'Going on']


@pytest.mark.parametrize(
  'seconds, said', [(8.84, '8.8 s'), (139.8, '2 min 20 s'), (7433.1, '2 h 3 min'), (3600, '1 h 0 min')]
)
def test_times_are_said_as_a_person_does(seconds, said):
  assert lasting(seconds) == said


CHROMIUM = shutil.which('chromium') or shutil.which('chromium-browser') or shutil.which('google-chrome')
browser = pytest.mark.skipif(not CHROMIUM and os.environ.get('CI') != 'true', reason='no chromium is installed')


def opened(folder, *arguments):
  """Opens a file in a browser without a window; returns what it prints, and its log."""
  assert CHROMIUM, 'install chromium'
  flags = [
    '--headless=new',
    '--no-sandbox',
    '--disable-gpu',
    '--enable-logging=stderr',
    f'--user-data-dir={folder}/profile',
  ]
  done = subprocess.run([CHROMIUM, *flags, *arguments], capture_output=True, text=True, timeout=60, check=True)
  return done.stdout, done.stderr


FRAME = """<!doctype html><body><iframe width="{}" height="800" srcdoc="{}" onload="
  const page = this.contentDocument, box = page.querySelector('.box'), first = box.querySelector('tbody th');
  const before = first.getBoundingClientRect().left;
  box.scrollLeft = 200;
  document.title = [page.documentElement.scrollWidth, box.scrollWidth > box.clientWidth, box.scrollLeft,
    first.getBoundingClientRect().left - before, page.images[0].naturalWidth,
    page.defaultView.getComputedStyle(page.body).marginTop].join(' ')"></iframe></body>"""


@browser
def test_in_a_browser_it_fits_the_window_and_breaks_no_rule_of_its_own(tmp_path):
  (tmp_path / 'page.html').write_text(document(PAGE))
  text, log = opened(tmp_path, '--dump-dom', f'file://{tmp_path}/page.html')
  assert 'CONSOLE' not in log
  assert len(re.findall('<table', text)) == 5 and '<script' not in text
  for width in (360, 1280):
    (tmp_path / 'frame.html').write_text(FRAME.format(width, html.escape(document(PAGE))))
    text, log = opened(tmp_path, '--dump-dom', '--virtual-time-budget=2000', f'file://{tmp_path}/frame.html')
    widest, scrolls, at, moved, pixels, margin = re.search('<title>(.*)</title>', text)[1].split()
    assert 'CONSOLE' not in log
    assert int(widest) <= width and scrolls == 'true'
    assert (float(at), abs(float(moved)) < 1, pixels, margin) == (200, True, '1', '0px')


@browser
def test_on_paper_no_table_is_wider_than_a_page(tmp_path):
  """As printed, so laid out in a frame as wide as A4 across without its margins."""
  text = document(PAGE).replace('@media print', '@media all')
  (tmp_path / 'frame.html').write_text(FRAME.format(1032, html.escape(text)))
  found, _ = opened(tmp_path, '--dump-dom', '--virtual-time-budget=2000', f'file://{tmp_path}/frame.html')
  widest, scrolls, *_ = re.search('<title>(.*)</title>', found)[1].split()
  assert int(widest) <= 1032 and scrolls == 'false'
  (tmp_path / 'page.html').write_text(document(PAGE))
  opened(tmp_path, f'--print-to-pdf={tmp_path}/page.pdf', f'file://{tmp_path}/page.html')
  assert (tmp_path / 'page.pdf').read_bytes().startswith(b'%PDF')
