"""What block-wise training starts from: fitting boundaries, and the teacher's stem and head in the student."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from lmajax import tree
from lmajax.models import ByPath
from train.engine.fit import Cohort, Start, fresh
from train.engine.optimizers import Where
from train.engine.step import Group
from train.runtime.errors import UserError


def in_stages(model: Any) -> Where:
  """Which parameters are those of stages: what a student whose stem and head are the teacher's is to train.

  Those of a model within the model count too; what stands beside that is then of its ends.
  """
  if isinstance(model, ByPath):
    return lambda path, leaf: model.in_stages(path)
  return lambda path, leaf: '/stages_' in f'/{path}'


def with_ends(student: Any, variables: Any, teacher: Any, teacher_variables: Any) -> dict[str, Any]:
  """The student's variables, stem and head (parameters and statistics) copied from the teacher's."""
  theirs = _ends(teacher, teacher_variables)
  _check_ends(_ends(student, variables), theirs)
  mine = in_stages(student)

  def chosen(collection: str) -> Any:
    def one(path: str, leaf: Any) -> Any:
      # A copy: the step donates the student's arrays, and the teacher's must outlive it.
      return leaf if mine(path, leaf) else jnp.array(theirs[f'{collection}/{path}'], copy=True)

    return tree.map_with_path(one, variables[collection])

  return {collection: chosen(collection) for collection in variables}


def going_on(variables: dict[str, Any]) -> Start:
  """What a group goes on with from the variables that it ended with."""
  return Start(variables['params'], (), {name: part for name, part in variables.items() if name != 'params'})


def between_ends(cohort: Cohort, inputs: Any, teacher: Any, teacher_variables: Any) -> dict[str, Start]:
  """New weights for each group of a cohort, between their teacher's stem and head."""
  theirs = jax.device_get(teacher_variables)

  def starting(group: Group, begun: Start) -> Start:
    return going_on(with_ends(group.model, {'params': begun.theta, **begun.stats}, teacher, theirs))

  begun = fresh(cohort, inputs)
  return {name: group.over(partial(starting, group))(begun[name].end) for name, group in cohort.groups.items()}


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
    raise UserError(
      f'{path} is in the stem or head of the {has} and not of the {lacks}: build both alike but for depth'
    )
  for path, leaf in mine.items():
    if leaf.shape != theirs[path].shape:
      raise UserError(f"{path} is {leaf.shape} in the student, the teacher's {theirs[path].shape}: give both one width")


def check_boundaries(student: Any, teacher: Any, inputs: Any) -> None:
  """Refuses a pair whose stages do not give taps of the same shapes, naming the stage; nothing is computed."""
  mine, theirs = _shapes(student, inputs), _shapes(teacher, inputs)
  if len(mine) != len(theirs):
    raise UserError(f'the student has {len(mine) - 1} stages, the teacher {len(theirs) - 1}: give both as many')
  for i, (ours, other) in enumerate(zip(mine, theirs, strict=True)):
    name = f'stages_{i - 1}' if i else 'the stem'
    if ours != other:
      raise UserError(f"{name} of the student gives {ours}, the teacher's {other}: give both the same widths")


def _shapes(model: Any, inputs: Any) -> list[Any]:
  """Of each tap, without the batch."""

  def taps(inputs: Any) -> Any:
    variables = model.init(jax.random.key(0), inputs, train=False)
    return model.apply(variables, inputs, train=False)[1]

  return [jax.tree.map(lambda leaf: leaf.shape[1:], tap) for tap in jax.eval_shape(taps, inputs)]
