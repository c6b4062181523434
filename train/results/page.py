"""Builds the start page of a finished run: one HTML file that asks for nothing outside of itself."""

import base64
import html
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from train.results.statistics import cells
from train.runtime.options import option, text
from train.runtime.outside import printable

_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
_VOID = ('img', 'meta')


class Picture(NamedTuple):
  """A PNG, the name of its file, and what it shows."""

  name: str
  shows: str
  content: bytes


class Page(NamedTuple):
  """What a start page says, as plain text; ``document`` makes HTML of it."""

  title: str
  date: str
  summary: str
  tables: str  # Markdown, as a program's table module formats it
  pictures: Sequence[Picture]
  config: Mapping[str, Any]
  defaults: Mapping[str, Any]
  environments: Sequence[Any]
  lasted: str
  commands: Sequence[tuple[str, str]]  # what for, and the command line


class Markup(str):
  """Text that is HTML already; ``tag`` escapes every other."""

  __slots__ = ()


def tag(name: str, /, *content: str, **attributes: str) -> Markup:
  """Returns an element; the only place where text becomes HTML, so that nothing gets there without being escaped."""
  given = ''.join(f' {key.rstrip("_").replace("_", "-")}="{_escaped(value)}"' for key, value in attributes.items())
  end = '' if name in _VOID else f'</{name}>'
  return Markup(f'<{name}{given}>{"".join(map(_escaped, content))}{end}')


def _escaped(text: str) -> str:
  return text if isinstance(text, Markup) else html.escape(printable(text))


def lasting(seconds: float) -> str:
  """Formats a time as a person says it."""
  minutes, rest = divmod(round(seconds), 60)
  hours, minutes = divmod(minutes, 60)
  if hours:
    return f'{hours} h {minutes} min'
  return f'{minutes} min {rest} s' if minutes else f'{seconds:.1f} s'


def document(page: Page) -> str:
  """Returns the whole page."""
  head = tag(
    'head',
    tag('meta', charset='utf-8'),
    tag('meta', http_equiv='Content-Security-Policy', content=_POLICY),
    tag('meta', name='viewport', content='width=device-width, initial-scale=1'),
    tag('meta', name='color-scheme', content='light dark'),
    tag('title', f'{page.title}, {page.date}'),
    tag('style', Markup(_STYLE)),
  )
  parts = (_results, _pictures, _options, _environments, _commands)
  sections = (tag('section', *section) for part in parts if (section := part(page)))
  first = tag('header', tag('h1', page.title), tag('p', f'Results of {page.date}', class_='date'))
  body = tag('body', tag('main', first, tag('p', page.summary), *sections))
  return f'<!doctype html>\n{tag("html", head, body, lang="en")}\n'


def _results(page: Page) -> list[Markup]:
  blocks = page.tables.split('\n\n')
  number, several = 0, sum(map(_is_table, blocks)) > 1
  found = [tag('h2', 'Results')]
  for block in filter(None, blocks):
    if _is_table(block):
      number += 1
      head, _, *lines = map(cells, block.split('\n'))
      name = f'Table {number}' if several else 'Table'
      found.append(_table(f'{name}: {page.title}, {_counted(len(lines), "row")}', head, lines))
    else:
      found.append(tag('p', block))
  if '±' in page.tables or '95 %' in page.tables:
    over = 'seeds' if 'seeds' in page.config else 'test parts'
    found.append(tag('p', f'{_READING}, both over the {over}.', class_='note'))
  return found


_READING = (
  '± is the standard deviation, and a 95 % interval that of the mean of the paired differences beside it, by Student’s'
  ' t'
)


def _is_table(block: str) -> bool:
  return block.startswith('| ')


def _counted(number: int, noun: str) -> str:
  return f'{number} {noun}{"" if number == 1 else "s"}'


def _table(caption: str, head: Sequence[str], lines: Sequence[Sequence[str]], kind: str = 'figures') -> Markup:
  """A table in a box of its own that scrolls, by keys too, where the window is narrower."""
  top = tag('tr', *(tag('th', name, scope='col') for name in head))
  rows = (
    tag('tr', tag('th', _cell(name), scope='row'), *(tag('td', _cell(each)) for each in line)) for name, *line in lines
  )
  whole = tag('table', tag('caption', caption), tag('thead', top), tag('tbody', *rows))
  return tag('div', whole, class_=f'box {kind}', role='region', tabindex='0', aria_label=caption)


def _cell(text: str) -> str:
  bold = len(text) > 4 and text.startswith('**') and text.endswith('**')
  return tag('strong', text[2:-2]) if bold else text


def _pictures(page: Page) -> list[Markup]:
  found = [tag('h2', 'Pictures')]
  for picture in page.pictures:
    url = f'data:image/png;base64,{base64.b64encode(picture.content).decode()}'
    image = tag('img', src=url, alt=f'{picture.name}: {picture.shows}')
    found.append(tag('figure', image, tag('figcaption', f'{picture.shows} ({picture.name})')))
  return found if page.pictures else []


def _options(page: Page) -> list[Markup]:
  given, known = ({name: said(value) for name, value in each.items()} for each in (page.config, page.defaults))
  lines = [(f'--{option(name)}', own, known.get(name, said(None))) for name, own in given.items()]
  differ, rest = [line for line in lines if line[1] != line[2]], [line[:2] for line in lines if line[1] == line[2]]
  found = [tag('h2', 'Options'), tag('p', 'All options have the defaults of these data.')]
  if differ:
    found[1] = _table(
      'Options that differ from the defaults of these data', ('option', 'here', 'default'), differ, 'text'
    )
  if rest:
    table = _table('Options with the defaults of these data', ('option', 'value'), rest, 'text')
    found.append(tag('details', tag('summary', f'{_counted(len(rest), "option")} by default'), table))
  return found


def said(value: Any) -> str:
  """Formats an option's value as the command line takes it; ``none`` where there is none."""
  return 'none' if value is None else text(value) or 'none'


def _environments(page: Page) -> list[Markup]:
  found = [tag('h2', 'Environment'), tag('p', f'Training took {page.lasted}.')]
  known = [each if isinstance(each, dict) else {'environment': each} for each in page.environments]
  names = list(dict.fromkeys(name for each in known for name in each))
  if names:
    machines = [f'machine {number}' for number in range(1, len(known) + 1)] if len(known) > 1 else ['here']
    lines = [(str(name), *(said(each.get(name)) for each in known)) for name in names]
    found.append(_table('Versions and machines', ('name', *machines), lines, 'text'))
  return found


def _commands(page: Page) -> list[Markup]:
  found = [tag('h2', 'Going on'), tag('p', 'In a checkout of lmajax, with words in capitals replaced:')]
  for what, command in page.commands:
    found += [tag('h3', what), tag('pre', tag('code', command), tabindex='0')]
  return found


_STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --soft: #57606a; --paper: #fff; --shade: #f3f5f7; --line: #d0d7de; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e9ed; --soft: #a3adb8; --paper: #14171a; --shade: #20252a; --line: #3b434b; }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 1rem/1.5 system-ui, sans-serif; }
main { max-width: 90rem; margin: auto; padding: 1rem; overflow-wrap: break-word; }
h1, h2, h3 { line-height: 1.2; margin: 2rem 0 .5rem; }
h1 { margin: 0; font-size: 1.75rem; }
h2 { padding-top: 1rem; border-top: 1px solid var(--line); font-size: 1.25rem; }
h3 { margin-top: 1rem; font-size: 1rem; font-weight: 600; }
p { max-width: 44rem; margin: .5rem 0; }
.date, .note, caption, figcaption { color: var(--soft); font-size: .875rem; }
.date { margin: 0 0 1rem; }
.box { overflow-x: auto; margin: 1rem 0; border: 1px solid var(--line); border-radius: 6px; }
table { width: 100%; border-collapse: collapse; font-size: .875rem; font-variant-numeric: tabular-nums; }
caption { padding: .4rem .55rem; text-align: left; }
th, td { padding: .3rem .55rem; border-top: 1px solid var(--line); text-align: right; white-space: nowrap; }
th { font-weight: 600; background: var(--paper); }
thead th { background: var(--shade); vertical-align: bottom; }
th:first-child { position: sticky; left: 0; text-align: left; }
@media (max-width: 48rem) { th:first-child { min-width: 8rem; max-width: 9rem; white-space: normal; } }
tbody tr:hover > * { background: var(--shade); }
.text :is(th, td) { text-align: left; }
.text { width: fit-content; min-width: min(16rem, 100%); max-width: 100%; }
.text td { min-width: 6rem; max-width: 40rem; white-space: normal; overflow-wrap: anywhere; }
figure { margin: 1.5rem 0; }
img { display: block; max-width: 100%; height: auto; padding: .5rem; border-radius: 6px; background: #fff; }
figcaption { padding-top: .25rem; }
summary { padding: .25rem 0; cursor: pointer; }
pre { overflow-x: auto; margin: .25rem 0; padding: .5rem .75rem; border-radius: 6px; background: var(--shade); }
code { font: .875rem/1.5 ui-monospace, monospace; }
:focus-visible { outline: 2px solid #2f81f7; outline-offset: 2px; }
@page { size: landscape; margin: 12mm; }
@media print {
  :root { --ink: #000; --soft: #333; --paper: #fff; --shade: #eee; --line: #999; color-scheme: light; }
  body { font-size: 10pt; }
  main { max-width: none; padding: 0; }
  .box { overflow: visible; border: 0; }
  table { font-size: 7.5pt; }
  th, td { padding: 1pt 3pt; white-space: normal; }
  th:first-child { position: static; min-width: 6em; max-width: none; white-space: normal; overflow-wrap: anywhere; }
  tr, figure, pre { break-inside: avoid; }
  h2, h3 { break-after: avoid; }
  pre { white-space: pre-wrap; }
  img { max-height: 165mm; padding: 0; }
  details::details-content { display: block; content-visibility: visible; }
}
"""
