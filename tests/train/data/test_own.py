"""A user's own images, from folders of files and from arrays: what is read, and what is refused in one line."""

import zipfile

import numpy as np
import pytest
from PIL import Image

from tests.support.own import drawn, folder_of_images
from train.config import Images
from train.data import load
from train.data.images import own
from train.runtime.errors import UserError


def test_a_folder_is_read_class_by_class_and_a_fifth_held_back(tmp_path):
  found = own.load(folder_of_images(tmp_path / 'animals'), None)
  images, _ = drawn(60)
  assert found.classes == ('cat', 'dog', 'eel') and found.validation is None
  assert found.train.inputs.shape == (48, 8, 8, 1) and found.test.inputs.shape == (12, 8, 8, 1)
  assert np.bincount(found.test.labels).tolist() == [4, 4, 4]
  known = {image.tobytes(): i % 3 for i, image in enumerate(images)}
  assert found.read == 60 and len(set(found.rows.tolist())) == 48
  in_order = [images[images_of] for images_of in by_class(60)]
  assert [image.tobytes() for image in found.train.inputs] == [in_order[row].tobytes() for row in found.rows]
  for part in (found.train, found.test):
    assert [known[image.tobytes()] for image in part.inputs] == part.labels.tolist()
  kept = {image.tobytes() for image in found.train.inputs}
  assert not kept & {image.tobytes() for image in found.test.inputs}


def by_class(count):
  """Numbers of drawn images as their files are read: class after class, by name."""
  return [i for label in range(3) for i in sorted(range(label, count, 3), key=str)]


def test_parts_by_folder_colours_and_sizes(tmp_path):
  folder_of_images(tmp_path / 'train')
  folder_of_images(tmp_path / 'test', 6, size=16)
  folder_of_images(tmp_path / 'validation', 3)
  Image.fromarray(np.full((20, 30, 3), (200, 0, 0), np.uint8)).save(tmp_path / 'train' / 'dog' / 'red.jpg')
  (tmp_path / 'train' / 'dog' / '.hidden').write_text('nothing')
  found = own.load(tmp_path, 12)
  assert [len(part.labels) for part in found[1:4]] == [61, 3, 6]
  assert {part.inputs.shape[1:] for part in found[1:4]} == {(12, 12, 3)}
  gray = found.validation.inputs
  assert np.array_equal(gray[..., 0], gray[..., 1])
  dataset = load('animals', data_dir=tmp_path, image_size=12)
  assert dataset.validation.labels.tolist() == found.validation.labels.tolist() and len(dataset.train.labels) == 61
  pixels = dataset.train.inputs.reshape(-1, 3).astype(np.float64)
  np.testing.assert_allclose(dataset.pixel_mean, pixels.mean(0), rtol=1e-6)
  np.testing.assert_allclose(dataset.pixel_std, pixels.std(0), rtol=1e-6)


def test_arrays_are_read_with_their_names(tmp_path):
  images, labels = drawn(60)
  path = tmp_path / 'animals.npz'
  np.savez(path, train_images=images, train_labels=labels, test_images=images[:6], test_labels=labels[:6])
  dataset = load('animals', data_dir=path)
  assert dataset.num_classes == 3 and dataset.classes == ('0', '1', '2')
  assert len(dataset.train.labels) + len(dataset.validation.labels) == dataset.read == 60
  np.testing.assert_array_equal(dataset.train.inputs[..., 0], images[dataset.rows])
  np.testing.assert_array_equal(dataset.test.inputs[..., 0], images[:6])
  names = np.array(['cat', 'dog', 'eel'])
  np.savez(path, train_images=images, train_labels=labels, classes=names)
  held = load('animals', data_dir=path)
  assert held.classes == tuple(names) and held.read == 60 and len(held.test.labels) == 12
  np.testing.assert_array_equal(held.train.inputs[..., 0], images[held.rows])


def test_a_path_is_the_name_of_the_set_and_its_folder(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  folder_of_images(tmp_path / 'animals', 3)
  folder_of_images(tmp_path / 'digits', 3)
  config = Images(data='animals')
  assert (config.data, config.data_dir) == ('animals', tmp_path / 'animals')
  assert Images(data='digits').data_dir is None
  assert Images(data='./digits').data == 'own-digits'
  assert Images(data='animals', data_dir=tmp_path) == Images(data='animals', data_dir=tmp_path)


IMAGES, LABELS = drawn(9)
WRONG_ARRAYS = {
  'has nothing: give train_images and train_labels': {},
  'has other: give train_images and train_labels': {'other': LABELS},
  r'train_images is float32\[9, 8, 8, 1\]; give uint8': {'train_images': IMAGES.astype(np.float32)},
  r'train_images is uint8\[9, 64\]; give uint8': {'train_images': IMAGES.reshape(9, -1)},
  'train_labels is missing; give a class number': {'train_images': IMAGES},
  r'train_labels is int64\[4\]; give a class number': {'train_images': IMAGES, 'train_labels': LABELS[:4]},
  r'train_labels is int64\[9\]; .* from 0 on': {'train_images': IMAGES, 'train_labels': LABELS - 1},
  'has a label 2, and 2 classes': {'train_images': IMAGES, 'train_labels': LABELS, 'classes': np.array(['a', 'b'])},
  'the images of its parts are of': {
    **{'train_images': IMAGES, 'train_labels': LABELS},
    **{'test_images': IMAGES[:, :4], 'test_labels': LABELS},
  },
  'has no image of class 0 to train on: give some, or leave the class out': {
    **{'train_images': IMAGES, 'train_labels': LABELS + 1, 'test_images': IMAGES, 'test_labels': LABELS},
  },
  r'train_images is uint8\[9, 2, 4, 8\]; give uint8': {
    'train_images': IMAGES.reshape(9, 2, 4, 8),
    'train_labels': LABELS,
  },
  'too few images': {'train_images': IMAGES[:1], 'train_labels': LABELS[:1]},
}


@pytest.mark.parametrize('said', WRONG_ARRAYS)
def test_wrong_arrays_are_named(tmp_path, said):
  np.savez(tmp_path / 'a.npz', **WRONG_ARRAYS[said])
  with pytest.raises(UserError, match=said):
    own.load(tmp_path / 'a.npz', None)


def test_a_file_whose_header_asks_for_all_memory_is_named(tmp_path):
  def header(file):
    np.lib.format.write_array_header_1_0(file, {'descr': '|u1', 'fortran_order': False, 'shape': (2**50, 8, 8)})

  with zipfile.ZipFile(tmp_path / 'a.npz', 'w') as archive, archive.open('train_images.npy', 'w') as file:
    header(file)
  with pytest.raises(UserError, match=r'a\.npz: cannot be read .*; write it by numpy\.savez'):
    own.load(tmp_path / 'a.npz', None)


def test_postscript_by_the_name_of_a_picture_is_no_image(tmp_path):
  folder = folder_of_images(tmp_path / 'animals')
  Image.new('RGB', (8, 8)).save(folder / 'cat' / 'a.eps')
  assert len(own.load(folder, None).train.labels) == 48
  (folder / 'cat' / 'a.eps').rename(folder / 'cat' / 'a.png')
  with pytest.raises(UserError, match=r'a\.png is not an image that can be read'):
    own.load(folder, None)


def test_files_that_are_no_images_are_named(tmp_path):
  with pytest.raises(UserError, match=r'cannot read .*nowhere'):
    own.load(tmp_path / 'nowhere', None)
  (tmp_path / 'empty').mkdir()
  with pytest.raises(UserError, match='has no folders: give one for each class'):
    own.load(tmp_path / 'empty', None)
  (tmp_path / 'empty' / 'cat').mkdir()
  with pytest.raises(UserError, match='there are no images in these folders'):
    own.load(tmp_path / 'empty', None)
  folder = folder_of_images(tmp_path / 'animals')
  (folder / 'cat' / 'a.png').write_text('no image')
  with pytest.raises(UserError, match=r'a\.png is not an image that can be read'):
    own.load(folder, None)
  (folder / 'cat' / 'a.png').unlink()
  (folder / 'cat' / 'Thumbs.db').write_text('no image')
  assert len(own.load(folder, None).train.labels) == 48
  folder_of_images(folder, 3, size=16)
  with pytest.raises(UserError, match=r'has 8 x 8 pixels|has 16 x 16 pixels'):
    own.load(folder, None)
  (tmp_path / 'a.npz').write_bytes(b'PK')
  with pytest.raises(UserError, match=r'a\.npz: cannot be read .*; write it by numpy\.savez'):
    own.load(tmp_path / 'a.npz', None)
  np.savez(tmp_path / 'b.npz', train_images=np.array([{}], object), train_labels=LABELS[:1])
  with pytest.raises(UserError, match=r'b\.npz: cannot be read \(Object arrays'):
    own.load(tmp_path / 'b.npz', None)
  with pytest.raises(UserError, match=r'--image-size is 4: the images of .* have their size'):
    own.load(tmp_path / 'b.npz', 4)


def test_a_class_of_the_test_alone_and_a_flood_of_pixels_are_refused(tmp_path, monkeypatch):
  folder_of_images(tmp_path / 'train')
  folder_of_images(tmp_path / 'test')
  (tmp_path / 'test' / 'emu').mkdir()
  with pytest.raises(UserError, match=r'emu is a class that .*train does not have'):
    own.load(tmp_path, None)
  (tmp_path / 'test' / 'emu').rmdir()
  monkeypatch.setattr(own, '_MOST', 1000)
  with pytest.raises(UserError, match='all images take 7,680 bytes, and 1,000 are the most: give a lower --image-size'):
    own.load(tmp_path, None)


def test_a_name_that_is_nothing_is_refused_with_those_that_are(tmp_path):
  with pytest.raises(
    UserError, match=r'cifra: no such data set; choose one of digits, .*, a folder .*, or a FILE\.npz'
  ):
    load('cifra')
  with pytest.raises(UserError, match='--image-size is 9: the images of digits have their size'):
    load('digits', image_size=9)
