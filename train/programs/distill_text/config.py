"""Options of distill-text and translate."""

import dataclasses
import math
from pathlib import Path
from typing import Any, Literal

import tyro

from train.activations import ActivationName
from train.config import Training, check_training
from train.runtime.options import require, text
from train.runtime.outside import LIMITS, Limits
from train.teaching import KD, LOGITS, Losses, LossName, check_losses, check_soft_targets

MethodName = Literal['hard', 'kd', 'sequence']
LEAST_MAX_LENGTH = 4
_RANK = 'rank'
OF_WORDS = tuple(name for name in LOGITS if name != _RANK)
"""Losses of logits that take so many numbers a word as the vocabulary has, and no square of it."""


@dataclasses.dataclass(frozen=True)
class DistillText(Losses, Training):
  """Distil a Transformer that translates into narrow ones, and score what they say in BLEU and perplexity."""

  data: str = 'numbers'
  """The sentences: numbers (number words below a million, made by num2words), multi30k (from --data-dir or the
  internet), or a folder of train, val and test, each two files, .SOURCE and .TARGET, or one .tsv, gzipped or not."""
  source: str = 'de'
  """The language that is read, as the files' names end."""
  target: str = 'en'
  """The language that is written."""
  train_sentences: int | None = None
  """Keep only so many of the training sentences; by default all."""
  vocabulary: Literal['unigram', 'bpe', 'words'] = 'unigram'
  """unigram and bpe: pieces of words, of both languages together; words: those of each language, as in the paper."""
  pieces: int = 256
  """Of the vocabulary, its four marks included, or words of each language; by default 3000 but for numbers."""
  max_length: int = 20
  """Pieces of a sentence, its end included: a longer one is left out of training, and cut elsewhere; by default 64 but
  for numbers."""
  buckets: int = 1
  """Lengths that batches are padded to: a step has so many shapes; by default 4 but for numbers."""
  activations: tuple[ActivationName, ...] = ('relu', 'lma')
  """The students' activations, in their feed-forwards; the teacher has ReLU."""
  methods: tuple[MethodName, ...] = ('hard', 'kd')
  """hard: on the sentences as they are; kd: under the teacher's word by word; sequence: on what the teacher says of the
  source sentences, by beam search."""
  loss: tuple[LossName, ...] = (KD,)
  """What students of method kd are trained by, a kind of student for each: kd, which has --temperature and
  --soft-weight; or others as they were published, with weights of their own: jsd, reverse-kl, standardized, decoupled,
  and dist and value, to which all words of a batch are its examples. Not rank, nor those of what leaves the stages."""
  seeds: int = 3
  """How many paired seeds."""
  width: tuple[int, ...] = (16,)
  """The students' widths d; by default 64 but for numbers; the paper's 256, 128 and 64."""
  layers: int = 1
  """Of the students' encoder, and of their decoder; by default 3 but for numbers, as the paper's."""
  units: int | None = None
  """Of the students' feed-forwards; by default four times their width; the paper's 2048 at every width."""
  teacher_width: int = 64
  """By default 256 but for numbers; the paper's 512."""
  teacher_layers: int = 2
  """By default 3 but for numbers; the paper's 6."""
  teacher_units: int | None = None
  """By default four times its width; the paper's 2048."""
  heads: int = 4
  """Of every attention; the paper's 8."""
  dropout: float = 0.1
  """Of the teacher and of the students."""
  post_norm: bool = False
  """Norms after each sum, as the paper's, not before what they serve."""
  untied: bool = False
  """Three tables, for the source, the target and the logits, as the paper's, not one; with words it has to be."""
  temperature: float = 1.0
  """T, of the teacher's words."""
  soft_weight: float = 0.7
  """The weight of the teacher's words; the sentences' own get the rest."""
  label_smoothing: float = 0.1
  """The part of a sentence's own words that is spread over all; not in kd, whose targets are soft."""
  epochs: int = 3
  """Of each student."""
  teacher_epochs: int | None = 2
  """Epochs of the teacher; by default 3 but for numbers."""
  schedule: Literal['cosine', 'plateau', 'steps', 'constant'] = 'constant'
  """From epoch to epoch, on top of the warm-up and the inverse square root of the step."""
  learning_rate: float = 3e-3
  """Of Adam at the end of the warm-up, the highest; by default 0.002 but for numbers."""
  warmup: int = 200
  """Steps until the highest rate."""
  clip: float = 1.0
  """The gradient's length is cut to it."""
  weight_decay: float = 0.0
  """L2 on all parameters."""
  batch_size: int = 1600
  """Tokens a step of the source or the target, padding included; by default 2000 but for numbers."""
  bits: tuple[int, ...] = ()
  """Besides, students of method kd whose kernels and tables have so many bits, 1 to 8, at every step."""
  bucket_size: int = 256
  """Quantized weights that share a least value and a range."""
  beams: int = 4
  """Of the search; 1 is greedy; the paper's 5."""
  length_penalty: float = 1.0
  """A translation's log-likelihood is divided by its length to this power; the paper's 0."""
  cached_logits: int | None = None
  """Keep so many of the teacher's largest logits of every token (0: all) in half precision in the run's folder, and
  train the students of method kd on them without running it again: 4 bytes each (0: 2)."""
  save_every: int = 1
  """Epochs between checkpoints."""


_SENTENCES: dict[str, Any] = {
  'pieces': 3000, 'max_length': 64, 'buckets': 4, 'width': (64,), 'layers': 3, 'teacher_width': 256,
  'teacher_layers': 3, 'teacher_epochs': 3, 'learning_rate': 2e-3, 'batch_size': 2000,
}  # fmt: skip


def defaults(data: str) -> DistillText:
  """Returns the default options for a data set."""
  return DistillText(data=data, **({} if data == 'numbers' else _SENTENCES))


def check(config: DistillText) -> None:
  """Raises UserError for what cannot be run, naming the option."""
  check_training(config)
  check_soft_targets([config.temperature], [config.soft_weight])
  numbers = vars(config)
  for name in ('pieces', 'buckets', 'layers', 'teacher_layers', 'teacher_width', 'heads', 'warmup', 'clip', 'beams'):
    require(0 < numbers[name] < math.inf, name, numbers[name], 'give a positive number')
  for name in ('units', 'teacher_units', 'bucket_size'):
    require(numbers[name] is None or numbers[name] > 0, name, numbers[name], 'give a positive number')
  for name in ('dropout', 'label_smoothing'):
    require(0 <= numbers[name] < 1, name, numbers[name], 'give a number from 0 and below 1')
  for name in ('methods', 'width', 'bits'):
    require(len(set(numbers[name])) == len(numbers[name]), name, text(numbers[name]), 'give each once')
  for name, widths in (('width', config.width), ('teacher_width', (config.teacher_width,))):
    for width in widths:
      fits = width % config.heads == 0 and width % 2 == 0
      require(fits, name, width, f'give an even multiple of the {config.heads} heads')
  require(bool(config.methods), 'methods', 'empty', 'give at least one')
  _check_losses_of_words(config)
  require('kd' in config.methods or not config.bits, 'bits', text(config.bits), 'they go with --methods kd')
  require(all(1 <= bits <= 8 for bits in config.bits), 'bits', text(config.bits), 'give 1 to 8')
  cached = config.cached_logits
  require((cached or 0) >= 0, 'cached_logits', cached, 'give 0 or more')
  require(cached is None or 'kd' in config.methods, 'cached_logits', cached, 'it goes with --methods kd')
  require(config.max_length >= LEAST_MAX_LENGTH, 'max_length', config.max_length, f'give {LEAST_MAX_LENGTH} or more')
  require(0 <= config.length_penalty < math.inf, 'length_penalty', config.length_penalty, 'give 0 or more')
  require(config.source != config.target, 'target', config.target, 'give another language than --source')
  require(config.untied or config.vocabulary != 'words', 'vocabulary', 'words', 'it goes with --untied')


def _check_losses_of_words(config: DistillText) -> None:
  for name in config.loss:
    needs = 'it takes C² numbers a word, C of the vocabulary' if name == _RANK else 'words are taught by logits alone'
    require(name in OF_WORDS, 'loss', name, f'{needs}; give {text(OF_WORDS)}')
  check_losses(config)
  require(config.loss == (KD,) or 'kd' in config.methods, 'loss', text(config.loss), 'it goes with --methods kd')


@dataclasses.dataclass(frozen=True)
class Translate:
  """Translate text from standard input or a file, a sentence a line, by a network of a finished distill-text run."""

  run: tyro.conf.Positional[Path]
  """The run's folder."""
  file: tyro.conf.Positional[Path | None] = None
  """The text, UTF-8; by default standard input."""
  student: str | None = None
  """The name of the row in the run's results.json; by default the student with the least perplexity on validation."""
  seed: int = 0
  """Which of its seeds."""
  beams: int | None = None
  """Of the search; 1 is greedy; by default as in the run."""
  length_penalty: float | None = None
  """By default as in the run."""
  limits: Limits = LIMITS
  """Of what a model file may hold."""
