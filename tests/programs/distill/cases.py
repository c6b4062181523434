"""What distill refuses, and where its small run is stopped."""

from dataclasses import replace

from tests.support.cases import Case, Stop
from tests.support.processes import SMALL
from train.programs.distill import plot
from train.programs.distill.config import Distill, check, defaults

STEPS_AN_EPOCH = 17
PHASE = 3 * STEPS_AN_EPOCH

WRONG = [
  ('--seeds 0', '--seeds is 0'),
  ('--epochs -1', '--epochs is -1'),
  ('--teacher-epochs -3', '--teacher-epochs is -3'),
  ('--batch-size 0', '--batch-size is 0'),
  ('--batch-size 5000', 'batch size 5000 with 1097 training examples'),
  ('--temperature 0', '--temperature is 0'),
  ('--soft-weight 1.5', '--soft-weight is 1.5'),
  ('--mixup 0', '--mixup is 0.0: give a number from 1e-6 to 1e6'),
  ('--mixup nan', '--mixup is nan: give a number from 1e-6 to 1e6'),
  ('--mixup 1 --teacher-logits said.npy', '--mixup is 1.0: --teacher-logits are of the images as they are; leave one'),
  ('--segments 1', '--segments is 1'),
  ('--segments 8 8', '--segments is 8 8'),
  ('--width 0', '--width is 0'),
  ('--activations', '--activations is empty'),
  ('--learning-rate 0', '--learning-rate is 0'),
  ('--train-images 100000', '100000 training images asked of digits'),
  ('--activations aplu --segments 2', '--segments is 2'),
  ('--temperature inf', '--temperature is inf'),
  ('--data-dir nowhere', '--data-dir is nowhere'),
  ('--data cifar10 --data-dir nowhere', 'nowhere'),
  ('--data fashion-mnist --data-dir nowhere', 'nowhere'),
  ('--teacher-learning-rate 0', '--teacher-learning-rate is 0.0: give a positive number'),
  ('--teacher-batch-size -1', '--teacher-batch-size is -1: give a positive number'),
  ('--teacher-weight-decay -1', '--teacher-weight-decay is -1.0: give 0 or more'),
  ('--teacher-label-smoothing 1', '--teacher-label-smoothing is 1.0: give 0 or more, below 1'),
  ('--teacher-width 0', '--teacher-width is 0: give positive numbers'),
  ('--first-seed -1', '--first-seed is -1: give 0 or more'),
  ('--teacher resnet-21', '--teacher is resnet-21: depth is 21'),
  ('--teacher nothing', '--teacher is nothing: give one of mlp, cnn'),
  ('--loss', '--loss is empty: give at least one'),
  ('--loss kd kd', '--loss is kd kd: give each once, or with other weights'),
  ('--loss dist --loss-weights 0', '--loss-weights is 0.0: give positive numbers'),
  ('--loss dist --loss-weights 1 2', '--loss-weights is 1.0 2.0: give one for each --loss'),
  ('--loss kd --loss-weights 2', '--loss-weights is 2.0: give kd the weight 1'),
  ('--loss decoupled --mixup 1', '--loss is decoupled: it asks for class numbers, and --mixup leaves none'),
  ('--loss hint --cached-logits 0', '--loss is hint: the teacher is its logits alone here; give kd jsd'),
  ('--loss attention', '--loss is attention, which does not fit these networks: it compares maps'),
]

STOPS = [
  Stop(1, 0, kind='file', after=True),  # the very first file
  Stop(5, 0),  # the teacher's first epoch
  Stop(3, 2 * STEPS_AN_EPOCH, kind='line', after=True),  # a line of metrics that no checkpoint holds yet
  Stop(STEPS_AN_EPOCH, 2 * STEPS_AN_EPOCH),  # the last step of a phase
  Stop(STEPS_AN_EPOCH + 30, PHASE),  # the middle of an epoch of the students
  Stop(1, PHASE + 2 * STEPS_AN_EPOCH, kind='save', after=True),  # a checkpoint
  Stop(1, PHASE + 2 * STEPS_AN_EPOCH, kind='line', after=True),  # between the lines of one epoch
]

CASES = {
  'distill': Case(
    WRONG,
    check,
    [defaults('cifar100'), replace(Distill(), width=(3, 5))],
    SMALL,
    2 * PHASE,
    STOPS,
    STEPS_AN_EPOCH,
    pictures=('digits-widths', (lambda path, rows: plot.against(path, rows, 'width'),)),
  )
}
