"""Builds the networks of the benchmarks with random parameters, so that timings depend on no training."""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from lmajax import models, tree
from lmajax.activations.linen import Elementwise
from lmajax.training import TrainState
from lmajax.types import ActivationFactory, Array, Batch
from train.activations import factory

IMAGE = (32, 32, 3)
_ONES = ('var', 'std', 'weight', 'scale', 'slope')


def labelled(label: str) -> ActivationFactory:
  """Returns the activation factory of a label such as ``lma-8``."""
  if label == 'gelu':
    return partial(Elementwise, jax.nn.gelu)  # by its tanh
  name, _, last = label.rpartition('-')
  return factory(name, int(last)) if last.isdigit() else factory(label, None)


def network(name: str, label: str) -> Any:
  """Builds a network of the paper, or a perceptron with two hidden layers of 64."""
  act = labelled(label)
  if name == 'mlp':
    return models.MLP((64, 64), 10, act)
  if name == 'wrn-10-4':
    return models.WideResNet(10, 4, 100, act)
  return models.cifar10_student(int(name.removeprefix('student-')), act)


def variables(model: Any, x: Array, seed: int = 0) -> dict[str, Any]:
  """Draws random parameters, and statistics as after some training, without the minutes that ``init`` compiles for."""
  shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), x, train=False))
  rng = np.random.default_rng(seed)

  def drawn(path: Any, leaf: Any) -> Array:
    name = path[-1].key
    spread = 1 / np.sqrt(np.prod(leaf.shape[:-1])) if name == 'kernel' else 0.05
    return jnp.asarray((name in _ONES) + spread * rng.standard_normal(leaf.shape) * (name not in _ONES), leaf.dtype)

  return {'params': {}, 'batch_stats': {}, **jax.tree_util.tree_map_with_path(drawn, shapes)}


def batch(size: int, classes: int = 10) -> Batch:
  """Draws random images and labels."""
  rng = np.random.default_rng(0)
  images = rng.standard_normal((size, *IMAGE), np.float32)
  return Batch(jnp.asarray(images), jnp.asarray(rng.integers(0, classes, size), jnp.int32))


def state(model: nn.Module, tx: optax.GradientTransformation, images: Array, seed: int = 0) -> TrainState:
  """Returns a train state with random parameters, as ``lmajax.training.init_state`` builds it."""
  stats = variables(model, images, seed)
  params = stats.pop('params')
  return TrainState(jnp.zeros((), jnp.int32), params, stats, tx.init(params), jax.random.key(seed))


def peer(torch: Any, model: Any, label: str) -> Any:
  """Builds the same network in PyTorch, and asserts that it has as many parameters."""
  theirs = torch.network(model, label, IMAGE)
  shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, *IMAGE)), train=False))
  ours = tree.size(shapes['params'])
  assert torch.size(theirs) == ours, f'{torch.size(theirs)} parameters in PyTorch, {ours} here'
  return theirs
