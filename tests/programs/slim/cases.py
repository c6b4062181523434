"""What slim refuses, and compress with it; where the small run of slim is stopped."""

from tests.support.cases import Case, Stop
from train.programs.slim import plot
from train.programs.slim.config import Slim, check

OUT_OF_REACH = '--rate 0.999: a rate of 0.999 cannot be reached: with the fewest channels it is 0.'
WRONG_SLIMMED = [
  ('--network resnext-29', '--network is resnext-29: give one of mlp, cnn, vgg-16, resnet-20'),
  ('--network resnet', '--network is resnet: give one of mlp, cnn, vgg-16, resnet-20'),
  ('--network vgg-16 --width 4 4', '--network vgg-16 --width 4 4: channels are 2, and must be 13'),
  ('--network vgg-16 --width 2 2 2 2 2 2 2 2 2 2 2 2 2', '--network is vgg-16: it pools these images to nothing'),
  ('--network resnet-8 --width 5 4', '--network resnet-8 --width 5 4: channels are (5, 4), and must not fall'),
  ('--network resnet-9 --width 3 4 5', '--network resnet-9 --width 3 4 5: depth is 9, and must be 8, 14'),
  ('--coupled', '--coupled is True: only a resnet has stages'),
  ('--schedule plateau', '--schedule is plateau'),
  ('--minimum-width 0', '--minimum-width is 0: give 1 or more'),
  ('--multiple 0', '--multiple is 0: give 1 or more'),
  ('--width 8 0', '--width is 0'),
  ('--width', '--width is empty'),
  ('--temperature 0', '--temperature is 0'),
  ('--soft-weight 2', '--soft-weight is 2'),
  ('--seeds 0', '--seeds is 0'),
  ('--rate 0', '--rate is 0.0: give numbers between 0 and 1'),
  ('--rate 1', '--rate is 1.0'),
  ('--rate -0.1', '--rate is -0.1'),
  ('--rate nan', '--rate is nan'),
  ('--width 6 5 --rate .999', OUT_OF_REACH),
  (
    '--network resnet-8 --width 3 4 5 --rate .999 --coupled',
    '--rate 0.999: a rate of 0.999 cannot be reached: with the fewest channels it is 0.',
  ),
]
"""By both: what thin networks cannot be."""

WRONG = [
  ('--rate', '--rate is empty: give at least one'),
  ('--rate .5 1', '--rate is 1.0'),
  ('--rate .5 .5', '--rate is 0.5 0.5: give each once'),
  ('--rules', '--rules is empty'),
  ('--rules pca null pca', '--rules is pca null pca: give each once'),
  ('--starts', '--starts is empty'),
  ('--starts scratch scratch', '--starts is scratch scratch: give each once'),
  ('--scale-penalty -1', '--scale-penalty is -1'),
  ('--scale-penalty inf', '--scale-penalty is inf'),
  ('--teacher-epochs 0', '--teacher-epochs is 0'),
  ('--cached-logits -1', '--cached-logits is -1: give 0 or more'),
  ('--cached-logits 11', '--cached-logits is 11: there are 10 classes; give no more, or 0'),
  ('--cached-logits 5 --starts pruned scratch', '--cached-logits is 5: it goes with --starts distilled'),
]

SHORT = [
  *('--seeds', '2', '--train-images', '400', '--batch-size', '64', '--segments', '4', '--save-every', '1'),
  *('--activations', 'lma', '--epochs', '2'),
]
SMALL = [*SHORT, '--width', '6', '5', '7', '--rate', '0.3', '--rules', 'pca', 'norm-scale']
STEPS_AN_EPOCH = 5
STOPS = [Stop(3 * STEPS_AN_EPOCH + 3, 3 * STEPS_AN_EPOCH)]  # among the students
SAVED = [Slim(rate=(0.25, 0.5), rules=('null', 'random'), starts=('scratch',), coupled=True, network='resnet-8')]

CASES = {
  'slim': Case(
    [*WRONG_SLIMMED, *WRONG],
    check,
    SAVED,
    SMALL,
    4 * STEPS_AN_EPOCH,
    STOPS,
    left=STEPS_AN_EPOCH,
    pictures=('slim-digits', (plot.accuracy, plot.widths)),
  )
}
