"""What datafree refuses, and where its small run is stopped."""

import signal

from tests.support.cases import Case, Stop
from train.programs.datafree import plot
from train.programs.datafree.config import Datafree, check

SOURCES = ('real', 'bns', 'slack', 'gaussian')

WRONG = [
  ('--bits', '--bits is empty'),
  ('--bits W4A4 W4A4', '--bits is W4A4 W4A4: give each once'),
  ('--bits 4', '--bits is 4: give W4A4 and the like'),
  ('--bits W4A9', '--bits is W4A9'),
  ('--bits W0A4', '--bits is W0A4'),
  ('--sources', '--sources is empty'),
  ('--sources bns bns', '--sources is bns bns'),
  ('--samples 1', '--samples is 1: give 2 or more'),
  ('--samples 32', '--batch-size is 64: give at most --samples 32'),
  ('--samples 1000000', '--samples is 1000000: give at most 100000'),
  ('--synthesis-steps 0', '--synthesis-steps is 0: give 1 or more'),
  ('--synthesis-steps 75', '--synthesis-steps is 75: give a multiple of 50, or fewer'),
  ('--synthesis-learning-rate 0', '--synthesis-learning-rate is 0.0'),
  ('--class-weight -1', '--class-weight is -1.0: give 0 or more'),
  ('--smoothness nan', '--smoothness is nan'),
  ('--finetune-epochs 0', '--finetune-epochs is 0'),
  ('--finetune-learning-rate inf', '--finetune-learning-rate is inf'),
  ('--student net', '--student is net: give one of mlp, cnn'),
  ('--student mlp --student-width 0', '--student-width is 0'),
  ('--student-width 8', '--student-width is given: it goes with --student'),
  ('--student mlp --student-epochs 0', '--student-epochs is 0'),
  ('--network net', '--network is net: give one of mlp, cnn'),
  ('--temperature 0', '--temperature is 0'),
  ('--width 8 0', '--width is 0'),
  ('--seeds 0', '--seeds is 0'),
]

SMALL = [
  *(
    '--activations',
    'lma',
    '--segments',
    '4',
    '--width',
    '12',
    '--sources',
    *SOURCES,
    '--bits',
    'W2A4',
    '--seeds',
    '2',
  ),
  *('--samples', '32', '--batch-size', '32', '--synthesis-steps', '3', '--finetune-epochs', '2', '--epochs', '2'),
  *('--student', 'mlp', '--student-width', '6', '--student-epochs', '2', '--save-every', '1', '--train-images', '200'),
]
EPOCH = 5

STOPS = [
  Stop(EPOCH + 2, EPOCH),  # the second epoch of the networks
  Stop(EPOCH + 2, 2 * EPOCH + 2, signal.SIGTERM),  # within what makes the inputs
  Stop(3, 2 * EPOCH + 3 + 1, signal.SIGKILL),  # the second epoch of the students
  Stop(7, 2 * EPOCH + 3 + 4, kind='file'),  # after a cut for each phase: a model file
]
SAVED = [
  Datafree(bits=('W8A8', 'W1A2'), sources=('bns', 'slack'), network='resnet-8', student='cnn', student_width=(4,))
]
CASES = {
  'datafree': Case(
    WRONG,
    check,
    SAVED,
    SMALL,
    2 * EPOCH + 3 + 4,
    STOPS,
    left=0,
    pictures=('datafree-digits', (plot.accuracy,)),
  )
}
