"""Losses, decoding and metrics of the Transformers that translate."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lmajax.losses import distillation
from lmajax.models import Marks, beam_search, greedy
from lmajax.training import Taught, placed
from lmajax.types import Array, Batch, EndToEnd
from train.data.corpora.buckets import Ragged, in_order, side_by_side
from train.data.corpora.vocabulary import END, PADDING, START, Vocabulary
from train.engine.metrics import Score, right_answers
from train.runtime.errors import UserError
from train.teaching import OfLogits

_MARKS = Marks(PADDING, START, END)


def mean_of_tokens(each: Array, batch: Batch) -> Array:
  """Averages values per token, 0 at padding, over the tokens that are not padding."""
  return each.sum() / jnp.maximum((batch.labels != PADDING).sum(), 1)


def of_labels(smoothing: float) -> EndToEnd:
  """Returns the cross-entropy with the reference sentences, with label smoothing over the whole vocabulary."""

  def loss(logits: Array, taught: Taught | None, batch: Batch) -> Array:
    del taught
    said = jax.nn.log_softmax(logits.astype(jnp.float32))
    right = jnp.take_along_axis(said, batch.labels[..., None], axis=-1)[..., 0]
    each = (1 - smoothing) * right + smoothing * said.mean(axis=-1)
    return -mean_of_tokens(jnp.where(batch.labels == PADDING, 0.0, each), batch)

  return loss


def word_level(*, temperature: float, soft_weight: float) -> EndToEnd:
  """Returns the paper's mix of the teacher's distributions and the labels; unlike the authors', it ignores padding."""
  how = {'temperature': temperature, 'soft_weight': soft_weight}
  return of_words(lambda student, teacher, labels, where: distillation(student, teacher, labels, **how, where=where))


def of_words(each: OfLogits) -> EndToEnd:
  """Returns the mean of a loss of logits over the tokens that are not padding, which alone it looks at."""

  def loss(logits: Array, taught: Taught, batch: Batch) -> Array:
    return mean_of_tokens(each(logits, taught.logits, batch.labels, batch.labels != PADDING), batch)

  return loss


def _said(model: Any) -> Callable:
  def summed(variables: dict[str, Any], batch: Batch, mask: Array) -> Array:
    logits, _ = model.apply(variables, batch.inputs, train=False)
    nll = optax.losses.softmax_cross_entropy_with_integer_labels(logits.astype(jnp.float32), batch.labels)
    return -jnp.sum(jnp.where(mask, nll, 0.0))

  return summed


TOKEN_ACCURACY = Score('token_accuracy', right_answers)
"""The next tokens that are right, given those before them."""
LOG_LIKELIHOOD = Score('log_likelihood', _said)
"""Of the next token, given those before it: of the sentences as they are, whatever was trained on."""


class Search(NamedTuple):
  """Options of the search for a translation; 1 beam is greedy."""

  beams: int
  length_penalty: float
  length: int


Translate = Callable[[Any, Any], Array]
"""(variables, source [b, s]) -> tokens [b, length]."""


def translator(model: Any, search: Search, out: jax.sharding.Sharding | None = None) -> Translate:
  """Compiles a search that returns the best translation found for each source."""

  def best(variables: Any, source: Array) -> Array:
    memory, cache = model.apply(variables, source, length=search.length, method='start')

    def step(cache: Any, tokens: Array, position: Array) -> Any:
      return model.apply(variables, memory, cache, tokens, position, method='step')

    if search.beams == 1:
      return greedy(step, cache, length=search.length, marks=_MARKS)
    how = {'beams': search.beams, 'length': search.length, 'length_penalty': search.length_penalty}
    return beam_search(step, cache, **how, marks=_MARKS).tokens[:, 0]

  return jax.jit(best, out_shardings=out)


class Lines(NamedTuple):
  """Source sentences, and how they are batched."""

  tokens: Ragged
  batch_tokens: int
  lengths: Sequence[int]
  sharding: jax.sharding.NamedSharding | None = None


def translated(translate: Translate, variables: Any, lines: Lines, vocabulary: Vocabulary) -> list[str]:
  """Translates all lines, in their order; an empty line gives an empty string."""
  sizes, said = np.array([len(line) for line in lines.tokens], int), [''] * len(lines.tokens)
  how = {'batch_tokens': lines.batch_tokens, 'lengths': lines.lengths, 'sharding': lines.sharding}
  for length, rows in in_order(sizes, **how):
    filled = np.where(rows < 0, rows[0], rows)  # a row of padding might never end
    source = placed(partial(side_by_side, lines.tokens, length), filled, lines.sharding)
    tokens = jax.device_get(translate(variables, source))
    for row, line in zip(rows, tokens, strict=True):
      if row >= 0 and sizes[row] > 1:
        said[row] = vocabulary.decode(line.tolist())
  return said


class Judged(NamedTuple):
  """Scores of translations against references: BLEU and chrF from 0 to 100, exact matches from 0 to 1."""

  bleu: float
  chrf: float
  exact_match: float


def judged(said: Sequence[str], meant: Sequence[str]) -> Judged:
  """Scores translations against references with sacrebleu; BLEU is cased, on sacrebleu's own tokens (13a)."""
  bleu, chrf = (metric.corpus_score(list(said), [list(meant)]).score for metric in _metrics())
  exact = np.mean([ours.split() == theirs.split() for ours, theirs in zip(said, meant, strict=True)])
  return Judged(bleu, chrf, float(exact))


def signatures() -> list[str]:
  """Returns sacrebleu's signatures, which others need to compare their scores with these."""
  scored = [(metric.corpus_score(['a'], [['a']]).name, metric.get_signature()) for metric in _metrics()]
  return [f'{name}|{signature}' for name, signature in scored]


def _metrics() -> tuple[Any, Any]:
  try:
    from sacrebleu.metrics.bleu import BLEU
    from sacrebleu.metrics.chrf import CHRF
  except ImportError as error:
    raise UserError('sacrebleu is missing: pip install -e ".[text]"') from error
  return BLEU(), CHRF()


def perplexity(log_likelihood: float) -> float:
  """Returns the perplexity of a mean log-likelihood in nats."""
  return float(np.exp(-log_likelihood))


def words(lines: Sequence[str]) -> int:
  """Counts the words between white space, and one end mark a line."""
  return sum(len(line.split()) + 1 for line in lines)
