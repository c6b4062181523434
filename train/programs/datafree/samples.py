"""Makes the inputs of every source, those that cost steps as a training whose parameters are the inputs."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from lmajax import losses
from lmajax.training import Network, forward, norm_statistics, parted
from lmajax.types import Batch
from train import build
from train.engine.cohort import Cohort, Group, Plan
from train.engine.metrics import Score
from train.engine.optimizers import adam
from train.engine.schedules import constant
from train.engine.walk import Data
from train.programs.datafree.config import EPOCH, GAUSSIAN, REAL, Datafree
from train.programs.datafree.students import Original

_NETWORK, _SLACK = 'network', 'slack'


class Rows:
  """Batches that hold the numbers of inputs alone, shuffled anew every epoch."""

  everywhere = None

  def __init__(self, rows: int, batch_size: int, blank: Any, *, steps_per_epoch: int | None = None):
    self.size = rows
    self.steps_per_epoch = steps_per_epoch or rows // batch_size
    self.blank = blank
    self._batch_size = batch_size

  def __getitem__(self, step: int) -> Batch:
    return Batch(self.places(step).astype(np.int32), None)

  def places(self, step: int) -> np.ndarray:
    """Returns the numbers of a batch's inputs."""
    epoch, position = divmod(step, self.steps_per_epoch)
    order = np.random.default_rng((0, epoch)).permutation(self.size)
    return order[position * self._batch_size :][: self._batch_size]


def epoch(config: Datafree) -> int:
  """Returns the steps between two checkpoints of the inputs."""
  return min(EPOCH, config.synthesis_steps)


def noise(samples: int, blank: Any) -> Callable[[Any], Any]:
  """Returns key -> Gaussian inputs."""
  return lambda key: jax.random.normal(key, (samples, *blank.shape[1:]), blank.dtype)


def made(config: Datafree, models: dict[Original, nn.Module], num_classes: int) -> Cohort:
  """Returns the inputs that are made, by the names of network and source, as the cohort whose training makes them."""
  classes = jnp.arange(config.samples) % num_classes

  def group(original: Original, source: str) -> Group:
    model = models[original]

    def init(key: Any, inputs: Any) -> tuple[Any, Any]:
      return noise(config.samples, inputs)(key), {}

    def loss(inputs: Any, stats: Any) -> Any:
      return of_source(config, source, model, classes, inputs, stats)

    def objective(inputs: Any, stats: Any, frozen: Any, batch: Any, key: Any) -> Any:
      del frozen, batch, key
      return loss(inputs, stats), (stats, {})

    def near(variables: dict[str, Any], batch: Any, mask: Any) -> Any:
      del batch
      inputs, stats = parted(variables)
      return jnp.where(mask, jnp.exp(-loss(inputs, stats)), 0.0).sum()

    network: Any = Network(init, lambda params, stats, inputs, key: (params, stats))
    score = Score('exp(-loss)', lambda model: near)
    return Group(network, objective, config.all_seeds, build.over(model), score=score)

  sources = [source for source in config.sources if source not in (REAL, GAUSSIAN)]
  groups = {f'{original.label}-{source}': group(original, source) for original in models for source in sources}
  epochs = config.synthesis_steps // epoch(config)
  return Cohort(groups, Plan(config.synthesis_learning_rate, adam(0.9, 0.999, 0.0), constant(epochs), 1))


def of_source(config: Datafree, source: str, model: nn.Module, classes: Any, inputs: Any, stats: Any) -> Any:
  """What the inputs of a source are made by."""
  params, running = parted(stats[_NETWORK])
  found: Any = jnp.zeros(())
  if source != 'class':
    sites = norm_statistics(model, params, running, inputs)
    if source == 'slack':
      sites = losses.slackened(sites, dict(zip(sites, stats[_SLACK], strict=True)))
    squared = source in ('squared', 'slack')
    found = losses.divergence(sites, measure=losses.squared_difference if squared else losses.gaussian_divergence)
  if source in ('class', 'mixed'):
    logits, _ = forward(model, params, running, inputs, None)
    drawn = optax.losses.softmax_cross_entropy_with_integer_labels(logits, classes).mean()
    drawn += config.smoothness * losses.roughness(inputs).mean()
    found += drawn if source == 'class' else config.class_weight * drawn
  return found


def statistics(source: str, model: nn.Module, variables: Any, inputs: Any) -> dict[str, Any]:
  """What stands still while the inputs of a seed are made: the network, and its slack for the noise at their start."""
  if source != 'slack':
    return {_NETWORK: variables}
  found = losses.slack(norm_statistics(model, *parted(variables), inputs))
  return {_NETWORK: variables, _SLACK: tuple(found.values())}


def data(rows: Rows, sharding: Any) -> Data:
  """The data of a phase that looks at none: one row to be scored."""
  return Data(rows, [(Batch(rows.blank, None), jnp.ones(1, bool))], sharding)
