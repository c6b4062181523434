"""What is handed to a function, looked at where it is handed over: deep inside, an error would name neither.

All is known while a program is traced, so that nothing of it is left in the program.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array


def shown(value: Any) -> str:
  """The type and shape of an array, or the type of what is none."""
  dtype = getattr(value, 'dtype', None)
  return type(value).__name__ if dtype is None else f'{dtype}{list(value.shape)}'


def as_given(value: Any) -> str:
  """A number or a text as it was given, and of anything else what it is: a line, however long the value."""
  return repr(value) if isinstance(value, int | float | str | None) else shown(value)


def of_type(value: Any, kind: Any) -> bool:
  """Whether it is an array of this kind of numbers."""
  dtype = getattr(value, 'dtype', None)
  return dtype is not None and jnp.issubdtype(dtype, kind)


def check_floats(name: str, value: Any, shape: tuple[int, ...] | None = None, *, least_rank: int = 0) -> None:
  """Refuses what is no array of floats, has another shape or too few axes, or another machine's order of bytes."""
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


def is_count(value: Any) -> bool:
  """Whether it is a whole number, which True is not."""
  return isinstance(value, int | np.integer) and not isinstance(value, bool)


def check_count(name: str, value: Any, low: int, high: int | None = None) -> None:
  """Refuses what is no whole number, or is out of range."""
  if not is_count(value) or value < low or (high is not None and value > high):
    wanted = f'a whole number of at least {low}' if high is None else f'{low} to {high}'
    raise ValueError(f'{name} is {as_given(value)}; give {wanted}')


def is_between(value: Any, low: float, high: float) -> bool:
  """Whether it is a number of this range, ends included, whose value is known: True is none, nor is what is traced."""
  try:
    return not isinstance(value, bool) and bool(low <= value <= high)
  except (TypeError, ValueError):  # a text; several numbers
    return False


def check_mask(where: Array | None, x: Array) -> None:
  """A mask of [batch, time] on [batch, time, features] would mask the wrong axis whenever the sizes agree."""
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
