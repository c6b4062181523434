"""Imports the PyTorch networks of the benchmarks, where PyTorch is installed."""

import os
import sys
from importlib import util
from types import ModuleType


def pytorch() -> ModuleType | None:
  """Returns the module ``pytorch``, on as many threads as there are cores; None without PyTorch, which it reports."""
  if util.find_spec('torch') is None:
    print('PyTorch is not installed and its rows are left out: pip install ".[bench]"', file=sys.stderr)
    return None
  from train.programs.bench import pytorch

  pytorch.torch.set_num_threads(os.cpu_count() or 1)
  return pytorch
