"""A start page as a reader of HTML finds it: elements that end where they should, tables, commands."""

from html.parser import HTMLParser

VOID = {'img', 'meta'}


class Read(HTMLParser):
  """Reads a page, and fails where an element does not end or another one does.

  ``found`` holds each element's name, attributes and text, that of its children included, in the order of their ends.
  """

  def __init__(self, text):
    super().__init__()
    self.open, self.found, self.starts = [], [], []
    self.feed(text)
    self.close()
    assert not self.open, self.open

  def handle_starttag(self, tag, attrs):
    element = [tag, dict(attrs), '']
    assert len(element[1]) == len(attrs), attrs
    self.starts.append(tag)
    (self.found if tag in VOID else self.open).append(element)

  def handle_endtag(self, tag):
    element = self.open.pop()
    assert element[0] == tag, (element, tag)
    self.found.append(element)
    if self.open:
      self.open[-1][2] += element[2]

  def handle_data(self, data):
    if self.open:
      self.open[-1][2] += data

  def texts(self, tag):
    return [text for name, _, text in self.found if name == tag]

  def attributes(self, tag):
    return [attributes for name, attributes, _ in self.found if name == tag]

  def cells(self):
    """The texts of all cells in their order, of heads too."""
    return [text for name, _, text in self.found if name in ('th', 'td')]
