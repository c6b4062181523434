"""Rows of distill, written by hand."""

from train.programs.distill.table import Row


def row(name, accuracy, activation='lma', width=3, segments=8, hard_label=False):
  return Row(name, activation, width, segments, hard_label, list(accuracy), 10, 40)


TEACHER = row('teacher', [0.9], 'relu', 64, None, True)
RELU = row('relu', [0.6, 0.7, 0.65], 'relu', segments=None)
LMA = row('lma', [0.7, 0.72, 0.74])
LMA_HARD = row('lma-hard', [0.5, 0.6, 0.55], hard_label=True)
ROWS = [TEACHER, RELU, LMA, LMA_HARD]

ROW = {'name': 'a', 'activation': 'relu', 'width': 3, 'segments': None, 'hard_label': True, 'accuracy': [0.5]}
RESULTS = {
  'recipe': 'distill', 'config': {'seeds': 1}, 'environments': [], 'seconds_of_training': 1.0,
  'rows': [{**ROW, 'parameters': 1, 'bytes': 4}],
}  # fmt: skip
