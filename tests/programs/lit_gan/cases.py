"""What lit-gan refuses, and where its small run is stopped."""

import signal

from tests.support.cases import Case, Stop
from train.programs.lit_gan.config import LitGan, check

WRONG = [
  ('--width 4 8', '--width is 4 8'),
  ('--schedule plateau', '--schedule is plateau'),
  ('--student-blocks 0', '--student-blocks is 0'),
  ('--critic-steps 0', '--critic-steps is 0'),
  ('--finetune-epochs 0', '--finetune-epochs is 0'),
  ('--penalty-weight -1', '--penalty-weight is -1.0'),
  ('--seeds 0', '--seeds is 0'),
]

SMALL = [
  '--train-images', '60', '--batch-size', '16', '--seeds', '2', '--width', '2', '--teacher-blocks', '2',
  '--student-blocks', '1', '--epochs', '1', '--finetune-epochs', '1', '--teacher-epochs', '2',
  '--classifier-epochs', '1', '--save-every', '1', '--activations', 'lma', '--segments', '4', '--critic-steps', '2',
]  # fmt: skip
STEPS = 3  # an epoch
PHASES = {'classifier': 1, 'teacher': 2, 'lit-only': 1, 'lit': 1, 'scratch': 2}

BEGUN = STEPS * (PHASES['classifier'] + PHASES['teacher'])
STOPS = [
  Stop(BEGUN + 2, BEGUN + 2, signal.SIGTERM),  # the first phase
  Stop(3, BEGUN + STEPS * PHASES['lit-only']),  # the second, of which nothing is saved
]

CASES = {
  'lit-gan': Case(
    WRONG,
    check,
    [LitGan(width=(3,), segments=(4,), penalty_weight=2.0)],
    SMALL,
    STEPS * sum(PHASES.values()),
    STOPS,
    left=STEPS * (PHASES['lit'] + PHASES['scratch']),
    data=('digits', 'mnist', 'fashion-mnist'),
    teacher='lma-4-teacher',
    pictures=('lit-gan', ()),
  )
}
