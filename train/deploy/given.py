"""Reads and checks teachers that are trained already, from model files or finished runs."""

import dataclasses
import hashlib
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lmajax.compress import identity
from lmajax.training import Start
from train import build, networks
from train.activations import label
from train.build import described, of_data
from train.data import Dataset
from train.deploy import model_file as shipped
from train.deploy import weights
from train.deploy.model_file import Shipped, file_name
from train.engine.cohort import Cohort, going_on
from train.engine.evaluate import member, stacked
from train.runtime.distributed import first
from train.runtime.errors import UserError
from train.runtime.options import require, text
from train.runtime.outside import read_json

_TEACHER = re.compile(r'(?P<name>(.+-)?(teacher|original))-seed(?P<seed>\d+)\.safetensors')


class Given(NamedTuple):
  """A teacher read from its file."""

  path: Path
  digest: str
  """sha256 of the file, as ``sha256sum`` prints it."""
  shipped: Shipped

  @property
  def description(self) -> dict[str, Any]:
    """Returns the file's description of its network."""
    return self.shipped.description

  @property
  def label(self) -> str:
    """Returns its activation, with the number of segments if it has one."""
    return label(self.description['activation'], self.description['segments'])


def teachers(config: Any, *, several: bool = False, read: Callable = shipped.of_bytes) -> tuple[Any, list[Given]]:
  """Reads the teachers of ``--teacher-from``.

  Args:
    config: of the program; on resume it has the digests of the files that the run began with.
    several: whether the program takes more than one; else only the first seed of a run's teacher is taken.
    read: (content, path) -> the model in a file; by default an image classifier.

  Returns:
    The configuration with the digests of the files, and the teachers; none if the option is not given.

  Raises:
    UserError: a file cannot be read, or is not the one that the run began with.
  """
  files = [file for path in config.teacher_from for file in _files(path, several)]
  require(several or len(files) < 2, 'teacher_from', text(config.teacher_from), 'give one')
  found = [_given(path, read) for path in files]
  digests = tuple(each.digest for each in found)
  return noted(config, [each.path for each in found], digests), found


def noted(config: Any, paths: Sequence[Path], digests: tuple[str, ...]) -> Any:
  """Notes the digests of a teacher's files in the configuration; refuses others than a resumed run began with."""
  if config.teacher_digests and config.teacher_digests != digests:
    old = [*config.teacher_digests, *[''] * len(paths)]
    changed = [path for path, one, other in zip(paths, digests, old, strict=False) if one != other]
    what = changed[0] if changed else text(config.teacher_from)
    raise UserError(f'{what} is not the teacher that this run began with: restore it, or choose another --workdir')
  return dataclasses.replace(config, teacher_digests=digests)


def of_images(config: Any, dataset: Dataset, inputs: Any) -> tuple[Any, Cohort, list[Given]]:
  """Returns the configuration with the digest, the cohort of the image teacher, and its file if one is given."""
  if config.teacher_checkpoint is not None:
    model = build.teacher_network(config, dataset, inputs)
    variables, digest = weights.load(config.teacher_checkpoint, model, inputs)
    config = noted(config, [config.teacher_checkpoint], (digest,))
    packed = identity().stored(jax.tree.map(jnp.asarray, variables.pop('params')), ())
    about = described(config, None, dataset)
    found = [Given(config.teacher_checkpoint, digest, Shipped(packed, variables, about))]
    return config, build.teachers(config, model), found
  own = config.teacher if networks.is_own(config.teacher or '') else None
  config, found = teachers(config)
  check_images(found, config, dataset, own)
  model = shipped.model(found[0].description, own) if found else build.teacher_network(config, dataset, inputs)
  return config, build.teachers(config, model), found


def description(plan: Any) -> dict[str, Any]:
  """Returns the description in the file of a plan's teacher, given or yet to be written."""
  return plan.given[0].description if plan.given else described(plan.config, None, plan.dataset)


def _given(path: Path, read: Callable) -> Given:
  content = shipped.read_bytes(path)
  found = read(content, path)
  if not isinstance(found.description, dict) or not {'activation', 'segments'} <= set(found.description):
    raise UserError(f'{path}: without the description of a teacher, as these programs write it')
  return Given(path, hashlib.sha256(content).hexdigest(), found)


def _files(path: Path, several: bool) -> list[Path]:
  """Returns a file itself; for a run's folder, its teachers' files, ordered by seed."""
  if not path.is_dir():
    return [path]
  found = [(match, file) for file in (path / 'models').glob('*') if (match := _TEACHER.fullmatch(file.name))]
  names = sorted({match['name'] for match, _ in found})
  if not names:
    made = 'recipe' in read_json(path / 'config.json')
    raise UserError(f'{path} holds no teacher{" yet: finish the run by --resume" if made else ""}')
  if len(names) > 1 and not several:
    raise UserError(f'{path} holds {", ".join(names)}: give one of their files, in {path / "models"}')
  ordered = [file for _, file in sorted(found, key=lambda pair: (pair[0]['name'], int(pair[0]['seed'])))]
  return ordered if several else ordered[:1]


def check_same(given: Sequence[Given], expected: dict[str, Any], what: str) -> None:
  """Refuses teachers whose description differs from the expected one, naming the first difference."""
  for each in given:
    for name, value in expected.items():
      found = each.description.get(name)
      if found != value:
        raise UserError(
          f'--teacher-from {each.path}: its {name.replace("_", " ")} is {_short(found)}, and {_short(value)} in {what}'
        )


def check_images(
  given: Sequence[Given], config: Any, dataset: Dataset, own: str | None = None, **expected: Any
) -> None:
  """Refuses teachers of other images than the data set's, and files whose weights do not fit their description."""
  check_same(given, of_data(config, dataset) | expected, config.data)
  for each in given:
    shipped.fitting(each.shipped, each.path, own)


def _short(value: Any) -> str:
  words = text(value)
  return words if len(words) < 60 else f'{words[:57]}...'


def one_or_each(found: Sequence[Given], label: str, seeds: int) -> list[Given]:
  """Returns the given originals of an activation; refuses, if any are given, more than one that are not one a seed."""
  own = [each for each in found if each.label == label]
  some = f'{len(own)} of {label}'
  require(not found or len(own) in (1, seeds), 'teacher_from', some, f'give one, or one a seed: {seeds}')
  return own


def check_one_each(given: Sequence[Given], labels: Sequence[str]) -> None:
  """Refuses teachers unless there is exactly one for each activation."""
  found = [each.label for each in given]
  if given and sorted(found) != sorted(labels):
    raise UserError(
      f'--teacher-from has {" ".join(found)}, and --activations asks for {" ".join(labels)}: give one of each'
    )


def same(given: Sequence[Given], name: str) -> Any:
  """Returns the value under ``name`` in the teachers' descriptions; refuses differing ones."""
  first, *others = given
  for other in others:
    if other.description[name] != first.description[name]:
      values = [_short(each.description[name]) for each in (first, other)]
      raise UserError(
        f'--teacher-from: the {name} of {first.path} is {values[0]}, of {other.path} {values[1]}: give alike networks'
      )
  return first.description[name]


def originals(config: Any, found: Sequence[Given], labels: Sequence[str]) -> Any:
  """Sets the configuration's network to that of the given files; refuses files that cannot be its originals."""
  if not found:
    return config
  for each in found:
    thin = each.description['thinned']
    require(thin is None, 'teacher_from', each.path, 'it has lost channels already; give its original')
    bits = each.description['activation_bits']
    require(bits is None, 'teacher_from', each.path, 'its activations are quantized; give its original')
    mend = f'its activation is {each.label}; --activations asks for {" ".join(labels)}'
    require(each.label in labels, 'teacher_from', each.path, mend)
  penalized = 'norm-scale' in getattr(config, 'rules', ())
  mend = 'its original is trained with a penalty, which a given one was not; leave it out'
  require(not penalized, 'rules', 'norm-scale', mend)
  network = {name: same(found, name) for name in ('network', 'width', 'coupled') if hasattr(config, name)}
  return dataclasses.replace(config, **{**network, 'width': tuple(network['width'])})


def variables(given: Sequence[Given]) -> Any:
  """Returns the variables for ``model.apply``, stacked along a leading axis of seeds."""
  return stacked([each.shipped.variables() for each in given])


def end(given: Sequence[Given]) -> Start:
  """Returns what training them would have ended with."""
  return going_on(variables(given))


def keep(folder: Path, name: str, seeds: Sequence[int], trained: Any, description: dict[str, Any]) -> None:
  """Writes trained teachers into a run's folder, in float32, where ``--teacher-from`` finds them."""
  host = jax.device_get(trained)
  for i, seed in enumerate(seeds):
    path = folder / file_name(name, seed)
    if first() and not path.exists():
      one = member(host, i)
      shipped.write(path, identity().stored(one.pop('params'), ()), one, description)
