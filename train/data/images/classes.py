"""What the classes of the data sets are called, in the order of their numbers, and how bright their pixels get."""

_DIGITS = tuple('0123456789')
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

NAMES: dict[str, tuple[str, ...]] = {
  'digits': _DIGITS,
  'mnist': _DIGITS,
  'fashion-mnist': (
    *('T-shirt/top', 'Trouser', 'Pullover', 'Dress', 'Coat'),
    *('Sandal', 'Shirt', 'Sneaker', 'Bag', 'Ankle boot'),
  ),
  'cifar10': tuple(_CIFAR10.split()),
  'cifar100': tuple(_CIFAR100.split()),
}

BRIGHTEST = {'digits': 16, 'mnist': 255, 'fashion-mnist': 255, 'cifar10': 255, 'cifar100': 255}
"""The pixel of full brightness, which is 255 in an image file."""
