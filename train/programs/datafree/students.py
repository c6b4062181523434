"""Lists the networks of a configuration: originals, and students tuned or trained on the inputs of one source."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp

from lmajax.compress import identity, masked, uniform
from lmajax.training import Start, Taught, calibrated, distilled, forward, grafted, mixed, parted, still
from lmajax.types import Batch, Objective, Reparam
from train import build
from train.activations import chosen, factory, labelled
from train.engine.cohort import Group
from train.engine.metrics import Score
from train.programs.datafree.config import Datafree, split
from train.programs.datafree.table import ORIGINAL

FLOAT = 'from nothing'
"""In place of bits: of a network trained from new weights."""
_MEMBER = 'member'


class Original(NamedTuple):
  """A kind of network that is to have few bits."""

  activation: str
  segments: int | None

  label = labelled

  @property
  def name(self) -> str:
    return f'{self.label}-{ORIGINAL}'


class Arm(NamedTuple):
  """One row of the table: a student by the inputs of a source, over all seeds."""

  original: Original
  source: str
  bits: str

  @property
  def name(self) -> str:
    return f'{self.original.label}-{self.source}-{self.bits.replace(" ", "-")}'

  @property
  def inputs(self) -> str:
    """The name of what it is tuned on: inputs are made from each network."""
    return f'{self.original.label}-{self.source}'


def originals(config: Datafree) -> list[Original]:
  """Lists the kinds of networks."""
  return [Original(*kind) for kind in chosen(config)]


def arms(config: Datafree, bits: tuple[str, ...]) -> Iterator[Arm]:
  """Yields every student of some bits."""
  for original in originals(config):
    for source in config.sources:
      for each in bits:
        yield Arm(original, source, each)


def reparam(arm: Arm) -> Reparam:
  """What the weights of a student are made from."""
  return identity() if arm.bits == FLOAT else masked(uniform(split(arm.bits)[0], bucket_size='channel'))


def act(arm: Arm) -> Any:
  """The activation of a quantized student."""
  return factory(*arm.original, bits=split(arm.bits)[1])


class Frozen(NamedTuple):
  """The inputs by their names and what the networks say of them; each leaf has a leading axis of seeds."""

  inputs: dict[str, Any]
  logits: dict[str, Any]


def group(config: Datafree, arm: Arm, model: nn.Module) -> Group:
  """Makes the group of a student: each seed has inputs of its own, and the number of the seed among its statistics."""
  network = model if arm.bits == FLOAT else still(model)
  soft = _of_member(distilled(network, mixed(temperature=config.temperature, soft_weight=1.0)), arm.inputs)
  score = Score('agreement', partial(_agreeing, arm.inputs))
  return Group(model, soft, config.all_seeds, build.over(model), reparam(arm), score=score)


def _of_member(objective: Objective, name: str) -> Objective:
  """Looks at the rows of a batch among the inputs of its own seed."""

  def of_rows(params: Any, stats: Any, frozen: Frozen, batch: Batch, key: Any) -> Any:
    stats, member = without_member(stats)
    inputs, logits = (part[name][member][batch.inputs] for part in frozen)
    loss, (stats, metrics) = objective(params, stats, Taught(logits, ()), Batch(inputs, None), key)
    return loss, (with_member(stats, member), metrics)

  return of_rows


def _agreeing(name: str, model: nn.Module) -> Callable:
  """Returns (variables, batch, mask) -> how often the student's first class is that of its network."""

  def count(variables: dict[str, Any], batch: Batch, mask: Any) -> Any:
    params, stats = parted(variables)
    stats, member = without_member(stats)
    logits, _ = forward(model, params, stats, batch.inputs.inputs[name][member], None)
    same = logits.argmax(-1) == batch.inputs.logits[name][member].argmax(-1)
    return jnp.where(mask, jnp.where(jnp.isfinite(logits).all(-1), same.astype(jnp.float32), jnp.nan), 0.0).sum()

  return count


def with_member(stats: dict[str, Any], member: Any) -> dict[str, Any]:
  return {**stats, _MEMBER: member}


def without_member(stats: dict[str, Any]) -> tuple[dict[str, Any], Any]:
  return {name: part for name, part in stats.items() if name != _MEMBER}, stats[_MEMBER]


def begun(model: nn.Module, blank: Any, trained: dict[str, Any], reparam: Reparam, given: tuple[Any, Any]) -> Start:
  """Puts a network's variables into the quantized one and measures the ranges of its activations on inputs."""
  inputs, key = given
  new: Any = model.init(key, blank, train=False)
  params, stats = parted(grafted(new, trained))
  theta, code = reparam.init(params, key)
  return Start(theta, code, calibrated(model, reparam.apply(theta, code, None), [inputs], stats=stats))
