"""Downloads the published files into the user's cache, where there is internet."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pooch

from train.runtime.errors import UserError


def fetch(name: str, url: str, files: Mapping[str, str]) -> Path:
  """Returns the folder with a set's files, their checksums verified; downloads what is missing or damaged."""
  folder = Path(pooch.os_cache('lmajax')) / name
  for file, checksum in files.items():
    _retrieve(url + file, folder / file, checksum)
  return folder


def _retrieve(url: str, path: Path, checksum: str) -> None:
  # a streamed answer that is refused (404) leaves its socket open; Any: pooch's own class misses pooch's protocol
  whole: Any = pooch.HTTPDownloader(stream=False)
  known = checksum if ':' in checksum else f'md5:{checksum}'
  try:
    # pooch writes beside the file and renames when the checksum holds
    pooch.retrieve(url, known_hash=known, fname=path.name, path=path.parent, downloader=whole)
  except (OSError, ValueError) as error:
    reason = ' '.join(str(error).split())
    raise UserError(
      f'{url}: download to {path} failed ({reason}); without internet, put the published file in a folder '
      'and pass it as --data-dir'
    ) from error
