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

from train.config import require
from train.data import load as read_data
from train.deploy.model_file import check, fitting, logits, read, read_bytes
from train.runtime.errors import UserError
from train.runtime.files import write_atomically
from train.runtime.outside import LIMITS, Limits, printable, read_json

Loaded = tuple[Callable[[np.ndarray], Any], dict[str, Any]]
"""A program and the description of its model."""


class Served(NamedTuple):
  """A loaded model: uint8 images [b, h, w, c] -> float32 logits [b, classes], and its description."""

  logits: Callable[[np.ndarray], np.ndarray]
  description: dict[str, Any]


def load(path: Path, limits: Limits = LIMITS) -> Served:
  """Loads a model; one that does not fit its digest is not even parsed, and its output's shape is checked."""
  if path.suffix not in _LOADERS:
    raise UserError(f'{path} is no model file: their names end in {", ".join(_LOADERS)}')
  program, description = _LOADERS[path.suffix](path, limits)
  return Served(partial(_answers, program, path, len(description['classes'])), description)


def scored(path: Path, data: str | None, data_dir: Path | None, *, limits: Limits = LIMITS, at_once: int = 500) -> str:
  """Returns a line with a model's accuracy on its data set's test images; ``data``, if given, must be that set."""
  served = load(path, limits)
  own, shape = served.description['data'], tuple(served.description['image_shape'])
  require(data in (None, own), 'data', data, f'{path} is of {own}')
  test = read_data(own, data_dir=data_dir).test
  if test.inputs.shape[1:] != shape:
    raise UserError(f'{path} takes images of {shape}, and those of {own} are {test.inputs.shape[1:]}')
  parts = range(0, len(test.labels), at_once)
  said = np.concatenate([served.logits(test.inputs[i : i + at_once]) for i in parts])
  accuracy = f'{100 * (said.argmax(-1) == test.labels).mean():.2f} % of the {len(said):,} test images of {own} right'
  return f'{path}: {accuracy}; {path.stat().st_size:,} bytes'


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


def _load_safetensors(path: Path, limits: Limits) -> Loaded:
  shipped = fitting(read(path, limits), path)
  program = jax.jit(partial(logits, shipped.description))
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
