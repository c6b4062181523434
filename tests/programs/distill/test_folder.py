"""What a run of distill leaves in its folder."""

import json

from tests.support.processes import SMALL, train


def test_the_command_writes_its_folder_and_prints_its_table(tmp_path):
  folder = tmp_path / 'run'
  done = train('distill', '--workdir', folder, *SMALL[2:], '--activations', 'relu', 'lma', '--segments', '2', '4')
  assert done.returncode == 0, done.stderr
  for name in ('config.json', 'metrics.jsonl', 'results.json', 'results.md', 'curves.png', 'against_segments.png'):
    assert (folder / name).stat().st_size > 0
  assert list((folder / 'tensorboard').rglob('events.*'))
  assert (folder / 'results.md').read_text() in done.stdout
  assert '100%' in done.stderr  # the progress bar
  rows = json.loads((folder / 'results.json').read_text())['rows']
  assert rows[0]['name'] == 'teacher'
  students = {(row['activation'], row['segments'], row['hard_label']) for row in rows[1:]}
  assert students == {(a, k, h) for a, k in [('relu', None), ('lma', 2), ('lma', 4)] for h in (True, False)}
  assert all(len(row['accuracy']) == 2 and min(row['accuracy']) >= 0 for row in rows[1:])
  assert all(row['bytes'] >= 4 * row['parameters'] for row in rows)
