"""What compress refuses, and where its small run is stopped."""

from tests.programs.slim.cases import SHORT, WRONG_SLIMMED
from tests.support.cases import Case, Stop
from train.programs.compress import plot
from train.programs.compress.config import Compress, check

WRONG = [
  ('--bits 9', '--bits is 9: give 1 to 8'),
  ('--bits 0', '--bits is 0: give 1 to 8'),
  ('--beta 2', '--beta is 2'),
  ('--bucket-size 0', '--bucket-size is 0'),
  ('--finetune-epochs 0', '--finetune-epochs is 0'),
  ('--finetune-learning-rate 0', '--finetune-learning-rate is 0'),
  ('--finetune-learning-rate inf', '--finetune-learning-rate is inf'),
  ('--prune 1', '--prune is 1.0: give a part between 0 and 1'),
  ('--hash 0', '--hash is 0.0: give a part between 0 and 1'),
  ('--hash 0.5 --prune 0.5', '--hash is 0.5: not together with --prune'),
  ('--hash 0.001', '--hash is 0.001: the least that the slimmed network can have is 0.00'),
  ('--lit', '--lit takes a resnet without --coupled: stages_1 of the student gives'),
  ('--lit --network resnet-8 --width 3 4 5 --coupled', '--lit takes a resnet without --coupled: '),
  ('--teacher-epochs 3', '--teacher-epochs is 3'),
]

SMALL = [*SHORT, '--width', '24', '24', '--rate', '0.5', '--finetune-epochs', '1']
STEPS_AN_EPOCH = 5
STOPS = [Stop(4 * STEPS_AN_EPOCH + 3, 4 * STEPS_AN_EPOCH)]  # while it quantizes
SAVED = [Compress(rate=0.25, lit=True, bits=3, criterion='median', cost='macs', network='resnet-8', width=(3, 4, 5))]

CASES = {
  'compress': Case(
    [*WRONG_SLIMMED, *WRONG],
    check,
    SAVED,
    SMALL,
    5 * STEPS_AN_EPOCH,
    STOPS,
    left=STEPS_AN_EPOCH,
    pictures=('compress-digits', (plot.accuracy,)),
  )
}
