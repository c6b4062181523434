"""Options of the benchmarks."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from train.activations import ACTIVATIONS
from train.data.corpora.vocabulary import UNKNOWN
from train.runtime.options import require, text

if TYPE_CHECKING:
  Label = str
else:
  Label = Literal[
    (
      *(
        f'{name}-{k}' if kind.segmented else name
        for name, kind in ACTIVATIONS.items()
        for k in ((4, 8, 16) if kind.segmented else (0,))
      ),
      'gelu',
    )
  ]
NetworkName = Literal['student-1', 'student-2', 'student-3', 'wrn-10-4', 'mlp']
PairName = Literal['wrn-10-1', 'wrn-16-1']
Translator = Literal['teacher', 'student']
Student = Literal['student-1', 'student-2', 'student-3']
CHANNELS = 64  # of the feature maps that the activations alone are timed on


@dataclasses.dataclass(frozen=True)
class Activation:
  """Time the activations alone, forward and forward with backward, and the memory that a training step takes."""

  out: Path | None = None
  """The folder of activation.json and activation.png, which are replaced; by default a new one under runs/."""
  rounds: int = 9
  """How often each is timed, in an order shuffled anew."""
  sizes: tuple[int, ...] = (10_240, 102_400, 1_000_000, 8_388_608)
  """Elements, in multiples of 64 (the channels)."""
  dtypes: tuple[Literal['float32', 'bfloat16'], ...] = ('float32', 'bfloat16')
  """Of the elements; parameters and statistics stay in float32."""
  activations: tuple[Label, ...] = (
    'relu', 'prelu', 'swish', 'gelu', 'aplu-8', 'lma-4', 'lma-8', 'lma-16', 'lma-joined-8',
  )  # fmt: skip
  """What is timed beside ReLU, which has to be among them."""
  network: NetworkName = 'student-1'
  """Whose training step the memory is taken from."""
  batch_size: int = 64
  """Of that training step."""


@dataclasses.dataclass(frozen=True)
class Step:
  """Time one training step, on hard labels and distilled, beside the same in PyTorch where it is installed."""

  out: Path | None = None
  """The folder of step.json and step.png, which are replaced; by default a new one under runs/."""
  rounds: int = 5
  """How often each is timed, in an order shuffled anew."""
  networks: tuple[NetworkName, ...] = ('student-1', 'student-2', 'student-3', 'wrn-10-4')
  """What is trained on hard labels; the paper's CIFAR-10 students among them are also distilled."""
  activations: tuple[Label, ...] = ('relu', 'lma-8')
  """The networks' activations."""
  cohorts: tuple[int, ...] = (5,)
  """How many students learn together from one run of the teacher."""
  cohort_networks: tuple[Student, ...] = ('student-3',)
  """What those students are; they take a minute each to compile."""
  batch_size: int = 64
  """Images of 32 × 32 a step."""


@dataclasses.dataclass(frozen=True)
class Scaling:
  """Time a training step on more devices, processes and images, and LMA with more segments."""

  out: Path | None = None
  """The folder of scaling.json and scaling.png, which are replaced; by default a new one under runs/."""
  rounds: int = 7
  """How often each is timed, in an order shuffled anew."""
  devices: tuple[int, ...] = (1, 2, 4, 8)
  """Virtual CPU devices of one process that share a batch."""
  processes: tuple[int, ...] = (1, 2)
  """Processes of one device each that share a batch."""
  segments: tuple[int, ...] = (2, 4, 8, 16, 32, 64)
  """K of the LMA that is timed alone."""
  sizes: tuple[int, ...] = (1_000_000, 8_388_608)
  """Its elements, in multiples of 64 (the channels)."""
  batch_sizes: tuple[int, ...] = (16, 32, 64, 128, 256)
  """Images a step of the network, with ReLU and LMA-8."""
  network: NetworkName = 'student-3'
  """The network of the training step."""
  batch_size: int = 64
  """Images a step, over all devices and processes together."""


@dataclasses.dataclass(frozen=True)
class Latency:
  """Time a deployed network: one image, and a batch."""

  out: Path | None = None
  """The folder of latency.json and latency.png, which are replaced; by default a new one under runs/."""
  rounds: int = 15
  """How often each is timed, in an order shuffled anew."""
  networks: tuple[NetworkName, ...] = ('student-1', 'student-2', 'student-3', 'mlp')
  """The paper's CIFAR-10 students, and a perceptron with two hidden layers of 64."""
  activations: tuple[Label, ...] = ('relu', 'prelu', 'swish', 'aplu-8', 'lma-8', 'lma-joined-8')
  """What is timed beside ReLU, which has to be among them."""
  batch_sizes: tuple[int, ...] = (1, 256)
  """Images a call."""


@dataclasses.dataclass(frozen=True)
class Files:
  """Time writing and reading model files of each kind, and count their bytes."""

  out: Path | None = None
  """The folder of files.json and files.png, which are replaced; by default a new one under runs/."""
  rounds: int = 5
  """How often each is timed, in an order shuffled anew."""
  networks: tuple[NetworkName, ...] = ('student-3', 'wrn-10-4')
  """Whose files, with LMA and weights drawn from a normal distribution."""


@dataclasses.dataclass(frozen=True)
class Rate:
  """Count the bits of files of Laplacian weights beside the least that their error allows, R(D)."""

  out: Path | None = None
  """The folder of rate.json and rate.png, which are replaced; by default a new one under runs/."""
  weights: int = 100_000
  """How many are drawn."""
  densities: tuple[float, ...] = (0.02, 0.05, 0.1, 0.2, 0.4, 0.7, 1.0)
  """The shares of the weights that streams and sparse files keep, the largest."""
  steps: tuple[float, ...] = (0.5, 0.7, 0.9)
  """d of the streams."""


@dataclasses.dataclass(frozen=True)
class Stages:
  """Time block-wise training: the gradient of all stages in one program, against one program for each."""

  out: Path | None = None
  """The folder of stages.json and stages.png, which are replaced; by default a new one under runs/."""
  rounds: int = 9
  """How often each is timed, in an order shuffled anew."""
  networks: tuple[PairName, ...] = ('wrn-10-1', 'wrn-16-1')
  """The students; each is fed the taps of a deeper teacher."""
  batch_size: int = 32
  """Images of 32 × 32 a step."""


@dataclasses.dataclass(frozen=True)
class Translation:
  """Time a Transformer: a training step, beside PyTorch's, and decoding without and with a cache."""

  out: Path | None = None
  """The folder of translation.json and translation.png, which are replaced; by default a new one under runs/."""
  rounds: int = 7
  """How often each is timed, in an order shuffled anew."""
  networks: tuple[Translator, ...] = ('teacher', 'student')
  """What is trained: 256 and 64 wide, as distill-text makes them for Multi30k."""
  activations: tuple[Label, ...] = ('relu', 'lma-8')
  """The networks' activations, ReLU among them."""
  layers: int = 3
  """Of the encoder, and of the decoder."""
  vocabulary: int = 6000
  """Tokens, of both languages together."""
  batch_size: int = 100
  """Pairs of sentences a step."""
  length: int = 20
  """Tokens of each of them."""
  decoder: Translator = 'teacher'
  """The network that decodes, with ReLU."""
  decoder_batch_size: int = 32
  """Sentences that are decoded together."""
  decoder_lengths: tuple[int, ...] = (16, 32, 64)
  """Tokens that each of them gets; none ends before."""
  source_length: int = 20
  """Tokens that each of them is decoded from."""


@dataclasses.dataclass(frozen=True)
class Compiled:
  """Compile for accelerators that are not here: bytes, kernels, memory, estimated cycles and collectives."""

  out: Path | None = None
  """The folder of compiled.json and compiled.png, which are replaced; by default a new one under runs/."""
  targets: tuple[str, ...] = ('h100', 'v5e')
  """What for: h100, v4, v5e, v5p or v6e, and of several h100-8 (cards of a host) or v5e-4x4 (layout of chips)."""
  programs: tuple[Literal['activation', 'step', 'distill', 'translation'], ...] = ('activation',)
  """Activations alone take seconds, training steps a minute or two each for a TPU."""
  dtypes: tuple[Literal['float32', 'bfloat16'], ...] = ('float32', 'bfloat16')
  """Of the computation; parameters stay in float32."""
  activations: tuple[Label, ...] = ('relu', 'prelu', 'aplu-8', 'lma-8')
  """What is compiled beside ReLU, which has to be among them."""
  networks: tuple[NetworkName, ...] = ('student-3',)
  """Whose steps: the paper's CIFAR-10 students under its teacher, or WRN 10-4 under WRN 16-10."""
  batch_size: int = 256
  """Images, or pairs of sentences, a chip."""
  students: int = 1
  """How many students one step trains."""
  shard_teacher: bool = False
  """Whether each chip keeps but its part of the teacher's weights."""


Benchmark = (
  Annotated[Activation, tyro.conf.subcommand('activation')]
  | Annotated[Step, tyro.conf.subcommand('step')]
  | Annotated[Scaling, tyro.conf.subcommand('scaling')]
  | Annotated[Latency, tyro.conf.subcommand('latency')]
  | Annotated[Files, tyro.conf.subcommand('files')]
  | Annotated[Rate, tyro.conf.subcommand('rate')]
  | Annotated[Stages, tyro.conf.subcommand('stages')]
  | Annotated[Translation, tyro.conf.subcommand('translation')]
  | Annotated[Compiled, tyro.conf.subcommand('compiled')]
)


@dataclasses.dataclass(frozen=True)
class Bench:
  """Time lmajax beside its peers, all in one run; prints a table and writes it with a picture."""

  benchmark: tyro.conf.OmitSubcommandPrefixes[tyro.conf.OmitArgPrefixes[Benchmark]]


def check(config: Any) -> None:
  """Raises UserError for what cannot be run, naming the option."""
  for name, value in vars(config).items():
    numbers = value if isinstance(value, tuple) else (value,)
    require(bool(numbers) or name.startswith('cohort'), name, 'empty', 'give at least one')
    require(len(set(numbers)) == len(numbers), name, text(value), 'give each once')
    require(all(n > 0 for n in numbers if type(n) is int), name, text(value), 'give positive numbers')
  for density in getattr(config, 'densities', ()):
    require(0 < density <= 1, 'densities', density, 'give shares above 0, at most 1')
  for step in getattr(config, 'steps', ()):
    require(0.3 <= step <= 0.99, 'steps', step, 'give 0.3 to 0.99')
  for size in getattr(config, 'sizes', ()):
    require(size % CHANNELS == 0, 'sizes', size, f'give multiples of {CHANNELS}')
  require('relu' in getattr(config, 'activations', ('relu',)), 'activations', 'without relu', 'give the base, relu')
  marks = UNKNOWN + 1
  vocabulary = getattr(config, 'vocabulary', marks + 1)
  require(vocabulary > marks, 'vocabulary', vocabulary, f'give more than the {marks} marks')
  require(min(getattr(config, 'segments', (2,))) >= 2, 'segments', 1, 'give 2 or more')
  for count in (*getattr(config, 'devices', ()), *getattr(config, 'processes', ())):
    require(config.batch_size % count == 0, 'batch_size', config.batch_size, f'give a multiple of {count} devices')
