"""An activation that only its line in the table knows: it trains, and stands in every table and picture."""

import pytest

from tests.support.processes import finished, start

# The line comes first: the options are made of the table.
PROGRAM = """
import sys
from functools import partial
from pathlib import Path
from typing import Literal

import jax

from lmajax.activations.linen import Elementwise
from train import activations
from train.activations import ACTIVATIONS, COLORS, Kind

ACTIVATIONS['hardswish'] = Kind(partial(Elementwise, jax.nn.hard_swish), '#123456')
COLORS['hardswish'] = '#123456'
activations.ActivationName = Literal[tuple(ACTIVATIONS)]

from train.__main__ import main
from train.programs import PROGRAMS
from tests.programs import CASES
from train.programs.bench import draw, record
from train.results.rows import read_rows

folder, results = map(Path, sys.argv[1:])

for command, case in CASES.items():
  if case.pictures is None:
    continue
  where, pictures = case.pictures
  table = PROGRAMS[command].table()
  rows = read_rows(results / where, command, table.Row)
  known = {row.activation for row in rows if hasattr(row, 'activation')}
  other = next(iter(sorted(known - {'relu'})), 'relu')
  rows = [row._replace(activation='hardswish') if getattr(row, 'activation', '') == other else row for row in rows]
  assert not known or 'hardswish' in table.text(rows), command
  for number, picture in enumerate(pictures):
    path = folder / f'{command}-{number}.png'
    picture(path, rows)
    assert path.stat().st_size > 5000, path
figures = record.read(results / 'bench' / 'activation.json')
renamed = {'activation': 'hardswish'}
figures['rows'] = [{**row, **renamed} if row.get('activation') == 'prelu' else row for row in figures['rows']]
draw.activation(figures, folder / 'bench.png')
small = ['--epochs', '1', '--teacher-epochs', '1', '--seeds', '1', '--width', '2', '--workdir', str(folder / 'run')]
assert main(['distill', '--activations', 'relu', 'hardswish', *small]) == 0
assert 'hardswish' in (folder / 'run' / 'results.md').read_text()
assert (folder / 'run' / 'curves.png').exists()
"""


@pytest.mark.slow
def test_an_activation_is_a_line_of_the_table(tmp_path):
  done = finished(start('-c', PROGRAM, tmp_path, 'results'))
  assert done.returncode == 0, done.stderr[-3000:]
