"""Verifies and loads a model file of any format, as a function from raw pixels to logits."""

import hashlib
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import export

from train.config import Images
from train.data import Dataset, Examples
from train.data import load as read_data
from train.data.specs import OWN, spec
from train.deploy.model_file import check, fitting, logits, read, read_bytes
from train.runtime.errors import UserError
from train.runtime.files import write_atomically
from train.runtime.options import require
from train.runtime.outside import LIMITS, Limits, printable, read_json

Loaded = tuple[Callable[[np.ndarray], Any], dict[str, Any]]
"""A program and the description of its model."""


class Served(NamedTuple):
  """A loaded model: uint8 images [b, h, w, c] -> float32 logits [b, classes], and its description."""

  logits: Callable[[np.ndarray], np.ndarray]
  description: dict[str, Any]


def load(path: Path, limits: Limits = LIMITS, own: str | None = None) -> Served:
  """Loads a model; one that does not fit its digest is not even parsed, and its output's shape is checked.

  Args:
    path: of the file.
    limits: of what it may hold.
    own: MODULE:FACTORY of the network that a packed file holds and does not describe.
  """
  if path.suffix not in _LOADERS:
    raise UserError(f'{path} is no model file: their names end in {", ".join(_LOADERS)}')
  loaded = partial(_load_safetensors, own=own) if path.suffix == '.safetensors' else _LOADERS[path.suffix]
  program, description = loaded(path, limits)
  return Served(partial(_answers, program, path, len(description['classes'])), description)


def scored(served: Served, path: Path, data: str | None, data_dir: Path | None, *, at_once: int = 500) -> str:
  """Returns a line with a model's accuracy on test images of its data set, or on a user's own of the same classes."""
  test, name = _test(served.description, path, Images(data=data or served.description['data'], data_dir=data_dir))
  shape = tuple(served.description['image_shape'])
  if test.inputs.shape[1:] != shape:
    raise UserError(f'{path} takes images of {shape}, and those of {name} are {test.inputs.shape[1:]}')
  parts = range(0, len(test.labels), at_once)
  said = np.concatenate([served.logits(test.inputs[i : i + at_once]) for i in parts])
  accuracy = f'{100 * (said.argmax(-1) == test.labels).mean():.2f} % of the {len(said):,} test images of {name} right'
  return f'{path}: {accuracy}; {path.stat().st_size:,} bytes'


def _test(description: dict[str, Any], path: Path, asked: Images) -> tuple[Examples, str]:
  same, mend = asked.data == description['data'], f'{path} is of {printable(description["data"])}'
  require(same or spec(asked.data) is OWN, 'data', asked.data, mend)
  found = of(description, asked.data, asked.data_dir)
  if found.classes != tuple(description['classes']):
    raise UserError(f'{path} knows other classes than {asked.data}: give images of the same ones')
  return found.test, asked.data


def of(description: dict[str, Any], data: str, data_dir: Path | None) -> Dataset:
  """Reads a data set for a model; own image files are resized to what it takes."""
  height, width, _ = description['image_shape']
  resized = spec(data) is OWN and height == width and data_dir is not None and data_dir.is_dir()
  return read_data(data, data_dir=data_dir, image_size=height if resized else None)


def digest_path(path: Path) -> Path:
  """Returns the path of the file beside an export that verifies it."""
  return path.with_name(f'{path.name}.json')


def write_digest(path: Path, description: dict[str, Any]) -> None:
  """Writes beside an export what it cannot hold itself: its description and its checksums."""
  digest = _digest(path, path.read_bytes(), description)
  write_atomically(digest_path(path), json.dumps(digest, indent=1) + '\n')


def _digest(path: Path, content: bytes, description: Any) -> dict[str, Any]:
  text = json.dumps(description, sort_keys=True).encode()
  return {
    'format': path.suffix[1:],
    'sha256': hashlib.sha256(content).hexdigest(),
    'description': description,
    'description_sha256': hashlib.sha256(text).hexdigest(),
  }


def _answers(program: Callable[[np.ndarray], Any], path: Path, classes: int, images: np.ndarray) -> np.ndarray:
  try:
    found = np.asarray(program(images))
  except Exception as error:  # whatever a program from outside does
    raise UserError(
      f'{path} fails on images of {images.shape[1:]} ({_reason(error)}); export the model anew'
    ) from error
  if found.shape != (len(images), classes) or found.dtype != np.float32:
    raise UserError(
      f'{path} answers {len(images)} images in {found.dtype.name} of {found.shape}, and has {classes} classes by what'
      ' it says of itself; export the model anew'
    )
  return found


def _verified(path: Path, limits: Limits) -> tuple[bytes, dict[str, Any]]:
  content, beside = read_bytes(path), digest_path(path)
  if not beside.is_file():
    raise UserError(f'{beside} is missing: an export is loaded only with the digest that stands beside it')
  digest = read_json(beside)
  description = digest.get('description') if isinstance(digest, dict) else None
  if not isinstance(description, dict) or digest != _digest(path, content, description):
    raise UserError(f'{path} and its digest {beside.name} do not fit: one of them was changed; export the model anew')
  check(description, path, limits)
  return content, description


def _load_safetensors(path: Path, limits: Limits, own: str | None = None) -> Loaded:
  shipped = fitting(read(path, limits), path, own)
  program = jax.jit(partial(logits, shipped.description, own=own))
  return partial(program, shipped.variables()), shipped.description


def _load_stablehlo(path: Path, limits: Limits) -> Loaded:
  content, description = _verified(path, limits)
  try:
    return jax.jit(export.deserialize(bytearray(content)).call), description
  except ImportError as error:
    raise UserError('flatbuffers is not installed: pip install "lmajax[deploy]"') from error
  except Exception as error:  # of a JAX too new or too old for this file, or of no such file at all
    reason = f'cannot be loaded by JAX {jax.__version__}: {_reason(error)}'
    raise UserError(f'{path} {reason}; export the model anew') from error


def _load_onnx(path: Path, limits: Limits) -> Loaded:
  content, description = _verified(path, limits)
  try:
    import onnxruntime
  except ImportError as error:
    raise UserError('onnxruntime is not installed: pip install "lmajax[onnx]"') from error
  try:
    session = onnxruntime.InferenceSession(content, providers=['CPUExecutionProvider'])
    (given,) = session.get_inputs()
  except Exception as error:
    reason = f'cannot be loaded by ONNX Runtime {onnxruntime.__version__}: {_reason(error)}'
    raise UserError(f'{path} {reason}; export the model anew') from error
  return lambda images: session.run(None, {given.name: images})[0], description


def _reason(error: Exception) -> str:
  """Returns the type of another library's error and the beginning of its message, on one line."""
  words = printable(' '.join(str(error).split()))
  return f'{type(error).__name__}: {words[:120]}' if words else type(error).__name__


_LOADERS = {'.safetensors': _load_safetensors, '.stablehlo': _load_stablehlo, '.onnx': _load_onnx}
