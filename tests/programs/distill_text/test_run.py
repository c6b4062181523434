"""Translation under a teacher: what the options refuse, a whole run and its files, kills and resumes, and translate."""

import io
import json
import re
import shutil
import sys
from dataclasses import replace
from types import SimpleNamespace

import jax
import numpy as np
import pytest
import sacrebleu
from num2words import num2words

from tests.programs.distill_text.cases import LENGTH, PARTS, SMALL, write
from tests.support.model_files import written
from tests.support.processes import metrics
from tests.support.runs import refused
from train.__main__ import main
from train.config import TEACHER, load
from train.data.corpora.buckets import numbers
from train.data.corpora.vocabulary import END, PADDING, START
from train.programs.distill_text import build as build_text
from train.programs.distill_text import model_file as shipped_text
from train.programs.distill_text import run as distill_text
from train.programs.distill_text import table as report_text
from train.programs.distill_text import translate
from train.programs.distill_text.config import DistillText, Translate, defaults
from train.programs.distill_text.decode import Search
from train.programs.distill_text.table import Row
from train.results.rows import read_rows
from train.runtime.errors import UserError

STUDENTS = ['lma-8-w8-hard', 'lma-8-w8-kd', 'lma-8-w8-kd-4bit', 'lma-8-w8-sequence']


class TestOptions:
  def test_there_is_an_arm_for_every_width_activation_method_and_number_of_bits(self):
    config = replace(
      defaults('numbers'), width=(8, 16), activations=('relu', 'lma'), methods=('hard', 'kd', 'sequence'), bits=(4, 2)
    )
    names = [arm.name for arm in build_text.arms(config)]
    kinds = ('hard', 'kd', 'kd-4bit', 'kd-2bit', 'sequence')
    assert names == [f'{act}-w{width}-{kind}' for width in (8, 16) for act in ('relu', 'lma-8') for kind in kinds]

  def test_there_is_an_arm_of_kd_for_every_loss(self):
    config = replace(defaults('numbers'), activations=('relu',), methods=('hard', 'kd', 'sequence'), bits=(4,))
    found = list(build_text.arms(replace(config, loss=('kd', 'dist', 'dist'), loss_weights=(1.0, 1.0, 0.5))))
    kinds = ('hard', 'kd', 'kd-4bit', 'dist', 'dist-4bit', 'dist-x0.5', 'dist-x0.5-4bit', 'sequence')
    assert [arm.name for arm in found] == [f'relu-w16-{kind}' for kind in kinds]
    assert {arm.loss for arm in found if arm.method != 'kd'} == {'kd'}


@pytest.fixture(scope='module')
def few(tmp_path_factory):
  return write(tmp_path_factory.mktemp('texts') / 'few', PARTS)


class TestFiles:
  def error(self, capsys, few, tmp_path, spoil):
    folder = shutil.copytree(few, tmp_path / 'texts')
    spoil(folder)
    found = refused(capsys, 'distill-text', '--workdir', tmp_path / 'run', '--data', folder, *SMALL)
    assert not (tmp_path / 'run').exists()
    return found.removeprefix(f'{folder}/')

  def test_no_utf8(self, capsys, few, tmp_path):
    def spoil(folder):
      content = (folder / 'test.de').read_bytes()
      (folder / 'test.de').write_bytes(content.replace('ü'.encode(), b'\xfc', 1))

    line = 1 + next(i for i, n in enumerate(PARTS['test']) if 'ü' in num2words(n, lang='de'))
    assert self.error(capsys, few, tmp_path, spoil).startswith(f'test.de, line {line}: is no UTF-8 text')

  def test_unequal_numbers_of_lines(self, capsys, few, tmp_path):
    def spoil(folder):
      (folder / 'train.en').write_text('one\n')

    assert self.error(capsys, few, tmp_path, spoil).startswith('train.de has 64 lines and train.en 1')

  @pytest.mark.parametrize('name', ['val.en', 'test.de'])
  def test_a_missing_one(self, capsys, few, tmp_path, name):
    assert self.error(capsys, few, tmp_path, lambda folder: (folder / name).unlink()).startswith(f'{name}: no such')

  def test_a_missing_language(self, capsys, few, tmp_path):
    options = ['--workdir', tmp_path / 'run', '--data', few, '--target', 'fr']
    assert refused(capsys, 'distill-text', *options).startswith(f'{few / "train.fr"}: no such file')


@pytest.fixture(scope='module')
def whole(whole_run):
  return whole_run('distill-text')


@pytest.fixture
def copy(whole, tmp_path):
  """The run again, to be spoilt; without its checkpoints."""
  return shutil.copytree(whole, tmp_path / 'run', ignore=shutil.ignore_patterns('checkpoints', 'tensorboard'))


@pytest.fixture(scope='module')
def rows(whole):
  return read_rows(whole, 'distill-text', Row)


def lines_of(path):
  return path.read_text(encoding='utf-8').removesuffix('\n').split('\n')


def said_by(whole, name, seed):
  return lines_of(whole / 'translations' / f'{name}-seed{seed}.txt')


@pytest.mark.slow
class TestRun:
  def test_a_row_for_each_network_with_a_figure_for_each_seed(self, rows):
    assert [row.name for row in rows] == [TEACHER, *STUDENTS]
    assert [row.method for row in rows] == ['hard', 'hard', 'kd', 'kd', 'sequence']
    assert [row.bits for row in rows] == [None, None, None, 4, None]
    assert {(row.activation, row.segments, row.width) for row in rows[1:]} == {('lma', 8, 8)}
    for row in rows:
      for name in ('bleu', 'chrf', 'perplexity', 'perplexity_per_word', 'exact_match', 'validation_perplexity'):
        values = getattr(row, name)
        assert len(values) == (1 if row.name == TEACHER else 2) and np.isfinite(values).all()
      assert all(1 < value < 200 for value in row.perplexity) and row.cut == 0
      assert min(row.perplexity_per_word) > max(row.perplexity)  # a word has several pieces
    assert len({tuple(row.perplexity) for row in rows}) == len(rows)
    assert rows[1].parameters == rows[4].parameters > rows[0].parameters  # LMA's own

  def test_its_files_are_there_and_weigh_what_their_rows_say(self, whole, rows):
    models = sorted(path.name for path in (whole / 'models').iterdir())
    assert models == sorted(f'{row.name}-seed{i}.safetensors' for row in rows for i in range(len(row.bleu)))
    for row in rows:
      assert (whole / row.file).stat().st_size == row.bytes
      assert row.mean_bits == 32 if row.bits is None else 4 <= row.mean_bits < 6
    assert rows[3].bytes < 0.8 * rows[2].bytes
    assert all((whole / f'{name}.png').stat().st_size > 5000 for name in ('bleu', 'curves'))
    known = build_text.load_vocabularies(whole)
    assert known.source is known.target and known.source.size <= 64
    phases = [line['phase'] for line in metrics(whole)]
    assert phases == [TEACHER, TEACHER, *STUDENTS[:3], *STUDENTS[:3], STUDENTS[3], STUDENTS[3]]

  def test_translations_are_of_every_line_and_give_the_figures_again(self, whole, few, rows):
    meant = lines_of(few / 'test.en')
    assert len(list((whole / 'translations').iterdir())) == 9
    for row in rows:
      for i in range(len(row.bleu)):
        said = said_by(whole, row.name, i)
        assert len(said) == len(meant)
        assert row.bleu[i] == sacrebleu.corpus_bleu(said, [meant]).score
        assert row.chrf[i] == sacrebleu.corpus_chrf(said, [meant]).score > 0
        assert row.exact_match[i] == np.mean([one == other for one, other in zip(said, meant, strict=True)])
    assert rows[0].signatures[0].startswith('BLEU|') and sacrebleu.__version__ in rows[0].signatures[0]

  def test_a_teacher_is_no_relu_student(self, rows):
    """Even of the students' width."""
    assert rows[0].width == rows[1].width
    assert [report_text.base(row, rows) for row in rows] == [None] * len(rows)
    relu = rows[2]._replace(name='relu-w8-kd', activation='relu', segments=None)
    assert [report_text.base(row, [*rows, relu]) for row in rows] == [None, None, relu, None, None]
    assert report_text.base(rows[2]._replace(loss='dist'), [*rows, relu]) is None

  def test_evaluate_takes_no_other_file(self, copy, capsys):
    file = copy / 'models' / f'{TEACHER}-seed0.safetensors'
    shutil.copy(copy / 'models' / f'{STUDENTS[0]}-seed0.safetensors', file)
    assert refused(capsys, 'evaluate', copy).startswith(f'{file} holds another network than its name says')

  def test_export_takes_no_such_run_nor_predict_such_a_file(self, whole, capsys):
    for student in ([], ['--student', STUDENTS[0]], ['--student', 'nobody']):
      assert refused(capsys, 'export', whole, *student) == (
        f'{whole} is a run of distill-text: '
        'export takes runs of distill, quantize, prune, hash, compress and datafree alone'
      )
    file = whole / 'models' / f'{TEACHER}-seed0.safetensors'
    expected = f'{file}: holds a network that translates, and takes no images; give its run to translate'
    assert refused(capsys, 'export', file) == refused(capsys, 'predict', file, whole / 'bleu.png') == expected
    assert not (whole / 'exports').exists() and len(list((whole / 'models').iterdir())) == 9

  def test_the_teachers_sentences_are_its_own(self, whole, copy):
    plan = distill_text.experiment(load(DistillText, copy))
    teacher = shipped_text.read(copy / 'models' / f'{TEACHER}-seed0.safetensors').variables()
    found, known = distill_text.said_by_teacher(plan, copy, teacher), plan.text.vocabularies.target
    sentences = json.loads((whole / 'teacher-sentences.json').read_text())['sentences']
    assert found.source is plan.text.train.source and len(sentences) == len(PARTS['train'])
    for tokens, sentence in zip(found.target, sentences, strict=True):
      assert tokens.tolist() == numbers(sentence, known, LENGTH).tolist()
    moved = jax.tree.map(lambda leaf: leaf + 1, teacher)
    for other in (plan, moved), (plan._replace(config=replace(plan.config, beams=3)), teacher):
      with pytest.raises(UserError) as caught:
        distill_text.said_by_teacher(other[0], copy, other[1])
      path = copy / 'teacher-sentences.json'
      assert str(caught.value) == f'{path} is of another teacher, search or vocabulary: delete it, then --resume'


def given(monkeypatch, content):
  """Puts bytes on standard input."""
  monkeypatch.setattr(sys, 'stdin', SimpleNamespace(buffer=io.BytesIO(content)))


def best(rows):
  return min(rows[1:], key=lambda row: sum(row.validation_perplexity)).name


def greedily(whole, name, lines):
  """What a network says, asked for all words anew after each."""
  known = build_text.load_vocabularies(whole)
  shipped = shipped_text.read(whole / 'models' / f'{name}-seed0.safetensors')
  model, variables = shipped_text.model(shipped.description), shipped.variables()
  asked = jax.jit(lambda variables, *inputs: model.apply(variables, inputs, train=False)[0])
  source, said = np.full((len(lines), LENGTH), PADDING, np.int32), np.full((len(lines), LENGTH + 1), PADDING, np.int32)
  for row, line in zip(source, lines, strict=True):
    tokens = numbers(line, known.source, LENGTH)
    row[: len(tokens)] = tokens
  said[:, 0] = START
  for i in range(LENGTH):
    logits = np.array(asked(variables, source, said[:, :-1]))[:, i]
    logits[:, [PADDING, START]] = -np.inf
    said[:, i + 1] = np.where((said[:, 1 : i + 1] == END).any(axis=1), PADDING, logits.argmax(axis=-1))
  return [known.target.decode(row.tolist()) for row in said]


@pytest.mark.slow
class TestTranslate:
  def test_a_line_for_each_line_of_standard_input_by_the_best_student(self, whole, few, rows, monkeypatch, capsys):
    lines = [*lines_of(few / 'test.de'), '', ' \t', 'neun' * 3000]
    given(monkeypatch, '\r\n'.join([lines[0], *lines[1:]]).encode())
    assert main(['translate', str(whole), '--seed', '1']) == 0
    found = capsys.readouterr()
    said = found.out.removesuffix('\n').split('\n')
    assert said[:-3] == said_by(whole, best(rows), 1)
    assert said[-3:-1] == ['', ''] and len(said) == len(lines)
    note = re.fullmatch(
      rf'line {len(lines)}: (\d+) pieces, of which the first {LENGTH - 1} are translated\n', found.err
    )
    assert note and int(note[1]) == len(build_text.load_vocabularies(whole).source.encode(lines[-1])) > 1000

  def test_a_file_by_a_named_network_and_greedily(self, whole, few, capsys):
    name = STUDENTS[0]
    assert main(['translate', str(whole), str(few / 'test.de'), '--student', name, '--beams', '1']) == 0
    found = capsys.readouterr()
    assert found.out.removesuffix('\n').split('\n') == greedily(whole, name, lines_of(few / 'test.de'))
    assert found.err == ''

  def test_nothing_of_nothing(self, whole, monkeypatch, capsys):
    given(monkeypatch, b'')
    assert main(['translate', str(whole)]) == 0
    assert capsys.readouterr().out == ''

  def test_the_search_is_that_of_the_run_but_for_what_is_given(self, whole):
    command = Translate(whole)
    assert translate.asked(command, 9) == Search(2, load(DistillText, whole).length_penalty, 9)
    assert translate.asked(replace(command, beams=1, length_penalty=0.5), 9) == Search(1, 0.5, 9)

  def test_lines_are_those_between_line_feeds(self):
    content = '\ufeffeins\r\nzw\u2028ei\n\n drei'.encode()
    assert translate.sentences(None, io.BytesIO(content)) == ['eins', 'zw\u2028ei', '', 'drei']
    assert translate.sentences(None, io.BytesIO(content + b'\n')) == ['eins', 'zw\u2028ei', '', 'drei']
    assert translate.sentences(None, io.BytesIO(b'\n')) == ['']

  def test_no_utf8_is_named_with_its_line(self, whole, tmp_path, monkeypatch, capsys):
    content = 'eins\nzwölf\n'.encode() + b'f\xfcnf\nneun\n'
    given(monkeypatch, content)
    assert refused(capsys, 'translate', whole) == 'standard input, line 3: is no UTF-8 text; save it as UTF-8'
    (tmp_path / 'a.txt').write_bytes(content)
    expected = f'{tmp_path / "a.txt"}, line 3: is no UTF-8 text; save it as UTF-8'
    assert refused(capsys, 'translate', whole, tmp_path / 'a.txt') == expected
    assert refused(capsys, 'translate', whole, tmp_path / 'b.txt').startswith(f'cannot read {tmp_path / "b.txt"}: No')

  @pytest.mark.parametrize(
    'options, expected',
    [
      ('--student lma', f'--student lma: the run has {", ".join([TEACHER, *STUDENTS])}'),
      ('--beams 0', '--beams is 0: give 1 or more'),
      ('--length-penalty -1', '--length-penalty is -1.0: give 0 or more'),
      ('--length-penalty inf', '--length-penalty is inf: give 0 or more'),
      ('--seed 7', 'cannot read the model '),
    ],
  )
  def test_a_wrong_option_is_named(self, whole, capsys, options, expected):
    assert refused(capsys, 'translate', whole, *options.split()).startswith(expected)

  def test_a_folder_that_is_no_such_run_is_named(self, tmp_path, copy, capsys):
    expected = f'cannot read {tmp_path / "config.json"}: No such file or directory'
    assert refused(capsys, 'translate', tmp_path).startswith(expected)
    (tmp_path / 'config.json').write_text('{"recipe": "lit-text"}')
    expected = f'{tmp_path} is a run of lit-text: translate takes runs of distill-text alone'
    assert refused(capsys, 'translate', tmp_path) == expected
    (copy / 'results.json').unlink()
    assert refused(capsys, 'translate', copy).startswith(f'{copy} holds a run that is not finished: distill-text')

  def test_a_vocabulary_that_is_damaged_missing_or_anothers_is_named(self, copy, tmp_path, capsys):
    path = copy / 'vocabulary.target'
    path.write_bytes(path.read_bytes()[:-1])
    assert refused(capsys, 'translate', copy).startswith(f'{path}: not a vocabulary, or a damaged one')
    path.unlink()
    assert refused(capsys, 'translate', copy).startswith(f'{copy}: is not the folder of a run of distill-text')
    others = write(tmp_path / 'others', {part: range(100, 140) for part in PARTS})
    config = replace(load(DistillText, copy), data=str(others), workdir=None)
    plan = distill_text.experiment(config)
    build_text.save_vocabularies(plan.text.vocabularies, copy)
    assert 'its vocabulary is not the one that' in refused(capsys, 'translate', copy)

  def test_a_model_file_that_is_damaged_or_of_another_kind_is_named(self, copy, tmp_path, capsys):
    asked = ['translate', copy, '--student', TEACHER]
    path = copy / 'models' / f'{TEACHER}-seed0.safetensors'
    content = path.read_bytes()
    for damaged in (content[:-1], content[:-9] + bytes([content[-9] ^ 1]) + content[-8:], b'', b'{}'):
      path.write_bytes(damaged)
      assert refused(capsys, *asked).startswith(f'{path}: ')
    written(tmp_path / 'digits.safetensors')
    shutil.copy(tmp_path / 'digits.safetensors', path)
    assert refused(capsys, *asked).startswith(f'{path}: without the description of a network that translates')
    path.unlink()
    assert refused(capsys, *asked).startswith(f'cannot read the model {path}')
