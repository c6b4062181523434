"""Translating students under kept logits: they share what was said as under the teacher itself."""

import json
from functools import partial

import jax
import numpy as np
import pytest

from tests.support.processes import train
from tests.support.runs import refused
from tests.train.engine.test_logits_cache import assert_half_of
from train.data.corpora.vocabulary import PADDING
from train.engine.logits_cache import FOLDER
from train.programs.distill_text import run as recipe_text
from train.programs.distill_text.config import DistillText
from train.programs.distill_text.table import Row
from train.results.rows import read_rows
from train.runtime.run import Run
from train.teaching import KD

SMALL = [  # a translation that takes seconds
  *('--vocabulary', 'words', '--untied', '--max-length', '8', '--buckets', '2', '--batch-size', '64', '--seeds', '1'),
  *('--activations', 'relu', '--epochs', '1', '--teacher-epochs', '1', '--beams', '1', '--heads', '2', '--width', '4'),
  *('--layers', '1', '--teacher-width', '8', '--teacher-layers', '1'),
]


@pytest.fixture(scope='module')
def corpus(tmp_path_factory):
  """Sentences of eleven words, which with the four marks make a vocabulary of 15."""
  folder, draw = tmp_path_factory.mktemp('corpus'), np.random.default_rng(0)
  for part, count in {'train': 60, 'val': 8, 'test': 8}.items():
    lines = [[f'word{number}' for number in draw.integers(0, 11, length)] for length in draw.integers(1, 7, count)]
    (folder / f'{part}.tsv').write_text(''.join(f'{" ".join(line)}\t{" ".join(line[::-1])}\n' for line in lines))
  return folder


def test_a_number_of_logits_that_cannot_be_is_named(capsys, tmp_path, corpus):
  at = ['distill-text', '--workdir', tmp_path / 'run', '--data', corpus, *SMALL, '--cached-logits']
  assert refused(capsys, *at, -1) == '--cached-logits is -1: give 0 or more'
  assert refused(capsys, *at, 16) == '--cached-logits is 16: the vocabulary has 15; give no more, or 0'
  line = refused(capsys, *at, 5, '--methods', 'hard', 'sequence')
  assert line == '--cached-logits is 5: it goes with --methods kd'
  assert not (tmp_path / 'run').exists()


def test_translating_students_share_what_was_said_as_under_the_teacher(tmp_path, corpus, monkeypatch):
  options = {'data': str(corpus), 'vocabulary': 'words', 'untied': True, 'max_length': 8, 'buckets': 2, 'seeds': 1}
  options |= {'width': (4,), 'heads': 2, 'teacher_width': 8, 'teacher_layers': 1, 'activations': ('relu',), 'epochs': 2}
  fits = []
  monkeypatch.setattr(recipe_text, 'fit', lambda run, phase, *given: fits.append(given) or {})
  for logits in (None, 0, 5):
    plan = recipe_text.experiment(DistillText(**options, batch_size=64, cached_logits=logits, loss=('kd', 'dist')))
    assert len({id(group.model) for group in plan.groups.values()}) == 2  # one of the teacher, one of all students
    model = plan.groups[None].model
    teacher = jax.jit(partial(model.init, train=False))(jax.random.key(0), plan.data.batches.blank)
    folder = tmp_path / str(logits)
    folder.mkdir()
    with Run(folder) as run, pytest.raises(KeyError):  # nothing was trained
      recipe_text.fitted(plan, run, 'students', plan.of('hard', 'kd'), plan.data, teacher)
    assert (folder / FOLDER).exists() == (logits is not None)
  (students, live, _), *cached_ones = fits
  shares = [jax.jit(cohort.share) for cohort, _, _ in fits]
  for step in range(2 * live.batches.steps_per_epoch):
    words = np.asarray(live.batches[step].labels) != PADDING
    said = np.asarray(jax.nn.log_softmax(shares[0](teacher, live.batches[step]).logits), np.float64)
    all_of, few_of = (
      np.asarray(share(frozen, data.batches[step]).logits, np.float64)
      for share, (_, data, frozen) in zip(shares[1:], cached_ones, strict=True)
    )
    assert_half_of(all_of[words], said[words])
    best = np.argsort(-said, axis=-1)[..., :5]
    assert_half_of(np.take_along_axis(few_of, best, -1)[words], np.take_along_axis(said, best, -1)[words])
    np.testing.assert_allclose(np.exp(few_of[words]).sum(-1), 1, rtol=2e-3)
  for cohort, _, frozen in cached_ones:
    assert frozen is None and cohort.groups.keys() == students.groups.keys()
    assert [*cohort.groups] == ['relu-w4-hard', 'relu-w4-kd', 'relu-w4-dist']


@pytest.mark.slow
def test_a_translating_student_of_the_command_line(tmp_path, corpus):
  asked = ['--methods', 'kd', '--cached-logits', '6', '--bits', '4']
  asked += ['--loss', 'kd', 'dist', '--loss-weights', '1', '0.5']
  done = train('distill-text', '--workdir', tmp_path / 'run', '--data', corpus, *SMALL, *asked)
  assert done.returncode == 0, done.stderr
  rows = {row.name.removeprefix('relu-w4-'): row for row in read_rows(tmp_path / 'run', 'distill-text', Row)}
  of = {'teacher': KD, 'kd': KD, 'kd-4bit': KD, 'dist-x0.5': 'dist-x0.5', 'dist-x0.5-4bit': 'dist-x0.5'}
  assert {name: row.loss for name, row in rows.items()} == of
  assert len({row.perplexity[0] for row in rows.values()}) == len(rows)
  assert all((tmp_path / 'run' / row.file).stat().st_size == row.bytes for row in rows.values())
  assert '| relu | 4 | dist-x0.5 | 4 |' in done.stdout
  assert (tmp_path / 'run' / 'results.md').read_text() in done.stdout
  about = json.loads((tmp_path / 'run' / FOLDER / 'about.json').read_text())
  assert about['of'].keys() == {'teacher', 'data', 'vocabulary', 'logits', 'epochs'}
  said = sum(len(line.split('\t')[1].split()) + 1 for line in (corpus / 'train.tsv').read_text().splitlines())
  assert np.load(tmp_path / 'run' / FOLDER / 'classes.npy').shape == (said, 6)
