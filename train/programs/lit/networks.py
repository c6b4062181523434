"""Builds the staged networks and loads the data of a configuration of block-wise training."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax.numpy as jnp

from lmajax import models
from lmajax.types import ActivationFactory
from train import networks
from train.data import Dataset, load
from train.data.texts import text
from train.programs.lit.config import Lit, Shallow
from train.programs.lit.texts import LitText
from train.runtime.errors import UserError


def families(config: Shallow) -> dict[str, Callable[..., Any]]:
  """Returns the staged networks for a configuration's data; k in VDCNN's head stays the paper's 8."""
  if isinstance(config, LitText):
    return {'vdcnn': partial(models.VDCNN, vocabulary=text.VOCABULARY, units=config.units)}
  return {name: family.make for name, family in networks.FAMILIES.items() if family.staged}


def staged(config: Shallow, option: str, act: ActivationFactory, *, num_classes: int, inputs: Any) -> Any:
  """Builds the network that an option names, a family and a depth; tries it on inputs, without computing."""
  name, known = getattr(config, option), families(config)
  if networks.is_own(name):
    mend = 'train one of yours by lmajax.training.blockwise, over lmajax.models.ByPath'
    raise UserError(f'--{option} is {name}: lit knows the stages of {" and ".join(known)} alone; {mend}')
  family, _, depth = name.rpartition('-')
  if family not in known or not depth.isdecimal():
    example = getattr(type(config), option)
    raise UserError(f'--{option} is {name}: give {" or ".join(known)} and a depth, as in {example}')
  width = 'channels' if isinstance(config, LitText) else 'width'
  how = {'num_classes': num_classes, 'act': act, 'dtype': jnp.dtype(config.dtype), width: config.width}
  return networks.tried(option, name, lambda: known[family](int(depth), **how), inputs)


def read(config: Lit | LitText) -> Dataset:
  """Loads the data set of a configuration."""
  if isinstance(config, LitText):
    how = {'train_examples': config.train_texts, 'length': config.length, 'columns': config.columns or None}
    return text.load(config.data, data_dir=config.data_dir, **how)
  return load(config.data, data_dir=config.data_dir, train_images=config.train_images)
