"""The table of networks: which names there are, what each builds, and what is said of others."""

import jax
import jax.numpy as jnp
import pytest

from lmajax import tree
from lmajax.activations.linen import ReLU
from train import networks
from train.runtime.errors import UserError

IMAGE = jnp.zeros((1, 32, 32, 3))
PUBLISHED = {
  'cifar10-teacher': 5_346_142,
  'cifar10-student-1': 1_000_235,
  'cifar10-student-2': 318_415,
  'cifar10-student-3': 111_935,
  'wide-resnet-10-4': 1_223_300 - 90 * 257,  # published for 100 classes
  'vgg-16': 14_728_266,
}
WIDTHS = {
  'mlp': ('units', (256, 256)),
  'cnn': ('channels', (24, 64, 64, 112, 112, 112, 112, 112)),
  'resnet-20': ('channels', (16, 32, 64)),
  'resnext-20': ('channels', (16, 32, 64)),
}


def size(model):
  shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), IMAGE, train=False))
  return tree.size(shapes['params'])


@pytest.mark.parametrize('name', PUBLISHED)
def test_a_name_that_says_all_is_the_published_network(name):
  assert size(networks.build(name, ReLU, num_classes=10)) == PUBLISHED[name]


@pytest.mark.parametrize('name', WIDTHS)
def test_a_name_without_widths_has_those_of_the_table(name):
  attribute, expected = WIDTHS[name]
  assert getattr(networks.build(name, ReLU, num_classes=10), attribute) == expected


def test_every_family_is_tried():
  assert {id(networks.parsed(name)[0]) for name in (*PUBLISHED, *WIDTHS)} == {*map(id, networks.FAMILIES.values())}


def test_widths_and_class_numbers_are_those_that_are_given():
  assert networks.build('mlp', ReLU, num_classes=3, width=(7, 5)).units == (7, 5)
  model = networks.build('cnn', ReLU, num_classes=3, width=(4, 5, 6, 7))
  assert (model.channels, tuple(model.pool_after), model.num_classes) == ((4, 5, 6, 7), (1, 3), 3)
  assert networks.build('resnet-14', ReLU, num_classes=3, width=(4, 5, 6), coupled=True).projected


WRONG = [
  '',
  'res',
  'resnet',
  'resnet-',
  'resnet-20-3',
  'resnet-x',
  'mlp-3',
  'wide-resnet-10',
  'vgg-19',
  'resnet-9999999',
]


@pytest.mark.parametrize('name', WRONG)
def test_another_name_is_answered_with_those_that_there_are(name):
  with pytest.raises(UserError, match=r'--teacher is .*: give one of mlp, cnn, vgg-16, resnet-20, .*cifar10-student-3'):
    networks.tried('teacher', name, lambda: networks.build(name, ReLU, num_classes=10), IMAGE)


CANNOT = [
  ('resnet-9', (), 'depth is 9, and must be 8, 14'),
  ('cifar10-student-4', (), 'there are students 1, 2 and 3'),
  ('cifar10-teacher', (3,), 'its name says how wide it is: leave the width out'),
  ('vgg-16', (3,), 'channels are 1, and must be 13'),
  ('cnn', (2,) * 20, 'it pools these images to nothing'),
]


@pytest.mark.parametrize('name, width, expected', CANNOT, ids=[name for name, _, _ in CANNOT])
def test_what_cannot_be_built_is_named_with_its_option(name, width, expected):
  with pytest.raises(UserError, match=f'--teacher is {name}: {expected}'):
    networks.tried('teacher', name, lambda: networks.build(name, ReLU, num_classes=10, width=width), IMAGE)
