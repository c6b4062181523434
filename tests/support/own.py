"""A user's own images and networks: a folder of PNG files, and a module that Python finds beside it."""

import sys

import numpy as np
from PIL import Image

NETWORKS = '''
import flax.linen as nn


class Net(nn.Module):
  """A network that knows nothing of lmajax but the factory of its activations."""

  act: object
  num_classes: int
  width: int

  @nn.compact
  def __call__(self, x, train):
    x = nn.Conv(self.width, (3, 3), use_bias=False)(x)
    x = nn.BatchNorm(use_running_average=not train)(x)
    x = self.act(name='act_0')(x, train=train)
    return nn.Dense(self.num_classes)(x.mean((1, 2)))


class Plain(nn.Module):
  num_classes: int

  @nn.compact
  def __call__(self, x, train):
    return nn.Dense(self.num_classes)(nn.relu(nn.Dense(3)(x.mean((1, 2)))))


def small(act, num_classes):
  return Net(act, num_classes, 3)


def large(act, num_classes):
  return Net(act, num_classes, 6)


def wide(act, num_classes, width):
  return Net(act, num_classes, width)


def five(act, num_classes):
  return Net(act, 5, 3)


def not_linen(act, num_classes):
  return lambda x: x


def same(act, num_classes):
  return Plain(num_classes)


def broken(act, num_classes):
  raise RuntimeError('out of order')


def without_act(num_classes):
  return Net(None, num_classes, 3)


number = 3
'''


def networks(folder, monkeypatch):
  """Writes ``own_networks.py``, which can be imported until the test ends."""
  (folder / 'own_networks.py').write_text(NETWORKS)
  monkeypatch.syspath_prepend(folder)
  monkeypatch.delitem(sys.modules, 'own_networks', raising=False)


def drawn(count, size=8, seed=0):
  """Images of three classes, bright in their upper, middle or lower part, and their classes."""
  draw = np.random.default_rng(seed)
  labels = np.arange(count) % 3
  images = draw.integers(0, 100, (count, size, size), np.uint8)
  for image, label in zip(images, labels, strict=True):
    image[label * size // 3 : (label + 1) * size // 3] += 150
  return images, labels


def folder_of_images(folder, count=60, size=8):
  """Writes PNG files into a folder of each class."""
  images, labels = drawn(count, size)
  for i, (image, label) in enumerate(zip(images, labels, strict=True)):
    path = folder / ('cat', 'dog', 'eel')[label] / f'{i}.png'
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)
  return folder
