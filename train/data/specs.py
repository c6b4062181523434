"""The one table of image data sets by name, for options and model files."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

_NOTHING: Mapping[Any, Any] = MappingProxyType({})
_MNIST: dict[str, Any] = {'seeds': 5, 'width': (6,), 'epochs': 20, 'batch_size': 128, 'save_every': 5}
_CIFAR: dict[str, Any] = {'seeds': 5, 'epochs': 200, 'save_every': 1}
_DIGITS = tuple('0123456789')
_FASHION = (
  *('T-shirt/top', 'Trouser', 'Pullover', 'Dress', 'Coat'),
  *('Sandal', 'Shirt', 'Sneaker', 'Bag', 'Ankle boot'),
)
_CIFAR10 = 'airplane automobile bird cat deer dog frog horse ship truck'
_CIFAR100 = """
apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can castle
caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin elephant flatfish
forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree motorcycle
mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain plate poppy porcupine
possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper snail snake spider squirrel streetcar
sunflower sweet_pepper table tank telephone television tiger tractor train trout tulip turtle wardrobe whale
willow_tree wolf woman worm
"""


class Spec(NamedTuple):
  """An image data set: its reader, classes, pixels, files, networks and default options."""

  reader: str
  """The module of ``train.data.images`` with ``load(name, folder)``, which gives training and test images."""
  size: Literal['toy', 'gray', 'color']
  """Whose defaults it has in programs that know it by no more."""
  classes: tuple[str, ...]
  """Their names, in the order of their numbers."""
  pixel_mean: tuple[float, ...]
  """By channel, in units of the raw pixels."""
  pixel_std: tuple[float, ...]
  brightest: int = 255
  """The pixel of full brightness, which is 255 in an image file."""
  augment: bool = False
  """Whether images are cropped and flipped in training."""
  validation: float = 0.1
  """The part of the training images that is held out."""
  url: str = ''
  """Where its files are published; none for what comes with a package."""
  files: Mapping[str, str] = _NOTHING
  """Their names, and checksums: MD5 as the publishers give them, or with the kind before it."""
  teacher: tuple[str, tuple[int, ...]] = ('mlp', (256, 256))
  """The network where no teacher is named, and its widths: the paper's, else a perceptron wide beside its students."""
  student: str | Mapping[int, str] = 'mlp'
  """The students' network: of a width, of widths by name, or with {width} in its name."""
  published: Mapping[str, Any] = _NOTHING
  """What differs from the digits' defaults: the paper's numbers for the paper's data."""


def _bytes(*fractions: float) -> tuple[float, ...]:
  return tuple(255 * fraction for fraction in fractions)


SPECS = {
  'digits': Spec('digits', 'toy', _DIGITS, (8.0,), (8.0,), 16, validation=200 / 1297, teacher=('mlp', (64, 64))),
  'mnist': Spec(
    'idx', 'gray', _DIGITS, _bytes(0.1307), _bytes(0.3081), published=_MNIST,
    url='https://ossci-datasets.s3.amazonaws.com/mnist/',
    files={
      'train-images-idx3-ubyte.gz': 'f68b3c2dcbeaaa9fbdd348bbdeb94873',
      'train-labels-idx1-ubyte.gz': 'd53e105ee54ea40749a09fcbcd1e9432',
      't10k-images-idx3-ubyte.gz': '9fb629c4189551a2d022fa330f9573f3',
      't10k-labels-idx1-ubyte.gz': 'ec29112dd5afa0611ce80d1b7f02629c',
    },
  ),
  'fashion-mnist': Spec(
    'idx', 'gray', _FASHION, _bytes(0.2860), _bytes(0.3530), published=_MNIST,
    url='https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/',
    files={
      'train-images-idx3-ubyte.gz': '8d4fb7e6c68d591d4c3dfef9ec88bf0d',
      'train-labels-idx1-ubyte.gz': '25c81989df183df01b3e8a0aad5dffbe',
      't10k-images-idx3-ubyte.gz': 'bef4ecab320f06d8554ea6380940ec79',
      't10k-labels-idx1-ubyte.gz': 'bb300cfdad3c16e7a12a480ee83cd310',
    },
  ),
  'cifar10': Spec(
    'cifar', 'color', tuple(_CIFAR10.split()), _bytes(0.5, 0.5, 0.5), _bytes(0.5, 0.5, 0.5), augment=True,
    url='https://www.cs.toronto.edu/~kriz/', files={'cifar-10-binary.tar.gz': 'c32a1d4ab5d03f1284b67883e8d87530'},
    teacher=('cifar10-teacher', ()),
    student={75: 'cifar10-student-1', 50: 'cifar10-student-2', 25: 'cifar10-student-3'},
    published={'width': (75, 50, 25), 'schedule': 'plateau', 'learning_rate': 0.01, **_CIFAR},
  ),
  'cifar100': Spec(
    'cifar', 'color', tuple(_CIFAR100.split()), _bytes(0.5071, 0.4867, 0.4408), _bytes(0.2675, 0.2565, 0.2761),
    augment=True,
    url='https://www.cs.toronto.edu/~kriz/', files={'cifar-100-binary.tar.gz': '03b5dce01913d631647c71ecec9e9cb8'},
    teacher=('wide-resnet-16-10', ()), student='wide-resnet-10-{width}',
    published={
      'width': (4, 2), 'schedule': 'steps', 'learning_rate': 0.1, 'weight_decay': 5e-4, 'batch_size': 128, **_CIFAR
    },
  ),
}  # fmt: skip

OWN = Spec(
  'own', 'color', (), (), (), teacher=('cnn', ()), student='resnet-8',
  published={'seeds': 5, 'width': (8,), 'batch_size': 128, 'save_every': 5},
)  # fmt: skip
"""A user's own images."""


def spec(name: str) -> Spec:
  """Returns what is known of a data set by its name; a name that nobody knows is that of a user's own."""
  return SPECS.get(name, OWN)


if TYPE_CHECKING:
  DataName = str
else:
  DataName = Literal[tuple(SPECS)]
