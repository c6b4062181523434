"""Exports a trained network to a file that runs elsewhere, and compares the reloaded file with it on real images."""

import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lmajax import export as to
from lmajax.compress import identity, masked, pack, uniform
from lmajax.training import supervised, unrolled
from lmajax.types import Packed
from train import build
from train import config as configs
from train.build import described
from train.commands.config import Export
from train.config import Training
from train.deploy import given, serve
from train.deploy.model_file import Shipped, fitting, logits, of_bytes, read_bytes
from train.deploy.model_file import model as build_model
from train.deploy.score import Files
from train.deploy.serve import load as load_model
from train.deploy.serve import write_digest
from train.engine.cohort import Group
from train.engine.evaluate import member
from train.programs import PROGRAMS
from train.programs.distill.config import Distill
from train.results.rows import read_results
from train.runtime.errors import UserError
from train.runtime.files import within, write_atomically
from train.runtime.options import require
from train.runtime.outside import LIMITS, Limits, Name, made, printable, read_json

Format = Literal['stablehlo', 'onnx', 'safetensors']
_IMAGES = 500  # of the test set, that are compared
_MEASURED = 512  # training images a batch: batch norm remembers about ten of them


class Source(NamedTuple):
  """A network to export, as the bytes of a packed file, and the folder of its data set if that needs one."""

  path: Path
  content: bytes
  data_dir: Path | None
  limits: Limits
  own: str | None

  def shipped(self) -> Shipped:
    """Parses the file; refuses one that is not a network."""
    return fitting(of_bytes(self.content, self.path, self.limits), self.path, self.own)


class Agreement(NamedTuple):
  """Differences between an export's logits and the network's, image by image."""

  greatest: float  # difference of two logits
  scale: float  # the largest logit
  within: float  # the part of the images that differ by no more than the tolerance
  same: float  # the part with the same best class

  @property
  def holds(self) -> bool:
    """Lets a few images in a hundred differ by more: near a cut of LMA rounding may choose the neighbouring piece."""
    return self.within >= 0.9 and self.same >= 0.99

  def __str__(self) -> str:
    return (
      f'differs by at most {self.greatest:.1e} in logits up to {self.scale:.1f};'
      f' the same class for {100 * self.same:.1f} %'
    )


def check(command: Export) -> None:
  """Refuses ``--bits`` out of range or with another format than safetensors, naming the option."""
  bits = command.bits
  require(bits is None or 1 <= bits <= 8, 'bits', bits, 'give 1 to 8')
  require(bits is None or command.format == 'safetensors', 'bits', bits, 'give --format safetensors')


def source(model: Path, student: str | None, limits: Limits = LIMITS, own: str | None = None) -> Source:
  """Finds the network to export: a packed file, or a row of a run's results."""
  if not model.is_dir():
    return Source(model, read_bytes(model), None, limits, own)
  results = read_results(model)
  named: dict[str, Any] = {}
  for row in results['rows']:
    name = made(row.get('name'), Name, f'{model / "results.json"}: the name of a row')
    named[name] = made(row.get('file'), Name | None, f'{model / "results.json"}: the file of {printable(name)}')
  files = {name: file for name, file in named.items() if file}
  translates = results.get('recipe') == 'distill-text'
  if (translates or not files) and (made_by := configs.recipe_of(model)) != 'distill':
    raise UserError(
      f'{model} is a run of {made_by}: export takes runs of distill, quantize, prune, hash, compress and datafree alone'
    )
  name = _chosen(list(files or named), student, model)
  exports = within(model / 'exports', name, model / 'results.json')
  path = exports.with_name(f'{name}.safetensors')
  if files:
    config = read_json(model / 'config.json', dict[str, Any])
    data_dir = made(config.get('data_dir'), str | None, f'{model / "config.json"}: data_dir')
    file = within(model, files[name], model / 'results.json')
    return Source(path, read_bytes(file), data_dir and Path(data_dir), limits, own)
  config = configs.load(Distill, model)
  return Source(path, _of_distill(config, model, name), config.data_dir, limits, own)


def _chosen(names: Sequence[str], student: str | None, folder: Path) -> str:
  if student is None and len(names) == 1:
    return names[0]
  if student is None or student not in names:
    asked = 'give --student' if student is None else f'--student is {student}'
    raise UserError(f'{asked}: {folder} has {", ".join(map(printable, names)) or "none"}')
  return student


def _of_distill(config: Distill, folder: Path, name: str) -> bytes:
  """Packs the first seed of a row, its weights unchanged."""
  distill = PROGRAMS['distill'].run()
  plan = distill.experiment(config)
  variables = jax.device_get(member(distill.restored(plan, folder)[name], 0))
  arm = next((arm for arm in plan.arms if arm.name == name), None)
  about = given.description(plan) if arm is None else described(config, arm, plan.dataset)
  packed: Any = identity().stored(variables.pop('params'), ())
  return pack(packed, variables, about)


def quantized(source: Source, bits: int, data_dir: Path | None) -> Source:
  """Quantizes the source's kernels and measures its statistics under them on training images."""
  found = source.shipped()
  dataset = serve.of(found.description, found.description['data'], data_dir or source.data_dir)
  model, params = build_model(found.description, found.own), jax.tree.map(jnp.asarray, found.packed.decode())
  if found.packed.mean_bits() < 32:
    raise UserError(f'--bits {bits}: the weights of {source.path} are quantized already')
  reparam = masked(uniform(bits))
  packed = reparam.stored(*reparam.init(params, jax.random.key(0)))
  group = Group(model, supervised(model), (0,), unrolled)
  images = min(_MEASURED, len(dataset.train.labels))
  data, _ = build.data(Training(data=found.description['data'], batch_size=images), dataset)
  one = jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], {'params': packed.decode(), **found.stats})
  stats = member(jax.device_get(Files(data, source.path.parent).measured(group, one)), 0)
  stats.pop('params')
  return source._replace(content=pack(packed, stats, found.description, entropy=True))


def write(source: Source, path: Path, form: Format, data_dir: Path | None) -> Agreement:
  """Writes an export and its digest; keeps them only if the file, loaded from disk, agrees with the network."""
  if path.suffix != f'.{form}':
    raise UserError(f'--out is {path}: give a name that ends in .{form}')
  shipped = source.shipped()
  dataset = serve.of(shipped.description, shipped.description['data'], data_dir or source.data_dir)
  images = dataset.test.inputs[:_IMAGES]
  own = np.asarray(jax.jit(partial(logits, shipped.description, own=shipped.own))(shipped.variables(), images))
  path.parent.mkdir(parents=True, exist_ok=True)
  with tempfile.TemporaryDirectory(prefix='unchecked-', dir=path.parent) as folder:
    draft = Path(folder) / path.name
    write_atomically(draft, source.content if form == 'safetensors' else _exported(shipped, form))
    if form != 'safetensors':  # which holds its own
      write_digest(draft, shipped.description)
    found = compared(own, load_model(draft, source.limits, source.own).logits(images), tolerance(shipped.description))
    if not found.holds:
      raise UserError(f'{path} {found} of {len(images)} test images: it is not the network, and is not kept')
    for part in Path(folder).iterdir():
      part.replace(path.with_name(part.name))
  return found


def _exported(shipped: Shipped, form: Format) -> bytes:
  try:
    return _WRITERS[form](shipped)
  except (ImportError, ValueError) as error:
    raise UserError(str(error)) from error


def tolerance(description: dict[str, Any]) -> float:
  """Returns the tolerance relative to the largest logit: inner rounding turns last-bit noise into whole steps."""
  bits = description['activation_bits']
  steps = 0.0 if bits is None else 2.0**-bits
  return max(1e-4, steps, 2.0**-6 if description['dtype'] == 'bfloat16' else 0.0)


def compared(own: np.ndarray, other: np.ndarray, tolerance: float) -> Agreement:
  """Compares the logits of two networks; NaN agrees with nothing."""
  if own.shape != other.shape:
    return Agreement(np.inf, float(np.abs(own).max()), 0.0, 0.0)
  difference, scale = np.abs(own - other), float(np.abs(own).max())
  within = float((difference.max(axis=1) <= tolerance * scale).mean())
  same = float((own.argmax(axis=1) == other.argmax(axis=1)).mean())
  return Agreement(float(difference.max()), scale, within, same)


def _program(shipped: Shipped, decoded: Callable[[Packed], Any]) -> Callable:
  def program(images: Any) -> Any:
    return logits(shipped.description, {'params': decoded(shipped.packed), **shipped.stats}, images, shipped.own)

  return program


def _stablehlo(shipped: Shipped) -> bytes:
  """Exports to StableHLO; the program holds the weights packed and decodes them."""
  return to.stablehlo(_program(shipped, lambda packed: packed.decode(jnp)), _any_number(shipped))


def _onnx(shipped: Shipped) -> bytes:
  """Exports to ONNX; quantized weights are decoded to float32, so the file is no smaller for them."""
  return to.onnx(_program(shipped, lambda packed: packed.decode()), _any_number(shipped))


def _any_number(shipped: Shipped) -> Any:
  return to.any_number(jax.ShapeDtypeStruct((1, *shipped.description['image_shape']), jnp.uint8))


_WRITERS: dict[str, Callable[[Shipped], bytes]] = {'stablehlo': _stablehlo, 'onnx': _onnx}
