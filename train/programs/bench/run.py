"""Runs a benchmark, from its options to its files."""

from pathlib import Path
from typing import Any

from train.programs.bench import draw, record
from train.programs.bench.config import check


def run(config: Any) -> tuple[str, list[Path]]:
  """Measures, and writes NAME.json and NAME.png; returns the table and the two paths."""
  check(config)
  folder, name = record.folder_of(config), record.name_of(config)
  benchmark = record.benchmark(name)
  figures = record.record(config, benchmark.measure(config))
  paths = [folder / f'{name}.json', folder / f'{name}.png']
  record.write(paths[0], figures)
  getattr(draw, name)(figures, paths[1])
  return benchmark.table(figures), paths
