"""Lists the hashed students of a configuration, and finds the narrower network that has as many parameters."""

from bisect import bisect_right
from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import jax

from lmajax import tree
from lmajax.compress import hash_pools, identity, kernels, least_ratio, masked, multi_hash
from lmajax.types import Reparam
from train import build, networks
from train.activations import chosen, factory, labelled
from train.build import Network
from train.data import Dataset
from train.programs.hash.config import Hash
from train.runtime.errors import UserError
from train.runtime.options import require

DENSE, NARROWER = 'dense', 'narrower'


class Arm(NamedTuple):
  """One row of the table: a kind of student, over all seeds."""

  activation: str
  segments: int | None
  method: str
  ratio: float | None = None
  hashes: int | None = None

  label = labelled

  @property
  def name(self) -> str:
    hashes = '' if self.hashes is None else f'-{self.hashes}'
    return f'{self.label}-{self.method}{hashes}' + ('' if self.ratio is None else f'-{self.ratio:g}')


def arms(config: Hash) -> Iterator[Arm]:
  """Yields every kind of student that a configuration asks for, the dense one first."""
  for activation, segments in chosen(config):
    yield Arm(activation, segments, DENSE)
    for ratio in config.ratio:
      for method in config.methods:
        for hashes in config.hashes if method.endswith('pools') else (None,):
          yield Arm(activation, segments, method, ratio, hashes)


class Students:
  """The network of every arm, and what its weights are made from."""

  def __init__(self, config: Hash, dataset: Dataset, inputs: Any):
    self._config = config
    self._dataset = dataset
    self._inputs = inputs
    self._modules: dict[Any, Any] = {}
    self._shapes: dict[Any, Any] = {}

  def dense(self) -> Network:
    """Returns the students' network where nothing is hashed."""
    return build.shaped_network(self._config)

  def network(self, arm: Arm) -> Network:
    """Returns the network of an arm."""
    return self._narrower(arm) if arm.method == NARROWER else self.dense()

  def module(self, arm: Arm) -> Any:
    """Builds the network of an arm: one for all that differ in their weights alone, which share their programs."""
    return self._built(arm, self.network(arm))

  def reparam(self, arm: Arm) -> Reparam:
    """Returns what the weights of an arm are made from; all methods of one ratio share equally many numbers."""
    if arm.method in (DENSE, NARROWER):
      return identity()
    assert arm.ratio is not None
    least = least_ratio(self._params(arm, self.dense()))
    require(arm.ratio >= least, 'ratio', arm.ratio, f'the least that this network can have is {least:.4g}')
    if arm.hashes is None:
      return masked(multi_hash(arm.ratio, trained_scale=arm.method == 'multi-hash'))
    signed = arm.method == 'signed-pools'
    return masked(hash_pools(self._shared(arm), arm.hashes, signed=signed))

  def trained(self, arm: Arm) -> int:
    """Counts the numbers that an arm trains."""
    shapes, key = self._params(arm, self.network(arm)), jax.random.key(0)
    return tree.size(jax.eval_shape(self.reparam(arm).init, shapes, key)[0])

  def _built(self, arm: Arm, network: Network) -> Any:
    known = arm.activation, arm.segments, network
    if known not in self._modules:
      act, classes = factory(arm.activation, arm.segments), self._dataset.num_classes
      make = partial(network.built, act, classes, self._config.dtype)
      self._modules[known] = networks.tried('student', network.name, make, self._inputs, num_classes=classes)
    return self._modules[known]

  def _params(self, arm: Arm, network: Network) -> Any:
    known = arm.activation, arm.segments, network
    if known not in self._shapes:
      module = self._built(arm, network)
      variables = jax.eval_shape(lambda: module.init(jax.random.key(0), self._inputs, train=False))
      self._shapes[known] = variables['params']
    return self._shapes[known]

  def _shared(self, arm: Arm) -> float:
    """Returns the ratio that multi-hash comes to at that of an arm."""
    assert arm.ratio is not None
    shapes, key = tree.partition(self._params(arm, self.dense()), kernels)[0], jax.random.key(0)
    theta, _ = jax.eval_shape(multi_hash(arm.ratio).init, shapes, key)
    return tree.size(theta.shared) / tree.size(shapes)

  def _narrower(self, arm: Arm) -> Network:
    """Returns the widest network of the same kind that trains at most as many numbers as multi-hash."""
    name, full = self.dense()
    require(bool(full), 'methods', NARROWER, f'the name {name} says how wide it is; leave the method out')
    most = self.trained(arm._replace(method='multi-hash'))

    def of(first: int) -> Network:
      return Network(name, tuple(max(1, round(each * first / full[0])) for each in full))

    def size(first: int) -> int:
      return tree.size(self._params(arm, of(first)))

    widest = bisect_right(range(1, full[0] + 1), most, key=size)  # the last width whose size is at most that
    if not widest:
      raise UserError(f'--ratio is {arm.ratio}: {name} of width 1 has more parameters; leave narrower out')
    return of(widest)
