"""The one table of networks by name, for options and model files."""

import importlib
import inspect
from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from lmajax import models
from lmajax.training import logits_of
from lmajax.types import ActivationFactory
from train.runtime.errors import UserError


class Family(NamedTuple):
  """Networks whose names differ in numbers alone."""

  numbers: int
  """How many numbers follow the family's name."""
  width: tuple[int, ...]
  """The published widths, or none where the name says it all."""
  make: Callable[..., Any]
  """(*numbers, width=…, act=…, num_classes=…, dtype=…) -> the network."""
  staged: bool = False
  """Can be trained in stages, which differ in depth alone: ``lit`` takes it."""
  slimmable: bool = False
  """Can lose channels: ``slim`` and ``compress`` take it."""


def _mlp(*, width: tuple[int, ...], **how: Any) -> models.MLP:
  return models.MLP(width, **how)


def _cnn(*, width: tuple[int, ...], **how: Any) -> models.CNN:
  return models.CNN(width, (), pool_after=range(1, len(width), 2), **how)


def _vgg16(*, width: tuple[int, ...], act: ActivationFactory, **how: Any) -> models.CNN:
  return models.vgg16(act, channels=width, **how)


def _residual(kind: type[Any]) -> Callable[..., Any]:
  return lambda depth, *, width, **how: kind(depth, channels=width, **how)


def _wide_resnet(depth: int, widen: int, *, width: tuple[int, ...], **how: Any) -> models.WideResNet:
  del width
  return models.WideResNet(depth, widen, **how)


def _cifar10_teacher(*, width: tuple[int, ...], act: ActivationFactory, **how: Any) -> models.CNN:
  del width
  return models.cifar10_teacher(act, **how)


def _cifar10_student(number: int, *, width: tuple[int, ...], act: ActivationFactory, **how: Any) -> models.CNN:
  del width
  if number not in (1, 2, 3):
    raise ValueError('there are students 1, 2 and 3')
  return models.cifar10_student(number, act, **how)


_STAGES = (16, 32, 64)
FAMILIES = {
  'mlp': Family(0, (256, 256), _mlp, slimmable=True),
  'cnn': Family(0, (24, 64, 64, 112, 112, 112, 112, 112), _cnn, slimmable=True),  # our choice: below 600 kB at 8 bits
  'vgg-16': Family(0, (64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512), _vgg16, slimmable=True),
  'resnet': Family(1, _STAGES, _residual(models.ResNet), staged=True, slimmable=True),
  'resnext': Family(1, _STAGES, _residual(models.ResNeXt), staged=True),
  'wide-resnet': Family(2, (), _wide_resnet),
  'cifar10-teacher': Family(0, (), _cifar10_teacher),
  'cifar10-student': Family(1, (), _cifar10_student),
}
_EXAMPLES = {1: '-20', 2: '-16-10'}


def parsed(name: str, *, slimmable: bool = False) -> tuple[Family, tuple[int, ...]]:
  """Returns the family of a name and the numbers in it.

  Args:
    name: of a network.
    slimmable: take only networks that can lose channels.

  Raises:
    ValueError: no such network has the name; the message lists what can be given.
  """
  known = {prefix: family for prefix, family in FAMILIES.items() if family.slimmable or not slimmable}
  for prefix, family in known.items():
    rest = name.removeprefix(prefix)
    numbers = [part for part in rest.split('-') if part]
    fits = rest == ''.join(f'-{number}' for number in numbers) and all(n.isdecimal() and len(n) < 6 for n in numbers)
    if name.startswith(prefix) and len(numbers) == family.numbers and fits:
      return family, tuple(map(int, numbers))
  raise ValueError(f'give one of {", ".join(map(_example, known))}')


def layers(name: str, width: Sequence[int]) -> int:
  """Returns a lower bound on a named network's layers with weights; 0 if there is no such network."""
  try:
    _, numbers = parsed(name)
  except ValueError:
    return 0
  return numbers[0] if numbers else len(width)


def _example(prefix: str) -> str:
  return 'cifar10-student-3' if prefix == 'cifar10-student' else prefix + _EXAMPLES.get(FAMILIES[prefix].numbers, '')


def build(
  name: str,
  act: ActivationFactory,
  *,
  num_classes: int,
  width: tuple[int, ...] = (),
  coupled: bool = False,
  dtype: DTypeLike | None = None,
) -> Any:
  """Builds a network by its name.

  Args:
    name: as in ``FAMILIES``, with its numbers.
    act: a factory, called once per activation.
    num_classes: the number of logits.
    width: units or channels; empty: the published ones.
    coupled: whether a resnet's shortcuts have weights, so that its stages can lose channels.
    dtype: of the computation.

  Raises:
    ValueError: there is no such network, or its widths are in its name.
  """
  family, numbers = parsed(name)
  if width and not family.width:
    raise ValueError('its name says how wide it is: leave the width out')
  extra = {'projected': True} if coupled else {}
  return family.make(*numbers, width=width or family.width, act=act, num_classes=num_classes, dtype=dtype, **extra)


def scaled(name: str, width: int, option: str) -> tuple[int, ...]:
  """Returns a network's widths from its first one: the published ones, all by one factor; of an mlp its one layer.

  Raises:
    UserError: there is no such network; ``option`` names it.
  """
  try:
    family, _ = parsed(name)
  except ValueError as error:
    raise UserError(f'--{option} is {name}: {error}, or MODULE:FACTORY of your own') from error
  if name == 'mlp':
    return (width,)
  return tuple(max(1, round(width * each / family.width[0])) for each in family.width)


def is_own(name: str) -> bool:
  """Returns whether a name is MODULE:FACTORY, of a user's own network."""
  return ':' in name


def takes(name: str, option: str) -> bool:
  """Returns whether an own network's factory takes an option besides ``act`` and ``num_classes``."""
  return option in _parameters(_factory(name))


def own(
  name: str, act: ActivationFactory, *, num_classes: int, width: tuple[int, ...] = (), dtype: DTypeLike | None = None
) -> Any:
  """Builds a user's own network; only for names that a person gave, since it imports the module.

  Args:
    name: MODULE:FACTORY; the factory takes ``act`` and ``num_classes`` by name, and may take ``width`` and ``dtype``.
    act: a factory, to be called once per activation.
    num_classes: the number of logits.
    width: what --width says, where the factory takes one.
    dtype: of the computation.

  Raises:
    ValueError: it cannot be imported or called, or gives no Linen module.
  """
  factory = _factory(name)
  known = _parameters(factory)
  given: dict[str, Any] = {'act': act, 'num_classes': num_classes, 'width': width[0] if len(width) == 1 else width}
  if dtype is not None and jnp.dtype(dtype) != jnp.float32:
    given['dtype'] = dtype
  if missing := [option for option in given if option not in known and (option != 'width')]:
    raise ValueError(f'its factory takes no {missing[0]}: let it take {", ".join(_GIVEN)} and, if you like, {_ASKED}')
  try:
    found = factory(**{option: value for option, value in given.items() if option in known})
  except Exception as error:  # whatever a user's code raises
    raise ValueError(f'its factory fails ({_reason(error)})') from error
  if not isinstance(found, nn.Module) and not (hasattr(found, 'init') and hasattr(found, 'apply')):
    mend = 'wrap one of NNX by flax.nnx.bridge.to_linen, or train it by lmajax.training.fit'
    raise ValueError(f'its factory gives a {type(found).__name__}: give a module of flax.linen; {mend}')
  return found


_GIVEN, _ASKED = ('act', 'num_classes'), 'width and dtype'


def _factory(name: str) -> Callable[..., Any]:
  module, _, attribute = name.partition(':')
  try:
    found = getattr(importlib.import_module(module), attribute)
  except Exception as error:  # whatever a user's module raises as it is imported
    mend = 'give MODULE:FACTORY, without .py, where Python finds it'
    raise ValueError(f'it cannot be imported ({_reason(error)}); {mend}') from error
  if not callable(found):
    raise ValueError(f'it is a {type(found).__name__}: give a function that makes a module')
  return found


def _parameters(factory: Callable[..., Any]) -> Collection[str]:
  try:
    found = inspect.signature(factory).parameters.values()
  except (TypeError, ValueError):
    return ()
  anything = any(each.kind is each.VAR_KEYWORD for each in found)
  return (*_GIVEN, 'width', 'dtype') if anything else [each.name for each in found]


def _reason(error: Exception) -> str:
  return f'{type(error).__name__}: {" ".join(str(error).split())}'[:200]


def tried(
  option: str,
  name: str,
  make: Callable[[], Any],
  inputs: Any,
  *,
  said: str | None = None,
  num_classes: int | None = None,
) -> Any:
  """Builds the network that an option names and checks that it takes the inputs, without computing.

  Args:
    option: its name, without dashes.
    name: the option's value.
    make: builds the network.
    inputs: one example's.
    said: the options that an error of ``make`` is about; by default this one.
    num_classes: the logits that an own network must give.

  Raises:
    UserError: the network cannot be built or does not take the inputs.
  """
  try:
    model = make()
    shapes = jax.eval_shape(partial(model.init, train=False), jax.random.key(0), inputs)
    if any(leaf.size == 0 for leaf in jax.tree.leaves(shapes)):
      raise ZeroDivisionError  # as Flax does up to 0.12.8
    if is_own(name):
      _check_answers(model, shapes, inputs, num_classes)
  except ZeroDivisionError as error:  # no pixel is left for the logits
    raise UserError(f'--{option} is {name}: it pools these images to nothing; give another') from error
  except ValueError as error:
    raise UserError(f'{said or f"--{option} is {name}"}: {error}') from error
  except Exception as error:  # whatever a user's module raises
    if not is_own(name):
      raise
    raise UserError(f'--{option} is {name}: it fails on inputs of {inputs.shape} ({_reason(error)})') from error
  return model


def _check_answers(model: Any, variables: Any, inputs: Any, num_classes: int | None) -> None:
  def answered(variables: Any, inputs: Any) -> Any:
    return logits_of(model.apply(variables, inputs, train=False))

  output = jax.eval_shape(answered, variables, inputs)
  if num_classes is not None and output.shape != (len(inputs), num_classes):
    raise ValueError(f'it gives {list(output.shape)} for an input of {list(inputs.shape)}: give [batch, {num_classes}]')
