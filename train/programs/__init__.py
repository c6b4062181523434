"""Lists the programs that train, each in a folder; one line here makes a command with tables, scores and exports."""

import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from train.config import command
from train.programs.compress import config as compress
from train.programs.datafree import config as datafree
from train.programs.distill import config as distill
from train.programs.distill_text import config as distill_text
from train.programs.hash import config as hashing
from train.programs.lit import config as lit
from train.programs.lit import texts as lit_text
from train.programs.lit_gan import config as lit_gan
from train.programs.prune import config as prune
from train.programs.quantize import config as quantize
from train.programs.regions import config as regions
from train.programs.slim import config as slim
from train.programs.trees import config as trees
from train.runtime.errors import UserError


class Program(NamedTuple):
  """A program: its options, their defaults for a data set, and its folder."""

  options: type[Any]
  defaults: Callable[[Any], Any]
  folder: str

  def run(self) -> Any:
    """Imports its training module: ``experiment(config)``, ``run(plan, to)``, ``again(plan, folder)`` and ``LEFT``."""
    return importlib.import_module(f'train.programs.{self.folder}.run')

  def joins(self, config: Mapping[str, Any]) -> bool:
    """Returns whether runs can be joined: they must have seeds, and their rows names, which those of regions lack."""
    return 'seeds' in config and 'name' in self.table().Row._fields

  def text(self, rows: Sequence[Any]) -> str:
    """Formats rows that were read as a Markdown table.

    Raises:
      UserError: they are not those of one run, as where one that others are compared with is missing.
    """
    try:
      return self.table().text(rows)
    except (ArithmeticError, LookupError, StopIteration, TypeError, ValueError) as error:
      raise UserError(f'its rows are not those of one {command(self.options)} run: restore its results.json') from error

  def table(self) -> Any:
    """Imports its table module: ``Row`` and ``text(rows)``."""
    return importlib.import_module(f'train.programs.{self.folder}.table')


PROGRAMS = {
  command(program.options): program
  for program in (
    Program(distill.Distill, distill.defaults, 'distill'),
    Program(quantize.Quantize, quantize.defaults, 'quantize'),
    Program(lit.Lit, lit.defaults, 'lit'),
    Program(lit_text.LitText, lit_text.defaults, 'lit'),
    Program(lit_gan.LitGan, lit_gan.defaults, 'lit_gan'),
    Program(distill_text.DistillText, distill_text.defaults, 'distill_text'),
    Program(compress.Compress, compress.defaults, 'compress'),
    Program(hashing.Hash, hashing.defaults, 'hash'),
    Program(prune.Prune, prune.defaults, 'prune'),
    Program(datafree.Datafree, datafree.defaults, 'datafree'),
    Program(slim.Slim, slim.defaults, 'slim'),
    Program(trees.Trees, trees.defaults, 'trees'),
    Program(regions.Regions, lambda data: regions.Regions(), 'regions'),
  )
}
"""By the name of their command."""
