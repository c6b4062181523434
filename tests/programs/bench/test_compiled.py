"""The benchmark without a device lists, places and counts what it says; here the CPU stands in for the accelerators."""

import jax
import pytest
from jax.sharding import PartitionSpec as P

from lmajax.training import Traffic
from train.__main__ import main
from train.commands.tables import filled
from train.programs.bench import compiled, record
from train.programs.bench.config import Compiled
from train.runtime.errors import UserError

RELU = Traffic(bytes=100, kernels=1, temporaries=0, peak=5, cycles=None, collectives={}, collective_bytes=0)


@pytest.fixture
def here(monkeypatch):
  """Devices of this machine in place of chips; the single ones count as one, a layout as four."""
  monkeypatch.setattr(compiled, 'chips', lambda target: jax.devices()[: 4 if '-' in target else 1])


@pytest.fixture
def lowered(here, monkeypatch):
  """What was lowered, in the order of the cases; nothing is compiled."""
  seen = []

  def counted(program, case):
    seen.append(program)
    return RELU._replace(bytes=100 + len(seen), collectives={'all-reduce': len(seen)}, collective_bytes=8)

  monkeypatch.setattr(compiled, 'counted', counted)
  return seen


def specs(argument):
  return {leaf.sharding.spec for leaf in jax.tree.leaves(argument)}


def test_activations_are_compiled_and_tabled(tmp_path, capsys, here, monkeypatch):
  monkeypatch.setattr(compiled, 'SHAPE', (4, 3, 16))
  options = ['--targets', 'v5e', '--dtypes', 'float32', '--activations', 'relu', 'lma-4', '--out', str(tmp_path / 'b')]
  assert main(['bench', 'compiled', *options]) == 0
  figures = record.read(tmp_path / 'b' / 'compiled.json')
  parts = [(row['part'], row['activation']) for row in figures['rows']]
  passes = [(part, label) for part in compiled.PARTS['activation'][:3] for label in ('relu', 'lma-4')]
  assert parts == [*passes, ('forward and backward, measured', 'lma-4')]
  by_part = dict(zip(parts, figures['rows'], strict=True))
  unit = 4 * 4 * 3 * 16
  assert {row['unit'] for row in figures['rows']} == {unit} and {row['chips'] for row in figures['rows']} == {1}
  assert by_part['forward', 'relu']['bytes'] == 2 * unit
  assert by_part['backward', 'relu']['bytes'] == 3 * unit
  assert by_part['forward and backward', 'relu']['bytes'] == 5 * unit  # in two loops on the CPU, which read x twice
  assert by_part['forward and backward, measured', 'lma-4']['bytes'] > by_part['forward', 'lma-4']['bytes']
  text = '<!-- table of b/compiled -->\n<!-- end of table -->'
  table = filled(text, tmp_path).splitlines()[2:-2]
  assert '\n'.join(table) in capsys.readouterr().out
  assert len(table) == 2 + 7 + 2 and '| v5e | forward | float32 | relu | 2.00 |' in table[2]
  assert (tmp_path / 'b' / 'compiled.png').stat().st_size > 5000


def test_steps_lie_on_the_chips_as_asked(tmp_path, lowered):
  config = Compiled(
    targets=('v5e-2x2',), programs=('step', 'distill'), dtypes=('bfloat16',), activations=('relu',), batch_size=2,
    students=3, shard_teacher=True,
  )  # fmt: skip
  rows = compiled.measure(config)['rows']
  assert [(row['program'], row['part'], row['chips'], row['unit']) for row in rows] == [
    ('step', 'hard', 4, 0), ('distill', 'distilled', 4, 0),
  ]  # fmt: skip
  made = compiled.program(compiled.Case('v5e-2x2', 'distill', 'student-3', 'distilled', 'bfloat16', 'relu'), config, 4)
  how, (state, teacher, batch) = zip(*made.arguments, strict=True)
  assert how == ('whole', 'shards', 'spread')
  assert batch.inputs.shape == (8, 32, 32, 3)
  assert {leaf.shape[0] for leaf in jax.tree.leaves(state)} == {3}
  assert teacher['params']['stages_0']['Conv_0']['kernel'].shape[-1] % 4 == 0
  for program in lowered:
    text = program.as_text()
    assert 'bf16' in text and 'tensor<8x32x32x3xf32>' in text


def test_shards_are_of_the_longest_axis_that_the_chips_divide():
  mesh = jax.make_mesh((4,), ('data',))
  shapes = {
    name: jax.ShapeDtypeStruct(shape, 'float32')
    for name, shape in {'last': (3, 4, 8), 'first': (12, 4), 'none': (3, 5), 'scalar': ()}.items()
  }
  placed = compiled._placed(shapes, 'shards', mesh)
  found = {name: leaf.sharding.spec for name, leaf in placed.items()}
  assert found == {'last': P(None, None, 'data'), 'first': P('data'), 'none': P(), 'scalar': P()}
  assert specs(compiled._placed(shapes, 'whole', mesh)) == {P()}


def test_translation_is_compiled_on_hard_labels_and_distilled(lowered):
  config = Compiled(
    targets=('v5e',), programs=('translation',), dtypes=('float32',), activations=('relu',), batch_size=2
  )
  rows = compiled.measure(config)['rows']
  assert [(row['network'], row['part']) for row in rows] == [('student', 'hard'), ('student', 'distilled')]
  rows.append({**rows[1], 'activation': 'lma-8', 'bytes': 51})
  assert record.over_relu(rows[2], rows, 'bytes') == 0.5
  assert record.over_relu(rows[2], rows, 'cycles') is None
  environment = {'jax': jax.__version__, 'date': 'today'}
  table = compiled.table({'rows': rows, 'config': vars(config), 'environment': environment}).splitlines()
  assert len(table) == 2 + 3 + 2
  assert table[-1] == f'2 examples a chip, 1 student(s) at once; compiled, not run; JAX {jax.__version__}, today.'


def test_what_the_compiler_cannot_do_is_left_out(here, monkeypatch, capsys):
  def counted(program, case):
    seen.append(program)
    if len(seen) == 1:
      raise jax.errors.JaxRuntimeError('INTERNAL: no tiles\nmore')
    return RELU

  seen = []
  monkeypatch.setattr(compiled, 'counted', counted)
  monkeypatch.setattr(compiled, 'SHAPE', (2, 3, 4))
  config = Compiled(targets=('v5e',), dtypes=('float32',), activations=('relu',))
  rows = compiled.measure(config)['rows']
  assert [row['part'] for row in rows] == list(compiled.PARTS['activation'][1:3])
  assert record.over_relu({**rows[0], 'part': 'forward'}, rows, 'bytes') is None
  assert 'left out: v5e activation forward float32 relu, which XLA cannot compile: INTERNAL: no tiles\n' in (
    capsys.readouterr().out
  )
  monkeypatch.setattr(compiled, 'PARTS', {'activation': ('forward',)})
  seen.clear()
  with pytest.raises(UserError, match='compiled none'):
    compiled.measure(config)


def test_an_unknown_target_is_refused_in_a_line(capsys, tmp_path):
  assert main(['bench', 'compiled', '--targets', 'h200', '--out', str(tmp_path)]) == 2
  error = capsys.readouterr().err.strip()
  assert error.startswith("error: target is 'h200'; give h100, v4") and '\n' not in error
