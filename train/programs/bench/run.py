"""A benchmark from its options to its files."""

from pathlib import Path
from typing import Any

from train.programs.bench import activation, draw, latency, record, scaling, stages, step, translation
from train.programs.bench.config import Activation, Latency, Scaling, Stages, Step, Translation, check

_BENCHMARKS = {
  Activation: (activation, draw.activation),
  Step: (step, draw.step),
  Scaling: (scaling, draw.scaling),
  Latency: (latency, draw.latency),
  Stages: (stages, draw.stages),
  Translation: (translation, draw.translation),
}


def run(config: Any) -> tuple[str, list[Path]]:
  """Measures, and writes NAME.json and NAME.png; returns the table and the two paths."""
  check(config)
  folder, name = record.folder_of(config), record.name_of(config)
  benchmark, draw_it = _BENCHMARKS[type(config)]
  figures = record.record(config, benchmark.measure(config))
  paths = [folder / f'{name}.json', folder / f'{name}.png']
  record.write(paths[0], figures)
  draw_it(figures, paths[1])
  return benchmark.table(figures), paths
