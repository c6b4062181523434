"""The start of block-wise training: fitting boundaries, and the teacher's stem and head in the student."""

from typing import Any

import jax
import jax.numpy as jnp

from lmajax import tree
from lmajax.models import ByPath
from lmajax.types import Where


def in_stages(model: Any) -> Where:
  """Says which parameters belong to stages: what a student whose stem and head are its teacher's is to train.

  Args:
    model: a ``Staged`` module, whose stages lie under ``stages_i``, or ``ByPath``. The stages of a model within the
      model count too; what stands beside that is then of its ends.

  Returns:
    A function (path, leaf) -> whether the leaf is of a stage.

  >>> where = in_stages(MLP((2,), 3, LMA))
  >>> where('stages_0/Dense_0/kernel', None), where('logits/kernel', None)
  (True, False)

  Source: Koratana et al. 2019 (LIT), section 3.
  """
  if isinstance(model, ByPath):
    return lambda path, leaf: model.in_stages(path)
  return lambda path, leaf: '/stages_' in f'/{path}'


def with_ends(student: Any, variables: Any, teacher: Any, teacher_variables: Any) -> dict[str, Any]:
  """Copies the teacher's stem and head, parameters and statistics, into a student's variables.

  Args:
    student: a ``Staged`` module.
    variables: the student's.
    teacher: a ``Staged`` module, alike but for the depth of its stages.
    teacher_variables: the teacher's, which are copied, since a step donates the student's.

  Raises:
    ValueError: stem and head of the two differ; the line has the path.

  >>> student, teacher, x = MLP((2,), 3, linen.ReLU), MLP((2,), 3, linen.ReLU), jnp.ones((1, 4))
  >>> mine, theirs = (student.init(jax.random.key(seed), x, train=False) for seed in (0, 1))
  >>> both = with_ends(student, mine, teacher, theirs)['params']
  >>> bool((both['logits']['kernel'] == theirs['params']['logits']['kernel']).all())
  True

  Source: Koratana et al. 2019 (LIT), section 3.
  """
  theirs = _ends(teacher, teacher_variables)
  _check_ends(_ends(student, variables), theirs)
  mine = in_stages(student)

  def chosen(collection: str) -> Any:
    def one(path: str, leaf: Any) -> Any:
      # A copy: the step donates the student's arrays, and the teacher's must outlive it.
      return leaf if mine(path, leaf) else jnp.array(theirs[f'{collection}/{path}'], copy=True)

    return tree.map_with_path(one, variables[collection])

  return {collection: chosen(collection) for collection in variables}


def _ends(model: Any, variables: Any) -> dict[str, Any]:
  """The leaves of stem and head by their path, the collection before it."""
  found, where = {}, in_stages(model)
  for collection, part in variables.items():
    leaves = tree.by_path(part).items()
    found |= {f'{collection}/{path}': leaf for path, leaf in leaves if not where(path, leaf)}
  return found


def _check_ends(mine: dict[str, Any], theirs: dict[str, Any]) -> None:
  for path in sorted(mine.keys() ^ theirs.keys()):
    has, lacks = ('student', 'teacher') if path in mine else ('teacher', 'student')
    raise ValueError(
      f'{path} is in the stem or head of the {has} and not of the {lacks}: build both alike but for depth'
    )
  for path, leaf in mine.items():
    if leaf.shape != theirs[path].shape:
      raise ValueError(
        f"{path} is {leaf.shape} in the student, the teacher's {theirs[path].shape}: give both one width"
      )


def check_boundaries(student: Any, teacher: Any, inputs: Any) -> None:
  """Refuses a pair whose stages do not give taps of the same shapes; nothing is computed.

  Args:
    student: a ``Staged`` module.
    teacher: another.
    inputs: what both take.

  Raises:
    ValueError: the numbers of stages or the shapes of their outputs differ; the line names the stage.

  >>> check_boundaries(MLP((2,), 3, LMA), MLP((4,), 3, LMA), jnp.ones((1, 4)))
  Traceback (most recent call last):
  ValueError: stages_0 of the student gives (2,), the teacher's (4,): give both the same widths

  Source: Koratana et al. 2019 (LIT), section 3: student and teacher are as wide at the ends of stages.
  """
  mine, theirs = _shapes(student, inputs), _shapes(teacher, inputs)
  if len(mine) != len(theirs):
    raise ValueError(f'the student has {len(mine) - 1} stages, the teacher {len(theirs) - 1}: give both as many')
  for i, (ours, other) in enumerate(zip(mine, theirs, strict=True)):
    name = f'stages_{i - 1}' if i else 'the stem'
    if ours != other:
      raise ValueError(f"{name} of the student gives {ours}, the teacher's {other}: give both the same widths")


def _shapes(model: Any, inputs: Any) -> list[Any]:
  """Returns the shape of each tap, without the batch."""

  def taps(inputs: Any) -> Any:
    variables = model.init(jax.random.key(0), inputs, train=False)
    return model.apply(variables, inputs, train=False)[1]

  return [jax.tree.map(lambda leaf: leaf.shape[1:], tap) for tap in jax.eval_shape(taps, inputs)]
