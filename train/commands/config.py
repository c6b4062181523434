"""Options of the commands on finished runs and models."""

import dataclasses
from pathlib import Path
from typing import Literal

import tyro

from train.runtime.outside import LIMITS, Limits


@dataclasses.dataclass(frozen=True)
class Evaluate:
  """Score a finished run again, from its checkpoints or files, or one model file on test images."""

  run: tyro.conf.Positional[Path]
  """The run's folder, or a file that export, quantize or compress wrote."""
  data: str | None = None
  """For a file: the data set it must be of, or your own images, as in distill; by default its own set."""
  student: str | None = None
  """MODULE:FACTORY of the network in a packed file, where that is one of your own."""
  data_dir: Path | None = None
  """A folder with the published files of the data set; by default the run's own, or the internet."""
  limits: Limits = LIMITS
  """Of what a model file may hold."""


@dataclasses.dataclass(frozen=True)
class Report:
  """Print the table of one or more runs that differ in their students or seeds alone, and draw how they compare."""

  runs: tyro.conf.Positional[tuple[Path, ...]]
  """The runs' folders; their rows are put together."""
  out: Path | None = None
  """Where the pictures go, and the joined results.json and results.md; by default the pictures go to the first run's
  folder, and nothing else is written."""
  html: bool = False
  """Write report.html besides, to --out or else to the run's folder: one page for a browser with the table, pictures,
  options and what to do next. With it one run of any program is taken, also one without seeds."""


@dataclasses.dataclass(frozen=True)
class Tables:
  """Put the tables of committed results into Markdown files, where their marks say so, and shortened ones into CSV."""

  files: tyro.conf.Positional[tuple[Path, ...]]
  """The files; the folders in the marks of each are relative to it."""


@dataclasses.dataclass(frozen=True)
class Export:
  """Write a trained network as a file that runs elsewhere, and compare that file with it on real test images."""

  model: tyro.conf.Positional[Path]
  """The folder of a run, or a packed .safetensors file."""
  student: str | None = None
  """The name of the row in the run's results.json; its first seed is taken."""
  network: str | None = None
  """MODULE:FACTORY of that network, where it is one of your own."""
  format: Literal['stablehlo', 'onnx', 'safetensors'] = 'stablehlo'
  """stablehlo: for JAX's runtimes, weights packed inside; onnx: for ONNX Runtime, weights decoded; safetensors: packed
  weights, statistics and the description of the network."""
  bits: int | None = None
  """Of a network in float32, for safetensors: quantize every convolution and dense kernel to so many bits, 1 to 8,
  measure the running statistics again, and code the integers by Huffman where that is shorter."""
  out: Path | None = None
  """The file; by default NAME.FORMAT in the run's folder exports, or beside the packed file."""
  data_dir: Path | None = None
  """A folder with the published files of the data set; by default the run's own."""
  limits: Limits = LIMITS
  """Of what a model file may hold."""


@dataclasses.dataclass(frozen=True)
class Predict:
  """Say what image files show, by an exported model."""

  model: tyro.conf.Positional[Path]
  """A file that export, quantize or compress wrote: .safetensors, or .stablehlo or .onnx with its digest beside it."""
  files: tyro.conf.Positional[tuple[Path, ...]]
  """Images: PNG, JPEG and the like."""
  student: str | None = None
  """MODULE:FACTORY of the network in a packed file, where that is one of your own."""
  limits: Limits = LIMITS
  """Of what a model file may hold."""
