"""Models in three parts, stem, stages and head, that return their output and every tap between the stages."""

from lmajax.models._by_path import ByPath
from lmajax.models._cnn import CNN, cifar10_student, cifar10_teacher, vgg16
from lmajax.models._cost import macs
from lmajax.models._decode import Beams, Marks, beam_search, greedy
from lmajax.models._generator import Discriminator, Generator
from lmajax.models._layers import Sentences
from lmajax.models._mlp import MLP
from lmajax.models._resnet import ResNet, ResNeXt
from lmajax.models._transformer import Memory, Transformer
from lmajax.models._vdcnn import VDCNN
from lmajax.models._wide_resnet import WideResNet

__all__ = [
  'CNN',
  'MLP',
  'VDCNN',
  'Beams',
  'ByPath',
  'Discriminator',
  'Generator',
  'Marks',
  'Memory',
  'ResNeXt',
  'ResNet',
  'Sentences',
  'Transformer',
  'WideResNet',
  'beam_search',
  'cifar10_student',
  'cifar10_teacher',
  'greedy',
  'macs',
  'vgg16',
]
