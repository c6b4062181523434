"""Builds the documentation: ``sphinx-build -W docs docs/_build/html``; it needs no network."""

import sys
from pathlib import Path

DOCS = Path(__file__).parent
sys.path.insert(0, str(DOCS.parent))
sys.path.insert(0, str(DOCS))

import made  # noqa: E402

import lmajax  # noqa: E402

project = 'lmajax'
author = 'The lmajax authors'
copyright = author
version = release = lmajax.__version__

extensions = [
  'myst_nb',
  'sphinx.ext.autodoc',
  'sphinx.ext.napoleon',
  'sphinx.ext.viewcode',
  'sphinx-mathjax-offline',
]
exclude_patterns = ['_build']
suppress_warnings = ['mystnb.unknown_mime_type']

smartquotes = False  # options begin with two hyphens

html_theme = 'sphinx_book_theme'
html_title = 'lmajax'
html_theme_options = {
  'repository_url': 'https://github.com/lmajax/lmajax',
  'path_to_docs': 'docs',
  'use_repository_button': True,
  'use_edit_page_button': True,
  'show_toc_level': 2,
}
html_static_path = ['static']
html_css_files = ['lmajax.css']

myst_enable_extensions = ['deflist', 'dollarmath']
myst_heading_anchors = 3
nb_execution_mode = 'off'  # the tests run the notebooks

autodoc_default_options = {'members': True, 'special-members': '__call__'}
autodoc_member_order = 'bysource'
maximum_signature_line_length = 70
add_module_names = False  # the page's title says it
napoleon_numpy_docstring = False
napoleon_use_ivar = True  # fields as a list, not as members


def setup(app):
  """Makes what is not written by hand, and shows signatures as their source has them."""
  made.pages(DOCS)
  app.connect('source-read', made.links)
  app.connect('autodoc-process-signature', made.signature)
  app.connect('autodoc-skip-member', made.skipped)
