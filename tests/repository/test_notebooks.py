"""Every notebook runs from its first cell to its last in a fresh kernel, and is committed as such a run."""

import nbformat
import pytest
from nbclient import NotebookClient

from tests import ROOT
from tests.support.processes import QUICK_TO_COMPILE

COLAB = ROOT / 'colab'
NOTEBOOKS = sorted(COLAB.glob('*.ipynb'))

pytestmark = pytest.mark.parametrize('path', [pytest.param(path, id=path.stem) for path in NOTEBOOKS])


def code_cells(notebook):
  return [cell for cell in notebook.cells if cell.cell_type == 'code']


FEWER = {
  '1_lma_in_ten_minutes': {'epochs=30': 'epochs=2', 'epochs=60': 'epochs=2'},
  '2_quantized_students': {'epochs=30': 'epochs=2', 'epochs=40': 'epochs=3', 'epochs=10': 'epochs=1'},
  '3_shallow_students_lit': {
    'epochs=20': 'epochs=2', 'EPOCHS, FIRST = 4, 12, 7': 'EPOCHS, FIRST = 2, 3, 2', 'epochs=10': 'epochs=2',
    'order(0, 10)': 'order(0, 2)',
  },
  '4_shallow_students_text': {'epochs=40': 'epochs=2', 'EPOCHS, FIRST = 3, 10, 7': 'EPOCHS, FIRST = 2, 3, 2'},
  '5_shallow_generators': {'200)': '5)', 'MOVES, FIRST = 3, 80, 40': 'MOVES, FIRST = 2, 6, 3'},
  '6_thin_networks': {'epochs=30': 'epochs=2', 'epochs=10': 'epochs=1', 'epochs=15': 'epochs=1'},
  '7_translation': {'steps=300': 'steps=4', 'SEEDS, STEPS = 5, 300': 'SEEDS, STEPS = 2, 4', '::50': '::2'},
  '8_nnx': {'SEEDS, EPOCHS = 5, 40': 'SEEDS, EPOCHS = 2, 2', 'range(20 *': 'range(2 *', 'range(200)': 'range(5)'},
  '9_pruned_and_hashed_students': {
    'epochs=20': 'epochs=2', 'epochs=10': 'epochs=1', 'epochs=30': 'epochs=1', 'in (0.25, 0.1)': 'in (0.25,)',
    '(0.2, 0.1, 0.05, 0.02, 0.01)': '(0.2, 0.1)',
  },
  '10_few_bits_without_data': {'epochs=30': 'epochs=2', '250,': '3,', '(1, 60)': '(1, 2)'},
  '11_networks_into_trees': {'epochs=30': 'epochs=2', 'most=6': 'most=3'},
}  # fmt: skip
"""What is trained less in a test: the names in a notebook must hold together, and its figures are committed."""


def shortened(notebook, fewer):
  found = dict.fromkeys(fewer, 0)
  for cell in code_cells(notebook):
    for long, short in fewer.items():
      found[long] += cell.source.count(long)
      cell.source = cell.source.replace(long, short)
  assert all(found.values()), found
  return notebook


@pytest.mark.slow
def test_runs_in_a_fresh_kernel(path, tmp_path, monkeypatch):
  monkeypatch.setenv('XLA_FLAGS', QUICK_TO_COMPILE)  # a reader's machine has no eight devices
  monkeypatch.setenv('IPYTHONDIR', str(tmp_path / 'ipython'))
  notebook = shortened(nbformat.read(path, as_version=4), FEWER[path.stem])
  client = NotebookClient(notebook, timeout=600, resources={'metadata': {'path': str(tmp_path)}})
  client.execute()  # raises at the first cell that fails
  assert all(cell.execution_count for cell in code_cells(notebook) if cell.source)


def test_is_committed_with_the_outputs_of_one_run(path):
  notebook = nbformat.read(path, as_version=4)
  nbformat.validate(notebook)
  cells = code_cells(notebook)
  assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
  outputs = [output for cell in cells for output in cell.outputs]
  assert any(output.output_type == 'display_data' for output in outputs), 'at least one picture'
  assert not [output for output in outputs if output.output_type == 'error' or output.get('name') == 'stderr']
  assert path.stat().st_size < 400_000


def test_opens_itself_on_colab(path):
  first = nbformat.read(path, as_version=4).cells[0]
  assert f'https://colab.research.google.com/github/lmajax/lmajax/blob/main/colab/{path.name}' in first.source
