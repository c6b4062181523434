"""Curves of every activation, drawn from a model's layers."""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from lmajax import models
from lmajax.activations import linen
from train import build
from train.activations import ACTIVATIONS, factory
from train.results import plots

MODELS = {
  'CNN': lambda act: models.CNN(channels=(4,), units=(5,), num_classes=10, act=act, pool_after=(0,)),
  'MLP': lambda act: models.MLP((4, 3), 10, act),
  'WideResNet': lambda act: models.WideResNet(10, 1, 10, act),
}


@pytest.mark.parametrize('learned', [False, True])
def test_a_site_is_that_of_the_activation_within_its_quantization(learned):
  def sites(act):
    network = models.MLP((4, 3), 10, act)
    return plots.sites(jax.eval_shape(lambda: network.init(jax.random.key(0), jnp.zeros((1, 8)), train=False)))

  for act in (linen.LMA, linen.Swish, linen.ReLU):
    assert sites(partial(linen.Quantized, act=act, learned=learned)) == sites(act)
    assert bool(sites(act)) == (act is not linen.ReLU)


class Own(nn.Module):
  """A user's network, whose activation has a name that nobody knows."""

  act: Any

  @nn.compact
  def __call__(self, x, train):
    return nn.Dense(3)(self.act(name='bend')(nn.LayerNorm()(nn.Dense(4)(x)), train=train))


@pytest.mark.parametrize('act', [linen.LMA, linen.PReLU, linen.Swish, partial(linen.Quantized, act=linen.LMA)])
def test_a_site_is_known_by_its_parameters_whatever_its_name(act):
  shapes = jax.eval_shape(lambda: Own(act).init(jax.random.key(0), jnp.zeros((1, 8)), train=False))
  assert list(plots.sites(shapes)) == ['bend']


@pytest.mark.slow
@pytest.mark.parametrize('model', MODELS)
def test_the_curves_of_every_model_and_activation_can_be_drawn(tmp_path, model):
  def variables(name):
    network = MODELS[model](factory(name, 4))
    shapes = jax.eval_shape(lambda: network.init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)), train=False))
    return jax.tree.map(lambda leaf: jnp.ones((1, *leaf.shape), leaf.dtype), shapes)

  names = ['relu', 'identity', 'prelu', 'swish', 'aplu', 'lma', 'lma-joined']
  trained = {build.Arm(name, 4 if ACTIVATIONS[name].segmented else None, 1, False): variables(name) for name in names}
  found = {arm.activation: sorted(plots.sites(jax.tree.map(lambda leaf: leaf[0], v))) for arm, v in trained.items()}
  assert found['lma'] == found['prelu'] == found['swish'] and len(found['lma']) == {'WideResNet': 7}.get(model, 2)
  assert found['relu'] == found['identity'] == []
  plots.curves(tmp_path / 'curves.png', trained)
  assert [path.name for path in tmp_path.iterdir()] == ['curves.png']
