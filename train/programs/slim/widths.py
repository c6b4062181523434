"""Finds the widths of thin networks by several rules, at a rate of their original's cost."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lmajax import compress, models, tree
from lmajax.compress import Spectrum
from lmajax.training import parted
from lmajax.types import ActivationFactory, Array, Channels, Slimmable, Widths
from train import networks
from train.programs.slim.config import Slimmed
from train.runtime.errors import UserError

Rule = Callable[[float], Widths]
Criterion = Callable[[compress.Filters], Array]
CRITERIA: dict[str, Criterion] = {
  'l1': compress.l1_norm,
  'l2': compress.l2_norm,
  'median': compress.median_distance,
  'norm-scale': compress.norm_scale,
  'random': lambda filters: compress.random_order(jax.random.key(0x51))(filters),
}
_EXPONENTS = 3.0  # random widths: a layer may have any share between p³ and the third root of p


class Slimming:
  """An original to be slimmed: its channel graph, the cost of thinner networks, and the rules for their widths."""

  def __init__(self, config: Slimmed, model: Any, inputs: Any):
    self.model = model
    self.graph = model.graph(coupled=True) if config.coupled else model.graph()
    self.inputs = inputs
    self._config = config
    self.full = compress.full_widths(self.shapes(model), self.graph)
    self._known: dict[Widths, float] = {}

  def shapes(self, model: Any) -> Any:
    """Returns the shapes of a network's variables."""
    return jax.eval_shape(partial(model.init, train=False), jax.random.key(0), self.inputs)

  def cost(self, widths: Widths) -> float:
    """Returns the cost of the network with these widths: parameters, multiply-accumulates or filters."""
    if widths not in self._known:
      self._known[widths] = self._cost(widths)
    return self._known[widths]

  def _cost(self, widths: Widths) -> float:
    if self._config.cost == 'filters':
      return sum(widths)
    model = self.model.thinned(widths)
    one = jax.ShapeDtypeStruct((1, *self.inputs.shape[1:]), self.inputs.dtype)
    return models.macs(model, one) if self._config.cost == 'macs' else tree.size(self.shapes(model)['params'])

  def rate(self, widths: Widths) -> float:
    """Returns the part of the original's cost that these widths save."""
    return 1 - self.cost(widths) / self.cost(self.full)

  def solved(self, rule: Rule, rate: float) -> Widths:
    """Returns a rule's widest network that saves at least the rate; raises UserError where there is none."""
    try:
      return compress.solve(rule, rate, self.cost, full=self.cost(self.full))
    except ValueError as error:
      raise UserError(f'--rate {rate:g}: {error}; give a smaller one, or wider layers') from error

  def floored(self, spectra: Sequence[Spectrum], wished: Sequence[float]) -> Widths:
    """Rounds wished widths up, within the bounds that all rules share."""

    def one(spectrum: Spectrum, wish: float) -> int:
      most, multiple = len(spectrum.shares), self._config.multiple
      least = max(int(np.ceil(wish - 1e-9)), self._config.minimum_width)
      return most if spectrum.whole else min(most, -(-least // multiple) * multiple)

    return tuple(map(one, spectra, wished))

  def of_variance(self, spectra: Sequence[Spectrum]) -> Rule:
    """Each layer keeps the same share of its filters' variance."""
    bounds = {'minimum': self._config.minimum_width, 'multiple': self._config.multiple}
    return lambda share: compress.widths_at(spectra, share, **bounds)

  def uniform(self, spectra: Sequence[Spectrum]) -> Rule:
    """Each layer keeps the same share of its filters."""
    return lambda share: self.floored(spectra, [share * count for count in self.full])

  def random(self, spectra: Sequence[Spectrum], seed: int) -> Rule:
    """Each layer keeps a share that is drawn for it: p to a power from 1/3 to 3."""
    powers = _EXPONENTS ** np.random.default_rng(seed).uniform(-1, 1, len(self.full))
    return lambda share: self.floored(spectra, (share**powers * self.full).tolist())

  def of_scales(self, spectra: Sequence[Spectrum], scales: Sequence[np.ndarray]) -> Rule:
    """Each layer keeps the filters whose scales are above one threshold for all."""
    thresholds = np.sort(np.concatenate(scales))[::-1]

    def widths(share: float) -> Widths:
      kept = round(share * len(thresholds))
      threshold = thresholds[kept - 1] if kept else np.inf
      return self.floored(spectra, [float((each >= threshold).sum()) for each in scales])

    return widths


def mean_spectra(each: Sequence[Sequence[Spectrum]]) -> list[Spectrum]:
  """Averages the spectra of several networks of one architecture, which get the same widths."""
  return [Spectrum(np.mean([s.shares for s in of], axis=0), of[0].whole) for of in zip(*each, strict=True)]


def mean_scales(graph: Sequence[Channels], each: Sequence[Any]) -> list[np.ndarray]:
  """Averages the absolute norm scales of several networks: each layer's sorted, rank by rank, also over its kernels."""

  def one(channels: Channels) -> np.ndarray:
    found = [tree.by_path(variables)[path] for variables in each for path in channels.scales]
    return np.mean([np.sort(np.abs(np.asarray(scale, np.float64)))[::-1] for scale in found], axis=0)

  return [one(channels) for channels in graph]


def share_of(spectra: Sequence[Spectrum], widths: Widths) -> float:
  """Returns the share of variance that every slimmed layer keeps at least."""
  pairs = zip(spectra, widths, strict=True)
  return min((float(s.shares[:width].sum()) for s, width in pairs if not s.whole and s.shares.any()), default=1.0)


def slimmable(config: Slimmed, act: ActivationFactory, *, num_classes: int, inputs: Any) -> Any:
  """Builds the network that ``--network`` and ``--width`` name and tries it on inputs, without computing."""
  name, width = config.network, config.width
  if networks.is_own(name):
    return _own(config, act, num_classes, inputs)
  how = {'num_classes': num_classes, 'width': width, 'coupled': config.coupled, 'dtype': jnp.dtype(config.dtype)}
  try:
    networks.parsed(name, slimmable=True)
  except ValueError as error:
    raise UserError(f'--network is {name}: {error}') from error
  said = f'--network {name} --width {" ".join(map(str, width))}'
  return networks.tried('network', name, lambda: networks.build(name, act, **how), inputs, said=said)


def _own(config: Slimmed, act: ActivationFactory, num_classes: int, inputs: Any) -> Any:
  """Builds a user's own network that can lose channels, which its factory gives with its own widths."""
  name = config.network
  make = partial(networks.own, name, act, num_classes=num_classes, dtype=jnp.dtype(config.dtype))
  model = networks.tried('network', name, make, inputs, num_classes=num_classes)
  if not isinstance(model, Slimmable):
    mend = 'give it graph(), the names of its channels, and thinned(widths), as lmajax.types.Slimmable says'
    raise UserError(f'--network is {name}: a {type(model).__name__} does not say where its channels are; {mend}')
  return model


def sliced(
  slimming: Slimming, widths: Widths, criterion: Criterion, over: Callable[[Callable], Callable]
) -> Callable[[Any], Any]:
  """Compiles variables of all seeds -> those of the thin networks; statistics are not measured again."""

  def one(variables: Any) -> Any:
    params, stats = parted(variables)
    params, stats = compress.slice_params(params, stats, slimming.graph, widths, criterion)
    return jax.tree.map(jnp.asarray, {'params': params, **stats})

  return jax.jit(over(one))
