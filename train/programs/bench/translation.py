"""Benchmarks a Transformer that translates: training beside PyTorch's, and decoding with and without a cache."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tqdm.auto import tqdm

from lmajax import tree
from lmajax.models import Marks, Sentences, Transformer, greedy
from lmajax.training import Progress, compiled
from lmajax.types import Array, Batch
from train.data.corpora.vocabulary import END, PADDING, START, UNKNOWN
from train.engine.cohort import Cohort, cohort_step, optimizer_of
from train.programs.bench import networks, peers
from train.programs.bench.config import Translation
from train.programs.bench.record import Record, caption, milliseconds, ratio_fields, ratio_text
from train.programs.distill_text import build as build_text
from train.programs.distill_text.config import defaults
from train.results.statistics import markdown
from train.runtime import timing

Row = dict[str, Any]
_RECIPE = defaults('multi30k')
_WIDTHS = {'teacher': _RECIPE.teacher_width, 'student': _RECIPE.width[0]}


def measure(config: Translation) -> Record:
  """Times the steps, then the decoding."""
  return {'training': by_network(config), 'decoding': by_length(config)}


def network(config: Translation, name: str, label: str) -> Transformer:
  """Builds the teacher or a student as ``distill-text`` makes them for Multi30k."""
  width = _WIDTHS[name]
  how = {'heads': _RECIPE.heads, 'dropout': _RECIPE.dropout, 'pre_norm': True, 'tied': True}
  size = {'layers': (config.layers, config.layers), 'features': width, 'units': 4 * width}
  return Transformer((config.vocabulary, config.vocabulary), networks.labelled(label), **size, **how)


def batch(rows: int, length: int, vocabulary: int) -> Batch:
  """Draws random pairs of sentences, both of that length, without padding."""
  shape = 2, rows, length
  source, labels = np.random.default_rng(0).integers(UNKNOWN + 1, vocabulary, shape, np.int32)
  target = np.concatenate([np.full((rows, 1), START, np.int32), labels[:, :-1]], axis=1)
  return Batch((jnp.asarray(source), jnp.asarray(target)), jnp.asarray(labels))


def by_network(config: Translation) -> list[Row]:
  """Times one training step of each network; activations and libraries take turns."""
  torch, rows = peers.pytorch(), []
  pairs = batch(config.batch_size, config.length, config.vocabulary)
  for name in tqdm(config.networks, desc='training'):
    models = {label: network(config, name, label) for label in config.activations}
    named = {('JAX', label): contestant(model, pairs) for label, model in models.items()}
    if torch is not None:
      known = {label: model for label, model in models.items() if torch.has(label)}
      named |= {('PyTorch', label): _theirs(model, label, pairs) for label, model in known.items()}
    samples = timing.interleaved({' '.join(key): call for key, call in named.items()}, rounds=config.rounds)
    for library, label in named:
      seconds, size = samples[f'{library} {label}'], parameters(models[label], pairs)
      row = {'network': name, 'activation': label, 'library': library, 'parameters': size}
      row |= {'seconds': timing.median(seconds), 'tokens_per_second': pairs.labels.size / timing.median(seconds)}
      rows.append(row | ratio_fields(timing.ratio(seconds, samples[f'JAX {label}'])))
  return rows


def parameters(model: Transformer, pairs: Batch) -> int:
  shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), pairs.inputs, train=False))
  return tree.size(shapes['params'])


def contestant(model: Transformer, pairs: Batch) -> Callable[[], Progress]:
  """Compiles the step of a network trained on the reference sentences, as ``walk.stepped`` does."""
  group, plan = build_text.group(_RECIPE, None, model), build_text.plan(_RECIPE, epochs=1)
  step = compiled(cohort_step(Cohort({'one': group}, plan)))
  state = jax.tree.map(lambda leaf: leaf[None], networks.state(model, optimizer_of(group, plan), pairs.inputs))
  opt_state = state.opt_state._replace(hyperparams={'learning_rate': jnp.full(1, plan.learning_rate, jnp.float32)})
  progress = {'one': Progress(state._replace(opt_state=opt_state), {'loss': jnp.zeros(1)})}

  def call() -> Progress:
    nonlocal progress
    progress = jax.block_until_ready(step(progress, None, pairs))
    return progress['one']

  return call


def _theirs(model: Transformer, label: str, pairs: Batch) -> timing.Contestant:
  """Returns the same recipe in PyTorch, and asserts that the network has as many parameters."""
  from train.programs.bench import pytorch, transformer

  theirs, ours = transformer.network(model, label), parameters(model, pairs)
  assert pytorch.size(theirs) == ours, f'{pytorch.size(theirs)} parameters in PyTorch, {ours} here'
  how = transformer.Recipe(_RECIPE.learning_rate, _RECIPE.warmup, _RECIPE.clip, _RECIPE.label_smoothing)
  source, target = map(np.asarray, pairs.inputs)
  return transformer.training(theirs, (source, target), np.asarray(pairs.labels), how)


def by_length(config: Translation) -> list[Row]:
  """Times greedy decoding of one batch with ReLU, cached and uncached; lengths and both ways take turns."""
  model, rows = network(config, config.decoder, 'relu'), []
  inputs = batch(config.decoder_batch_size, config.source_length, config.vocabulary).inputs
  variables, source = networks.variables(model, inputs), inputs[0]
  calls = {
    (length, way): _decoding(write(model, length), variables, source)
    for length in config.decoder_lengths
    for way, write in WAYS.items()
  }
  said = {key: call() for key, call in tqdm(calls.items(), desc='decoding')}
  samples = timing.interleaved({f'{length} {way}': call for (length, way), call in calls.items()}, rounds=config.rounds)
  for length in config.decoder_lengths:
    with_cache, without = (samples[f'{length} {way}'] for way in WAYS)
    same = float(jnp.mean(said[length, 'cached'] == said[length, 'uncached']))
    row = {'length': length, 'seconds': timing.median(with_cache), 'uncached_seconds': timing.median(without)}
    row |= {'tokens_per_second': source.shape[0] * length / row['seconds'], 'same_tokens': same}
    rows.append(row | ratio_fields(timing.ratio(without, with_cache)))
  return rows


Write = Callable[[Any, Array], Array]
"""(variables, source [b, s]) -> tokens [b, length]."""


def _decoding(write: Write, variables: Any, source: Array) -> Callable[[], Array]:
  program = jax.jit(write).lower(variables, source).compile()
  return lambda: jax.block_until_ready(program(variables, source))


def cached(model: Transformer, length: int) -> Write:
  """Returns greedy decoding with a cache, as in the programs, but no sentence ends before its length."""

  def write(variables: Any, source: Array) -> Array:
    memory, cache = model.apply(variables, source, length=length, method='start')

    def step(cache: Any, tokens: Array, position: Array) -> tuple[Array, Any]:
      logits, cache = model.apply(variables, memory, cache, tokens, position, method='step')
      return logits.at[:, END].set(-jnp.inf), cache

    return greedy(step, cache, length=length, marks=Marks(PADDING, START, END))

  return write


def uncached(model: Transformer, length: int) -> Write:
  """Returns greedy decoding without a cache.

  The source is read once; each step reads all of the target, padded to the length, since a program has one shape.
  """
  encoders, marks = model.layers[0], jnp.array([PADDING, START, END])

  def read(model: Transformer, source: Array) -> Sentences:
    tap = model.stem((source, source[:, :0]), train=False)
    for i in range(encoders):
      tap = model.stage(i, tap, train=False)
    return tap

  def after(model: Transformer, known: Sentences, target: Array, position: Array) -> Array:
    tap = model.stem((target[:, :0], target), train=False)
    tap = tap._replace(source=known.source, source_mask=known.source_mask)
    for i in range(encoders, sum(model.layers)):
      tap = model.stage(i, tap, train=False)
    here = jax.lax.dynamic_slice_in_dim(tap.target, position, 1, axis=1)
    return model.head(tap._replace(target=here), train=False)[:, 0]

  def write(variables: Any, source: Array) -> Array:
    known = model.apply(variables, source, method=read)

    def grown(position: Array, said: Array) -> Array:
      logits: Any = model.apply(variables, known, said[:, :-1], position, method=after)
      found = jnp.argmax(logits.at[:, marks].set(-jnp.inf), axis=-1)
      return said.at[:, position + 1].set(found.astype(said.dtype))

    said = jnp.full((len(source), length + 1), PADDING, jnp.int32).at[:, 0].set(START)
    return jax.lax.fori_loop(0, length, grown, said)[:, 1:]

  return write


WAYS = {'cached': cached, 'uncached': uncached}
_TRAINING = ('network', 'activation', 'parameters', 'JAX ms', 'tokens/s', 'PyTorch ms', 'tokens/s', 'PyTorch / JAX')
_DECODING = ('tokens a sentence', 'cached, ms', 'tokens/s', 'uncached, ms', 'uncached / cached', 'the same tokens')


def table(record: Record) -> str:
  """Returns both tables as Markdown."""
  config = record['config']
  rows = {(row['network'], row['activation'], row['library']): row for row in record['training']}
  keys = dict.fromkeys(key[:2] for key in rows)
  training = [(*key, *_cells(rows[*key, 'JAX'], rows.get((*key, 'PyTorch')))) for key in keys]
  decoding = [
    (
      *(str(row['length']), milliseconds(row['seconds']), f'{row["tokens_per_second"]:,.0f}'),
      *(milliseconds(row['uncached_seconds']), ratio_text(row), f'{100 * row["same_tokens"]:.1f} %'),
    )
    for row in record['decoding']
  ]
  step = f'{config["batch_size"]} pairs of sentences of {config["length"]} tokens a step, those of the target counted'
  decoded = f'{config["decoder_batch_size"]} of {config["source_length"]} tokens decoded by the {config["decoder"]}'
  what = f'{step}; {decoded} with ReLU'
  tables = markdown(_TRAINING, training), markdown(_DECODING, decoding)
  return '\n\n'.join((*tables, f'{what}; {caption(record)}'))


def _cells(ours: Row, theirs: Row | None) -> tuple[str, ...]:
  def speed(row: Row | None) -> tuple[str, str]:
    return ('', '') if row is None else (milliseconds(row['seconds']), f'{row["tokens_per_second"]:,.0f}')

  return (f'{ours["parameters"]:,}', *speed(ours), *speed(theirs), '' if theirs is None else ratio_text(theirs))
