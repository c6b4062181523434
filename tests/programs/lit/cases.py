"""What lit and lit-text refuse, and where their small runs, through every kind of fit, are stopped."""

import signal

from tests.support.cases import Case, Stop
from train.config import check_training
from train.programs.lit import plot
from train.programs.lit.config import Lit, check
from train.programs.lit.texts import LitText, check_texts

METHODS = ('kd', 'hint', 'lit', 'lit-merging')
STEPS_AN_EPOCH = 3  # of either

WRONG = [
  ('--teacher vgg-16', '--teacher is vgg-16: give resnet or resnext and a depth, as in resnet-20'),
  ('--teacher my_net:large', '--teacher is my_net:large: lit knows the stages of resnet and resnext alone'),
  ('--student resnet', '--student is resnet: give resnet or resnext'),
  ('--student resnet-x', '--student is resnet-x: give resnet or resnext'),
  ('--student resnet-9', '--student is resnet-9: depth is 9, and must be 8, 14'),
  ('--teacher resnext-21', '--teacher is resnext-21: depth is 21, and must be 11, 20'),
  ('--width 8 4 16', '--teacher is resnet-20: channels are (8, 4, 16)'),
  ('--width', '--width is empty'),
  ('--student resnext-11', 'stages_0 of the student gives'),
  ('--methods', '--methods is empty'),
  ('--methods lit lit', '--methods is lit lit'),
  ('--loss attention', '--loss is attention: lit compares what leaves the stages itself; give kd jsd'),
  ('--loss dist --methods hard lit-only', '--loss is dist: no phase of these --methods is by logits alone'),
  ('--beta 1.5', '--beta is 1.5'),
  ('--noise -1', '--noise is -1'),
  ('--temperature 0', '--temperature is 0'),
  ('--soft-weight 2', '--soft-weight is 2'),
  ('--finetune-epochs 0', '--finetune-epochs is 0'),
  ('--finetune-learning-rate nan', '--finetune-learning-rate is nan'),
  ('--schedule plateau', '--schedule is plateau'),
  ('--methods lit-merging --epochs 2', '--epochs is 2: give lit-merging 3'),
  ('--seeds 0', '--seeds is 0'),
  ('--cached-logits -1', '--cached-logits is -1: give 0 or more'),
  ('--cached-logits 11', '--cached-logits is 11: there are 10 classes; give no more, or 0'),
  ('--cached-logits 0 --methods hard lit-only', '--cached-logits is 0: no phase of these --methods is trained on the'),
  ('--train-images 100000', '100000 training images asked of digits'),
]

SMALL = [
  *('--methods', *METHODS, '--teacher', 'resnet-14', '--width', '2', '3', '4', '--seeds', '2', '--train-images', '120'),
  *('--batch-size', '32', '--epochs', '3', '--finetune-epochs', '2', '--save-every', '2', '--learning-rate', '0.1'),
]
FITS = {
  'relu-teacher': 5, 'relu-whole': 5, 'relu-hints': 2, 'relu-stages': 3, 'relu-merging-1': 1, 'relu-merging-2': 1,
  'relu-merging-3': 1, 'relu-finetune': 2,
}  # fmt: skip
STOPS = [
  Stop(12 * STEPS_AN_EPOCH + 8, 14 * STEPS_AN_EPOCH),  # the third epoch of the stages, which no checkpoint holds yet
  Stop(4 * STEPS_AN_EPOCH + 4, 18 * STEPS_AN_EPOCH + 4, signal.SIGTERM),  # the second epoch of fine-tuning
]
SAVED = [
  Lit(
    methods=('hard', 'lit-merging'), seeds=2, width=(2, 3, 4), activations=('relu', 'lma'), error='huber', epochs=7,
    loss='dist',
  )
]  # fmt: skip

WRONG_OF_TEXTS = [
  ('--teacher resnet-20', '--teacher is resnet-20: give vdcnn and a depth, as in vdcnn-17'),
  ('--student vdcnn', '--student is vdcnn: give vdcnn and a depth, as in vdcnn-9'),
  ('--student vdcnn-10', '--student is vdcnn-10: depth is 10, and must be one of 9, 17'),
  ('--width 4 4 4', '--width is 4 4 4: give four numbers'),
  ('--width 4 4 4 0', '--width is 0'),
  ('--units 4 0', '--units is 4 0'),
  ('--length 0', '--length is 0'),
  ('--length 50', '--teacher is vdcnn-17: 7 places are left of the text, and k = 8'),
  ('--columns 1', '--columns is 1: descriptions have none'),
  ('--data-dir .', '--data-dir is .: descriptions need none'),
  ('--train-texts 1000', '1000 training texts asked of descriptions; choose from 2 to 960'),
  ('--data ag-news', 'ag-news: is not downloaded; pass a folder'),
  ('--data csv --data-dir nowhere', 'nowhere/train.csv: no such file'),
  ('--cached-logits 7', '--cached-logits is 7: there are 6 classes; give no more, or 0'),
  ('--beta 2', '--beta is 2'),
  ('--loss heads', '--loss is heads: lit compares what leaves the stages itself; give kd jsd'),
]

NARROW = ['--width', '2', '3', '3', '4', '--units', '5', '4', '--length', '64', '--batch-size', '16']
TEXTS = [
  *NARROW, *('--teacher', 'vdcnn-17', '--methods', 'hard', 'lit', '--seeds', '2', '--train-texts', '64'),
  *('--loss', 'jsd'),
  *('--epochs', '2', '--finetune-epochs', '2', '--save-every', '1', '--learning-rate', '0.02'),
]  # fmt: skip
FITS_OF_TEXTS = {'relu-teacher': 4, 'relu-whole': 4, 'relu-stages': 2, 'relu-finetune': 2}
STOPS_OF_TEXTS = [Stop(8 * STEPS_AN_EPOCH + 5, 9 * STEPS_AN_EPOCH)]  # among the stages
SAVED_TEXTS = [LitText(data='ag-news', columns=(1, -1), width=(4, 4, 8, 8), units=(), train_texts=50)]


def check_both(config):
  check_training(config)
  check_texts(config)


CASES = {
  'lit': Case(
    WRONG,
    check,
    SAVED,
    SMALL,
    STEPS_AN_EPOCH * sum(FITS.values()),
    STOPS,
    left=2,
    pictures=('lit-digits', (plot.accuracy,)),
  ),
  'lit-text': Case(
    WRONG_OF_TEXTS,
    check_both,
    SAVED_TEXTS,
    TEXTS,
    STEPS_AN_EPOCH * sum(FITS_OF_TEXTS.values()),
    STOPS_OF_TEXTS,
    left=3 * STEPS_AN_EPOCH,
    data=('descriptions', 'ag-news', 'csv'),
    teacher='relu-teacher',
  ),
}
