"""What trees refuses, and where its small run is stopped: at the line of a repeat, before and after it."""

import signal

from tests.support.cases import Case, Stop
from train.programs.trees import plot
from train.programs.trees.config import Trees, check

WRONG = [
  ('--depth 0', '--depth is 0: give 1 or more'),
  ('--thresholds 2', '--thresholds is 2: give 3 or more'),
  ('--folds 1', '--folds is 1: give 2 or more'),
  ('--folds 20', '--folds is 20: iris has 150 examples, and needs 280'),
  ('--repeats 0', '--repeats is 0'),
  ('--epochs 0', '--epochs is 0'),
  ('--teachers', '--teachers is empty'),
  ('--weights none none', '--weights is none none'),
  ('--target kind', '--target is kind: it goes with FILE.csv'),
  ('--data wines', '--data is wines: give one of tables, iris, wine, breast-cancer, digits, or FILE.csv'),
]
SMALL = [
  *('--data', 'iris', '--teachers', 'forest', '--weights', 'none', '--folds', '2', '--repeats', '3', '--depth', '2'),
  *('--thresholds', '4'),
]
STOPS = [
  Stop(2, 0, kind='line'),  # the second repeat is done, and nobody knows
  Stop(1, 0, kind='line', after=True),  # now its line is written, and nothing else
  Stop(1, 0, signal.SIGTERM, kind='line'),
]
CASES = {
  'trees': Case(
    WRONG,
    check,
    [Trees(data='wine', teachers=('networks',), weights=('none', 'balanced'), folds=3, thresholds=5)],
    SMALL,
    0,
    STOPS,
    left=0,
    data=('tables', 'iris'),
    pictures=('trees', (plot.accuracy,)),
  )
}
