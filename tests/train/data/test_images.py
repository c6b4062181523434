"""Reading, splitting, batching and augmenting images; every file here is written by the test that reads it."""

import gc
import gzip
import hashlib
import io
import socket
import tarfile
import threading
import tracemalloc
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pooch
import pytest

from tests import SHARED
from train.data import Examples, load
from train.data.batches import Batches, evaluation_batches, pixels
from train.data.files import read_bytes
from train.data.images import cifar, idx
from train.data.images.augment import crop_and_flip
from train.data.images.images import stratified_order
from train.data.specs import SPECS
from train.runtime.errors import UserError

CIFAR_FILES = {
  'cifar10': [f'cifar-10-batches-bin/{part}.bin' for part in (*(f'data_batch_{i}' for i in range(1, 6)), 'test_batch')],
  'cifar100': ['cifar-100-binary/train.bin', 'cifar-100-binary/test.bin'],
}
CIFAR_ARCHIVES = {'cifar10': 'cifar-10-binary.tar.gz', 'cifar100': 'cifar-100-binary.tar.gz'}


def random_images(n, *, size=32, channels=3, classes=10, seed=0) -> Examples:
  draw = np.random.default_rng(seed)
  pixels = draw.integers(0, 256, (n, size, size, channels), np.uint8)
  return Examples(pixels, (np.arange(n) % classes).astype(np.int32))


def same(a: Examples, b: Examples) -> bool:
  return all(x.dtype == y.dtype and np.array_equal(x, y) for x, y in zip(a, b, strict=True))


def idx_file(array) -> bytes:
  shape = b''.join(n.to_bytes(4, 'big') for n in array.shape)
  return bytes((0, 0, 8, array.ndim)) + shape + array.astype(np.uint8).tobytes()


def mnist_files(train: Examples, test: Examples) -> dict[str, bytes]:
  files = {}
  for part, images in (('train', train), ('t10k', test)):
    files[f'{part}-images-idx3-ubyte'] = idx_file(images.inputs[..., 0])
    files[f'{part}-labels-idx1-ubyte'] = idx_file(images.labels)
  return files


def cifar_file(images: Examples, *, superclass=False) -> bytes:
  records = []
  for image, label in zip(*images, strict=True):
    planes = b''.join(image[:, :, channel].tobytes() for channel in range(3))
    records.append(bytes((19, label) if superclass else (label,)) + planes)
  return b''.join(records)


def cifar_files(name, parts: list[Examples]) -> dict[str, bytes]:
  return {
    file: cifar_file(part, superclass=name == 'cifar100') for file, part in zip(CIFAR_FILES[name], parts, strict=True)
  }


def tar_gz(files: dict[str, bytes], links: dict[str, str] | None = None) -> bytes:
  out = io.BytesIO()
  with tarfile.open(fileobj=out, mode='w:gz') as tar:
    for name, body in files.items():
      member = tarfile.TarInfo(name)
      member.size = len(body)
      tar.addfile(member, io.BytesIO(body))
    for name, target in (links or {}).items():
      member = tarfile.TarInfo(name)
      member.type, member.linkname = tarfile.SYMTYPE, target
      tar.addfile(member)
  return out.getvalue()


def write(folder: Path, files: dict[str, bytes]) -> Path:
  for name, body in files.items():
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(body)
  return folder


@pytest.fixture
def mnist():
  return random_images(20, size=28, channels=1), random_images(10, size=28, channels=1, seed=1)


@pytest.fixture(params=['cifar10', 'cifar100'])
def cifar_parts(request):
  name = request.param
  classes = 10 if name == 'cifar10' else 100
  return name, [random_images(4, seed=i, classes=classes) for i in range(len(CIFAR_FILES[name]))]


def error_of(name, folder) -> str:
  with pytest.raises(UserError) as caught:
    load(name, data_dir=folder)
  assert '\n' not in str(caught.value)
  return str(caught.value)


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


class Server:
  """Serves ``files`` on localhost; a file in ``cut`` ends before its Content-Length."""

  def __init__(self):
    self.files, self.cut, self.asked = {}, set(), []
    outer = self

    class Handler(BaseHTTPRequestHandler):
      def do_GET(self):
        name = self.path.lstrip('/')
        outer.asked.append(name)
        if name not in outer.files:
          return self.send_error(404)
        body = outer.files[name]
        self.send_response(200)
        self.send_header('Content-Length', str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if name in outer.cut else body)

      def log_message(self, format, *args):
        pass

    self.http = ThreadingHTTPServer(('127.0.0.1', 0), Handler)
    self.url = f'http://127.0.0.1:{self.http.server_port}/'


@pytest.fixture
def server(tmp_path, monkeypatch):
  server = Server()
  thread = threading.Thread(target=server.http.serve_forever, kwargs={'poll_interval': 0.01})
  thread.start()
  monkeypatch.setenv('NO_PROXY', '127.0.0.1')
  monkeypatch.setattr(pooch, 'os_cache', lambda project: tmp_path / project)
  yield server
  server.http.shutdown()
  server.http.server_close()
  thread.join()
  gc.collect()  # a socket left open fails the test that left it


def publish(server, monkeypatch, name, files):
  server.files = dict(files)
  known = {file: hashlib.md5(body).hexdigest() for file, body in files.items()}
  monkeypatch.setitem(SPECS, name, SPECS[name]._replace(url=server.url, files=known))


class TestFetch:
  def test_downloads_once(self, server, monkeypatch, tmp_path, mnist):
    files = {f'{name}.gz': gzip.compress(body) for name, body in mnist_files(*mnist).items()}
    publish(server, monkeypatch, 'mnist', files)
    assert same(load('mnist').test, mnist[1]) and same(load('mnist').test, mnist[1])
    assert sorted(server.asked) == sorted(files)
    assert sorted(path.name for path in (tmp_path / 'lmajax' / 'mnist').iterdir()) == sorted(files)

  def test_an_archive(self, server, monkeypatch, cifar_parts):
    name, parts = cifar_parts
    publish(server, monkeypatch, name, {CIFAR_ARCHIVES[name]: tar_gz(cifar_files(name, parts))})
    assert same(load(name).test, parts[-1])

  def test_a_damaged_file_in_the_cache_is_downloaded_again(self, server, monkeypatch, tmp_path):
    parts = [random_images(4)] * 6
    publish(server, monkeypatch, 'cifar10', {CIFAR_ARCHIVES['cifar10']: tar_gz(cifar_files('cifar10', parts))})
    write(tmp_path / 'lmajax' / 'cifar10', {CIFAR_ARCHIVES['cifar10']: b'half'})
    assert same(load('cifar10').test, parts[-1])

  @pytest.mark.parametrize('fault', ['wrong checksum', 'cut connection', 'not found', 'no server'])
  def test_a_failed_download_is_one_line_and_leaves_no_file(self, server, monkeypatch, tmp_path, fault):
    name = CIFAR_ARCHIVES['cifar10']
    publish(server, monkeypatch, 'cifar10', {name: bytes(5000)})
    if fault == 'wrong checksum':
      server.files[name] = bytes(4999) + b'x'
    elif fault == 'cut connection':
      server.cut.add(name)
    elif fault == 'not found':
      server.files = {}
    else:
      with socket.create_server(('127.0.0.1', 0)) as free:
        url = f'http://127.0.0.1:{free.getsockname()[1]}/'
        monkeypatch.setitem(SPECS, 'cifar10', SPECS['cifar10']._replace(url=url))
    message = error_of('cifar10', None)
    assert SPECS['cifar10'].url + name in message and '--data-dir' in message
    assert [path for path in tmp_path.rglob('*') if path.is_file()] == []

  def test_an_unsafe_archive_is_refused(self, server, monkeypatch, tmp_path):
    name = CIFAR_ARCHIVES['cifar10']
    files = cifar_files('cifar10', [random_images(4)] * 6) | {'../../escaped': b'x'}
    publish(server, monkeypatch, 'cifar10', {name: tar_gz(files)})
    assert '../../escaped' in error_of('cifar10', None)
    assert [path.name for path in tmp_path.rglob('*') if path.is_file()] == [name]


def batches(images, *, mean=(100.0, 120.0, 140.0), std=(50.0, 60.0, 70.0), augment=False, **changes):
  options = dict(batch_size=8, seed=3, prepare=pixels(mean, std, augment=augment))
  return Batches(images, **(options | changes))


def data_sharding():
  mesh = jax.make_mesh((8,), ('data',), axis_types=(jax.sharding.AxisType.Auto,))
  return jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec('data'))


def equal(a, b) -> bool:
  return jax.tree.all(jax.tree.map(np.array_equal, a, b))


class TestBatches:
  def test_normalizes_and_keeps_labels_with_their_images(self):
    images = random_images(16)
    batch = batches(images, batch_size=16)[0]
    assert (batch.inputs.dtype, batch.labels.dtype) == (jnp.float32, jnp.int32)
    rows = np.random.default_rng((3, 0)).permutation(16)
    pixels = images.inputs[rows].astype(np.float64)
    np.testing.assert_allclose(batch.inputs, (pixels - [100, 120, 140]) / [50, 60, 70], rtol=1e-6, atol=1e-6)
    assert np.array_equal(batch.labels, images.labels[rows])

  @pytest.mark.parametrize('augment', [False, True])
  def test_a_batch_depends_on_its_step_only(self, augment):
    images = random_images(50)
    one, other = batches(images, augment=augment), batches(images, augment=augment)
    sequential = [one[step] for step in range(58)]
    assert one.steps_per_epoch == 6
    assert equal(other[57], sequential[57]) and equal(other[3], sequential[3]) and equal(one[3], sequential[3])

  def test_an_epoch_takes_no_image_twice_and_epochs_differ(self):
    images = Examples(np.arange(48, dtype=np.uint8).reshape(48, 1, 1, 1), np.arange(48, dtype=np.int32))
    data = batches(images, mean=(0.0,), std=(1.0,))
    epochs = [[int(label) for step in range(6) for label in data[6 * epoch + step].labels] for epoch in range(3)]
    assert all(sorted(epoch) == list(range(48)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2] != epochs[0]

  def test_seeds_differ(self):
    images = random_images(48)
    assert not equal(batches(images)[0].inputs, batches(images, seed=4)[0].inputs)
    alone = random_images(1)
    seeds = [batches(alone, batch_size=1, augment=True, seed=seed)[0].inputs for seed in range(4)]
    assert not all(equal(seeds[0], other) for other in seeds)

  def test_augmentation_differs_from_step_to_step(self):
    data = batches(random_images(1), batch_size=1, augment=True)
    steps = [data[step].inputs for step in range(4)]
    assert not all(equal(steps[0], other) for other in steps)

  def test_augments_before_it_normalizes(self):
    white = Examples(np.full((64, 32, 32, 3), 255, np.uint8), np.zeros(64, np.int32))
    images = np.asarray(batches(white, batch_size=64, augment=True)[0].inputs)
    np.testing.assert_allclose(np.unique(images[..., 0]), [-2.0, 3.1], rtol=1e-6)

  @pytest.mark.parametrize('augment', [False, True])
  def test_sharded_batches_equal_unsharded_ones(self, augment):
    images = random_images(48)
    sharded, alone = batches(images, augment=augment, sharding=data_sharding())[4], batches(images, augment=augment)[4]
    assert equal(sharded, alone)
    for leaf in sharded:
      assert [shard.data.shape[0] for shard in leaf.addressable_shards] == [1] * 8

  @pytest.mark.parametrize('size', [-1, 0, 17])
  def test_batch_size_out_of_range(self, size):
    with pytest.raises(UserError, match=f'batch size {size} with 16 training examples'):
      batches(random_images(16), batch_size=size)

  def test_batch_size_that_does_not_spread(self):
    with pytest.raises(UserError, match='batch size 12 does not spread'):
      batches(random_images(16), batch_size=12, sharding=data_sharding())

  @pytest.mark.parametrize('total, sharded', [(16, False), (19, False), (19, True), (3, True)])
  def test_evaluation_covers_each_image_once_in_order(self, total, sharded):
    images = Examples(np.arange(total, dtype=np.uint8).reshape(total, 1, 1, 1), np.arange(total, dtype=np.int32))
    options = dict(batch_size=8, prepare=pixels((1.0,), (2.0,)), sharding=data_sharding() if sharded else None)
    seen = list(evaluation_batches(images, **options))
    assert len(seen) == -(-total // 8)
    assert all(batch.inputs.shape == (8, 1, 1, 1) and mask.shape == (8,) for batch, mask in seen)
    real = np.concatenate([np.asarray(batch.inputs)[np.asarray(mask)] for batch, mask in seen])
    assert np.array_equal(real.ravel(), (np.arange(total) - 1) / 2)
    assert [int(x) for batch, mask in seen for x in batch.labels[mask]] == list(range(total))
    for leaf in jax.tree.leaves(seen) if sharded else ():
      assert [shard.data.shape[0] for shard in leaf.addressable_shards] == [1] * 8


class TestCropAndFlip:
  def test_every_image_is_a_crop_of_its_padded_self(self, strict_dtypes):
    images = random_images(400, size=8).inputs
    padded = np.pad(images, ((0, 0), (4, 4), (4, 4), (0, 0)))
    found = []
    for image, out in zip(padded, np.asarray(crop_and_flip(jax.random.key(0), jnp.asarray(images))), strict=True):
      crops = {(y, x): image[y : y + 8, x : x + 8] for y in range(9) for x in range(9)}
      matches = [
        (*corner, flip) for corner, crop in crops.items() for flip in (1, -1) if np.array_equal(crop[:, ::flip], out)
      ]
      assert matches
      found += matches
    rows, columns, flips = zip(*found, strict=True)
    assert set(rows) == set(columns) == set(range(9))
    assert 0.4 < np.mean(np.equal(flips, -1)) < 0.6

  def test_jit_equals_eager_and_keeps_shape_and_dtype(self):
    images = jnp.asarray(random_images(5).inputs)
    out = crop_and_flip(jax.random.key(7), images)
    assert (out.shape, out.dtype) == (images.shape, images.dtype)
    assert np.array_equal(out, jax.jit(crop_and_flip)(jax.random.key(7), images))

  def test_without_padding_only_flips(self):
    images = random_images(20).inputs
    out = np.asarray(crop_and_flip(jax.random.key(1), jnp.asarray(images), padding=0))
    assert all(np.array_equal(o, i) or np.array_equal(o, i[:, ::-1]) for o, i in zip(out, images, strict=True))
