"""A damaged checkpoint is named in a warning, and the one before it is used."""

import gc
import re
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmajax.training import Checkpoints, DamagedError, UnfitError, digests
from tests.support.processes import finished, start

# A load that fails leaves Orbax's event loop with work that it complains of when it is collected.
pytestmark = pytest.mark.filterwarnings('ignore::pytest.PytestUnraisableExceptionWarning')


@pytest.fixture(autouse=True)
def nothing_left_over():
  """What Orbax leaves of a read that failed complains when it is collected: here, not in whichever test comes next."""
  yield
  gc.collect()


def state(number):
  noise = np.random.default_rng(number).normal(size=(64, 64)).astype(np.float32)
  return {'kernel': jnp.asarray(noise), 'step': jnp.int32(number), 'key': jax.random.key(number)}


def abstract():
  return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), state(0))


@pytest.fixture
def saved(tmp_path):
  checkpoints = Checkpoints(tmp_path / 'phase')
  for number in (1, 2, 3):
    checkpoints.save(number, state(number), history={'errors': [[0.5]] * number}, score=-float(number))
  checkpoints.close()
  return tmp_path / 'phase'


def restored(folder):
  return Checkpoints(folder).restore(abstract)


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
  checkpoints.save(4, state(4), history={'errors': []}, score=-4.0)
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


@pytest.mark.slow
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
  Checkpoints(saved).restore(abstract)
  assert unfinished.exists()


def test_where_all_are_damaged_nothing_is_trained_over_them_unless_it_is_asked_for(saved):
  for number in ('1', '2', '3'):
    truncate(largest_file(saved / number))
  with pytest.warns(UserWarning, match='damaged'), pytest.raises(DamagedError) as caught:
    Checkpoints(saved).restore(abstract)
  assert str(caught.value) == f'{saved}: none of its checkpoints can be read'
  with pytest.warns(UserWarning, match='damaged'):
    assert Checkpoints(saved).restore(abstract, restart=True) is None


@pytest.mark.parametrize(
  'changes, kind', [({'shape': (64, 63)}, 'float32[64, 63]'), ({'dtype': jnp.bfloat16}, 'bfloat16[64, 64]')]
)
@pytest.mark.parametrize('restart', [False, True])
def test_a_whole_one_of_other_shapes_or_types_is_not_taken_for_damaged(saved, changes, kind, restart):
  def other():
    found = abstract()
    kernel = {'shape': (64, 64), 'dtype': jnp.float32, 'sharding': found['kernel'].sharding, **changes}
    return {**found, 'kernel': jax.ShapeDtypeStruct(**kernel)}

  said = f"{saved / '3'} does not fit: ['kernel'] is float32[64, 64] there and {kind} here"
  with warnings.catch_warnings(action='error'), pytest.raises(UnfitError, match=re.escape(said)):
    Checkpoints(saved).restore(other, restart=restart)


def test_one_more_leaf_than_was_saved_is_named(saved):
  with pytest.raises(UnfitError, match=r"\['more'\] is None there and float32\[2\] here"):
    Checkpoints(saved).restore(lambda: {**abstract(), 'more': jax.ShapeDtypeStruct((2,), jnp.float32)})


def test_one_of_another_configuration_is_refused(tmp_path):
  folder = tmp_path / 'phase'
  checkpoints = Checkpoints(folder, {'learning_rate': 0.1, 'width': [1, 2]})
  checkpoints.save(1, state(1), history={'errors': []}, score=0.0)
  checkpoints.close()
  assert Checkpoints(folder, {'learning_rate': 0.1, 'width': [1, 2]}).restore(abstract)
  for other, said in (({'learning_rate': 0.2}, 'learning_rate 0.1, not 0.2'), ({}, 'not None')):
    with pytest.raises(UnfitError, match=f'{folder / "1"} was made with.*{said}'):
      Checkpoints(folder, other and {'width': [1, 2], **other}).restore(abstract, restart=True)


@pytest.mark.parametrize('content', [b'', b'{"score": ', b'\xff\xfe', None])
def test_a_damaged_score_costs_no_more_than_the_score(saved, content):
  path = saved / '3' / 'metrics' / 'metrics'
  path.unlink() if content is None else path.write_bytes(content)
  assert digests(restored(saved)[0]) == digests(state(3))
  checkpoints = Checkpoints(saved)
  checkpoints.save(4, state(4), history={'errors': []}, score=-4.0)
  checkpoints.close()
  assert digests(restored(saved)[0]) == digests(state(4))


def test_a_damaged_one_says_one_line_alone(saved):
  """Orbax, absl and their event loop have more to say of it."""
  program = f"""
import os, warnings
from pathlib import Path
from tests.lmajax.training.test_checkpoint import Checkpoints, abstract, largest_file
folder = Path({str(saved)!r})
largest_file(folder / '3').write_bytes(bytes(100))
(folder / '2' / '_CHECKPOINT_METADATA').write_bytes(bytes(100))
warnings.showwarning = lambda message, *rest: print(message)
Checkpoints(folder).restore(abstract)
"""
  done = finished(start('-c', program))
  assert done.returncode == 0 and done.stderr == '', done.stderr
  lines = done.stdout.splitlines()
  assert [line.split(' is damaged')[0] for line in lines] == [f'checkpoint {saved / number}' for number in '32']


def test_a_damaged_checkpoint_is_replaced_when_its_step_comes_again(saved):
  flip(0.5)(largest_file(saved / '3'))
  checkpoints = Checkpoints(saved)
  with pytest.warns(UserWarning, match='damaged'):
    checkpoints.restore(abstract)
  checkpoints.save(3, state(3), history={'errors': []}, score=-3.0)
  checkpoints.close()
  found, _ = restored(saved)
  assert digests(found) == digests(state(3))
