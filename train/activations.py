"""The one table of activations by name, for options, model files and pictures."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from lmajax import LMA
from lmajax.activations import linen
from lmajax.types import ActivationFactory


class Kind(NamedTuple):
  """An activation that a student can have."""

  make: Callable[..., Any]
  """The module; one with segments takes ``num_segments``."""
  color: str
  """Of its lines in pictures."""
  segmented: bool = False


ACTIVATIONS = {
  'relu': Kind(linen.ReLU, '#555555'),
  'identity': Kind(linen.Identity, '#0072b2'),
  'prelu': Kind(linen.PReLU, '#e69f00'),
  'swish': Kind(linen.Swish, '#56b4e9'),
  'aplu': Kind(linen.APLU, '#009e73', segmented=True),
  'lma': Kind(LMA, '#d55e00', segmented=True),
  'lma-joined': Kind(partial(LMA, joined=True), '#cc79a7', segmented=True),
}

COLORS = {name: kind.color for name, kind in ACTIVATIONS.items()}
"""Of lines in pictures."""

if TYPE_CHECKING:
  ActivationName = str
else:
  ActivationName = Literal[tuple(ACTIVATIONS)]


def chosen(config: Any) -> Iterator[tuple[str, int | None]]:
  """Yields a configuration's activations, those with segments once for each number of segments."""
  for name in config.activations:
    for segments in config.segments if ACTIVATIONS[name].segmented else (None,):
      if (name, segments) != ('aplu', 2):  # it has no hinge: it is ReLU
        yield name, segments


def factory(name: str, segments: int | None, bits: int | None = None) -> ActivationFactory:
  """Returns the factory of a name; ``segments`` is None for those without, ``bits`` where nothing is quantized."""
  kind = ACTIVATIONS[name]
  act = partial(kind.make, num_segments=segments or 2) if kind.segmented else kind.make
  return act if bits is None else partial(linen.Quantized, act, bits=bits)


def label(activation: str, segments: int | None) -> str:
  """Returns an activation's label, with its number of segments where it has one."""
  return activation if segments is None else f'{activation}-{segments}'


labelled = property(lambda row: label(row.activation, row.segments))
"""The label of a row or an arm, to be a class's ``label``."""
