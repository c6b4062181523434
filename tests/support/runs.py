"""What a run left behind, and what two of them must have alike; a command that is refused."""

import hashlib
import json
import shutil

from orbax.checkpoint import v1 as ocp

from lmajax import compress
from tests.support.processes import metrics, train
from train.__main__ import main


def refused(capsys, *arguments):
  """The one line that a command ends in, without its ``error:``."""
  assert main(list(map(str, arguments))) == 2
  lines = capsys.readouterr().err.splitlines()
  assert len(lines) == 1 and lines[0].startswith('error: '), lines
  return lines[0].removeprefix('error: ')


def run_whole(folder, command, options, steps):
  """Runs a program that nobody stops, and that takes so many steps."""
  dots = folder.parent / 'dots'
  done = train(command, '--workdir', folder, *options, counted=dots)
  assert done.returncode == 0, done.stderr
  assert (dots.stat().st_size if dots.exists() else 0) == steps
  assert (folder / 'results.md').read_text() in done.stdout
  return folder


def saved_steps(folder):
  """How many steps need not be computed again."""
  phases = (folder / 'checkpoints').glob('*')
  return sum(max((int(path.name) for path in phase.iterdir() if path.name.isdigit()), default=0) for phase in phases)


def digests(folder):
  """Phase -> the digests of its last checkpoint: parameters, statistics, optimizer, keys."""
  found = {}
  for phase in sorted((folder / 'checkpoints').glob('*')):
    with ocp.training.Checkpointer(str(phase)) as checkpoints:
      metadata = checkpoints.metadata(checkpoints.latest.step).custom_metadata
      found[phase.name] = checkpoints.latest.step, metadata
  return found


def results(folder):
  """What a run found, without wall-clock times."""
  values = json.loads((folder / 'results.json').read_text())
  rows = [{name: value for name, value in row.items() if name != 'milliseconds'} for row in values['rows']]
  return {**{name: value for name, value in values.items() if name != 'seconds_of_training'}, 'rows': rows}


def files(folder):
  """The bytes of what a run made but for what holds times: its model files, vocabularies, sentences and the like."""
  timed = {'config.json', 'environment.json', 'metrics.jsonl', 'milliseconds.json', 'report.html', 'results.json'}
  timed.add('results.md')
  places = [folder, folder / 'models', folder / 'translations']
  found = [path for place in places for path in place.glob('*.*') if path.name not in timed and path.suffix != '.png']
  return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


def assert_same_run(folder, whole):
  """To the bit, but for the times."""
  assert digests(folder) == digests(whole)
  assert metrics(folder) == metrics(whole)
  assert results(folder) == results(whole)
  theirs = files(whole)
  assert [name for name, content in files(folder).items() if content != theirs.pop(name, None)] == [*theirs] == []


def assert_teacher_is_taken(capsys, tmp_path, command, options, source, file):
  """Runs a program under the teacher of a run and returns the folder of its own run.

  The run's file alone will do, if it stays the same until the end and is of the same data.
  """
  folder, other = tmp_path / 'taken', tmp_path / file.name
  taken = train(command, '--workdir', folder, *options, '--teacher-from', source)
  assert taken.returncode == 0, taken.stderr
  digest = hashlib.sha256(file.read_bytes()).hexdigest()
  assert json.loads((folder / 'config.json').read_text())['teacher_digests'] == [digest]
  assert json.loads((folder / 'results.json').read_text())['config']['teacher_digests'] == [digest]
  assert not [line for line in metrics(folder) if line['phase'].endswith(('teacher', 'original', 'originals'))]
  packed, stats, description = compress.unpack(file.read_bytes())
  other.write_bytes(compress.pack(packed, stats, {**description, 'data': 'another'}))
  refusal = refused(capsys, command, '--workdir', tmp_path / 'none', *options, '--teacher-from', other)
  assert refusal.startswith(f'--teacher-from {other}: its data is another, and ')
  changed = shutil.copytree(folder, tmp_path / 'changed', ignore=shutil.ignore_patterns('checkpoints', 'models'))
  config = json.loads((changed / 'config.json').read_text())
  (changed / 'config.json').write_text(json.dumps({**config, 'teacher_from': [str(other)]}))
  refusal = refused(capsys, command, '--workdir', changed, '--resume')
  assert refusal.startswith(f'{other} is not the teacher that this run began with')
  return folder
