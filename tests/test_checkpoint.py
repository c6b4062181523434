"""A damaged checkpoint is named in a warning, and the one before it is used."""

import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from train.checkpoint import Checkpoints, digests

# A load that fails leaves Orbax's event loop with work that it complains of when it is collected.
pytestmark = pytest.mark.filterwarnings('ignore::pytest.PytestUnraisableExceptionWarning')


def state(number):
  noise = np.random.default_rng(number).normal(size=(64, 64)).astype(np.float32)
  return {'kernel': jnp.asarray(noise), 'step': jnp.int32(number), 'key': jax.random.key(number)}


def abstract():
  return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), state(0))


@pytest.fixture
def saved(tmp_path):
  checkpoints = Checkpoints(tmp_path / 'phase')
  for number in (1, 2, 3):
    checkpoints.save(number, state(number), history={'errors': [[0.5]] * number}, score=-number)
  checkpoints.close()
  return tmp_path / 'phase'


def restored(folder):
  checkpoints = Checkpoints(folder)
  found = checkpoints.restore(abstract)
  checkpoints.close()
  return found


def largest_file(folder):
  return max((path for path in folder.rglob('*') if path.is_file()), key=lambda path: path.stat().st_size)


def test_restores_the_newest_with_its_history(saved):
  found, history = restored(saved)
  assert digests(found) == digests(state(3))
  assert history == {'errors': [[0.5]] * 3}


def test_a_folder_may_be_relative(saved, monkeypatch):
  monkeypatch.chdir(saved.parent)
  assert digests(restored(Path(saved.name))[0]) == digests(state(3))


def test_keeps_the_latest_two_and_the_best(saved):
  assert sorted(path.name for path in saved.iterdir()) == ['1', '2', '3']
  checkpoints = Checkpoints(saved)
  checkpoints.save(4, state(4), history={'errors': []}, score=-4)
  checkpoints.close()
  assert sorted(path.name for path in saved.iterdir()) == ['1', '3', '4']


def test_nothing_saved_restores_nothing(tmp_path):
  assert restored(tmp_path / 'new') is None


def truncate(path):
  path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(position):
  def damage(path):
    content = bytearray(path.read_bytes())
    content[int(position * len(content))] ^= 0x10
    path.write_bytes(bytes(content))

  return damage


DAMAGES = [
  pytest.param(truncate, id='truncated'),
  pytest.param(lambda path: path.unlink(), id='missing'),
  pytest.param(flip(0.5), id='flipped'),
]


@pytest.mark.parametrize('damage', DAMAGES)
def test_a_damaged_data_file_is_named_and_the_one_before_used(saved, damage):
  damage(largest_file(saved / '3'))
  with pytest.warns(UserWarning, match=f'checkpoint {saved / "3"} is damaged'):
    found, history = restored(saved)
  assert digests(found) == digests(state(2))
  assert len(history['errors']) == 2


def test_no_flipped_byte_is_ever_loaded_as_another_number(saved):
  data = largest_file(saved / '3')
  sound = data.read_bytes()
  passed_over = 0
  for position in np.linspace(0.01, 0.99, 12):
    data.write_bytes(sound)
    flip(position)(data)
    with warnings.catch_warnings(record=True) as caught:
      warnings.simplefilter('always')
      found, _ = restored(saved)
    assert digests(found) == digests(state(2 if caught else 3))  # a byte that no number depends on may flip
    passed_over += bool(caught)
  assert passed_over >= 6


@pytest.mark.parametrize('name', ['_CHECKPOINT_METADATA', 'state/_METADATA', 'state/manifest.ocdbt'])
@pytest.mark.parametrize('damage', DAMAGES[:2])
def test_a_damaged_description_is_survived_too(saved, name, damage):
  damage(saved / '3' / name)
  with pytest.warns(UserWarning, match=f'checkpoint {saved / "3"} is damaged'):
    found, _ = restored(saved)
  assert digests(found) == digests(state(2))


def test_a_history_with_another_number_is_passed_over(saved):
  description = saved / '3' / '_CHECKPOINT_METADATA'
  text = description.read_text()
  assert text.count('0.5') == 3
  description.write_text(text.replace('0.5', '0.6', 1))
  with pytest.warns(UserWarning, match='the content of history'):
    _, history = restored(saved)
  assert history == {'errors': [[0.5]] * 2}


def test_reading_alters_nothing(saved):
  unfinished = saved / '4.orbax-checkpoint-tmp'
  unfinished.mkdir()
  checkpoints = Checkpoints(saved, reading=True)
  checkpoints.restore(abstract)
  checkpoints.close()
  assert unfinished.exists()


def test_all_damaged_restores_nothing(saved):
  for number in ('1', '2', '3'):
    truncate(largest_file(saved / number))
  with pytest.warns(UserWarning, match='damaged'):
    assert restored(saved) is None


def test_a_damaged_checkpoint_is_replaced_when_its_step_comes_again(saved):
  flip(0.5)(largest_file(saved / '3'))
  checkpoints = Checkpoints(saved)
  with pytest.warns(UserWarning, match='damaged'):
    checkpoints.restore(abstract)
  checkpoints.save(3, state(3), history={'errors': []}, score=-3)
  checkpoints.close()
  found, _ = restored(saved)
  assert digests(found) == digests(state(3))
