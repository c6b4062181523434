"""What comes from outside is typed and bounded before it is used."""

from functools import partial
from pathlib import Path
from typing import Annotated, Literal, TypedDict

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from msgspec import Meta

from lmajax.compress import PackedTree, identity, pack
from lmajax.compress._tensors import Blocks
from train.programs.distill_text import model_file as shipped_text
from train.runtime.errors import UserError
from train.runtime.outside import printable, read_json, typed

ABOUT = {
  'data': 'numbers', 'source': 'de', 'target': 'en', 'vocabulary': [7, 5], 'vocabulary_digest': 'd', 'max_length': 9,
  'layers': [1, 1], 'width': 4, 'units': 6, 'heads': 2, 'pre_norm': True, 'tied': False, 'activation': 'lma',
  'segments': 4, 'dtype': 'float32',
}  # fmt: skip
NO_FIT = 'its description does not fit its weights'


class Thing(TypedDict):
  kind: Literal['a', 'b']
  sizes: Annotated[list[Annotated[int, Meta(ge=1)]], Meta(max_length=2)]


THINGS = [
  ({'kind': 'c', 'sizes': []}, "here: kind: invalid enum value 'c'"),
  ({'kind': 'a', 'sizes': [1, 0]}, 'here: sizes[1]: expected `int` >= 1'),
  ({'kind': 'a', 'sizes': [True]}, 'here: sizes[0]: expected `int`, got `bool`'),
  ({'kind': 'a', 'sizes': [1.0]}, 'here: sizes[0]: expected `int`, got `float`'),
  ({'kind': 'a', 'sizes': [1, 1, 1]}, 'here: sizes: expected `array` of length <= 2'),
  ({'kind': 'a'}, 'here: the content: object missing required field `sizes`'),
  ({'kind': 'a', 'sizes': [], 'more\n': 1}, r'here: the name more\n is unknown'),
  ([], 'here: the content: expected `object`, got `array`'),
]


@pytest.mark.parametrize('value, said', THINGS, ids=[str(value) for value, _ in THINGS])
def test_what_is_of_another_type_or_out_of_range_is_named(value, said):
  with pytest.raises(UserError) as found:
    typed(value, Thing, 'here')
  assert str(found.value) == said


def test_what_fits_is_handed_back():
  value = {'kind': 'a', 'sizes': [1, 2]}
  assert typed(value, Thing, 'here') is value


@pytest.mark.parametrize('content', [b'', b'{"a": 1', b'[' * 200_000, b'{"a' * 9, b'"\xff"', b'\xff\xfe{\x00}\x00'])
def test_torn_deep_and_wrongly_encoded_files_are_refused_in_one_line(tmp_path: Path, content):
  path = tmp_path / 'a.json'
  path.write_bytes(content)
  with pytest.raises(UserError) as found:
    read_json(path)
  assert str(found.value).startswith(f'{path} is not JSON') and '\n' not in str(found.value)


def test_control_characters_are_shown_and_not_obeyed():
  assert printable('é \x1b[2J\n\u202e\\') == 'é \\x1b[2J\\n\\u202e\\'


def file_of(about, layers=(1, 1)):
  model = shipped_text.model({**ABOUT, 'layers': list(layers)})
  init = partial(model.init, train=False)
  shapes = jax.eval_shape(init, jax.random.key(0), (jnp.ones((1, 2), jnp.int32),) * 2)
  variables = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
  return pack(identity().stored(variables.pop('params'), ()), variables, about)


FORGED = [
  ({'layers': [600_000, 1]}, 'has 600,001 layers, more than 1,000'),
  ({'layers': [400, 400]}, f'{NO_FIT} (800 layers of'),
  ({'layers': [2, 1]}, NO_FIT),
  ({'max_length': 10**8}, 'has 400,000,000 pixels, more than 4,194,304'),
  ({'width': 10**10}, 'its description: width: expected `int` <= 1000000000'),
  ({'width': 8}, NO_FIT),
  ({'vocabulary': [7, 6]}, NO_FIT),
  ({'vocabulary': [7]}, 'its description: vocabulary: expected `array` of length >= 2'),
  ({'heads': 0}, 'its description: heads: expected `int` >= 1'),
  ({'pre_norm': 1}, 'its description: pre_norm: expected `bool`, got `int`'),
  ({'dtype': 'O'}, "its description: dtype: invalid enum value 'O'"),
  ({'activation': 'tanh'}, f'{NO_FIT} (KeyError)'),
]


@pytest.mark.parametrize('changes, said', FORGED, ids=[str(changes) for changes, _ in FORGED])
def test_a_forged_network_that_translates_is_refused_before_it_is_built(tmp_path, changes, said):
  path = tmp_path / 'a.safetensors'
  path.write_bytes(file_of({**ABOUT, **changes}))
  with pytest.raises(UserError) as found:
    shipped_text.fitting(shipped_text.read(path), path)
  assert str(found.value).startswith(f'{path}: ') and said in str(found.value)


def test_an_honest_network_that_translates_is_taken(tmp_path):
  path = tmp_path / 'a.safetensors'
  path.write_bytes(file_of(ABOUT))
  assert shipped_text.fitting(shipped_text.read(path), path).description == ABOUT


def test_weights_are_counted_before_anything_else(tmp_path):
  row = np.zeros((1, 10**6), np.float32)
  tensor = Blocks(np.zeros(10**5, np.uint8), row, (10**6, 8 * 10**5), 1)
  path = tmp_path / 'a.safetensors'
  path.write_bytes(pack(PackedTree({'a': tensor}), {}, ABOUT))
  with pytest.raises(UserError, match='has 800,000,000,000 parameters, more than'):
    shipped_text.read(path)
