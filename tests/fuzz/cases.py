"""What is tried: model files, run folders, images, tables, parallel texts and options, each spoilt a little."""

import csv
import dataclasses
import io
import json
import shutil
import struct
from pathlib import Path

import numpy as np
from hypothesis import strategies as st
from PIL import Image

from lmajax.compress import keep, lamp, multi_hash, pack, sparse, unpack
from tests.support.model_files import QUANTIZED, written
from tests.support.processes import SMALL, train
from train import __main__ as program
from train.config import command as command_of

SCALARS = st.one_of(
  st.none(),
  st.booleans(),
  st.sampled_from([-1, 0, 1, 2, 3, 5, 9, 64, 255, 256, 1000, 2**16, 10**6, 2**31, 2**53, 10**12, 10**30]),
  st.integers(-5, 20),
  st.sampled_from([-0.0, 0.5, 1.0, 1e-30, 1e300, -1e300]),
  st.floats(allow_nan=False, allow_infinity=False),
  st.sampled_from(
    ['', 'a', 'relu', 'lma', 'resnet-20', 'resnet-99998', 'mlp', '../../evil', '/etc/passwd', '\x1b[2J', '\n', 'ß']
  ),
  st.text(max_size=8),
)
VALUES = st.recursive(
  SCALARS,
  lambda part: st.lists(part, max_size=4) | st.dictionaries(st.text(max_size=4), part, max_size=3),
  max_leaves=6,
)


def places(value, at=()):
  """The paths to all parts of a JSON value."""
  yield at
  for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
    yield from places(value[key], (*at, key))


@st.composite
def spoilt(draw, value):
  """A JSON value of which a part or two are other values, or are gone."""
  value = json.loads(json.dumps(value))
  for _ in range(draw(st.integers(1, 2))):
    at = draw(st.sampled_from(list(places(value))))
    if not at:
      value = draw(VALUES)
      continue
    part = value
    for key in at[:-1]:
      part = part[key]
    if draw(st.integers(0, 4)) or isinstance(part, list):
      part[at[-1]] = draw(VALUES)
    else:
      del part[at[-1]]
  return value


@st.composite
def damaged(draw, content):
  """Bytes of which some are others, or the end is gone."""
  content = bytearray(content)
  for _ in range(draw(st.integers(0, 4))):
    if content:
      content[draw(st.integers(0, len(content) - 1))] = draw(st.integers(0, 255))
  if draw(st.integers(0, 3)) == 0:
    content = content[: draw(st.integers(0, len(content)))]
  return bytes(content)


def spoilt_json(draw, path):
  """Writes a JSON file anew: of other values, or of other bytes."""
  if draw(st.integers(0, 3)):
    text = json.dumps(draw(spoilt(json.loads(path.read_text())))).encode()
  else:
    text = draw(damaged(path.read_bytes()))
  path.write_bytes(text)


KINDS = {
  'quantized': QUANTIZED,
  'sparse': sparse(bits=3, start=lambda params: keep(lamp(params), 0.2)),
  'hashed': multi_hash(0.9),
}


class World:
  """A good file of each kind, and a scratch folder for the bad ones."""

  def __init__(self, folder):
    self.scratch = folder / 'scratch'
    self.models = [folder / f'{name}.safetensors' for name in KINDS]
    for path in self.models:
      written(path, weights=KINDS[path.stem])
    self.model = self.models[0]
    self.image = folder / 'image.png'
    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(self.image)
    self.run = folder / 'run'
    done = train('distill', '--workdir', self.run, *SMALL[:4], '--seeds', '1', '--epochs', '1')
    assert done.returncode == 0, done.stderr

  def fresh(self):
    """The scratch folder, empty."""
    shutil.rmtree(self.scratch, ignore_errors=True)
    self.scratch.mkdir()
    return self.scratch


def description(draw, world):
  """A model file whose description says something else, and whose digest fits."""
  packed, stats, about = unpack(draw(st.sampled_from(world.models)).read_bytes())
  path = world.fresh() / 'a.safetensors'
  other = draw(spoilt(about).filter(lambda value: isinstance(value, dict)))
  path.write_bytes(pack(packed, stats, other))
  return draw(
    st.sampled_from([['predict', path, world.image], ['evaluate', path], ['distill', '--teacher-from', path]])
  )


def header(draw, world):
  """A model file with another header over the same bytes."""
  content = draw(st.sampled_from(world.models)).read_bytes()
  size = struct.unpack('<Q', content[:8])[0]
  about = json.loads(content[8 : 8 + size])
  inner = json.loads(about['__metadata__']['lmajax'])
  if draw(st.booleans()):
    about['__metadata__']['lmajax'] = json.dumps(draw(spoilt(inner)))
    text = json.dumps(about).encode()
  else:
    text = json.dumps(draw(spoilt(about))).encode()
  length = draw(st.sampled_from([len(text), len(text), len(text), 0, 1, 2**40, 2**63]))
  path = world.fresh() / 'a.safetensors'
  path.write_bytes(struct.pack('<Q', length) + text + content[8 + size :])
  return ['predict', path, world.image]


def bytes_of_model(draw, world):
  """A model file with other bytes."""
  path = world.fresh() / 'a.safetensors'
  path.write_bytes(draw(damaged(draw(st.sampled_from(world.models)).read_bytes())))
  return ['predict', path, world.image]


def folder(draw, world):
  """A run whose JSON says something else."""
  copy = world.fresh() / 'run'
  shutil.copytree(world.run, copy)
  spoilt_json(draw, copy / draw(st.sampled_from(['config.json', 'results.json', 'environment.json'])))
  commands = [
    ['report', copy], ['evaluate', copy], ['export', copy, '--student', 'lma-8-w3-hard', '--format', 'safetensors'],
    ['distill', '--resume', '--workdir', copy], ['distill', '--teacher-from', copy], ['translate', copy],
  ]  # fmt: skip
  return draw(st.sampled_from(commands))


def image(draw, world):
  """A picture with other bytes."""
  form = draw(st.sampled_from(['png', 'jpeg', 'gif', 'webp', 'bmp', 'tiff', 'ppm', 'ico', 'tga']))
  whole = io.BytesIO()
  mode = draw(st.sampled_from(['L', 'RGB']))
  Image.new(mode, (draw(st.integers(1, 40)), draw(st.integers(1, 40))), 99).save(whole, format=form)
  path = world.fresh() / f'a.{form}'
  path.write_bytes(draw(damaged(whole.getvalue())))
  return ['predict', world.model, path]


WORDS = st.text(st.characters(codec='utf-8'), max_size=12) | st.sampled_from(
  ['', ' ', '"', ',', '\0', '\ufeff', 'a' * 140_000]
)
ENCODINGS = st.sampled_from(['utf-8', 'utf-8', 'utf-8', 'utf-16', 'latin-1'])


def encoded(draw, text):
  """Text as bytes, of which some may be others."""
  content = text.encode(draw(ENCODINGS), errors='replace')
  return draw(damaged(content)) if draw(st.integers(0, 2)) == 0 else content


def table(draw, world):
  """Tables of texts, as people write them."""
  where = world.fresh()
  for part in ('train', 'test'):
    rows = [[str(1 + i % 2), *draw(st.lists(WORDS, min_size=1, max_size=2))] for i in range(draw(st.integers(0, 12)))]
    out = io.StringIO()
    quoting = draw(st.sampled_from([csv.QUOTE_ALL, csv.QUOTE_MINIMAL]))
    csv.writer(out, quoting=quoting).writerows(rows)
    end = draw(st.sampled_from(['', '\n', '\n\n', '"', ',']))
    (where / f'{part}.csv').write_bytes(encoded(draw, out.getvalue() + end))
  return ['lit-text', '--data', 'csv', '--data-dir', where, '--length', '128', '--workdir', where / 'run']


def features(draw, world):
  """A table of features and classes, as people write them."""
  path = world.fresh() / 'a.csv'
  names = draw(st.lists(WORDS, min_size=1, max_size=4))
  field = st.sampled_from(['1', '2.5', '-3e4', '1e400', 'nan', '?', '', 'a', 'b']) | WORDS
  same = draw(st.lists(field, min_size=len(names), max_size=len(names)))
  rows = [names, *draw(st.lists(st.lists(field, min_size=len(names), max_size=len(names)), max_size=8)), *[same] * 40]
  out = io.StringIO()
  csv.writer(out).writerows(rows)
  path.write_bytes(encoded(draw, out.getvalue()))
  target = draw(st.sampled_from([*names, '1', '9']))
  return ['trees', '--data', path, f'--target={target}', '--folds', '2', '--workdir', path.parent / 'run']


def sentences(draw, world):
  """Two texts, line by line each other's translations, or not."""
  where = world.fresh()
  for part in ('train', 'val', 'test'):
    for language in ('de', 'en'):
      lines = draw(st.lists(WORDS, max_size=6))
      (where / f'{part}.{language}').write_bytes(encoded(draw, draw(st.sampled_from(['\n', '\r\n'])).join(lines)))
  options = ['--pieces', '60', '--batch-size', '100', '--max-length', draw(st.sampled_from(['8', '20']))]
  return ['distill-text', '--data', where, *options, '--workdir', where / 'run']


NUMBERS = st.sampled_from(
  ['0', '-1', '1', '2', '3', '7', '64', '1e30', '-0.5', 'nan', 'inf', '1000000000', '10' * 20, '0x10', '٣']
)
WORD = st.sampled_from(
  ['', 'a', 'relu', 'lma', 'None', 'digits', '--', '-', '{}', 'resnet-20', 'resnet-8', 'mlp', 'kd', 'x' * 5000]
)


def options(draw, world):
  """Options of any command, with any values."""
  kinds = [known.options for known in program.PROGRAMS.values()]
  kind = draw(st.sampled_from([*kinds, program.Export, program.Report, program.Evaluate]))
  fields = [
    field.name for field in dataclasses.fields(kind) if field.name not in ('coordinator_address', 'num_processes')
  ]
  given = []
  for name in draw(st.lists(st.sampled_from(fields), max_size=3, unique=True)):
    values = draw(st.lists(NUMBERS | WORD, max_size=2))
    given += [f'--{name.replace("_", "-")}', *values]
  where = [] if '--workdir' in given else ['--workdir', world.fresh() / 'run']
  return [command_of(kind), *given, *(where if issubclass(kind, program.Training) else ())]


CASES = [description, header, bytes_of_model, folder, image, table, features, sentences, options]


def files_of(world):
  """The files that a person would look at: name -> beginning."""
  shown = [
    path for path in sorted(Path(world.scratch).rglob('*')) if path.is_file() and 'checkpoints' not in path.parts
  ]
  return {path.name: path.read_bytes()[:1500] for path in shown}
