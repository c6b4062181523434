"""The teachers: what they are trained on, and how much they believe in each class."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int
from sklearn.ensemble import RandomForestClassifier

from lmajax import LMA, models
from lmajax.training import parted
from train.programs.trees.config import Trees

Believes = Callable[[np.ndarray], np.ndarray]
"""Features [n, d] -> beliefs [n, classes]."""
MEMBERS, _BATCH = 5, 32


def forest(features: Float[np.ndarray, 'n d'], labels: Int[np.ndarray, ' n'], classes: int, *, seed: int) -> Believes:
  """Trains a forest; a class without an example gets no belief."""
  known = RandomForestClassifier(100, max_depth=12, random_state=seed).fit(features, labels)

  def believes(features: np.ndarray) -> np.ndarray:
    found = np.zeros((len(features), classes))
    found[:, known.classes_] = known.predict_proba(features)
    return found

  return believes


def networks(
  features: Float[np.ndarray, 'n d'],
  labels: Int[np.ndarray, ' n'],
  classes: int,
  *,
  seed: int,
  epochs: int = Trees.epochs,
  most: int = 0,
) -> Believes:
  """Trains five LMA networks together, on standardized features; what is believed is their mean softmax.

  Args:
    features: of the examples to train on, none of them missing.
    labels: class numbers.
    classes: how many there are.
    seed: of weights and orders.
    epochs: how many.
    most: examples of any part that is trained on: one program serves parts of other sizes, too.
  """
  mean, scale = features.mean(axis=0), features.std(axis=0)

  def scaled(features: np.ndarray) -> np.ndarray:
    return ((features - mean) / np.where(scale > 0, scale, 1.0)).astype(np.float32)

  count = max(most, len(features)) - len(features)
  padded = np.pad(scaled(features), ((0, count), (0, 0))), np.pad(labels, (0, count)).astype(np.int32)
  rng, batch = np.random.default_rng(seed), min(_BATCH, len(features) // 2 or 1)
  steps = max(1, (len(features) - 1) // batch)
  orders = np.stack([[_order(rng, len(features), steps, batch) for _ in range(epochs)] for _ in range(MEMBERS)])
  model = models.MLP((64, 64), classes, LMA)
  variables = _trained(
    model, *padded, orders.reshape(MEMBERS, -1, batch), jax.random.split(jax.random.key(seed), MEMBERS)
  )

  def believes(features: np.ndarray) -> np.ndarray:
    shares = np.asarray(_softmax(model, variables, scaled(features)), np.float64)
    return shares / shares.sum(axis=1, keepdims=True)

  return believes


def _order(rng: np.random.Generator, count: int, steps: int, batch: int) -> np.ndarray:
  return rng.permutation(count)[: steps * batch].reshape(steps, batch)


@partial(jax.jit, static_argnums=0)
def _trained(model: Any, features: Array, labels: Array, orders: Array, keys: Array) -> Any:
  tx = optax.adam(optax.cosine_decay_schedule(0.01, orders.shape[1]))

  def one(order: Array, key: Array) -> Any:
    params, stats = parted(model.init(key, features[:2], train=False))

    def objective(params: Any, stats: Any, rows: Array) -> Any:
      variables = {'params': params, **stats}
      (logits, _), moved = model.apply(variables, features[rows], train=True, mutable=list(stats))
      return optax.losses.softmax_cross_entropy_with_integer_labels(logits, labels[rows]).mean(), moved

    def step(state: Any, rows: Array) -> Any:
      params, stats, opt_state = state
      grads, stats = jax.grad(objective, has_aux=True)(params, stats, rows)
      updates, opt_state = tx.update(grads, opt_state, params)
      return (optax.apply_updates(params, updates), stats, opt_state), None

    (params, stats, _), _ = jax.lax.scan(step, (params, stats, tx.init(params)), order)
    return {'params': params, **stats}

  return jax.vmap(one)(orders, keys)


@partial(jax.jit, static_argnums=0)
def _softmax(model: Any, variables: Any, features: Array) -> Array:
  logits = jax.vmap(lambda each: model.apply(each, features, train=False)[0])(variables)
  return jnp.mean(jax.nn.softmax(logits), axis=0)
