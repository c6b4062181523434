"""What quantize refuses, and where its small run, by every method, is stopped."""

import signal
from dataclasses import replace

from tests.support.cases import Case, Stop
from train.programs.quantize import plot
from train.programs.quantize.config import Quantize, check
from train.programs.quantize.methods import METHODS as KNOWN

METHODS = tuple(name for name, method in KNOWN.items() if method.marker)
ALL = Quantize(
  seeds=2, width=(3,), bits=(2, 4), centroids=(4, 16), block_size=4, activation_bits=8, methods=METHODS,
)  # fmt: skip

WRONG = [
  ('--bits 0', '--bits is 0'),
  ('--mixup -1', '--mixup is -1.0: give a number from 1e-6 to 1e6'),
  ('--bits 9', '--bits is 9'),
  ('--bits', '--bits is empty'),
  ('--bits 4 4', '--bits is 4 4'),
  ('--methods', '--methods is empty'),
  ('--methods noise noise', '--methods is noise noise'),
  ('--centroids 1', '--centroids is 1'),
  ('--centroids 257', '--centroids is 257'),
  ('--centroids', '--centroids is empty'),
  ('--centroids 4 4', '--centroids is 4 4'),
  ('--activation-bits 9', '--activation-bits is 9'),
  ('--bucket-size 0', '--bucket-size is 0'),
  ('--block-size 0', '--block-size is 0'),
  ('--finetune-epochs 0', '--finetune-epochs is 0'),
  ('--finetune-learning-rate inf', '--finetune-learning-rate is inf'),
  ('--points-learning-rate nan', '--points-learning-rate is nan'),
  ('--noise-rate 1.5', '--noise-rate is 1.5'),
  ('--product-noise-rate -0.1', '--product-noise-rate is -0.1'),
  ('--temperature 0', '--temperature is 0'),
  ('--temperature 1 1', '--temperature is 1.0 1.0'),
  ('--soft-weight 2', '--soft-weight is 2'),
  ('--soft-weight .5 .5', '--soft-weight is 0.5 0.5'),
  ('--cached-logits -1', '--cached-logits is -1: give 0 or more'),
  ('--cached-logits 11', '--cached-logits is 11: there are 10 classes; give no more, or 0'),
  ('--seeds 0', '--seeds is 0'),
]

SMALL = [
  *('--methods', *METHODS, '--activations', 'lma', '--width', '3', '--bits', '4', '--activation-bits', '8'),
  *('--centroids', '4', '--block-size', '4', '--bucket-size', '64', '--seeds', '2', '--save-every', '2'),
  *('--epochs', '2', '--finetune-epochs', '2'),
]
PHASE = 2 * 17
PHASES = ['teacher', 'students', 'points', 'product-1', 'product-2']

STOPS = [
  Stop(PHASE + 20, PHASE),  # the second epoch of the students
  Stop(PHASE + 5, 2 * PHASE + 5, signal.SIGTERM),  # points
  Stop(PHASE - 5 + 20, 3 * PHASE + 20, signal.SIGTERM),  # the first layer's codebooks
  Stop(4, 4 * PHASE, kind='line', after=True),  # the first epoch of the second layer's, which no checkpoint holds
  Stop(9, 5 * PHASE, kind='file'),  # after a cut for each phase: the second model file of a student
]

SAVED = [replace(ALL, entropy=entropy, temperature=(1.0, 3.0)) for entropy in (False, True)]
CASES = {
  'quantize': Case(
    WRONG, check, SAVED, SMALL, len(PHASES) * PHASE, STOPS, left=0, pictures=('quantize-digits', (plot.accuracy,))
  )
}
