"""Checks the arguments of public functions at the call: deep inside, an error would name neither argument nor value.

Types and shapes are known while a program is traced, so that no check is left in the compiled program.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array


def shown(value: Any) -> str:
  """Describes an array by its type and shape, and anything else by its type."""
  dtype = getattr(value, 'dtype', None)
  return type(value).__name__ if dtype is None else f'{dtype}{list(value.shape)}'


def as_given(value: Any) -> str:
  """Describes a number or a text as it was given, and anything else by its type: never more than a line."""
  return repr(value) if isinstance(value, int | float | str | None) else shown(value)


def of_type(value: Any, kind: Any) -> bool:
  """Tells whether a value is an array of this kind of numbers."""
  dtype = getattr(value, 'dtype', None)
  return dtype is not None and jnp.issubdtype(dtype, kind)


def check_floats(name: str, value: Any, shape: tuple[int, ...] | None = None, *, least_rank: int = 0) -> None:
  """Refuses a value that is no array of floats, or has another shape, too few axes or a foreign byte order."""
  right = of_type(value, jnp.floating) and np.dtype(value.dtype).isnative
  if right and (value.shape == shape if shape is not None else value.ndim >= least_rank):
    return
  wanted = f' of the shape {shape}' if shape is not None else f' with {least_rank} axis or more' * (least_rank > 0)
  raise ValueError(f'{name} is {shown(value)}; give an array of floats{wanted}')


def check_alike(**arrays: Any) -> None:
  """Refuses two arrays of different shapes."""
  (one, first), (other, second) = arrays.items()
  if first.shape != second.shape:
    raise ValueError(f'{one} is {shown(first)} and {other} {shown(second)}; give two of one shape')


def check_pair(**arrays: Any) -> None:
  """Refuses two arguments that are not arrays of floats of one shape, with at least one axis."""
  for name, value in arrays.items():
    check_floats(name, value, least_rank=1)
  check_alike(**arrays)


def is_count(value: Any) -> bool:
  """Tells whether a value is a whole number; True is none."""
  return isinstance(value, int | np.integer) and not isinstance(value, bool)


def check_count(name: str, value: Any, low: int, high: int | None = None) -> None:
  """Refuses a value that is no whole number of this range."""
  if not is_count(value) or value < low or (high is not None and value > high):
    wanted = f'a whole number of at least {low}' if high is None else f'{low} to {high}'
    raise ValueError(f'{name} is {as_given(value)}; give {wanted}')


def is_between(value: Any, low: float, high: float) -> bool:
  """Tells whether a value is a known number of this range, ends included; True and traced values are none."""
  try:
    return not isinstance(value, bool) and bool(low <= value <= high)
  except (TypeError, ValueError):  # a text; several numbers
    return False


def check_mask(where: Array | None, x: Array) -> None:
  """Refuses a mask of another rank: [batch, time] on [batch, time, features] masks the wrong axis where sizes agree."""
  if where is None:
    return
  if not of_type(where, jnp.bool_):
    raise ValueError(f'where is {shown(where)}; give an array of bools')
  fits = where.ndim == x.ndim and all(m in (1, n) for m, n in zip(where.shape, x.shape, strict=True))
  if not fits:
    raise ValueError(
      f'where of shape {where.shape} does not fit x of shape {x.shape}: give it the same rank, each axis equal or 1'
      ' (a token mask as mask[..., None])'
    )


def site(act: Any, name: str) -> Any:
  """Makes the activation of one site; refuses what is no factory, since an instance would be shared by all sites."""
  if isinstance(act, nn.Module):
    kind = type(act).__name__
    raise ValueError(f'act is an instance, whose parameters all sites would share: give {kind} or partial({kind}, ...)')
  try:
    return act(name=name)
  except TypeError as error:
    mend = 'give a class as LMA, functools.partial of one, or partial(linen.Elementwise, function)'
    named = getattr(act, '__name__', type(act).__name__)
    raise ValueError(f'act is {named}, which makes no activation ({str(error).splitlines()[0]}): {mend}') from error
