"""Runs the command line: arguments -> configuration -> recipe, nothing else."""

import signal

if __name__ == '__main__':
  signal.signal(signal.SIGINT, signal.SIG_DFL)  # until a run hears it: Ctrl-C in the imports prints no trace

import functools
import operator
import os
import sys
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Annotated, Any

import jax
import tyro

from train import config as configs
from train.commands.config import Evaluate, Export, Predict, Report, Tables
from train.config import Training
from train.programs import PROGRAMS
from train.programs.bench.config import Bench
from train.programs.distill_text.config import Translate
from train.runtime import distributed, folders
from train.runtime.errors import UserError
from train.runtime.options import require
from train.runtime.outside import bounded, in_one_line
from train.runtime.quiet import one_line_warnings
from train.runtime.run import Run, Stopped

_FINISHED = (Evaluate, Report, Tables, Bench, Export, Predict, Translate)
Command: Any = functools.reduce(
  operator.or_,
  (
    Annotated[options, tyro.conf.subcommand(configs.command(options))]
    for options in (*(program.options for program in PROGRAMS.values()), *_FINISHED)
  ),
)


def program(arguments: list[str]) -> int:
  """Runs ``main`` in a process of its own, which joins its cluster's other processes to train with them."""
  one_line_warnings()
  found: list[Any] = []
  code = _ended(lambda: found.append(_command(arguments)))
  if not code and isinstance(found[0], tuple(known.options for known in PROGRAMS.values())):
    return distributed.as_one(lambda: _ended(lambda: _join(found[0])), lambda: main(arguments))
  return code or main(arguments)


def main(arguments: list[str]) -> int:
  """Runs a command and returns its exit code."""

  def work() -> None:
    command = bounded(_command(arguments))
    _COMMANDS[type(command)](command, arguments)

  return _ended(work)


def _command(arguments: list[str]) -> Any:
  how: Any = {'prog': 'python -m train', 'description': 'Make networks small with lmajax.'}
  with in_one_line():
    return tyro.cli(Command, args=arguments, **how)


def _join(command: Any) -> None:
  if isinstance(command, Training):
    distributed.join(command.coordinator_address, command.num_processes, command.process_id)
    return
  distributed.join()
  if distributed.several():
    jax.distributed.shutdown()  # all leave here, none the others' victim
    raise UserError(f'{configs.command(type(command))} runs in one process: start it in one')


def _ended(work: Callable[[], None]) -> int:
  """Runs ``work`` and returns its exit code; an error that the user can mend is one line and exit code 2."""
  try:
    work()
    sys.stdout.flush()  # else a reader who has left shows at the end of Python, as a trace
  except UserError as error:
    print(f'error: {error}', file=sys.stderr)
    return 2
  except BrokenPipeError:  # whoever reads has enough
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    return 128 + signal.SIGPIPE
  except UnicodeEncodeError as error:
    found = f'cannot show {error.object[error.start : error.end]!a}'
    print(f'error: standard output is {error.encoding} and {found}: set PYTHONIOENCODING=utf-8', file=sys.stderr)
    return 2
  except OSError as error:  # a full disk under the metrics or the pictures
    print(f'error: {error}; what was saved before is whole', file=sys.stderr)
    return 2
  except Stopped as stopped:
    if distributed.first():
      print(stopped, file=sys.stderr)
    return stopped.code
  return 0


def _train(command: Any, arguments: list[str]) -> None:
  program = PROGRAMS[configs.recipe(command)]
  recipe = program.run()  # what only training needs is not imported before
  folder, rows = _run(recipe, command, program.defaults(command.data), arguments)
  if distributed.first():
    from train.commands import page

    print(program.table().text(rows))
    page.write(folder, [folder], page.alone(folder))
    print(f'\n{folder}: {page.NAME}, {recipe.LEFT}')


def _run(recipe: Any, command: Any, default: Any, arguments: list[str]) -> tuple[Path, list]:
  """Runs a new or resumed run to its end; writes nothing before the data and every option are known to be good."""
  options = getattr(command, 'config', None)
  if options is not None:
    require(not command.resume, 'config', options, 'a run that is resumed has its own; leave it out')
    default = configs.read(type(command), options)
  config = _resumed(command, arguments) if command.resume else _parsed(default, arguments)
  restart = getattr(command, 'restart', False)
  require(command.resume or not restart, 'restart', True, 'it goes with --resume; a new run has no checkpoints')
  if not command.resume:
    _check_folder(command)
  try:
    plan = recipe.experiment(bounded(config))
  except UserError as error:
    if not (command.resume and str(error).startswith('--')):
      raise
    raise UserError(f'{command.workdir / "config.json"}: {error}') from error
  folder = command.workdir or folders.new(f'{configs.recipe(command)}-{Path(command.data).name}')
  if distributed.first():
    folders.create(folder)

  def begin() -> None:
    folders.check_empty(folder)
    configs.save(plan.config, folder)

  with Run(folder, restart=restart, begin=(lambda: None) if command.resume else begin) as run:
    return folder, recipe.run(plan, run)


def _parsed(default: Any, arguments: list[str]) -> Any:
  """Parses the options again over other defaults: those of the data set, or of a run to resume."""
  with in_one_line():
    return tyro.cli(type(default), args=arguments[1:], default=default)


def _resumed(command: Any, arguments: list[str]) -> Any:
  if command.workdir is None:
    raise UserError('--resume needs --workdir, the folder of the run to go on with')
  saved = configs.load(type(command), command.workdir)
  _refuse_differences(_parsed(saved, arguments), saved)
  return saved


def _refuse_differences(given: Any, saved: Any) -> None:
  """Refuses a resumed run's option that differs from the saved configuration, naming both values."""
  for field in fields(saved):
    asked, kept = getattr(given, field.name), getattr(saved, field.name)
    asked = jax.tree.map(lambda each: each.resolve() if isinstance(each, Path) else each, asked)
    if field.name not in configs.NOT_SAVED and asked != kept:
      raise UserError(
        f'--{configs.option(field.name)} {configs.text(asked)} differs from the run in {saved.workdir}, which has'
        f' {configs.text(kept)}: leave it out, or choose another --workdir'
      )


def _check_folder(command: Any) -> None:
  """Refuses a folder that a new run cannot use, before anything is read."""
  if distributed.several() and command.workdir is None:
    raise UserError('several processes need --workdir: a folder that all of them see')
  if distributed.first() and command.workdir is not None:
    folders.check_empty(command.workdir)


def _evaluate(command: Evaluate, arguments: list[str]) -> None:
  del arguments
  if not command.run.is_dir():
    from train.deploy import serve

    served = serve.load(command.run, command.limits, command.student)
    print(serve.scored(served, command.run, command.data, command.data_dir))
    return
  require(command.data is None, 'data', command.data, 'a run knows its data; leave it out')
  require(command.student is None, 'student', command.student, 'a run knows its networks; leave it out')
  made_by = configs.recipe_of(command.run)
  recipe: Any = PROGRAMS[made_by].run() if made_by in PROGRAMS else None
  if not hasattr(recipe, 'again'):
    raise UserError(f'{command.run} is of {made_by}, which leaves no networks to score again; see its results.md')
  program = PROGRAMS[made_by]
  config = configs.load(program.options, command.run)
  plan = recipe.experiment(replace(config, data_dir=command.data_dir or config.data_dir))
  print(program.table().text(recipe.again(plan, command.run)))


def _report(command: Report, arguments: list[str]) -> None:
  del arguments
  from train.commands import page
  from train.commands import report as joined
  from train.programs.distill.plot import comparisons

  if not command.runs:
    raise UserError('report needs the folder of at least one run')
  one = len(command.runs) == 1
  require(one or not command.html or command.out is not None, 'html', True, 'several runs need --out, its folder')
  found = page.alone(command.runs[0]) if one and command.html else joined.joined(command.runs)
  print(found.table)
  if command.out:
    joined.write(command.out, found)
  if found.command == 'distill':
    for path in comparisons(command.out or command.runs[0], found.rows):
      print(path)
  if command.html:
    print(page.write(command.out or command.runs[0], command.runs, found))


def _tables(command: Tables, arguments: list[str]) -> None:
  del arguments
  from train.commands.tables import fill

  for file in command.files:
    fill(file)


def _bench(command: Bench, arguments: list[str]) -> None:
  del arguments
  from train.programs.bench import run

  table, paths = run.run(command.benchmark)
  print(table)
  print(f'\n{", ".join(map(str, paths))}')


def _export(command: Export, arguments: list[str]) -> None:
  del arguments
  from train.commands import export

  export.check(command)
  source = export.source(command.model, command.student, command.limits, command.network)
  if command.bits is not None:
    source = export.quantized(source, command.bits, command.data_dir)
  out = command.out or source.path.with_suffix(f'.{command.format}')
  agreement = export.write(source, out, command.format, command.data_dir)
  print(f'{out}: {out.stat().st_size:,} bytes; {agreement} of the test images')


def _predict(command: Predict, arguments: list[str]) -> None:
  del arguments
  from train.commands import predict

  for line in predict.lines(command):
    print(line)


def _translate(command: Translate, arguments: list[str]) -> None:
  del arguments
  from train.programs.distill_text import translate

  for line in translate.lines(command, sys.stdin.buffer):
    print(line, flush=True)


_COMMANDS = {
  **{program.options: _train for program in PROGRAMS.values()},
  Evaluate: _evaluate,
  Report: _report,
  Tables: _tables,
  Bench: _bench,
  Export: _export,
  Predict: _predict,
  Translate: _translate,
}


if __name__ == '__main__':
  sys.exit(program(sys.argv[1:]))
