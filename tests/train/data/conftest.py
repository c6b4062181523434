"""Sets of images in their published layouts, drawn at random."""

import pytest

from tests.support.images import CIFAR_FILES, random_images


@pytest.fixture
def mnist():
  return random_images(20, size=28, channels=1), random_images(10, size=28, channels=1, seed=1)


@pytest.fixture(params=['cifar10', 'cifar100'])
def cifar_parts(request):
  name = request.param
  classes = 10 if name == 'cifar10' else 100
  return name, [random_images(4, seed=i, classes=classes) for i in range(len(CIFAR_FILES[name]))]
