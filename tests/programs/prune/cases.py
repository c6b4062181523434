"""What prune refuses, and where its small run, by every score and both kinds of cuts, is stopped."""

import signal

from tests.support.cases import Case, Stop
from train.programs.prune import plot
from train.programs.prune.config import Prune, check

WRONG = [
  ('--sparsity', '--sparsity is empty: give at least one'),
  ('--sparsity 0', '--sparsity is 0.0: give numbers between 0 and 1'),
  ('--sparsity .5 1', '--sparsity is 1.0'),
  ('--sparsity nan', '--sparsity is nan'),
  ('--sparsity .9 .8', '--sparsity is 0.9 0.8: give the least first'),
  ('--sparsity .9 .9', '--sparsity is 0.9 0.9: give each once'),
  ('--methods', '--methods is empty'),
  ('--methods lamp lamp', '--methods is lamp lamp'),
  ('--cuts', '--cuts is empty'),
  ('--bits 0', '--bits is 0: give 1 to 8, 16 or None'),
  ('--bits 12', '--bits is 12'),
  ('--step .2', '--step is 0.2: give 0.3 to 0.99'),
  ('--uniform-bits 9', '--uniform-bits is 9'),
  ('--finetune-epochs 0', '--finetune-epochs is 0'),
  ('--finetune-learning-rate inf', '--finetune-learning-rate is inf'),
  ('--width 8 0', '--width is 0'),
  ('--student net', '--student is net: give one of mlp, cnn'),
  ('--student my_net:small', '--student is my_net:small: give the name of a network'),
  ('--itself', '--itself is True: give the network by --teacher-from'),
  ('--temperature 0', '--temperature is 0'),
  ('--seeds 0', '--seeds is 0'),
]
METHODS = ('magnitude', 'layerwise', 'lamp', 'l1', 'l2', 'surp')
SMALL = [
  *('--activations', 'lma', '--segments', '4', '--width', '12', '12', '--sparsity', '.5', '.9', '--bits', '4'),
  *('--uniform-bits', '4', '--methods', 'lamp', 'surp', '--seeds', '2', '--train-images', '400', '--batch-size', '64'),
  *('--epochs', '2', '--finetune-epochs', '1', '--save-every', '1'),
]
EPOCH = 5
STOPS = [
  Stop(2 * EPOCH + 3, 2 * EPOCH),  # the first epoch of the students
  Stop(2 * EPOCH + EPOCH + 2, 5 * EPOCH),  # the second of those cut at once
  Stop(EPOCH + 3, 6 * EPOCH + 3, signal.SIGTERM),  # after the first cut of those cut twice
  Stop(7, 8 * EPOCH, kind='file'),  # after a cut for each phase and the teacher's: the first model file of a student
]
SAVED = [Prune(sparsity=(0.5,), methods=METHODS, cuts=('iterative',), bits=None, width=(8, 4), student='cnn')]
CASES = {
  'prune': Case(WRONG, check, SAVED, SMALL, 8 * EPOCH, STOPS, left=0, pictures=('prune-digits', (plot.accuracy,)))
}
