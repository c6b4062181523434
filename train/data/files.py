"""Reads published files into memory: nothing is unpacked to disk, so no member of an archive can land anywhere."""

import csv
import gzip
import io
import tarfile
import zlib
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from train.runtime.errors import UserError

MOST = 2**30
"""How many bytes a file may hold once it is unwrapped, where nothing better is known; a choice."""


def read_bytes(path: Path, most: int = MOST) -> bytes:
  """Reads a file's bytes, unzipped if it is gzipped; refuses a file of more than ``most`` without reading all of it."""
  with naming(path):
    if path.exists() and not path.is_file():
      raise UserError(f'{path}: is no file')
    with gzip.open(path) if path.suffix == '.gz' else path.open('rb') as file:
      content = bytearray()
      while len(content) <= most and (some := file.read(2**20)):  # a read of all at once takes room for the most
        content += some
  if len(content) > most:
    raise UserError(f'{path}: holds more than {most:,} bytes, unwrapped, and no such file should; get the right one')
  return bytes(content)


def read_csv(path: Path, most: int = MOST) -> list[list[str]]:
  """Reads the rows of a CSV file in UTF-8, with or without a byte-order mark, but for the blank lines at its end."""
  try:
    text = read_bytes(path, most).decode('utf-8-sig')
  except UnicodeDecodeError as error:
    raise UserError(f'{path}: byte {error.start} is no UTF-8 text; save the file as UTF-8') from error
  rows: list[list[str]] = []
  csv.field_size_limit(len(text) + 1)  # else 131,072 characters
  try:
    rows.extend(csv.reader(io.StringIO(text, newline=''), strict=True))
  except csv.Error as error:
    raise UserError(
      f'{path}, row {len(rows) + 1}: {error}; quote fields by " and write a quote in them as ""'
    ) from error
  while rows and not rows[-1]:
    rows.pop()
  if not rows:
    raise UserError(f'{path}: holds no rows')
  return rows


def read_tar(path: Path, names: Collection[str], most: int = MOST) -> dict[str, bytes]:
  """Reads the named members of a gzipped tar archive; refuses the whole archive if one member is unsafe."""
  found, content = {}, io.BytesIO(read_bytes(path, most))
  with naming(path), tarfile.open(fileobj=content) as tar:
    for member in tar:
      name = _safe_name(path, member)
      stream = tar.extractfile(member) if name in names else None
      if stream:
        found[name] = stream.read()
  for name in names:
    if name not in found:
      raise UserError(f'{path}: the file {name} is missing in it; get the published archive again')
  return found


@contextmanager
def naming(path: Path) -> Iterator[None]:
  """Turns errors of reading into a UserError of one line that names the path."""
  try:
    yield
  except (OSError, EOFError, zlib.error, tarfile.TarError) as error:
    reason = getattr(error, 'strerror', None) or error
    raise UserError(f'{path}: cannot be read ({reason}); get the published file again') from error


def _safe_name(path: Path, member: tarfile.TarInfo) -> str:
  name = PurePosixPath(member.name)
  if name.is_absolute() or '..' in name.parts or not (member.isfile() or member.isdir()):
    raise UserError(f'{path}: member {member.name!r} is a link or leads outside; get the published archive again')
  return str(name)
