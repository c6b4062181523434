"""Objectives, (params, stats, frozen, batch, key) -> (loss, (stats, metrics)): compose them, add no flags.

A model is a Linen module or a ``Network``, and gives logits, or logits and taps.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lmajax import tree
from lmajax._arguments import of_type, shown
from lmajax.losses import distillation, soft_targets
from lmajax.training._beside import WithBeside, alone
from lmajax.training._forward import forward, logits_of, network_of, parted, taps_of
from lmajax.training._step import WithCode
from lmajax.types import (
  Array,
  EndToEnd,
  Frozen,
  Key,
  ModelStats,
  Objective,
  Params,
  Reparam,
  Share,
  Tap,
  Theta,
  Where,
)

_NOISE = 0x4015E  # keeps the weights' noise apart from the dropout's


class Taught(NamedTuple):
  """A teacher's output for a batch, in evaluation mode; without taps where it gives none.

  >>> Taught(logits=jnp.zeros((1, 3)), taps=()).taps
  ()
  """

  logits: Array
  taps: tuple[Tap, ...]


def supervised(model: Any, *, label_smoothing: float = 0.0) -> Objective:
  r"""Trains on the labels: the mean cross-entropy.

  .. math:: -\overline{\sum_c \bigl((1 - \epsilon)\,[c = y] + \epsilon / C\bigr) \log p_c}

  Args:
    model: a Linen module or a ``Network``.
    label_smoothing: ε, the part of each label that is spread evenly over all C classes.

  Returns:
    The objective, which does not look at what is frozen; computed in float32. Labels are class numbers, or a
    probability of each class.

  Raises:
    ValueError: from the objective: there are no labels, or they are not one for each example.

  >>> model, batch = MLP((2,), 3, linen.ReLU), Batch(jnp.ones((1, 4)), jnp.array([0]))
  >>> variables = model.init(jax.random.key(0), batch.inputs, train=False)
  >>> params, stats = variables['params'], {'batch_stats': variables['batch_stats']}
  >>> params = jax.tree.map(jnp.zeros_like, params)
  >>> loss, _ = supervised(model)(params, stats, None, batch, jax.random.key(0))
  >>> round(float(loss), 4)  # log 3
  1.0986

  Source: label smoothing is Szegedy et al. 2016, section 7.
  """
  network = network_of(model)

  def objective(params: Params, stats: ModelStats, frozen: Frozen, batch: Any, key: Key):
    del frozen
    logits, stats = forward(network, params, stats, batch.inputs, key)
    logits, labels = logits.astype('float32'), batch.labels
    if labels is None:
      raise ValueError('the data have no labels: give some, or train under a teacher by distill')
    check_labels(labels, logits)
    if of_type(labels, jnp.integer) and not label_smoothing:
      return optax.losses.softmax_cross_entropy_with_integer_labels(logits, labels).mean(), (stats, {})
    chances = jax.nn.one_hot(labels, logits.shape[-1]) if of_type(labels, jnp.integer) else labels
    smoothed = optax.losses.smooth_labels(chances.astype(logits.dtype), label_smoothing)
    return optax.losses.softmax_cross_entropy(logits, smoothed).mean(), (stats, {})

  return objective


def check_labels(labels: Any, logits: Array) -> None:
  """Refuses labels that are neither a class number nor a probability of each class, for each example.

  >>> check_labels(jnp.zeros((2, 1), int), jnp.zeros((2, 3)))
  Traceback (most recent call last):
  ValueError: labels is int32[2, 1], and logits float32[2, 3]: give integers [2], or floats [2, 3]

  Source: not in the paper.
  """
  numbers = of_type(labels, jnp.integer) and labels.shape == logits.shape[:-1]
  if not (numbers or (of_type(labels, jnp.floating) and labels.shape == logits.shape)):
    wanted = f'give integers {list(logits.shape[:-1])}, or floats {list(logits.shape)}'
    raise ValueError(f'labels is {shown(labels)}, and logits {shown(logits)}: {wanted}')


def penalized(objective: Objective, where: Where, weight: float) -> Objective:
  r"""Adds L1 on some of the parameters.

  .. math:: L + \lambda \sum_{\mathrm{selected}} |\theta|

  Args:
    objective: L.
    where: (path, leaf) -> whether a parameter is selected.
    weight: λ.

  >>> nothing = lambda params, stats, frozen, batch, key: (jnp.zeros(()), (stats, {}))
  >>> on_scales = penalized(nothing, lambda path, leaf: path.endswith('scale'), 0.5)
  >>> float(on_scales({'scale': jnp.array([1.0, -2.0]), 'bias': jnp.ones(2)}, {}, None, None, jax.random.key(0))[0])
  1.5

  Source: Liu et al. 2017 (network slimming), equation 1, where the scales of batch norms are selected.
  """

  def with_penalty(params: Params, stats: ModelStats, frozen: Frozen, batch: Any, key: Key):
    loss, kept = objective(params, stats, frozen, batch, key)
    selected, _ = tree.partition(params, where)
    return loss + weight * sum(jnp.abs(leaf).sum() for leaf in jax.tree.leaves(selected)), kept

  return with_penalty


def mixed(*, temperature: float, soft_weight: float) -> EndToEnd:
  """Makes the paper's mix of soft targets and labels: the mean of ``losses.distillation``.

  Args:
    temperature: T.
    soft_weight: w, of the soft targets; with 1 labels are not looked at, and there need not be any.

  Raises:
    ValueError: from the loss: there are no labels, or as of ``losses.distillation``.

  >>> loss, z = mixed(temperature=2.0, soft_weight=0.7), jnp.zeros((1, 2))
  >>> round(float(loss(z, Taught(z, ()), Batch(z, jnp.array([0])))), 4)  # 0.3 log 2
  0.2079

  Source: the LMA paper, equation 5.
  """

  def loss(logits: Array, taught: Taught, batch: Any) -> Array:
    if taught.logits.shape != logits.shape:
      said = f'the student gives {shown(logits)} and its teacher {shown(taught.logits)}'
      raise ValueError(f'{said}: give a teacher of the same classes')
    if batch.labels is None:
      if soft_weight != 1:
        raise ValueError(f'the data have no labels, and soft_weight is {soft_weight}: give labels, or the weight 1')
      return soft_targets(logits, taught.logits, temperature=temperature).mean()
    check_labels(batch.labels, logits)
    each = distillation(logits, taught.logits, batch.labels, temperature=temperature, soft_weight=soft_weight)
    return each.mean()

  return loss


def distilled(student: Any, end_to_end: EndToEnd) -> Objective:
  """Trains a student's logits under what its teacher says.

  Args:
    student: a Linen module or a ``Network``.
    end_to_end: a loss of the student's logits, ``Taught`` and the batch, as ``mixed`` makes it.

  Returns:
    The objective; frozen is ``Taught``, which ``teach`` shares.

  >>> model, batch = MLP((2,), 3, LMA), Batch(jnp.ones((1, 4)), jnp.array([0]))
  >>> variables = model.init(jax.random.key(0), batch.inputs, train=False)
  >>> params, stats = variables['params'], {'batch_stats': variables['batch_stats']}
  >>> objective = distilled(model, mixed(temperature=2.0, soft_weight=0.7))
  >>> loss, (stats, metrics) = objective(params, stats, Taught(jnp.zeros((1, 3)), ()), batch, jax.random.key(0))
  >>> loss.shape, metrics
  ((), {})

  Source: Hinton et al. 2015, section 2; the LMA paper, equation 5.
  """
  network = network_of(student)

  def objective(params: Params, stats: ModelStats, frozen: Frozen, batch: Any, key: Key):
    logits, stats = forward(network, params, stats, batch.inputs, key)
    return end_to_end(logits, frozen, batch), (stats, {})

  return objective


def reparameterized(objective: Objective, reparam: Reparam) -> Objective:
  """Trains what weights are made from, in place of the weights.

  Args:
    objective: of the weights.
    reparam: makes them; with the key of each step, so that its noise and its straight-through gradient are those of
      training.

  Returns:
    The objective of theta; frozen is ``WithCode``.

  >>> def squared(params, stats, frozen, batch, key):
  ...   return jnp.square(params['w'] - frozen).sum(), (stats, {})
  >>> reparam = compress.uniform(1, bucket_size=None)
  >>> theta, code = reparam.init({'w': jnp.array([0., .4, 1.])}, jax.random.key(0))  # seen as 0, 0, 1
  >>> float(reparameterized(squared, reparam)(theta, {}, WithCode(0.0, code), None, jax.random.key(0))[0])
  1.0

  Source: the LMA paper, "Joint experiment"; Polino et al. 2018, section 3.
  """

  def of_theta(theta: Theta, stats: ModelStats, frozen: WithCode, batch: Any, key: Key):
    weights = reparam.apply(alone(theta), frozen.code, jax.random.fold_in(key, _NOISE))
    weights = theta._replace(student=weights) if isinstance(theta, WithBeside) else weights
    return objective(weights, stats, frozen.frozen, batch, key)

  return of_theta


def teach(teacher: Any) -> Share:
  """Makes of a teacher's variables what it says of a batch, which all students under it share.

  Args:
    teacher: a Linen module or a ``Network``, run in evaluation mode; no gradient flows into it.

  >>> model, batch = MLP((2,), 3, linen.ReLU), Batch(jnp.ones((1, 4)), jnp.array([0]))
  >>> variables = model.init(jax.random.key(0), batch.inputs, train=False)
  >>> params, stats = variables['params'], {'batch_stats': variables['batch_stats']}
  >>> taught = teach(model)(variables, batch)
  >>> taught.logits.shape, len(taught.taps)
  ((1, 3), 2)

  Source: Hinton et al. 2015, section 2.
  """
  network = network_of(teacher)

  def share(frozen: Frozen, batch: Any) -> Taught:
    said, _ = network.apply(*parted(frozen), batch.inputs, None)
    return jax.lax.stop_gradient(Taught(logits_of(said), taps_of(said)))

  return share
