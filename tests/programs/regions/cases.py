"""What regions refuses, and where its small run is stopped."""

from tests.support.cases import Case, Stop
from train.programs.regions.config import Regions, check
from train.programs.regions.pieces import MOST_PIECES

WRONG = [
  ('--width 0', '--width is 0'),
  ('--depth 0', '--depth is 0'),
  ('--lines 0', '--lines is 0'),
  ('--grid 1', '--grid is 1'),
  ('--segments 1 4', '--segments is 1'),
  ('--segments 8 8', '--segments is 8 8'),
  (f'--segments {MOST_PIECES + 1}', '--segments is 129'),
  ('--activations aplu --segments 2', '--segments is 2'),
  ('--activations', '--activations is empty'),
]

SMALL = [
  *('--activations', 'swish', 'lma', '--segments', '4', '--width', '3', '--depth', '1', '--seeds', '2', '--lines', '3'),
  *('--grid', '20', '--epochs', '2'),
]
STEPS_AN_EPOCH = 17
STOPS = [Stop(STEPS_AN_EPOCH + 3, 0)]

CASES = {
  'regions': Case(
    WRONG,
    check,
    [Regions(lines=3, segments=(4, 6))],
    SMALL,
    2 * STEPS_AN_EPOCH,
    STOPS,
    left=2 * STEPS_AN_EPOCH,
    pictures=('regions', ()),
  )
}
