"""What a model says of image files; a changed or foreign file is refused before anything of it is loaded."""

import os
import re
import sys

import numpy as np
import pytest
from PIL import Image

from lmajax.compress import PackedTree, pack, unpack
from lmajax.compress._tensors import Blocks
from tests.support.model_files import cifar10, written
from tests.support.runs import refused
from tests.train.commands.test_export import FORMATS, ONNX
from train.__main__ import main
from train.commands import predict
from train.data import load
from train.data.specs import SPECS
from train.deploy import serve
from train.runtime.errors import UserError


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  folder = tmp_path_factory.mktemp('models')
  written(folder / 'student.safetensors')
  for i, image in enumerate(load('digits').test.inputs[:3]):
    Image.fromarray(np.rint(image[..., 0] * (255 / 16)).astype(np.uint8)).save(folder / f'{i}.png')
  return folder


@pytest.fixture(scope='module')
def model(folder, request):
  """The student in a format, exported where it is another than the packed file's."""
  path = folder / f'student.{request.param}'
  if request.param != 'safetensors':
    assert main(['export', str(folder / 'student.safetensors'), '--format', request.param]) == 0
  return path


every_format = pytest.mark.parametrize('model', FORMATS, indirect=True)


@every_format
def test_says_the_class_and_the_probabilities_of_the_model(capsys, folder, model):
  files = [folder / f'{i}.png' for i in range(3)]
  assert main(['predict', str(model), *map(str, files)]) == 0
  logits = serve.load(folder / 'student.safetensors').logits(load('digits').test.inputs[:3]).astype(np.float64)
  for file, line, row in zip(files, capsys.readouterr().out.splitlines(), logits, strict=True):
    chances = 100 * np.exp(row) / np.exp(row).sum()
    first, *others = (f'{i} {chances[i]:.1f} %' for i in np.argsort(-chances)[:3])
    assert line == f'{file}: {first} ({first}, {", ".join(others)})'


@every_format
def test_a_changed_byte_is_refused(capsys, tmp_path, folder, model):
  spoilt, image = tmp_path / model.name, folder / '0.png'
  parts = [model] if model.suffix == '.safetensors' else [model, serve.digest_path(model)]
  for part in parts:
    for other in parts:
      (tmp_path / other.name).write_bytes(other.read_bytes())
    whole = part.read_bytes()
    for place in np.linspace(0, len(whole) - 1, 60, dtype=int):
      changed = bytearray(whole)
      changed[place] ^= 1 << int(place % 7)
      (tmp_path / part.name).write_bytes(changed)
      assert spoilt.name in refused(capsys, 'predict', spoilt, image)


@every_format
def test_half_a_file_and_a_foreign_one_are_refused(capsys, tmp_path, folder, model):
  path = tmp_path / model.name
  if model.suffix != '.safetensors':
    serve.digest_path(path).write_bytes(serve.digest_path(model).read_bytes())
  for content in (b'', model.read_bytes()[:-1], b'foreign' * 100):
    path.write_bytes(content)
    assert path.name in refused(capsys, 'predict', path, folder / '0.png')


@pytest.mark.parametrize('model', FORMATS[1:], indirect=True)
def test_an_export_without_its_digest_is_refused(capsys, tmp_path, folder, model):
  path = tmp_path / model.name
  path.write_bytes(model.read_bytes())
  assert f'{path.name}.json is missing' in refused(capsys, 'predict', path, folder / '0.png')
  serve.digest_path(path).write_text('[]')
  assert 'do not fit' in refused(capsys, 'predict', path, folder / '0.png')


def test_a_packed_tree_that_is_no_model_is_refused(capsys, tmp_path, folder):
  (tmp_path / 'a.safetensors').write_bytes(pack(PackedTree({}), {}, {'colour': 1}))
  assert 'without the description' in refused(capsys, 'predict', tmp_path / 'a.safetensors', folder / '0.png')


NO_FIT = 'its description does not fit its weights'
FORGED = [
  ({'activation': 'tanh'}, f'{NO_FIT} (KeyError)'),
  ({'network': 'teacher'}, NO_FIT),
  ({'width': [6]}, NO_FIT),
  ({'width': [3, 3]}, NO_FIT),
  ({'network': 'resnet-920'}, f'{NO_FIT} (920 layers of'),
  ({'classes': ['a', 'b']}, NO_FIT),
  ({'width': [10**12]}, 'its description: width[0]: expected `int` <= 1000000000'),
  ({'width': ['5']}, 'its description: width[0]: expected `int`, got `str`'),
  ({'image_shape': [8]}, 'its description: image_shape: expected `array` of length >= 3'),
  ({'image_shape': [200_000, 200_000, 1]}, 'has 40,000,000,000 pixels, more than 4,194,304'),
  ({'network': 'resnet-60002'}, 'has 60,002 layers, more than 1,000'),
  ({'classes': 10}, 'its description: classes: expected `array`, got `int`'),
  ({'classes': []}, 'its description: classes: expected `array` of length >= 1'),
  ({'segments': True}, 'its description: segments: expected `int | null`, got `bool`'),
  ({'segments': 10**9}, 'its description: segments: expected `int` <= 4096'),
  ({'dtype': 'object'}, "its description: dtype: invalid enum value 'object'"),
  ({'pixel_mean': [1e300]}, 'its description: pixel_mean[0]: expected `float` <= 1000000000.0'),
]


@pytest.mark.parametrize('changes, said', FORGED, ids=[str(changes) for changes, _ in FORGED])
def test_a_description_of_another_network_is_refused(capsys, tmp_path, folder, changes, said):
  packed, stats, config = unpack((folder / 'student.safetensors').read_bytes())
  path = tmp_path / 'a.safetensors'
  path.write_bytes(pack(packed, stats, {**config, **changes}))
  assert said in refused(capsys, 'predict', path, folder / '0.png')


@pytest.mark.parametrize('form', FORMATS[1:])
@pytest.mark.parametrize(
  'changes, said', [({'image_shape': [9999, 9999, 9]}, 'pixels'), ({'classes': [3]}, 'classes[0]')]
)
def test_a_forged_description_beside_an_export_is_refused(capsys, tmp_path, folder, form, changes, said):
  _, _, config = unpack((folder / 'student.safetensors').read_bytes())
  path = tmp_path / f'a.{form}'
  path.write_bytes(b'program')
  serve.write_digest(path, {**config, **changes})
  assert said in refused(capsys, 'predict', path, folder / '0.png')


@pytest.mark.parametrize('form', FORMATS[1:])
def test_garbage_under_a_fitting_digest_is_refused(capsys, tmp_path, folder, form):
  _, _, config = unpack((folder / 'student.safetensors').read_bytes())
  path, draw = tmp_path / f'a.{form}', np.random.default_rng(2)
  for content in (b'', b'program', draw.bytes(50), draw.bytes(5000), bytes(400), b'\xff' * 99):
    path.write_bytes(content)
    serve.write_digest(path, config)
    assert f'{path} cannot be loaded by' in refused(capsys, 'predict', path, folder / '0.png')


@pytest.mark.parametrize('model', FORMATS[1:], indirect=True)
def test_answers_for_other_classes_than_are_named_are_refused(capsys, tmp_path, folder, model):
  path = tmp_path / model.name
  path.write_bytes(model.read_bytes())
  about = serve.load(model).description
  serve.write_digest(path, {**about, 'classes': about['classes'][:4]})
  assert 'has 4 classes by what it says' in refused(capsys, 'predict', path, folder / '0.png')


def test_names_cannot_command_the_terminal(capsys, tmp_path, folder):
  packed, stats, config = unpack((folder / 'student.safetensors').read_bytes())
  path = tmp_path / 'a.safetensors'
  path.write_bytes(pack(packed, stats, {**config, 'classes': [f'\x1b[2J{i}\n' for i in range(10)]}))
  assert main(['predict', str(path), str(folder / '0.png')]) == 0
  (line,) = capsys.readouterr().out.splitlines()
  assert r': \x1b[2J' in line and line.isprintable()


def test_a_person_can_raise_a_limit(capsys, folder):
  files = [folder / 'student.safetensors', folder / '0.png']
  line = refused(capsys, 'predict', *files, '--limits.parameters', '300')
  assert line.endswith('more than 300: if you trust it, raise the limit where the command has --limits.parameters')
  assert main(['predict', *map(str, files), '--limits.parameters', '3000']) == 0


def test_a_small_file_of_enormous_weights_is_refused_before_they_are_decoded(capsys, tmp_path, folder):
  packed, stats, config = unpack((folder / 'student.safetensors').read_bytes())
  row = np.zeros((1, 10**6), np.float32)
  packed.tensors['logits']['kernel'] = Blocks(np.zeros(10**5, np.uint8), row, (10**6, 8 * 10**5), 1)  # 3 TB
  path = tmp_path / 'a.safetensors'
  path.write_bytes(pack(packed, stats, config))
  assert 'has 800,000,000,' in refused(capsys, 'predict', path, folder / '0.png')


def test_a_digest_that_describes_no_model_is_refused(capsys, tmp_path, folder):
  path = tmp_path / 'a.stablehlo'
  path.write_bytes(b'program')
  serve.write_digest(path, {'colour': 1})
  assert 'without the description' in refused(capsys, 'predict', path, folder / '0.png')


def test_what_is_missing_is_named(capsys, tmp_path, folder):
  model = folder / 'student.safetensors'
  assert str(tmp_path / 'a.png') in refused(capsys, 'predict', model, tmp_path / 'a.png')
  assert str(tmp_path / 'a.onnx') in refused(capsys, 'predict', tmp_path / 'a.onnx', folder / '0.png')
  assert 'is no model file' in refused(capsys, 'predict', folder / '0.png', folder / '0.png')
  assert 'at least one image' in refused(capsys, 'predict', model)
  assert str(tmp_path) in refused(capsys, 'predict', model, tmp_path)


@pytest.mark.parametrize('model', [ONNX], indirect=True)
def test_without_onnxruntime_the_extra_is_named(capsys, folder, model, monkeypatch):
  monkeypatch.setitem(sys.modules, 'onnxruntime', None)
  assert 'lmajax[onnx]' in refused(capsys, 'predict', model, folder / '0.png')


def test_a_file_that_is_no_image_is_named(capsys, tmp_path, folder):
  whole = (folder / '0.png').read_bytes()
  for content in (b'', b'text', whole[:40], whole[:-30]):
    (tmp_path / 'a.png').write_bytes(content)
    assert str(tmp_path / 'a.png') in refused(capsys, 'predict', folder / 'student.safetensors', tmp_path / 'a.png')


@pytest.mark.parametrize('mode', ['L', 'RGB', 'RGBA', 'P', '1'])
def test_other_kinds_of_images_are_converted(capsys, tmp_path, folder, mode):
  image = Image.open(folder / '0.png').point(lambda value: 255 * (value > 127))
  for name, kind in (('a.png', image), ('b.png', image.convert(mode))):
    kind.save(tmp_path / name)
    assert main(['predict', str(folder / 'student.safetensors'), str(tmp_path / name)]) == 0
  first, second = capsys.readouterr().out.splitlines()
  assert first.partition(': ')[2] == second.partition(': ')[2]


def test_an_image_of_another_size_is_resized_with_a_note(capsys, tmp_path, folder):
  Image.open(folder / '0.png').resize((16, 24), Image.Resampling.NEAREST).save(tmp_path / 'a.png')
  assert main(['predict', str(folder / 'student.safetensors'), str(tmp_path / 'a.png')]) == 0
  assert 'resized from 16 x 24 to 8 x 8' in capsys.readouterr().err


def test_colours_reach_a_model_of_colours(capsys, tmp_path):
  data_dir = cifar10(tmp_path)
  written(tmp_path / 'a.safetensors', data='cifar10', data_dir=data_dir, width=25)
  for i, image in enumerate(load('cifar10', data_dir=data_dir).test.inputs[:2]):
    Image.fromarray(image).save(tmp_path / f'{i}.png')
  assert main(['predict', str(tmp_path / 'a.safetensors'), str(tmp_path / '0.png'), str(tmp_path / '1.png')]) == 0
  lines = capsys.readouterr().out.splitlines()
  best = serve.load(tmp_path / 'a.safetensors').logits(load('cifar10', data_dir=data_dir).test.inputs[:2]).argmax(-1)
  for line, number in zip(lines, best, strict=True):
    assert re.search(r'png: (\w+) ', line)[1] == SPECS['cifar10'].classes[number]


@pytest.mark.parametrize(
  'mode, reason', [('I;16', 'more than 8 bits'), ('LA', 'transparent'), ('F', 'more than 8 bits')]
)
def test_an_image_that_would_be_clipped_or_guessed_at_is_refused(capsys, tmp_path, folder, mode, reason):
  path = tmp_path / ('a.tiff' if mode == 'F' else 'a.png')
  Image.new(mode, (8, 8)).save(path)
  assert re.search(
    f'{re.escape(str(path))}.*{reason}', refused(capsys, 'predict', folder / 'student.safetensors', path)
  )


DIGITS = {'image_shape': [8, 8, 1], 'brightest': 16}


def test_a_picture_stands_as_its_camera_says(tmp_path):
  image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 8)).astype(np.uint8))
  exif = image.getexif()
  exif[0x0112] = 6  # turn by 90 degrees clockwise to show it
  image.save(tmp_path / 'turned.png', exif=exif)
  image.transpose(Image.Transpose.ROTATE_270).save(tmp_path / 'upright.png')
  turned, upright = (predict.pixels(tmp_path / name, DIGITS) for name in ('turned.png', 'upright.png'))
  np.testing.assert_array_equal(turned, upright)


@pytest.mark.parametrize('form', ['gif', 'webp', 'tiff', 'png'])
def test_of_several_frames_none_is_chosen(tmp_path, form):
  frames = [Image.new('L', (8, 8), 40 * i) for i in range(3)]
  path = tmp_path / f'a.{form}'
  frames[0].save(path, save_all=True, append_images=frames[1:])
  with pytest.raises(UserError, match='3 frames: give an image of one'):
    predict.pixels(path, DIGITS)


def test_what_would_be_waited_for_is_refused(tmp_path):
  os.mkfifo(tmp_path / 'a.png')
  with pytest.raises(UserError, match='is no image file'):
    predict.pixels(tmp_path / 'a.png', DIGITS)


def test_more_pixels_than_memory_is_wise_for_are_refused(tmp_path, monkeypatch):
  Image.new('L', (80, 80)).save(tmp_path / 'a.png')
  monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 4000)
  with pytest.raises(UserError, match=re.escape('(6400 pixels) exceeds limit of 4000 pixels')):
    predict.pixels(tmp_path / 'a.png', DIGITS)


@pytest.mark.parametrize(
  'form', ['png', 'jpeg', 'gif', 'webp', 'bmp', 'tiff', 'ppm', 'ico', 'dds', 'tga', 'pcx', 'sgi']
)
def test_a_damaged_picture_is_read_or_refused(tmp_path, form):
  draw, path = np.random.default_rng(1), tmp_path / f'a.{form}'
  Image.fromarray(draw.integers(0, 256, (12, 9, 3)).astype(np.uint8)).save(path)
  whole = path.read_bytes()
  for _ in range(150):
    spoilt = bytearray(whole[: draw.integers(1, len(whole) + 1)] if draw.random() < 0.3 else whole)
    for place in draw.integers(0, min(len(spoilt), draw.choice([60, len(whole)])), draw.integers(1, 5)):
      spoilt[place] = draw.integers(0, 256)
    path.write_bytes(spoilt)
    try:
      assert predict.pixels(path, DIGITS).shape == (8, 8, 1)
    except UserError as error:
      assert str(path) in str(error) and '\n' not in str(error)
