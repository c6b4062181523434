"""What the files in zoo/ answer to fixed images; run it to write down the answers of files that have none yet."""

import json

import numpy as np

from tests import ROOT
from train.deploy.serve import load

ZOO = ROOT / 'zoo'
ANSWERS = ZOO / 'answers.json'


def images(shape):
  """Four images of pixels that look drawn by chance and are the same everywhere."""
  numbers = np.arange(4 * np.prod(shape), dtype=np.int64)
  return (numbers * 7919 % 10_007 % 256).astype(np.uint8).reshape(4, *shape)


def answers(path):
  """The logits of a file."""
  served = load(path)
  return served.logits(images(served.description['image_shape']))


if __name__ == '__main__':
  known = json.loads(ANSWERS.read_text()) if ANSWERS.exists() else {}
  for file in sorted(ZOO.glob('*.safetensors')):
    known.setdefault(file.name, np.round(answers(file).astype(float), 4).tolist())
  lines = ',\n'.join(f'  {json.dumps(name)}: {json.dumps(rows)}' for name, rows in known.items())
  ANSWERS.write_text(f'{{\n{lines}\n}}\n')
