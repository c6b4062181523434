"""Downloads: once, checked, and with nothing left where they fail; the server is one of the test itself."""

import gc
import gzip
import hashlib
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pooch
import pytest

from tests.support.images import CIFAR_ARCHIVES, cifar_files, error_of, mnist_files, random_images, same, tar_gz, write
from train.data import load
from train.data.specs import SPECS


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
