"""Builds what a configuration of distill-text asks for: vocabularies, token sequences, networks and training groups."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax

from lmajax import compress
from lmajax.models import Transformer
from lmajax.training import distilled, over_all_devices, unrolled, vmapped
from lmajax.types import EndToEnd, Reparam
from train.activations import chosen
from train.data.corpora.buckets import (
  Text,
  TokenBatches,
  Tokens,
  Vocabularies,
  encoded,
  evaluation_batches,
  shapes,
  within,
)
from train.data.corpora.pairs import Corpus, Pairs
from train.data.corpora.vocabulary import Pieces, Words, dumped, loaded
from train.engine.cohort import Group, Plan
from train.engine.optimizers import noam
from train.engine.schedules import schedule
from train.engine.walk import Data
from train.programs.distill_text import model_file as shipped_text
from train.programs.distill_text.config import DistillText
from train.programs.distill_text.decode import TOKEN_ACCURACY, of_labels, of_words, word_level
from train.programs.distill_text.table import Arm
from train.runtime.errors import UserError
from train.runtime.files import write_atomically
from train.teaching import KD, named, per_label

_FILES = ('vocabulary.source', 'vocabulary.target')


def arms(config: DistillText) -> Iterator[Arm]:
  """Yields every kind of student that a configuration asks for."""
  for width in config.width:
    for activation, segments in chosen(config):
      for method in config.methods:
        taught = method == 'kd'
        for loss in named(config) if taught else (KD,):
          for bits in (None, *config.bits) if taught else (None,):
            yield Arm(method, activation, segments, width, bits, loss)


def read(config: DistillText, corpus: Corpus) -> Text:
  """Reads a corpus as tokens, with vocabularies built from its training sentences or loaded from the resumed run."""
  known, most = vocabularies(config, corpus.train), config.max_length
  train = within(corpus.train, known, most)
  validation, test = (encoded(part, known, most) for part in (corpus.validation, corpus.test))
  whole = [encoded(part, known, most + 1) for part in (corpus.validation, corpus.test)]
  cut = sum(len(line) > most for part in whole for side in part for line in side)
  if not train.source:
    raise UserError(f'--max-length {most}: every training sentence is longer; give more')
  return Text(corpus, known, train, validation, test, shapes(train.lengths(), config.buckets, most), cut)


def vocabularies(config: DistillText, train: Pairs) -> Vocabularies:
  """Builds one vocabulary for both languages, or one of words for each; a resumed run's are loaded."""
  if config.workdir is not None and all((config.workdir / name).is_file() for name in _FILES):
    return load_vocabularies(config.workdir)
  if config.vocabulary == 'words':
    return Vocabularies(*(Words.train(side, config.pieces) for side in train))
  joint = Pieces.train([*train.source, *train.target], config.pieces, config.vocabulary)
  return Vocabularies(joint, joint)


def load_vocabularies(folder: Path) -> Vocabularies:
  """Loads the vocabularies of a run."""
  try:
    contents = [(folder / name).read_bytes() for name in _FILES]
  except OSError as error:
    raise UserError(f'{folder}: is not the folder of a run of distill-text ({error.strerror})') from error
  same = contents[0] == contents[1]
  first = _loaded(folder / _FILES[0], contents[0])
  return Vocabularies(first, first if same else _loaded(folder / _FILES[1], contents[1]))


def _loaded(path: Path, content: bytes) -> Any:
  try:
    return loaded(content)
  except UserError as error:
    raise UserError(f'{path}: {error}') from error


def save_vocabularies(known: Vocabularies, folder: Path) -> None:
  """Writes the vocabularies into a run's folder, so that they stay the same whatever sentencepiece changes."""
  for name, vocabulary in zip(_FILES, known, strict=True):
    write_atomically(folder / name, dumped(vocabulary))


def digest(known: Vocabularies) -> str:
  return hashlib.sha256(b''.join(map(dumped, known))).hexdigest()


def description(config: DistillText, text: Text, arm: Arm | None) -> dict[str, Any]:
  """Describes the student of an arm, or the teacher for None, as its model file does."""
  width = config.teacher_width if arm is None else arm.width
  layers, units = (config.teacher_layers, config.teacher_units) if arm is None else (config.layers, config.units)
  known: shipped_text.Description = {
    'data': Path(config.data).name,
    'source': config.source,
    'target': config.target,
    'vocabulary': list(text.sizes),
    'vocabulary_digest': digest(text.vocabularies),
    'max_length': config.max_length,
    'layers': [layers, layers],
    'width': width,
    'units': units or 4 * width,
    'heads': config.heads,
    'pre_norm': not config.post_norm,
    'tied': not config.untied,
    'activation': 'relu' if arm is None else arm.activation,
    'segments': None if arm is None else arm.segments,
    'dtype': config.dtype,
  }
  return {**known}


def network(config: DistillText, text: Text, arm: Arm | None) -> Transformer:
  """Builds the student of an arm, or the teacher for None."""
  return shipped_text.model(description(config, text, arm), dropout=config.dropout)


def group(config: DistillText, arm: Arm | None, network: Transformer) -> Group:
  """Returns the training group of the students of an arm, or of the teacher for None."""
  seeds = (0,) if arm is None else config.all_seeds
  objective = distilled(network, _end_to_end(config, arm))
  return Group(network, objective, seeds, over(), reparam(config, arm), score=TOKEN_ACCURACY)


def _end_to_end(config: DistillText, arm: Arm | None) -> EndToEnd:
  if arm is None or arm.method != 'kd':
    return of_labels(config.label_smoothing)
  if arm.loss == KD:
    return word_level(temperature=config.temperature, soft_weight=config.soft_weight)
  return of_words(per_label(arm.loss))


def over() -> Any:
  """Returns how to map over seeds: one after another on the CPU, where batched matrix products are slower."""
  return unrolled if jax.default_backend() == 'cpu' else vmapped


def reparam(config: DistillText, arm: Arm | None) -> Reparam:
  """Returns the reparametrization of an arm's weights: quantization if it has bits, else the identity."""
  if arm is None or arm.bits is None:
    return compress.identity()
  return compress.masked(compress.uniform(arm.bits, bucket_size=config.bucket_size))


def plan(config: DistillText, epochs: int) -> Plan:
  """Returns the learning rate, optimizer, schedule and checkpoint interval of a configuration."""
  optimizer = noam(config.warmup, clip=config.clip, weight_decay=config.weight_decay)
  return Plan(config.learning_rate, optimizer, schedule(config.schedule, epochs), config.save_every)


def data(config: DistillText, text: Text, train: Tokens) -> Data:
  """Returns the training and validation batches of a phase."""
  spread = over_all_devices()
  how = {'batch_tokens': config.batch_size, 'lengths': text.lengths, 'sharding': spread}
  validation = list(evaluation_batches(text.validation, **how))
  return Data(TokenBatches(train, seed=0, **how), validation, spread)
