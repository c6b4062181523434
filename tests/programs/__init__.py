"""The programs, each judged in a folder of its own, and all of them by what their folders' ``cases`` say."""

import importlib

from train.programs import PROGRAMS

CASES = {
  command: importlib.import_module(f'tests.programs.{program.folder}.cases').CASES[command]
  for command, program in PROGRAMS.items()
}
