"""Seeds side by side in one program: students of one architecture that differ in nothing else."""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp


def vmapped(function: Callable) -> Callable:
  """Lifts a function of (state, …) over the leading axis of the state, by ``jax.vmap``; the rest is shared.

  >>> vmapped(lambda state, batch: state * batch)(jnp.arange(3.), 2.0).tolist()
  [0.0, 2.0, 4.0]

  Source: not in the paper.
  """

  def over_seeds(states, *shared):
    return jax.vmap(function, in_axes=(0, *(None for _ in shared)))(states, *shared)

  return over_seeds


def unrolled(function: Callable) -> Callable:
  """Lifts a function as ``vmapped`` does, seed after seed in one program.

  On the CPU ``vmap`` over the kernels of convolutions is many times slower than that.

  >>> unrolled(lambda state, batch: state * batch)(jnp.arange(3.), 2.0).tolist()
  [0.0, 2.0, 4.0]

  Source: not in the paper.
  """

  def over_seeds(states, *shared):
    seeds = jax.tree.leaves(states)[0].shape[0]
    results = [function(jax.tree.map(lambda leaf, i=i: leaf[i], states), *shared) for i in range(seeds)]
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *results)

  return over_seeds


def together(functions: Mapping[str, Callable]) -> Callable:
  """Puts functions of (state, …) in one program, each of the state under its own name; the rest is shared by all.

  >>> together({'a': lambda state, batch: state + batch, 'b': lambda state, batch: state * batch})({'a': 1, 'b': 2}, 3)
  {'a': 4, 'b': 6}

  Source: not in the paper.
  """

  def of_all(states, *shared):
    return {name: function(states[name], *shared) for name, function in functions.items()}

  return of_all
