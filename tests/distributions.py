"""Judges what a release uploads: ``python -m tests.distributions FOLDER``, after ``python -m build --outdir FOLDER``.

Prints the size of the wheel and of the source distribution and what is wrong with them, which makes the exit code 1.
"""

import fnmatch
import re
import sys
import tarfile
import zipfile
from pathlib import Path

from tests import ROOT

MOST = 2**20  # bytes; with results/ and zoo/ in it the source distribution had 6.8 MB
WHEEL = ('lmajax/*', *(f'*.dist-info/{name}' for name in ('METADATA', 'RECORD', 'WHEEL', 'licenses/LICENSE')))
SDIST = (
  *('lmajax/*', 'CHANGELOG.md', 'CITATION.cff', 'LICENSE', 'README.md'),
  *('PKG-INFO', 'pyproject.toml', '.gitignore'),
)
RELATIVE = re.compile(r'\]\((?!https?:|#)[^)]*\)')


def package():
  """The files of lmajax in the checkout."""
  files = [path for path in (ROOT / 'lmajax').rglob('*') if path.is_file() and '__pycache__' not in path.parts]
  return {path.relative_to(ROOT).as_posix() for path in files}


def faults(names, allowed, description, size):
  """What is wrong with a distribution of these files, with the text that PyPI shows, and of so many bytes."""
  found = [
    f'{name} should not be there' for name in names if not any(fnmatch.fnmatchcase(name, each) for each in allowed)
  ]
  found += [f'{name} is missing' for name in sorted(package() - set(names))]
  if not any(name.endswith('LICENSE') for name in names):
    found.append('LICENSE is missing')
  found += [f'{link} leads nowhere on PyPI' for link in RELATIVE.findall(description)]
  if size > MOST:
    found.append(f'{size:,} bytes, and {MOST:,} are the most')
  return found


def of_wheel(path):
  """The names of a wheel's files, and its metadata, in which the description is."""
  with zipfile.ZipFile(path) as wheel:
    names = wheel.namelist()
    (metadata,) = [name for name in names if name.endswith('.dist-info/METADATA')]
    return names, wheel.read(metadata).decode()


def of_sdist(path):
  """The names of a source distribution's files, below its one folder, and its metadata."""
  with tarfile.open(path) as sdist:
    members = {each.name.partition('/')[2]: each for each in sdist if each.isfile()}
    return list(members), sdist.extractfile(members['PKG-INFO']).read().decode()


if __name__ == '__main__':
  folder, wrong = Path(sys.argv[1]), 0
  for pattern, read, allowed in (('*.whl', of_wheel, WHEEL), ('*.tar.gz', of_sdist, SDIST)):
    (path,) = folder.glob(pattern)
    names, description = read(path)
    found = faults(names, allowed, description, path.stat().st_size)
    print(f'{path.name}: {path.stat().st_size:,} bytes, {len(names)} files', *found, sep='\n  ')
    wrong += len(found)
  sys.exit(bool(wrong))
