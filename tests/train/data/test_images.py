"""Reading and splitting sets of images; every file here is written by the test that reads it."""

import gzip
import hashlib
import tarfile
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from tests import SHARED
from tests.support.images import (
  CIFAR_ARCHIVES,
  CIFAR_FILES,
  cifar_files,
  error_of,
  idx_file,
  mnist_files,
  random_images,
  same,
  tar_gz,
  write,
)
from train.data import Examples, load
from train.data.files import read_bytes
from train.data.images import cifar, idx
from train.data.images.images import stratified_order
from train.data.specs import SPECS
from train.runtime.errors import UserError


class TestIdx:
  @pytest.mark.parametrize('folder', ['', 'mnist'])
  @pytest.mark.parametrize('zipped', [False, True])
  def test_reads_what_was_written(self, tmp_path, mnist, folder, zipped):
    files = mnist_files(*mnist)
    if zipped:
      files = {f'{name}.gz': gzip.compress(body) for name, body in files.items()}
    write(tmp_path / folder, files)
    train, test = idx.load('mnist', tmp_path)
    assert same(train, mnist[0]) and same(test, mnist[1])

  def test_sets_with_the_same_file_names_stay_apart(self, tmp_path, mnist):
    write(tmp_path / 'mnist', mnist_files(*mnist))
    write(tmp_path / 'fashion-mnist', mnist_files(*reversed(mnist)))
    assert same(load('mnist', data_dir=tmp_path).test, mnist[1])
    assert same(load('fashion-mnist', data_dir=tmp_path).test, mnist[0])

  @pytest.mark.parametrize(
    'name, spoil, said',
    [
      pytest.param('train-images-idx3-ubyte', lambda raw: raw[:-1], 'promises', id='one byte short'),
      pytest.param('train-images-idx3-ubyte', lambda raw: raw + b'0', 'promises', id='one byte too many'),
      pytest.param('t10k-images-idx3-ubyte', lambda raw: raw[:9], 'begin', id='cut in the header'),
      pytest.param('t10k-labels-idx1-ubyte', lambda raw: b'\0\0\x0d\1' + raw[4:], 'begin', id='floats'),
      pytest.param('train-labels-idx1-ubyte', lambda raw: raw[:-1] + b'\x0a', 'label 10', id='label out of range'),
      pytest.param('train-labels-idx1-ubyte', lambda raw: idx_file(np.zeros(19)), '19 labels', id='a label missing'),
      pytest.param('t10k-images-idx3-ubyte', lambda raw: idx_file(np.zeros((10, 28, 27))), '28x27', id='image size'),
    ],
  )
  def test_a_spoilt_file_is_named(self, tmp_path, mnist, name, spoil, said):
    files = mnist_files(*mnist)
    write(tmp_path, files | {name: spoil(files[name])})
    message = error_of('mnist', tmp_path)
    assert str(tmp_path / name) in message and said in message

  @pytest.mark.parametrize('name', mnist_files(random_images(1), random_images(1)))
  def test_a_missing_file_is_named(self, tmp_path, mnist, name):
    write(tmp_path, {other: body for other, body in mnist_files(*mnist).items() if other != name})
    assert str(tmp_path / name) in error_of('mnist', tmp_path)

  @pytest.mark.parametrize('spoil', [lambda z: z[:-9], lambda z: b'PK' + z, lambda z: z[:20] + b'\xff' * 30 + z[50:]])
  def test_a_spoilt_gzip_is_named(self, tmp_path, mnist, spoil):
    files = {f'{name}.gz': gzip.compress(body) for name, body in mnist_files(*mnist).items()}
    name = 'train-images-idx3-ubyte.gz'
    write(tmp_path, files | {name: spoil(files[name])})
    assert str(tmp_path / name) in error_of('mnist', tmp_path)

  @pytest.mark.parametrize('zipped', [True, False])
  def test_a_file_larger_than_any_of_its_kind_is_not_read(self, tmp_path, mnist, monkeypatch, zipped):
    monkeypatch.setattr(idx, '_MOST', 5000)
    pack, end = (gzip.compress, '.gz') if zipped else (bytes, '')
    write(tmp_path, {f'{name}{end}': pack(body + bytes(5000)) for name, body in mnist_files(*mnist).items()})
    with pytest.raises(UserError, match=f'train-images-idx3-ubyte{end}: holds more than 5,000 bytes'):
      load('mnist', data_dir=tmp_path)

  def test_reading_takes_room_for_what_is_there_alone(self, tmp_path):
    (tmp_path / 'a').write_bytes(b'few')
    tracemalloc.start()
    assert read_bytes(tmp_path / 'a') == b'few'
    assert tracemalloc.get_traced_memory()[1] < 2**22
    tracemalloc.stop()

  def test_no_images_at_all(self, tmp_path, mnist):
    write(tmp_path, mnist_files(mnist[0], mnist[1].take(np.arange(0))))
    assert 't10k-labels-idx1-ubyte: holds no images' in error_of('mnist', tmp_path)


class TestCifar:
  @pytest.mark.parametrize('packed', [False, True])
  def test_reads_what_was_written(self, tmp_path, cifar_parts, packed):
    name, parts = cifar_parts
    files = cifar_files(name, parts)
    write(tmp_path, {CIFAR_ARCHIVES[name]: tar_gz(files | {'readme.html': b'?'})} if packed else files)
    train, test = cifar.load(name, tmp_path)
    assert same(train, Examples(*(np.concatenate(arrays) for arrays in zip(*parts[:-1], strict=True))))
    assert same(test, parts[-1])

  @pytest.mark.parametrize('packed', [False, True])
  @pytest.mark.parametrize(
    'spoil, said',
    [
      pytest.param(lambda raw: raw[:-1], 'records', id='cut'),
      pytest.param(lambda raw: b'', 'no images', id='empty'),
      pytest.param(lambda raw: b'\xff\xff' + raw[2:], 'label 255', id='label out of range'),
    ],
  )
  def test_a_spoilt_file_is_named(self, tmp_path, cifar_parts, packed, spoil, said):
    name, parts = cifar_parts
    files = cifar_files(name, parts)
    victim = CIFAR_FILES[name][0]
    files[victim] = spoil(files[victim])
    write(tmp_path, {CIFAR_ARCHIVES[name]: tar_gz(files)} if packed else files)
    message = error_of(name, tmp_path)
    assert victim in message and said in message

  @pytest.mark.parametrize('packed', [False, True])
  def test_a_missing_file_is_named(self, tmp_path, cifar_parts, packed):
    name, parts = cifar_parts
    files = cifar_files(name, parts)
    victim = CIFAR_FILES[name][-1]
    del files[victim]
    write(tmp_path, {CIFAR_ARCHIVES[name]: tar_gz(files)} if packed else files)
    assert victim in error_of(name, tmp_path)

  def test_a_spoilt_archive_is_named(self, tmp_path, cifar_parts):
    name, parts = cifar_parts
    whole = tar_gz(cifar_files(name, parts))
    for body in (whole[: len(whole) // 2], gzip.compress(gzip.decompress(whole)[:3000]), b'no archive'):
      write(tmp_path, {CIFAR_ARCHIVES[name]: body})
      assert str(tmp_path / CIFAR_ARCHIVES[name]) in error_of(name, tmp_path)

  @pytest.mark.parametrize('bomb', ['wanted', 'other', 'name', 'claim'])
  def test_an_archive_that_grows_beyond_its_kind_is_not_read(self, tmp_path, monkeypatch, bomb):
    """In a member that is wanted, in one that is not, in the name of one, or by what its header says."""
    monkeypatch.setattr(cifar, '_MOST', 50_000)
    name = CIFAR_FILES['cifar10'][0]
    large = {'wanted': {name: bytes(60_000)}, 'other': {'other': bytes(60_000)}, 'name': {60_000 * 'a': b''}}
    body = tar_gz(large.get(bomb, {}))
    if bomb == 'claim':
      member = tarfile.TarInfo(name)
      member.size = 2**40
      body = gzip.compress(member.tobuf() + bytes(1024))
    write(tmp_path, {CIFAR_ARCHIVES['cifar10']: body})
    said = 'cannot be read' if bomb == 'claim' else 'holds more than 50,000 bytes'
    with pytest.raises(UserError, match=f'{CIFAR_ARCHIVES["cifar10"]}: {said}'):
      load('cifar10', data_dir=tmp_path)

  @pytest.mark.parametrize('member', ['../x.bin', 'cifar-10-batches-bin/../../x.bin', '/x.bin'])
  def test_a_member_that_leads_outside_is_refused(self, tmp_path, member):
    files = cifar_files('cifar10', [random_images(4)] * 6)
    write(tmp_path / 'in', {CIFAR_ARCHIVES['cifar10']: tar_gz(files | {member: b'x'})})
    message = error_of('cifar10', tmp_path / 'in')
    assert CIFAR_ARCHIVES['cifar10'] in message and member in message
    assert [path.name for path in tmp_path.rglob('*')] == ['in', CIFAR_ARCHIVES['cifar10']]

  def test_a_link_is_refused(self, tmp_path):
    files = cifar_files('cifar10', [random_images(4)] * 6)
    link = CIFAR_FILES['cifar10'][0]
    del files[link]
    write(tmp_path, {CIFAR_ARCHIVES['cifar10']: tar_gz(files, links={link: CIFAR_FILES['cifar10'][1]})})
    assert link in error_of('cifar10', tmp_path)

  @pytest.mark.parametrize('pickled', ['cifar-10-batches-py/data_batch_1', 'cifar-10-python.tar.gz'])
  def test_pickles_are_not_read(self, tmp_path, pickled):
    write(tmp_path, {pickled: b'cos\nsystem\n.'})
    message = error_of('cifar10', tmp_path)
    assert str(tmp_path / Path(pickled).parts[0]) in message and CIFAR_ARCHIVES['cifar10'] in message

  def test_an_empty_folder_says_what_it_should_hold(self, tmp_path):
    message = error_of('cifar100', tmp_path)
    assert str(tmp_path) in message and 'cifar-100-binary/' in message


class TestLoad:
  def test_digits(self):
    data = load('digits')
    assert [len(part.labels) for part in (data.train, data.validation, data.test)] == [1097, 200, 500]
    assert data.train.inputs.shape[1:] == (8, 8, 1) and data.train.inputs.max() == 16
    from sklearn.datasets import load_digits

    together = np.concatenate([part.inputs for part in (data.train, data.validation, data.test)]).reshape(1797, 64)
    assert sorted(map(tuple, together)) == sorted(map(tuple, load_digits().data))

  def test_validation_is_a_fixed_stratified_tenth_of_the_training_files(self, tmp_path, cifar_parts):
    name, parts = cifar_parts
    parts = [random_images(200, seed=i) for i in range(len(parts))]
    write(tmp_path, cifar_files(name, parts))
    data, again = load(name, data_dir=tmp_path), load(name, data_dir=tmp_path)
    total = 200 * (len(parts) - 1)
    assert len(data.validation.labels) == total // 10
    assert (np.bincount(data.validation.labels) == total // 100).all()
    assert same(data.train, again.train) and same(data.validation, again.validation) and same(data.test, parts[-1])
    written = {(image.tobytes(), label) for part in parts[:-1] for image, label in zip(*part, strict=True)}
    kept = [
      (image.tobytes(), label) for part in (data.train, data.validation) for image, label in zip(*part, strict=True)
    ]
    assert len(kept) == len(written) == total and set(kept) == written

  def test_fewer_training_images(self, tmp_path):
    write(tmp_path, cifar_files('cifar10', [random_images(100, seed=i) for i in range(6)]))
    data = load('cifar10', data_dir=tmp_path, train_images=200)
    assert [len(part.labels) for part in (data.train, data.validation, data.test)] == [180, 20, 100]
    assert (np.bincount(data.train.labels) == 18).all()

  @pytest.mark.parametrize('count', [-1, 0, 1, 1298])
  def test_too_many_or_too_few_training_images(self, count):
    with pytest.raises(UserError, match=f'{count} training images asked of digits; choose from 2 to 1297'):
      load('digits', train_images=count)

  def test_unknown_name(self):
    assert 'svhn' in error_of('svhn', None) and 'cifar10' in error_of('svhn', None)

  def test_a_path_the_system_refuses(self):
    assert 'x' * 300 in error_of('mnist', Path('x' * 300))

  def test_only_the_cifars_are_augmented_and_the_pixel_units_are_raw(self, tmp_path, mnist, cifar_parts):
    name, parts = cifar_parts
    write(tmp_path, cifar_files(name, parts) | mnist_files(*mnist))
    coloured, grey = load(name, data_dir=tmp_path), load('mnist', data_dir=tmp_path)
    assert coloured.augment and not grey.augment and not load('digits').augment
    assert len(coloured.pixel_mean) == len(coloured.pixel_std) == 3 and len(grey.pixel_mean) == 1
    expected = (127.5,) * 3 if name == 'cifar10' else (129.3105, 124.1085, 112.404)
    assert coloured.pixel_mean == pytest.approx(expected)

  def test_every_beginning_of_the_order_is_stratified(self):
    labels = np.repeat([0, 1, 2], [100, 50, 10])
    order = stratified_order(labels)
    assert sorted(order) == list(range(160))
    for stop in range(1, 161):
      shares = np.bincount(labels[order[:stop]], minlength=3)
      assert (np.abs(shares - stop * np.array([100, 50, 10]) / 160) <= 1).all()

  def test_the_real_fashion_mnist(self):
    if not (SHARED / 'fashion-mnist').is_dir():
      pytest.skip('the published Fashion-MNIST files are not in ../shared/data')
    data = load('fashion-mnist', data_dir=SHARED)
    for part, count in ((data.train, 54_000), (data.validation, 6_000), (data.test, 10_000)):
      assert part.inputs.shape == (count, 28, 28, 1) and (np.bincount(part.labels) == count // 10).all()
    assert data.train.inputs.mean() == pytest.approx(data.pixel_mean[0], rel=2e-3)
    assert data.train.inputs.std() == pytest.approx(data.pixel_std[0], rel=2e-3)
    for name, md5 in SPECS['fashion-mnist'].files.items():
      assert hashlib.md5((SHARED / 'fashion-mnist' / name).read_bytes()).hexdigest() == md5
