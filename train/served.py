"""A model file of any format, verified and loaded: a function from raw pixels to logits."""

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
from train.errors import UserError
from train.run import read_json, write_atomically
from train.shipped import check, fitting, logits, read, read_bytes


class Served(NamedTuple):
  """From uint8 images [b, h, w, c] to float32 logits [b, classes], and what they mean."""

  logits: Callable[[np.ndarray], np.ndarray]
  description: dict[str, Any]


def load(path: Path) -> Served:
  """Loads a model; one that does not fit its digest is not even parsed."""
  if path.suffix not in _LOADERS:
    raise UserError(f'{path} is no model file: their names end in {", ".join(_LOADERS)}')
  return _LOADERS[path.suffix](path)


def scored(path: Path, data: str | None, data_dir: Path | None, *, at_once: int = 500) -> str:
  """What part of the test images of its data set a model gets right, in a line; ``data`` says which set it must be."""
  served = load(path)
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
  """The file beside an export by which it is verified."""
  return path.with_name(f'{path.name}.json')


def write_digest(path: Path, description: dict[str, Any]) -> None:
  """Writes what an export itself cannot say: what it is, and by which sum it is known."""
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


def _verified(path: Path) -> tuple[bytes, dict[str, Any]]:
  content, beside = read_bytes(path), digest_path(path)
  if not beside.is_file():
    raise UserError(f'{beside} is missing: an export is loaded only with the digest that stands beside it')
  digest = read_json(beside)
  description = digest.get('description') if isinstance(digest, dict) else None
  if not isinstance(description, dict) or digest != _digest(path, content, description):
    raise UserError(f'{path} and its digest {beside.name} do not fit: one of them was changed; export the model anew')
  check(description, path)
  return content, description


def _load_safetensors(path: Path) -> Served:
  shipped = fitting(read(path), path)
  program = jax.jit(partial(logits, shipped.description))
  variables = shipped.variables()
  return Served(lambda images: np.asarray(program(variables, images)), shipped.description)


def _load_stablehlo(path: Path) -> Served:
  content, description = _verified(path)
  try:
    program = jax.jit(export.deserialize(bytearray(content)).call)
  except ImportError as error:
    raise UserError('flatbuffers is not installed: pip install "lmajax[deploy]"') from error
  except ValueError as error:  # of a JAX too new or too old for this file
    raise UserError(f'{path} cannot be loaded by JAX {jax.__version__}: {error}; export the model anew') from error
  return Served(lambda images: np.asarray(program(images)), description)


def _load_onnx(path: Path) -> Served:
  content, description = _verified(path)
  try:
    import onnxruntime
  except ImportError as error:
    raise UserError('onnxruntime is not installed: pip install "lmajax[onnx]"') from error
  session = onnxruntime.InferenceSession(content, providers=['CPUExecutionProvider'])
  (given,) = session.get_inputs()
  return Served(lambda images: np.asarray(session.run(None, {given.name: images})[0]), description)


_LOADERS = {'.safetensors': _load_safetensors, '.stablehlo': _load_stablehlo, '.onnx': _load_onnx}
