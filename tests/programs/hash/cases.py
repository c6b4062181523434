"""What hash refuses, and where its small run, by every method, is stopped."""

import signal

from tests.support.cases import Case, Stop
from train.programs.hash import plot
from train.programs.hash.config import Hash, check

METHODS = ('multi-hash', 'fixed-scale', 'pools', 'signed-pools', 'narrower')

WRONG = [
  ('--ratio', '--ratio is empty: give at least one'),
  ('--ratio 0', '--ratio is 0.0: give numbers above 0, at most 1'),
  ('--ratio .5 1.5', '--ratio is 1.5'),
  ('--ratio nan', '--ratio is nan'),
  ('--ratio .1 .1', '--ratio is 0.1 0.1: give each once'),
  ('--ratio .01', '--ratio is 0.01: the least that this network can have is 0.01245'),
  ('--methods', '--methods is empty'),
  ('--methods pools pools', '--methods is pools pools'),
  ('--hashes', '--hashes is empty'),
  ('--hashes 0', '--hashes is 0: give 1 to 16'),
  ('--hashes 17', '--hashes is 17'),
  ('--hashes 2 2', '--hashes is 2 2'),
  ('--learning-rates', '--learning-rates is empty'),
  ('--learning-rates 0', '--learning-rates is 0.0: give positive numbers'),
  ('--learning-rates .1 inf', '--learning-rates is inf'),
  ('--width 8 0', '--width is 0'),
  ('--student net', '--student is net: give one of mlp, cnn'),
  ('--student my_net:small', '--student is my_net:small: give the name of a network'),
  ('--student wide-resnet-10-1 --methods narrower', '--methods is narrower: the name wide-resnet-10-1 says how wide'),
  ('--temperature 0', '--temperature is 0'),
  ('--soft-weight 2', '--soft-weight is 2'),
  ('--seeds 0', '--seeds is 0'),
]

SMALL = [
  *('--activations', 'lma', '--segments', '4', '--width', '12', '12', '--ratio', '.5', '--hashes', '2'),
  *('--methods', *METHODS, '--learning-rates', '.02', '.2', '--seeds', '2', '--train-images', '400'),
  *('--batch-size', '64', '--epochs', '2', '--save-every', '1'),
]
EPOCH = 5

STOPS = [
  Stop(EPOCH + 2, EPOCH),  # the second epoch of the teacher
  Stop(EPOCH + 3, 2 * EPOCH + 3, signal.SIGTERM),  # the first of the students
  Stop(4, 4 * EPOCH, kind='file'),  # a model file of a student
]
SAVED = [Hash(ratio=(0.5,), methods=METHODS, hashes=(1, 10), width=(8, 4), student='cnn')]
CASES = {'hash': Case(WRONG, check, SAVED, SMALL, 4 * EPOCH, STOPS, left=0, pictures=('hash-digits', (plot.accuracy,)))}
