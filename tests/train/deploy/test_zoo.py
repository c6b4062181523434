"""The model files in zoo/ load and answer as when they were put there, whatever has become of the format since."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmajax import compress
from lmajax.activations.linen import ReLU
from tests.zoo import ANSWERS, ZOO, answers, images
from train import networks
from train.data.batches import normalized

FILES = sorted(ZOO.glob('*.safetensors'))
KNOWN = json.loads(ANSWERS.read_text())


def test_every_file_has_its_answers_and_its_card():
  assert [file.name for file in FILES] == sorted(KNOWN)
  cards = (ZOO / 'README.md').read_text()
  assert all(f'`{file.name}`' in cards for file in FILES)


def test_the_files_are_small():
  sizes = [file.stat().st_size for file in FILES]
  assert max(sizes) <= 600_000 and sum(sizes) <= 3_000_000


@pytest.mark.parametrize('file', FILES, ids=lambda file: file.stem)
def test_a_file_answers_as_it_did(file):
  found, known = answers(file), np.array(KNOWN[file.name])
  assert np.ptp(known, axis=0).max() > 0.1  # it does not say the same of everything
  np.testing.assert_allclose(found, known, atol=1e-3 * np.abs(known).max())


def test_three_lines_make_variables_of_a_flax_model():
  packed, stats, description = compress.unpack((ZOO / 'cifar10-cnn.safetensors').read_bytes())
  variables = {'params': packed.decode(), **stats}
  model = networks.build('cnn', ReLU, num_classes=10)
  inputs = normalized(jnp.asarray(images((32, 32, 3))), description['pixel_mean'], description['pixel_std'])
  logits, _ = jax.jit(lambda variables: model.apply(variables, inputs, train=False))(variables)
  np.testing.assert_allclose(logits, KNOWN['cifar10-cnn.safetensors'], atol=1e-2)
