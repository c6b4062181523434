"""What is too old is refused in a line; the lowest versions are those of the metadata."""

import tomllib

import pytest

import lmajax
from lmajax import _versions
from lmajax.training import Checkpoints
from tests import ROOT

PROJECT = tomllib.loads((ROOT / 'pyproject.toml').read_text())['project']


@pytest.mark.parametrize('found', ['0.7.2', '0.7.2.dev4', '0.8.0rc1', '0.10.2', '1.0'])
def test_what_is_new_enough_passes(found):
  _versions.check('JAX', found, '0.7.2')


@pytest.mark.parametrize('found', ['0.6.9', '0.7.1', '0.4.38'])
def test_what_is_too_old_is_refused_in_a_line(found):
  with pytest.raises(ImportError, match=f'lmajax needs JAX 0.7.2 or newer, and this is {found}: pip install -U jax'):
    _versions.check('JAX', found, '0.7.2')


def test_the_lowest_are_those_of_the_metadata():
  assert PROJECT['version'] == lmajax.__version__
  for name, (_, lowest) in _versions._LOWEST.items():
    assert f'{name.lower()}>={lowest}' in PROJECT['dependencies']


def test_an_orbax_that_is_too_old_is_named_where_it_is_used(monkeypatch, tmp_path):
  from orbax.checkpoint import v1

  monkeypatch.delattr(v1, 'load')
  with pytest.raises(ImportError, match='checkpoints need orbax-checkpoint'):
    Checkpoints(tmp_path)
