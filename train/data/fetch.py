"""Downloads of the published files into the user's cache, for those who have the internet."""

from pathlib import Path
from typing import Any

import pooch

from train.runtime.errors import UserError

BASE_URLS = {
  'mnist': 'https://ossci-datasets.s3.amazonaws.com/mnist/',
  'fashion-mnist': 'https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/',
  'cifar10': 'https://www.cs.toronto.edu/~kriz/',
  'cifar100': 'https://www.cs.toronto.edu/~kriz/',
  'multi30k': 'https://raw.githubusercontent.com/multi30k/dataset/master/data/task1/raw/',
}

# the checksums the publishers give are MD5; multi30k's gives none, so these are of its files, with the kind before them
FILES = {
  'mnist': {
    'train-images-idx3-ubyte.gz': 'f68b3c2dcbeaaa9fbdd348bbdeb94873',
    'train-labels-idx1-ubyte.gz': 'd53e105ee54ea40749a09fcbcd1e9432',
    't10k-images-idx3-ubyte.gz': '9fb629c4189551a2d022fa330f9573f3',
    't10k-labels-idx1-ubyte.gz': 'ec29112dd5afa0611ce80d1b7f02629c',
  },
  'fashion-mnist': {
    'train-images-idx3-ubyte.gz': '8d4fb7e6c68d591d4c3dfef9ec88bf0d',
    'train-labels-idx1-ubyte.gz': '25c81989df183df01b3e8a0aad5dffbe',
    't10k-images-idx3-ubyte.gz': 'bef4ecab320f06d8554ea6380940ec79',
    't10k-labels-idx1-ubyte.gz': 'bb300cfdad3c16e7a12a480ee83cd310',
  },
  'cifar10': {'cifar-10-binary.tar.gz': 'c32a1d4ab5d03f1284b67883e8d87530'},
  'cifar100': {'cifar-100-binary.tar.gz': '03b5dce01913d631647c71ecec9e9cb8'},
  'multi30k': {
    'train.de.gz': 'sha256:726e39b2fa9eb9ffb6dc763fb35a179f80fae06ffc5d28b6ace5faa883de28a6',
    'train.en.gz': 'sha256:d79cfa999dd4c51d2cb42499b6796d5a882c3a8a961923c25a898c90f8bbd56f',
    'val.de.gz': 'sha256:f0cba2f995189cf5770f29a8a9a537a3ad3f51657ad873405082ff6863a5e75a',
    'val.en.gz': 'sha256:14f7d25ddd868909a9213e361768460edcacdd6ab9d1e77b92560dc10c10dc28',
    'test_2016_flickr.de.gz': 'sha256:9204244e408ccb38d2a55cfcd344df15005fc42a07a6e55ca6c52b6ababb8cc8',
    'test_2016_flickr.en.gz': 'sha256:611d361c6334bc7246101d48097c13cf5c4413c5befc793cc629934359d532d9',
  },
}


def fetch(name: str) -> Path:
  """The folder with the files of a set; what is not there yet, or is damaged, is downloaded."""
  folder = Path(pooch.os_cache('lmajax')) / name
  for file, checksum in FILES[name].items():
    _retrieve(BASE_URLS[name] + file, folder / file, checksum)
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
