"""Whatever is handed to a command, it ends in a line."""

import os

import hypothesis
import pytest
from hypothesis import strategies as st

from tests.fuzz.cases import CASES, World, files_of
from tests.fuzz.limited import SECONDS, Limited

EXAMPLES = int(os.environ.get('LMAJAX_FUZZ', '40'))  # of each kind


@pytest.fixture(scope='module')
def world(tmp_path_factory):
  return World(tmp_path_factory.mktemp('fuzz'))


@pytest.fixture(scope='module')
def limited():
  process = Limited()
  yield process
  process.close()


def progress(line):
  """Whether a line is no complaint: the bar, a note on a picture, a damaged checkpoint that is passed over."""
  bar = 'step/s' in line or 's/step' in line
  return not line.strip() or bar or ': resized from ' in line or line.startswith('warning: checkpoint')


@pytest.mark.slow
@pytest.mark.parametrize('case', CASES, ids=lambda case: case.__name__)
def test_a_command_ends_with_one_line_at_most(world, limited, case):
  @hypothesis.settings(
    max_examples=EXAMPLES, deadline=None, database=None, derandomize='LMAJAX_FUZZ' not in os.environ,
    suppress_health_check=list(hypothesis.HealthCheck), print_blob=False,
  )  # fmt: skip
  @hypothesis.given(st.data())
  def tried(data):
    arguments = case(data.draw, world)
    ended = limited.main(*arguments)
    found = f'{" ".join(map(str, arguments))}\ncode {ended.code}, {ended.seconds:.1f} s\n{ended.said}\n{ended.trace}'
    found += '\n'.join(f'{path}: {content}' for path, content in files_of(world).items())
    assert ended.code in (0, 2) and not ended.trace, found
    lines = [line for line in ended.said.replace('\r', '\n').split('\n') if not progress(line)]
    assert len(lines) <= 1 and 'Traceback' not in ended.said, found
    assert ended.code == 0 or lines, found
    assert ended.seconds <= SECONDS, found

  tried()
