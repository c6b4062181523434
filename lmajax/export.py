"""Files of functions that run elsewhere: StableHLO, for whatever has XLA, and ONNX."""

from collections.abc import Callable
from importlib import metadata
from typing import Any

import jax
from jax import export as jax_export

from lmajax._arguments import shown
from lmajax._quiet import quiet

PLATFORMS = ('cpu', 'cuda', 'tpu')


def any_number(example: Any) -> Any:
  """Returns the shapes of a batch of any size, of which an example is given.

  Args:
    example: a tree of arrays (or of their shapes) whose first axis is that of the batch.

  Raises:
    ValueError: an array has no axes.

  >>> any_number(jax.ShapeDtypeStruct((5, 4), 'float32')).shape
  (b, 4)

  Source: not in the paper.
  """
  (b,) = jax_export.symbolic_shape('b')

  def one(leaf: Any) -> jax.ShapeDtypeStruct:
    if not getattr(leaf, 'shape', ()):
      raise ValueError(f'example is {shown(leaf)}: give an array whose first axis is that of the batch')
    return jax.ShapeDtypeStruct((b, *leaf.shape[1:]), leaf.dtype)

  return jax.tree.map(one, example)


def stablehlo(function: Callable, inputs: Any) -> bytes:
  """Exports a function to StableHLO, for CPU, CUDA and TPU: ``jax.export.deserialize(data).call(inputs)`` runs it.

  Args:
    function: of one argument; arrays that it holds become constants of the program.
    inputs: the shapes of its argument; of any number of examples by ``any_number``.

  Raises:
    ImportError: flatbuffers is not installed.

  >>> data = stablehlo(lambda x: 2 * x, any_number(jnp.ones((1, 2))))
  >>> jax.export.deserialize(bytearray(data)).call(jnp.ones((3, 2))).shape
  (3, 2)

  Source: not in the paper.
  """
  exported = jax_export.export(jax.jit(function), platforms=PLATFORMS)(inputs)
  try:
    return bytes(exported.serialize())
  except ImportError as error:
    raise ImportError('flatbuffers is not installed: pip install "lmajax[deploy]"') from error


def onnx(function: Callable, inputs: Any) -> bytes:
  """Exports a function to ONNX.

  Args:
    function: of one array.
    inputs: its shape; of any number of examples by ``any_number``.

  Raises:
    ImportError: jax2onnx is not installed.
    ValueError: jax2onnx cannot convert the function.

  >>> data = onnx(lambda x: 2 * x, any_number(jnp.ones((1, 2))))  # doctest: +SKIP

  Source: not in the paper.
  """
  with quiet():
    try:
      from jax2onnx import to_onnx
    except ImportError as error:
      raise ImportError('jax2onnx is not installed: pip install "lmajax[onnx]"') from error
    try:
      with jax.numpy_rank_promotion('allow'):
        return to_onnx(function, [inputs], opset=21).SerializeToString()
    except Exception as error:  # whatever a converter meets in another version's programs
      reason = f'{type(error).__name__}: {error}'.splitlines()[0]
      raise ValueError(
        f'jax2onnx {metadata.version("jax2onnx")} cannot convert this network under JAX {jax.__version__}'
        f' ({reason}); jax2onnx 0.13.0 with JAX 0.10.2 on Python 3.11 can'
      ) from error
