"""An export answers as the network did, or there is none."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmajax import compress
from lmajax.compress import pack
from tests import oracles
from tests.support.model_files import cifar10, written
from tests.support.processes import train
from tests.support.runs import refused
from train.__main__ import main
from train.build import described
from train.commands import export
from train.data import load
from train.data.specs import SPECS
from train.deploy import model_file as shipped
from train.deploy import serve
from train.programs.distill import run as distill
from train.programs.distill.config import Distill

ONNX = pytest.param(
  'onnx', marks=pytest.mark.skipif(jax.__version_info__ >= (0, 11), reason='jax2onnx 0.13 converts for JAX 0.10')
)
FORMATS = ['safetensors', 'stablehlo', ONNX]


@pytest.fixture(scope='module')
def digits(tmp_path_factory):
  path = tmp_path_factory.mktemp('digits') / 'student.safetensors'
  return path, *written(path)


@pytest.fixture(scope='module')
def cifar(tmp_path_factory):
  folder = tmp_path_factory.mktemp('cifar')
  path, data_dir = folder / 'student.safetensors', cifar10(folder)
  return path, data_dir, *written(path, data='cifar10', data_dir=data_dir, width=25)


def exported(capsys, *arguments):
  assert main(['export', *map(str, arguments)]) == 0, capsys.readouterr().err
  return capsys.readouterr().out


class TestDescription:
  def test_builds_the_network_and_survives_its_file(self, digits):
    path, description, variables = digits
    found = shipped.read(path)
    assert found.description == description
    images = load('digits').test.inputs[:50]
    np.testing.assert_allclose(
      shipped.logits(description, found.variables(), images), shipped.logits(description, variables, images), atol=1e-5
    )

  def test_the_teacher_has_one_too(self):
    description = described(Distill(), None, load('digits'))
    assert shipped.model(description).units == (64, 64)

  def test_quantized_activations_are_part_of_it(self, tmp_path):
    description, variables = written(tmp_path / 'a.safetensors', activation_bits=3)
    assert description['activation_bits'] == 3
    inputs = jnp.asarray(load('digits').test.inputs[:50], jnp.float32) / 8 - 1
    _, taps = shipped.model(description).apply(variables, inputs, train=False)
    assert len(np.unique(taps[-1])) <= 8

  def test_every_class_has_a_name(self):
    assert {name: len(spec.classes) for name, spec in SPECS.items()} == {**dict.fromkeys(SPECS, 10), 'cifar100': 100}
    assert list(SPECS['cifar100'].classes) == sorted(set(SPECS['cifar100'].classes))

  def test_digits_are_as_bright_as_said(self):
    assert load('digits').train.inputs.max() == SPECS['digits'].brightest


class TestExport:
  @pytest.mark.parametrize('form', FORMATS)
  def test_answers_as_the_student(self, capsys, tmp_path, digits, form):
    path, description, variables = digits
    out = tmp_path / f'a.{form}'
    line = exported(capsys, path, '--format', form, '--out', out)
    assert line.startswith(f'{out}: {out.stat().st_size:,} bytes; differs by at most ') and '100.0 %' in line
    images = load('digits').test.inputs[:77]  # another batch than it was compared on
    own = np.asarray(shipped.logits(description, variables, images))
    found = serve.load(out)
    np.testing.assert_allclose(found.logits(images), own, atol=1e-5 * np.abs(own).max())
    assert found.description == description

  @pytest.mark.parametrize('form', FORMATS)
  def test_convolutions_too(self, capsys, tmp_path, cifar, form):
    path, data_dir, *_ = cifar
    out = tmp_path / f'a.{form}'
    assert '100.0 %' in exported(capsys, path, '--format', form, '--out', out, '--data-dir', data_dir)

  def test_a_program_holds_its_weights_packed_for_every_platform(self, capsys, tmp_path, cifar):
    path, data_dir, *_ = cifar
    wide = tmp_path / 'wide.safetensors'
    written(wide, data='cifar10', data_dir=data_dir, width=25, weights=compress.identity())
    for model in (path, wide):
      exported(capsys, model, '--out', tmp_path / f'{model.stem}.stablehlo', '--data-dir', data_dir)
    small, large = ((tmp_path / f'{name}.stablehlo').stat().st_size for name in ('student', 'wide'))
    assert small < large / 4
    program = jax.export.deserialize(bytearray((tmp_path / 'student.stablehlo').read_bytes()))
    assert program.platforms == ('cpu', 'cuda', 'tpu')

  def test_the_packed_file_is_copied(self, capsys, tmp_path, digits):
    exported(capsys, digits[0], '--format', 'safetensors', '--out', tmp_path / 'a.safetensors')
    assert (tmp_path / 'a.safetensors').read_bytes() == digits[0].read_bytes()

  def test_what_does_not_agree_does_not_stay(self, capsys, tmp_path, digits, monkeypatch):
    other = tmp_path / 'other.safetensors'
    written(other, weights=compress.uniform(1))
    wrong = export._stablehlo(shipped.read(other))
    monkeypatch.setitem(export._WRITERS, 'stablehlo', lambda _: wrong)
    line = refused(capsys, 'export', digits[0], '--out', tmp_path / 'a.stablehlo')
    assert 'it is not the network, and is not kept' in line
    assert list(tmp_path.iterdir()) == [other]

  @pytest.mark.parametrize('form', ['safetensors', 'stablehlo'])
  def test_what_was_there_stays_where_an_export_does_not_agree(self, capsys, tmp_path, digits, monkeypatch, form):
    """The packed file too, from which the export was to be made, under its own name."""
    model = tmp_path / 'a.safetensors'
    model.write_bytes(digits[0].read_bytes())
    exported(capsys, model, '--format', form)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    monkeypatch.setattr(export, 'compared', lambda *_: export.Agreement(1.0, 1.0, 0.0, 0.0))
    assert 'is not kept' in refused(capsys, 'export', model, '--format', form)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before

  def test_nan_agrees_with_nothing(self):
    own = np.ones((4, 10), np.float32)
    assert export.compared(own, own, 0).holds
    assert not export.compared(own, np.full_like(own, np.nan), 1).holds
    assert not export.compared(own, own[:2], 1).holds

  def test_a_name_says_its_format(self, capsys, tmp_path, digits):
    assert 'ends in .onnx' in refused(capsys, 'export', digits[0], '--format', 'onnx', '--out', tmp_path / 'a.bin')
    assert not list(tmp_path.iterdir())

  @pytest.mark.skipif(jax.__version_info__ < (0, 11), reason='here jax2onnx converts')
  def test_a_converter_that_cannot_is_named(self, capsys, tmp_path, digits):
    assert 'jax2onnx' in refused(capsys, 'export', digits[0], '--format', 'onnx', '--out', tmp_path / 'a.onnx')


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  folder = tmp_path_factory.mktemp('runs') / 'run'
  small = ['--activations', 'lma', '--width', '3', '--seeds', '2', '--epochs', '1', '--save-every', '1']
  done = train('distill', '--workdir', folder, *small)
  assert done.returncode == 0, done.stderr
  return folder


class TestRun:
  @pytest.mark.parametrize('name', ['teacher', 'lma-8-w3-distilled'])
  def test_of_distill_gives_its_first_seed(self, capsys, run, name):
    exported(capsys, run, '--student', name)
    plan = distill.experiment(Distill(activations=('lma',), width=(3,), seeds=2, epochs=1, save_every=1))
    trained = jax.tree.map(lambda leaf: leaf[0], distill.restored(plan, run)[name])
    group = {**plan.teacher.groups, **plan.students.groups}[name]
    images = plan.dataset.test.inputs
    own, _ = group.model.apply(trained, (jnp.asarray(images, jnp.float32) - 8) / 8, train=False)
    found = serve.load(run / 'exports' / f'{name}.stablehlo').logits(images)
    np.testing.assert_allclose(found, own, atol=1e-4 * np.abs(own).max())

  def test_asks_which_student_is_meant(self, capsys, run):
    line = refused(capsys, 'export', run)
    assert 'give --student' in line and 'teacher, lma-8-w3-distilled, lma-8-w3-hard' in line
    assert '--student is lma' in refused(capsys, 'export', run, '--student', 'lma')

  def test_with_packed_files_gives_them(self, capsys, tmp_path, digits):
    (tmp_path / 'models').mkdir()
    (tmp_path / 'models' / 'a.safetensors').write_bytes(digits[0].read_bytes())
    rows = [{'name': 'teacher', 'file': None}, {'name': 'a', 'file': 'models/a.safetensors'}]
    (tmp_path / 'results.json').write_text(json.dumps({'rows': rows}))
    (tmp_path / 'config.json').write_text(json.dumps({'data_dir': None}))
    exported(capsys, tmp_path)
    assert serve.load(tmp_path / 'exports' / 'a.stablehlo').description == digits[1]

  def test_a_folder_without_results_is_named(self, capsys, tmp_path):
    assert str(tmp_path / 'results.json') in refused(capsys, 'export', tmp_path)
    (tmp_path / 'results.json').write_text('{"rows": 3}')
    assert str(tmp_path / 'results.json') in refused(capsys, 'export', tmp_path)


NO_BITS = [
  (['--bits', '9', '--format', 'safetensors'], '--bits is 9: give 1 to 8'),
  (['--bits', '4'], '--bits is 4: give --format safetensors'),
]


@pytest.fixture
def in_float32(tmp_path):
  """The same network with its weights as they are."""
  path = tmp_path / 'float32.safetensors'
  return path, *written(path, weights=compress.identity())


class TestBits:
  def test_the_file_is_quantized_with_statistics_of_its_own_weights(self, capsys, tmp_path, in_float32):
    path, description, variables = in_float32
    out = tmp_path / 'small.safetensors'
    exported(capsys, path, '--format', 'safetensors', '--bits', '4', '--out', out)
    found = shipped.read(out)
    assert found.description == description
    assert found.packed.mean_bits() <= 4
    assert out.stat().st_size < len(pack(found.packed, found.stats, description))  # Huffman's code is shorter here
    packed = oracles.uniform(np.asarray(variables['params']['logits']['kernel']), 4)
    np.testing.assert_allclose(found.packed.decode()['logits']['kernel'], packed, atol=1e-6)
    before, after = (each['batch_stats']['stages_0']['norm']['mean'] for each in (variables, found.stats))
    assert np.abs(np.asarray(before) - np.asarray(after)).max() > 1e-3

  @pytest.mark.parametrize('options, expected', NO_BITS, ids=['9', 'stablehlo'])
  def test_what_cannot_be_is_named(self, capsys, digits, options, expected):
    assert refused(capsys, 'export', digits[0], *options) == expected

  def test_a_quantized_file_is_not_quantized_again(self, capsys, tmp_path, in_float32):
    out = tmp_path / 'small.safetensors'
    exported(capsys, in_float32[0], '--format', 'safetensors', '--bits', '4', '--out', out)
    line = refused(capsys, 'export', out, '--format', 'safetensors', '--bits', '2')
    assert line == f'--bits 2: the weights of {out} are quantized already'


class TestEvaluate:
  def test_a_file_of_any_format_is_scored_on_the_test_images(self, capsys, tmp_path, digits):
    path, description, variables = digits
    test = load('digits').test
    right = np.asarray(shipped.logits(description, variables, test.inputs)).argmax(-1) == test.labels
    program = tmp_path / 'a.stablehlo'
    exported(capsys, path, '--out', program)
    for file in (path, program):
      assert main(['evaluate', str(file), '--data', 'digits']) == 0
      line = f'{file}: {100 * right.mean():.2f} % of the {len(right):,} test images of digits right'
      assert capsys.readouterr().out.startswith(line)

  def test_what_does_not_fit_is_named(self, capsys, tmp_path, digits):
    path = digits[0]
    assert refused(capsys, 'evaluate', path, '--data', 'mnist') == f'--data is mnist: {path} is of digits'
    assert refused(capsys, 'evaluate', tmp_path, '--data', 'mnist').startswith('--data is mnist: a run knows its data')
    assert refused(capsys, 'evaluate', tmp_path / 'a.onnx').startswith(f'cannot read the model {tmp_path / "a.onnx"}')


OUTSIDE = ['../../evil', '/tmp/evil', '..', 'a/../../evil', 'new\nline', 7, None]


@pytest.mark.parametrize('name', OUTSIDE, ids=map(repr, OUTSIDE))
class TestNamesInResults:
  """What a run's JSON says is no path out of its folder."""

  def test_of_a_row_write_nothing_elsewhere(self, capsys, tmp_path, digits, name):
    folder = tmp_path / 'runs' / 'run'
    (folder / 'models').mkdir(parents=True)
    (folder / 'models' / 'a.safetensors').write_bytes(digits[0].read_bytes())
    rows = [{'name': name, 'file': 'models/a.safetensors'}]
    (folder / 'results.json').write_text(json.dumps({'recipe': 'quantize', 'rows': rows}))
    (folder / 'config.json').write_text(json.dumps({'recipe': 'quantize', 'data_dir': None}))
    before = sorted(tmp_path.rglob('*'))
    line = refused(capsys, 'export', folder, '--format', 'safetensors')
    if isinstance(name, str):
      assert line.startswith(f'{folder / "results.json"} names ') and 'no file of' in line
    assert sorted(tmp_path.rglob('*')) == before

  def test_of_a_file_read_nothing_elsewhere(self, capsys, tmp_path, digits, name):
    folder = tmp_path / 'run'
    folder.mkdir()
    (tmp_path / 'evil').write_bytes(digits[0].read_bytes())
    (folder / 'results.json').write_text(json.dumps({'recipe': 'quantize', 'rows': [{'name': 'a', 'file': name}]}))
    (folder / 'config.json').write_text(json.dumps({'recipe': 'quantize', 'data_dir': None}))
    refused(capsys, 'export', folder, '--format', 'safetensors')
    assert not (folder / 'exports').exists()


def test_a_link_out_of_the_run_is_no_file_of_it(capsys, tmp_path, digits):
  folder = tmp_path / 'run'
  folder.mkdir()
  (folder / 'models').symlink_to(digits[0].parent)
  rows = [{'name': 'a', 'file': f'models/{digits[0].name}'}]
  (folder / 'results.json').write_text(json.dumps({'recipe': 'quantize', 'rows': rows}))
  (folder / 'config.json').write_text(json.dumps({'recipe': 'quantize', 'data_dir': None}))
  assert 'no file of' in refused(capsys, 'export', folder, '--format', 'safetensors')
