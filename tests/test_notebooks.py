"""Every notebook runs from its first cell to its last in a fresh kernel, and is committed as such a run."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

COLAB = Path(__file__).parents[1] / 'colab'
NOTEBOOKS = sorted(COLAB.glob('*.ipynb'))

pytestmark = pytest.mark.parametrize('path', [pytest.param(path, id=path.stem) for path in NOTEBOOKS])


def code_cells(notebook):
  return [cell for cell in notebook.cells if cell.cell_type == 'code']


@pytest.mark.slow
def test_runs_in_a_fresh_kernel(path, tmp_path, monkeypatch):
  monkeypatch.delenv('XLA_FLAGS', raising=False)  # a reader's machine has no eight devices, and code that is fast
  monkeypatch.setenv('IPYTHONDIR', str(tmp_path / 'ipython'))
  notebook = nbformat.read(path, as_version=4)
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
