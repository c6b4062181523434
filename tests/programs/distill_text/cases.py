"""What distill-text refuses, and where its small run is stopped."""

from dataclasses import replace

from num2words import num2words

from tests.support.cases import Case, Stop
from train.programs.distill_text import plot
from train.programs.distill_text.config import check, defaults

WRONG = [
  *((f'--{name} 0', f'--{name} is 0') for name in (
    'pieces', 'buckets', 'layers', 'teacher-layers', 'teacher-width', 'heads', 'warmup', 'beams', 'units',
    'teacher-units', 'bucket-size', 'seeds', 'epochs', 'teacher-epochs', 'batch-size', 'save-every', 'width',
  )),
  *((f'--{name} {value}', f'--{name} is {value}') for name, value in (
    ('clip', '0.0'), ('clip', 'inf'), ('clip', 'nan'), ('dropout', '1.0'), ('dropout', '-0.5'),
    ('label-smoothing', '1.0'), ('temperature', '0.0'), ('soft-weight', '1.5'), ('learning-rate', '-1.0'),
    ('weight-decay', 'nan'), ('length-penalty', '-1.0'), ('length-penalty', 'inf'), ('max-length', '3'),
    ('methods', 'kd kd'), ('width', '24 24'), ('bits', '4 4'), ('activations', 'lma lma'), ('segments', '1'),
  )),
  ('--bits 9', '--bits is 9: give 1 to 8'),
  ('--bits 3 0', '--bits is 3 0: give 1 to 8'),
  ('--bits 4 --methods hard', '--bits is 4: they go with --methods kd'),
  ('--loss attention', '--loss is attention: words are taught by logits alone; give kd jsd'),
  ('--loss kd rank', '--loss is rank: it takes C² numbers a word, C of the vocabulary; give kd jsd'),
  ('--loss dist dist', '--loss is dist dist: give each once, or with other weights'),
  ('--loss kd dist --methods hard sequence', '--loss is kd dist: it goes with --methods kd'),
  ('--methods', '--methods is empty: give at least one'),
  ('--width', '--width is empty'),
  ('--heads 3 --width 9', '--width is 9: give an even multiple of the 3 heads'),
  ('--heads 4 --width 16 18', '--width is 18: give an even multiple of the 4 heads'),
  ('--heads 4 --width 8 --teacher-width 10', '--teacher-width is 10: give an even multiple of the 4 heads'),
  ('--target de', '--target is de: give another language than --source'),
  ('--vocabulary words', '--vocabulary is words: it goes with --untied'),
  ('--data-dir .', '--data-dir is .: numbers need none'),
  ('--source fr', 'numbers: are from de to en, not from fr to en'),
  ('--train-sentences 0', '0 training sentences asked of numbers'),
  ('--train-sentences 1000000', '1000000 training sentences asked of numbers'),
  ('--pieces 5', '--pieces 5: the training texts have'),
  ('--batch-size 3 --train-sentences 20 --pieces 60 --max-length 40', '--batch-size 3 is less than a sentence of'),
  ('--train-sentences 1 --pieces 40 --max-length 4', '--max-length 4: every training sentence is longer'),
  ('--data nowhere', 'nowhere: no such folder'),
]  # fmt: skip


LENGTH, STEPS_AN_EPOCH = 24, 8
SMALL = [
  *('--pieces', '64', '--max-length', str(LENGTH), '--buckets', '1', '--batch-size', '192', '--save-every', '1'),
  *('--width', '8', '--heads', '2', '--layers', '1', '--teacher-width', '8', '--teacher-layers', '1', '--seeds', '2'),
  *('--methods', 'hard', 'kd', 'sequence', '--activations', 'lma', '--bits', '4', '--beams', '2', '--epochs', '2'),
  *('--teacher-epochs', '2', '--learning-rate', '0.02', '--warmup', '3'),
]  # fmt: skip
STUDENTS = ['lma-8-w8-hard', 'lma-8-w8-kd', 'lma-8-w8-kd-4bit', 'lma-8-w8-sequence']
PARTS = {'train': range(64), 'val': range(64, 72), 'test': range(72, 84)}


def write(folder, parts):
  folder.mkdir(exist_ok=True)
  for part, counted in parts.items():
    for language in ('de', 'en'):
      lines = [num2words(number, lang=language) for number in counted]
      (folder / f'{part}.{language}').write_text(''.join(f'{line}\n' for line in lines), encoding='utf-8')
  return folder


def few(folder):
  """Writes the numbers below 84."""
  return ['--data', str(write(folder / 'few', PARTS))]


STOPS = [
  Stop(3 * STEPS_AN_EPOCH + 2, 3 * STEPS_AN_EPOCH),  # among the students
  Stop(2 * STEPS_AN_EPOCH + 1, 5 * STEPS_AN_EPOCH),  # in the sequence phase
]
GIVEN = {
  'data': 'texts/of-mine', 'source': 'en', 'target': 'fr', 'train_sentences': 50, 'vocabulary': 'words',
  'width': (8, 16), 'bits': (4, 2), 'methods': ('kd',), 'units': 7, 'untied': True, 'post_norm': True,
  'length_penalty': 0.0, 'loss': ('kd', 'dist'), 'loss_weights': (1.0, 0.5),
}  # fmt: skip

CASES = {
  'distill-text': Case(
    WRONG,
    check,
    [replace(defaults('multi30k'), **GIVEN), defaults('numbers')],
    SMALL,
    3 * 2 * STEPS_AN_EPOCH,
    STOPS,
    left=STEPS_AN_EPOCH,
    data=('numbers', 'multi30k', 'texts/of-mine'),
    files=few,
    teacher='teacher',
    pictures=('distill-text-numbers', (plot.bleu,)),
    once=('teacher-sentences.json',),
  )
}
