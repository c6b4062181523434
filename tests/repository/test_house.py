"""The rules of the house: directions of imports, documented names, and the size and cleanliness of what is written."""

import ast
import builtins
import doctest
import importlib
import inspect
import re
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lmajax
from tests import ROOT, oracles

ALLOWED = {'jax', 'flax', 'optax', 'chex', 'orbax', 'numpy', 'jaxtyping', 'lmajax'}
OPTIONAL = {
  'lmajax.compress._pack': {'safetensors'},
  'lmajax.export': {'jax2onnx'},
  'lmajax.training._watch': {'rich'},  # which flax needs
}  # imported within a call, which names the extra where it is missing
ARROWS = {('models', 'activations'), *(('training', each) for each in ('models', 'losses', 'compress', 'activations'))}
ANYWHERE = {'_arguments', '_quiet', '_versions', 'export', 'types', 'tree'}

# A training's face: options by name, each of which most people leave out.
LONG = {'lmajax.training.fit'}

# Public functions without an oracle of their name, each for a reason.
NO_ORACLE = {
  'lma_plain': 'the formula of lma, whose oracle judges both',
  'aplu_init': 'draws at random',
  'cifar10_student': 'builds a model, judged by its published size',
  'cifar10_teacher': 'builds a model, judged by its published size',
  'vgg16': 'builds a model, judged by its published size',
  'keys_like': 'folds the number of each leaf into a key',
  'check_finite': 'gives nothing; what is refused, the contract of reparameterizations tests',
  'identity': 'gives the weights as they are, as the contract of reparameterizations tests',
  'masked': 'composes others, each judged by its own oracle',
  'noise': 'draws at random between the weights and what their own oracle judges',
  'random_order': 'draws at random',
  'accompanied': 'puts parameters beside others',
  'alone': 'takes a part of a tree',
  'beside': 'draws at random, in the shapes that its tests look at',
  'compared': 'hands what networks give to a criterion, whose loss is judged',
  'criterion': 'wraps a function',
  'heads': 'composes losses, each judged by its own oracle, after linear maps that its test restates',
  'of_labels': 'the labels of distillation, whose oracle judges them',
  'projected': 'hands a linear map, which its test restates, to representation_error',
  'scheduled': 'wraps a function',
  'weighted': 'adds up what others are judged for',
  'extended': 'hands parts of a tree to other functions',
  'pack': 'a layout of bytes; unpack, a foreign reader and the bits of pack_bits judge it',
  'unpack': 'gives back what pack was given, which judges it',
  'as_it_is': 'gives back what it is given',
  'begin': 'draws at random',
  'blockwise': 'whole objectives, judged in tests of block-wise training by their taps and gradients',
  'check_boundaries': 'refuses or gives nothing',
  'compiled': 'jax.jit, with states that are donated',
  'accuracy': 'one comparison, judged in tests of fit beside NumPy',
  'distill': 'puts a value together',
  'chips': 'describes devices, and computes nothing',
  'distilled': 'hands logits to a loss that has an oracle',
  'digests': 'hashes, which tests of checkpoints compare',
  'fit': 'calls others, judged beside a loop of steps',
  'forward': 'runs a model',
  'function': 'hands on what it is given',
  'hint': 'whole objectives, judged in tests of block-wise training by their taps and gradients',
  'in_stages': 'reads a path',
  'init_state': 'draws at random',
  'linen': 'runs a model',
  'logits_of': 'takes the first of a pair',
  'loop': 'calls others',
  'lost_process': 'reads an error',
  'make_train_step': 'composes three others',
  'traffic': 'reads the text of a compiler; texts written by hand judge it',
  'mixed': 'the mean of a loss that has an oracle',
  'network_of': 'asks for a type',
  'nested': 'the leaves by_path gives, judged by what was packed',
  'nnx': 'runs a model',
  'logits': 'hands on what it is given',
  'over_all_devices': 'names a place',
  'parallel_stages': 'judged by the sum of its objectives on one device',
  'parted': 'parts a dictionary',
  'penalized': 'one sum',
  'placed': 'puts arrays on devices',
  'quiet': 'gives nothing',
  'calibrated': 'runs a model, judged beside what its activations give',
  'grafted': 'moves leaves, judged by what the network then gives',
  'lma_statistics': 'runs a model, judged by what its activations are given',
  'norm_statistics': 'runs a model, judged by what its norms give',
  'still': 'calls a network in evaluation mode',
  'synthesize': 'calls the step, judged by what it has made',
  'recalibrated': 'runs a model, judged beside a loop of passes',
  'reparameterized': 'composes two others',
  'replicated': 'names a place',
  'settle': 'waits',
  'sharing': 'composes two others',
  'shipped': 'a dictionary of what reparam gives, as the contract of reparameterizations tests',
  'summed': 'one sum, judged beside a loop of steps',
  'supervised': "optax's cross-entropy, judged beside it",
  'teach': 'runs a model',
  'together': 'calls others',
  'train_step': "optax's updates, judged beside a loop of them",
  'unrolled': 'judged by single calls',
  'vmapped': 'judged by single calls',
  'whole': 'puts arrays on devices',
  'with_ends': 'copies leaves, judged leaf by leaf',
}


def module_name(path):
  parts = path.relative_to(ROOT).with_suffix('').parts
  return '.'.join(parts[:-1] if parts[-1] == '__init__' else parts)


SOURCES = {module_name(path): path for path in sorted((ROOT / 'lmajax').rglob('*.py'))}
TREES = {name: ast.parse(path.read_text(encoding='utf-8')) for name, path in SOURCES.items()}


def imports(tree):
  """The full names a module imports: ``from a import b`` gives ``a.b``."""
  for node in ast.walk(tree):
    if isinstance(node, ast.Import):
      yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
      assert node.level == 0, 'imports are absolute'
      yield from (f'{node.module}.{alias.name}' for alias in node.names)


def inner_imports(name):
  """The modules of lmajax that a module of lmajax imports."""
  for full in imports(TREES[name]):
    if full.split('.')[0] == 'lmajax':
      yield full if full in TREES else full.rpartition('.')[0]


def folder(name):
  parts = name.split('.')
  return parts[1] if len(parts) > 1 else None


def python_files():
  """Every Python file of the repository; what is generated, fetched or hidden is not of it."""
  for top in sorted(ROOT.iterdir()):
    if top.suffix == '.py':
      yield top
    elif top.is_dir() and top.name in ('lmajax', 'train', 'tests', 'colab'):
      yield from sorted(top.rglob('*.py'))


class TestImports:
  def test_no_cycles(self):
    done = set()

    def visit(name, path):
      assert name not in path, ' -> '.join((*path, name))
      if name not in done:
        for other in inner_imports(name):
          visit(other, (*path, name))
        done.add(name)

    for name in TREES:
      visit(name, ())
    assert len(done) == len(TREES) > 10

  @pytest.mark.parametrize('name', [name for name in TREES if folder(name)])
  def test_one_arrow_between_folders(self, name):
    for other in inner_imports(name):
      assert other != 'lmajax', f'{name} imports the top'
      if folder(other) not in (folder(name), *ANYWHERE):
        assert (folder(name), folder(other)) in ARROWS, f'{name} imports {other}'

  @pytest.mark.parametrize('name', TREES)
  def test_lmajax_needs_only_what_it_declares(self, name):
    """Neither ``train`` nor a package that an installation of lmajax would not bring."""
    for full in imports(TREES[name]):
      assert full.split('.')[0] in ALLOWED | OPTIONAL.get(name, set()) | sys.stdlib_module_names, (
        f'{name} imports {full}'
      )


def exporters():
  """The modules whose public names are judged: those with ``__all__``, and the modules of Flax and the trees."""
  yield from (name for name in TREES if hasattr(importlib.import_module(name), '__all__'))
  yield from ('lmajax.activations.linen', 'lmajax.activations.nnx', 'lmajax.tree')


def public_names():
  found = {}
  for module in map(importlib.import_module, exporters()):
    own = [name for name, value in vars(module).items() if getattr(value, '__module__', '') == module.__name__]
    for name in getattr(module, '__all__', [name for name in own if not name.startswith('_')]):
      value = getattr(module, name)
      found[f'{module.__name__}.{name}'] = value
  return found


PUBLIC = {name: value for name, value in public_names().items() if not inspect.ismodule(value)}
FUNCTIONS = {name: value for name, value in PUBLIC.items() if inspect.isroutine(value)}


def needs_source(name, value):
  return not (name.startswith('lmajax.tree.') or (inspect.isclass(value) and issubclass(value, tuple)))


class TestPublicNames:
  def test_are_found(self):
    assert {'lmajax.lma', 'lmajax.activations.nnx.LMA', 'lmajax.tree.size', 'lmajax.losses.distillation'} < set(PUBLIC)

  @pytest.mark.parametrize('name', list(PUBLIC))
  def test_have_a_docstring_with_an_example_and_a_source(self, name):
    text = inspect.getdoc(PUBLIC[name]) or ''
    assert '>>> ' in text
    if needs_source(name, PUBLIC[name]):
      assert re.search(r'^Source: \S', text, re.MULTILINE)

  @pytest.mark.parametrize('name', [name for name, value in public_names().items() if inspect.ismodule(value)])
  def test_modules_have_a_docstring(self, name):
    assert public_names()[name].__doc__

  @pytest.mark.parametrize('name', FUNCTIONS)
  def test_functions_are_short_to_call(self, name):
    parameters = inspect.signature(FUNCTIONS[name]).parameters.values()
    given = [parameter for parameter in parameters if parameter.default is parameter.empty]
    assert len(parameters) <= 6 or (name in LONG and len(given) <= 4)
    for parameter in parameters:
      if (name, parameter.name) == ('lmajax.training.linen', 'variables'):
        continue  # beside the module, as Flax's own apply has them
      assert parameter.default is parameter.empty or parameter.kind is parameter.KEYWORD_ONLY, parameter.name

  @pytest.mark.parametrize('name', FUNCTIONS)
  def test_functions_are_restated_by_an_oracle(self, name):
    last = name.rpartition('.')[2]
    assert inspect.isfunction(getattr(oracles, last, None)) or last in NO_ORACLE

  def test_exemptions_are_still_needed(self):
    last_names = {name.rpartition('.')[2] for name in FUNCTIONS}
    for name in NO_ORACLE:
      assert name in last_names
      assert not hasattr(oracles, name)

  def test_oracles_use_no_jax(self):
    files = list(Path(oracles.__file__).parent.glob('*.py'))
    texts = [path.read_text(encoding='utf-8') for path in files]
    tops = {full.split('.')[0] for text in texts for full in imports(ast.parse(text))}
    assert len(files) > 5 and tops <= {'numpy', 'tests'} | sys.stdlib_module_names


def examples():
  """Each docstring of lmajax with an example in it; read from the source, since a type checker wraps the functions."""
  for name, tree in TREES.items():
    for node in ast.walk(tree):
      if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
        text = ast.get_docstring(node) or ''
        if '>>> ' in text:
          yield pytest.param(name, text, id=f'{name}.{getattr(node, "name", "")}')


@pytest.mark.parametrize('name, text', list(examples()))
def test_example_runs_as_printed(name, text):
  modules = [lmajax, lmajax.activations, lmajax.activations.linen, lmajax.compress, lmajax.losses, lmajax.models]
  modules += [lmajax.training, lmajax.types]
  names = {'jax': jax, 'jnp': jnp, 'np': np}
  for module in (*modules, importlib.import_module(name)):
    names.update({key: value for key, value in vars(module).items() if not hasattr(builtins, key)})
  names['linen'] = lmajax.activations.linen  # as README writes it, beside training.linen
  options = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
  report = []
  runner = doctest.DocTestRunner(optionflags=options)
  runner.run(doctest.DocTestParser().get_doctest(text, names, name, None, None), out=report.append)
  assert runner.summarize(verbose=False).failed == 0, ''.join(report)


class TestText:
  def test_suppressions_are_rare(self):
    """At most one per thousand lines."""
    pattern = re.compile(
      r'#\s*(noqa|type:\s*ignore|pyright:)|\bmark\.(skip|xfail)|\bpytest\.(skip|xfail|importorskip)\('
    )
    lines = [line for path in python_files() for line in path.read_text(encoding='utf-8').splitlines()]
    found = [line.strip() for line in lines if pattern.search(line)]
    assert len(found) <= max(1, len(lines) // 1000), '\n'.join(found)

  def test_no_path_of_one_machine(self):
    kinds = ('.py', '.md', '.toml', '.ipynb', '.yml', '.yaml', '.txt', '.cfg', '.sh')
    texts = [path for path in ROOT.iterdir() if path.is_file()]
    texts += [path for top in ('lmajax', 'train', 'tests', 'colab', '.github') for path in (ROOT / top).rglob('*')]
    pattern = re.compile(r'(?<![\w.])/(work|root)/')
    texts = [path for path in texts if path.suffix in kinds]
    assert len(texts) > 20
    for path in texts:
      assert not pattern.search(path.read_text(encoding='utf-8')), path

  def test_files_are_short(self):
    for path in python_files():
      if path.relative_to(ROOT).parts[0] in ('lmajax', 'train'):
        assert len(path.read_text(encoding='utf-8').splitlines()) <= 300, path
