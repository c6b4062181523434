"""Losses, rates and figures of translation against NumPy; sentences that no batch around them changes."""

import math
from functools import partial
from types import SimpleNamespace
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import sacrebleu

from lmajax import LMA
from lmajax.models import Transformer
from lmajax.training import Taught, distilled, over_all_devices, vmapped
from lmajax.types import Batch
from train.data.corpora.buckets import (
  Text,
  TokenBatches,
  Tokens,
  Vocabularies,
  encoded,
  evaluation_batches,
  side_by_side,
)
from train.data.corpora.pairs import Corpus, Pairs
from train.data.corpora.vocabulary import END, PADDING, START, Words
from train.engine.cohort import Cohort, Group, Plan
from train.engine.evaluate import member, scores
from train.engine.fit import fit
from train.engine.optimizers import noam
from train.engine.schedules import constant
from train.engine.walk import Data
from train.programs.distill_text import build as build_text
from train.programs.distill_text import decode as sentences
from train.programs.distill_text.config import OF_WORDS, DistillText
from train.programs.distill_text.decode import (
  LOG_LIKELIHOOD,
  TOKEN_ACCURACY,
  Lines,
  Search,
  of_labels,
  of_words,
  translated,
  translator,
  word_level,
)
from train.programs.distill_text.score import Scoring
from train.programs.distill_text.table import Arm
from train.runtime.run import Run
from train.teaching import KD, per_label

VOCABULARY = 7
SIZES = (4, 1, 6, 0, 2)  # of the sentences of a batch; 0 is a row of padding


def log_softmax(row):
  row = np.asarray(row, np.float64)
  return row - row.max() - math.log(np.exp(row - row.max()).sum())


def words_at(length, seed=0):
  """(logits of the student, of the teacher, labels) of a batch that is padded to a length; the words are the same."""
  draw, other = np.random.default_rng(seed), np.random.default_rng(100 + length)
  logits = other.normal(size=(2, len(SIZES), length, VOCABULARY)).astype(np.float32)
  labels = np.full((len(SIZES), length), PADDING, np.int32)
  for i, size in enumerate(SIZES):
    labels[i, :size] = draw.integers(1, VOCABULARY, size)
    logits[:, i, :size] = 2 * draw.normal(size=(2, size, VOCABULARY))
  return *logits, labels


def loss_of(loss, length):
  student, teacher, labels = words_at(length)
  return float(loss(jnp.asarray(student), Taught(jnp.asarray(teacher), ()), Batch((), jnp.asarray(labels))))


def negative_log_likelihood(student, label):
  return -log_softmax(student)[label]


def divergence(student, teacher, temperature=1.0):
  ours, theirs = (log_softmax(np.asarray(each, np.float64) / temperature) for each in (student, teacher))
  return sum(math.exp(q) * (q - p) for p, q in zip(ours, theirs, strict=True))


def authors(length):
  """Their loss: 0.3 and 0.7 of sums over a batch, that of the divergence over padding too, by the sentences."""
  student, teacher, labels = words_at(length)
  total, padding = 0.0, 0.0
  for i, row in enumerate(labels):
    for j, label in enumerate(row):
      soft = 0.7 * divergence(student[i, j], teacher[i, j])
      total += soft
      if label == PADDING:
        padding += soft
      else:
        total += 0.3 * negative_log_likelihood(student[i, j], label)
  return total / len(labels), padding / len(labels)


BY_NAME = tuple(name for name in OF_WORDS if name != KD)


class TestLosses:
  @pytest.mark.parametrize('smoothing', [0.0, 0.1])
  def test_of_labels_is_the_mean_over_the_words(self, smoothing):
    student, _, labels = words_at(8)
    each = [
      (1 - smoothing) * negative_log_likelihood(student[i, j], labels[i, j])
      - smoothing * sum(log_softmax(student[i, j])) / VOCABULARY
      for i, size in enumerate(SIZES)
      for j in range(size)
    ]
    found = loss_of(of_labels(smoothing), 8)
    np.testing.assert_allclose(found, sum(each) / sum(SIZES), rtol=1e-6)
    spread = optax.smooth_labels(jax.nn.one_hot(labels, VOCABULARY), smoothing)
    theirs = np.asarray(optax.losses.softmax_cross_entropy(jnp.asarray(student), spread))
    np.testing.assert_allclose(found, theirs[labels != PADDING].mean(), rtol=1e-6)

  @pytest.mark.parametrize('temperature, weight', [(1.0, 0.7), (2.0, 0.4), (3.0, 1.0), (1.0, 0.0)])
  def test_word_level_is_the_mean_over_the_words(self, temperature, weight):
    student, teacher, labels = words_at(8)
    each = [
      weight * temperature**2 * divergence(student[i, j], teacher[i, j], temperature)
      + (1 - weight) * negative_log_likelihood(student[i, j], labels[i, j])
      for i, size in enumerate(SIZES)
      for j in range(size)
    ]
    found = loss_of(word_level(temperature=temperature, soft_weight=weight), 8)
    np.testing.assert_allclose(found, sum(each) / sum(SIZES), rtol=1e-5)

  def test_word_level_is_the_authors_without_their_padding(self):
    ours = {length: loss_of(word_level(temperature=1.0, soft_weight=0.7), length) for length in (6, 8, 16)}
    for length, found in ours.items():
      theirs, of_padding = authors(length)
      np.testing.assert_allclose(found * sum(SIZES) / len(SIZES), theirs - of_padding, rtol=1e-5)
    assert authors(16)[0] > 1.5 * authors(6)[0]
    np.testing.assert_allclose(list(ours.values()), ours[6], rtol=1e-6)

  @pytest.mark.parametrize('name', BY_NAME)
  def test_padding_takes_no_part_in_a_loss_by_name(self, name):
    student, teacher, labels = (jnp.asarray(part[words_at(8)[2] != PADDING]) for part in words_at(8))
    expected = float(per_label(name)(student, teacher, labels, None).mean())
    np.testing.assert_allclose([loss_of(of_words(per_label(name)), n) for n in (6, 8, 16)], expected, rtol=1e-5)

  @pytest.mark.parametrize(
    'loss',
    [of_labels(0.1), word_level(temperature=1.0, soft_weight=0.7), *(of_words(per_label(name)) for name in BY_NAME)],
    ids=['labels', KD, *BY_NAME],
  )
  def test_padding_gets_no_gradient_and_alone_no_loss(self, loss):
    student, teacher, labels = words_at(8)

    def of(logits, labels):
      return loss(logits, Taught(jnp.asarray(teacher), ()), Batch((), jnp.asarray(labels)))

    slopes = np.asarray(jax.grad(of)(jnp.asarray(student), labels))
    assert (slopes[labels == PADDING] == 0).all()
    assert (np.abs(slopes[labels != PADDING]).max(axis=-1) > 1e-3).all()
    assert float(of(jnp.asarray(student), np.zeros_like(labels))) == 0


class TestNoam:
  @pytest.mark.parametrize('warmup', [1, 4, 10])
  def test_the_rate_rises_and_falls_as_in_the_paper(self, warmup):
    """Of gradients that are always the same Adam's step has the size of its rate."""
    features = 16
    tx = noam(warmup, clip=math.inf, weight_decay=0.0)(jnp.float32((features * warmup) ** -0.5))
    params = jnp.zeros(3)
    state, update = tx.init(params), jax.jit(tx.update)
    for number in range(1, 31):
      moved, state = update(jnp.array([0.5, -2.0, 1e-3]), state, params)
      rate = features**-0.5 * min(number**-0.5, number * warmup**-1.5)
      np.testing.assert_allclose(moved, rate * np.array([-1, 1, -1]), rtol=1e-4)

  @pytest.mark.parametrize('clip, weight_decay', [(1e9, 0.0), (0.5, 0.0), (0.5, 0.1), (3.0, 0.01)])
  def test_steps_are_those_of_adam_by_hand(self, clip, weight_decay):
    draw, rate, warmup = np.random.default_rng(0), 0.02, 5
    params = {'a': draw.normal(size=(2, 3)), 'b': draw.normal(size=4)}
    tx = noam(warmup, clip=clip, weight_decay=weight_decay)(jnp.float32(rate))
    ours: Any = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), params)
    state, update = tx.init(ours), jax.jit(tx.update)
    first, second = ({name: np.zeros_like(leaf) for name, leaf in params.items()} for _ in range(2))
    for number in range(1, 16):
      slopes = {name: draw.normal(size=leaf.shape) for name, leaf in params.items()}
      moved, state = update(jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), slopes), state, ours)
      ours = optax.apply_updates(ours, moved)
      length = math.sqrt(sum((slope**2).sum() for slope in slopes.values()))
      for name, leaf in params.items():
        slope = slopes[name] * min(1, clip / length) + weight_decay * leaf
        first[name] = 0.9 * first[name] + 0.1 * slope
        second[name] = 0.98 * second[name] + 0.02 * slope**2
        means = first[name] / (1 - 0.9**number), second[name] / (1 - 0.98**number)
        params[name] = leaf - rate * min(number / warmup, math.sqrt(warmup / number)) * means[0] / (
          np.sqrt(means[1]) + 1e-9
        )
    for name, leaf in params.items():
      np.testing.assert_allclose(ours[name], leaf, rtol=1e-4, atol=1e-5)


MEANT = ['the cat sat on the mat .', 'Two dogs, and a cat', 'one hundred', 'no']
SAID = ['the cat sat on a mat .', 'two dogs , and a cat', ' one   hundred\t', '']


class TestFigures:
  def test_are_sacrebleus_own(self):
    found = sentences.judged(SAID, MEANT)
    assert found.bleu == sacrebleu.corpus_bleu(SAID, [MEANT]).score
    assert found.chrf == sacrebleu.corpus_chrf(SAID, [MEANT]).score
    assert 5 < found.bleu < 95 and 5 < found.chrf < 95
    assert sentences.judged(MEANT, MEANT) == pytest.approx((100, 100, 1))

  def test_an_exact_match_ignores_white_space_alone(self):
    assert sentences.judged(SAID, MEANT).exact_match == 1 / 4
    assert sentences.judged(['a  b ', 'A', 'a.', 'ab'], ['a b', 'a', 'a .', 'a b']).exact_match == 1 / 4

  def test_signatures_name_the_metrics_and_the_version(self):
    bleu, chrf = sentences.signatures()
    version = f'version:{sacrebleu.__version__}'
    assert bleu == f'BLEU|nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|{version}'
    assert chrf == f'chrF2|nrefs:1|case:mixed|eff:yes|nc:6|nw:0|space:no|{version}'

  def test_words_and_one_end_a_line(self):
    assert sentences.words(['one hundred  and', '', 'two']) == 3 + 0 + 1 + 3
    assert sentences.perplexity(-math.log(8)) == pytest.approx(8)


LETTERS = [chr(ord('a') + i) for i in range(12)]
KNOWN = Vocabularies(Words(LETTERS[:8]), Words(LETTERS[:6]))
MODEL = Transformer(
  (KNOWN.source.size, KNOWN.target.size), LMA, layers=(1, 1), features=8, units=12, heads=2, pre_norm=True
)
SAY = Search(2, 1.0, 7)
LENGTHS = (4, 8, 12)


@jax.jit
def asked(variables, source, target):
  """The whole network, without a cache."""
  return MODEL.apply(variables, (source, target), train=False)[0]


def alone(side, row):
  """A sentence in a batch of one."""
  return side_by_side(side, LENGTHS[-1], np.array([row]))


def variables_of(seed):
  tokens = jnp.full((1, 2), END, jnp.int32)
  variables = jax.jit(partial(MODEL.init, train=False))(jax.random.key(seed), (tokens, tokens))
  bias = variables['params']['logits']['bias']
  variables['params']['logits']['bias'] = bias.at[END].set(0.3)  # so that some sentences end, and some never
  return jax.tree.map(np.asarray, variables)


@pytest.fixture(scope='module')
def weights():
  """Of two networks, one behind the other."""
  return jax.tree.map(lambda *leaves: np.stack(leaves), variables_of(0), variables_of(3))


def lines(count=25, seed=0):
  """Sources and targets of all lengths up to the longest; the third has nothing to say."""
  draw = np.random.default_rng(seed)
  sides = [[' '.join(draw.choice(LETTERS[:6], draw.integers(1, 12))) for _ in range(count)] for _ in range(2)]
  sides[0][2] = ''
  return Pairs(*sides)


def said_of(translate, weights, pairs, *, lengths=LENGTHS, batch_tokens=48, sharding=None):
  tokens = encoded(pairs, KNOWN, LENGTHS[-1]).source
  return translated(translate, weights, Lines(tokens, batch_tokens, lengths, sharding), KNOWN.target)


TRACED = []  # the shapes of the sources that the next was compiled for


def noted(variables, *arguments, **options):
  if options['method'] == 'start':
    TRACED.append(arguments[0].shape)
  return MODEL.apply(variables, *arguments, **options)


@pytest.fixture(scope='module')
def translate():
  return translator(SimpleNamespace(apply=noted), SAY)


@pytest.fixture(scope='module')
def said(translate, weights):
  return said_of(translate, member(weights, 0), lines())


class TestTranslation:
  def test_twice_the_same_and_nothing_of_nothing(self, translate, weights, said):
    assert said == said_of(translate, member(weights, 0), lines())
    assert said[2] == '' and len(set(said)) > 5
    assert {0, SAY.length} < {len(line.split()) for line in said}

  def test_other_lengths_and_other_batches_change_no_sentence(self, translate, weights, said):
    for lengths, batch_tokens in (((12,), 48), ((6, 12), 24)):
      assert said_of(translate, member(weights, 0), lines(), lengths=lengths, batch_tokens=batch_tokens) == said

  def test_the_order_of_the_lines_is_that_of_the_answers(self, translate, weights, said):
    order = np.random.default_rng(1).permutation(len(said)).tolist()
    mixed = Pairs([lines().source[i] for i in order], [])
    assert said_of(translate, member(weights, 0), mixed) == [said[i] for i in order]
    assert said_of(translate, member(weights, 0), Pairs(lines().source[:3], [])) == said[:3]

  def test_devices_change_no_sentence(self, weights, said):
    spread = TokenBatches(
      encoded(lines(), KNOWN, 12), batch_tokens=96, lengths=(12,), seed=0, sharding=over_all_devices()
    )
    translate = translator(MODEL, SAY, spread.everywhere)
    how = {'lengths': (12,), 'batch_tokens': 96, 'sharding': over_all_devices()}
    assert said_of(translate, member(weights, 0), lines(), **how) == said

  def test_one_beam_says_the_likeliest_word_after_those_before_it(self, weights):
    """Against the whole network, asked anew for every word."""
    variables = member(weights, 0)
    sources, expected = encoded(lines(), KNOWN, LENGTHS[-1]).source, []
    for row, line in enumerate(sources):
      target = np.full((1, LENGTHS[-1]), PADDING, np.int32)
      target[0, 0] = START
      for i in range(SAY.length):
        logits = np.array(asked(variables, alone(sources, row), target)[0, i])
        logits[[PADDING, START]] = -np.inf
        target[0, i + 1] = logits.argmax()
        if target[0, i + 1] == END:
          break
      expected.append(KNOWN.target.decode(target[0].tolist()) if len(line) > 1 else '')
    found = said_of(translator(MODEL, SAY._replace(beams=1)), variables, lines(), lengths=(12,))
    assert found == expected and len(set(found)) > 5

  def test_there_is_one_program_for_each_length(self, translate, weights):
    for i in range(2):
      said_of(translate, member(weights, i), lines())
    assert len(TRACED) == len(set(TRACED)) and {(12, 4), (6, 8), (4, 12)} <= set(TRACED)
    before = len(TRACED)
    said_of(translate, member(weights, 1), lines(seed=5))
    assert len(TRACED) == before


def summed_by_hand(variables, tokens):
  """(the log-likelihood, the right words) of sentences, each in a batch of its own."""
  likelihood, right = 0.0, 0
  shifted = [np.append(START, target[:-1]).astype(np.int32) for target in tokens.target]
  for i, target in enumerate(tokens.target):
    logits = asked(variables, alone(tokens.source, i), alone(shifted, i))
    for said, label in zip(np.asarray(logits[0]), target, strict=False):
      likelihood += log_softmax(said)[label]
      right += said.argmax() == label
  return likelihood, right


class Bigram(nn.Module):
  """The next word after a word and the mean of the source; small enough to be compiled often."""

  @nn.compact
  def __call__(self, inputs, *, train):
    source, target = inputs
    del train
    both = nn.Embed(20, 4)(target) + nn.Embed(20, 4)(source).mean(axis=1, keepdims=True)
    return nn.Dense(20)(both), ()


def test_students_of_kd_are_trained_by_the_loss_that_they_are_named_by():
  draw, model, config = np.random.default_rng(0), Bigram(), DistillText(temperature=2.0, soft_weight=0.4)
  source, target, labels = jnp.asarray(draw.integers(1, 20, (3, 2, 6)))
  batch = Batch((source, target), labels.at[0, 4:].set(PADDING))
  taught = Taught(jnp.asarray(draw.normal(size=(2, 6, 20)), jnp.float32), ())
  variables = model.init(jax.random.key(0), batch.inputs, train=False)
  said, _ = model.apply(variables, batch.inputs, train=False)
  expected = {
    ('hard', KD): of_labels(config.label_smoothing),
    ('kd', KD): word_level(temperature=2.0, soft_weight=0.4),
    ('kd', 'dist'): of_words(per_label('dist')),
    ('kd', 'dist-x0.5'): of_words(per_label('dist-x0.5')),
  }
  values = set()
  for (method, name), loss in expected.items():
    objective = build_text.group(config, Arm(method, 'relu', None, 16, None, name), model).objective
    found = float(objective(variables['params'], {}, taught, batch, jax.random.key(1))[0])
    assert found == pytest.approx(float(loss(said, taught, batch)), rel=1e-5)
    values.add(round(found, 4))
  assert len(values) == len(expected)


GROUP = Group(MODEL, distilled(MODEL, of_labels(0.1)), (0, 1), vmapped, score=TOKEN_ACCURACY)


@pytest.fixture(scope='module')
def tokens():
  return encoded(lines(9), KNOWN, LENGTHS[-1])


@pytest.fixture(scope='module')
def by_hand(weights, tokens):
  return [summed_by_hand(member(weights, i), tokens) for i in range(2)]


class TestScores:
  @pytest.mark.parametrize('score, column', [(LOG_LIKELIHOOD, 0), (TOKEN_ACCURACY, 1)])
  def test_no_batch_changes_them(self, weights, tokens, by_hand, score, column):
    measure = scores({'': GROUP._replace(score=score)})
    expected = [each[column] / sum(map(len, tokens.target)) for each in by_hand]
    for lengths, batch_tokens in (((6, 12), 60), ((12,), 36)):
      batches = list(evaluation_batches(tokens, batch_tokens=batch_tokens, lengths=lengths))
      np.testing.assert_allclose(measure({'': weights}, batches)[''], expected, rtol=1e-5)
    assert expected[0] != expected[1]

  def test_figures_of_two_seeds_by_the_token_and_by_the_word(self, translate, weights, tokens, by_hand):
    part = lines(9)
    target = [line.replace(' ', '') if i % 2 else line for i, line in enumerate(part.target)]  # fewer words than tokens
    text = Text(Corpus('', part, part, Pairs(part.source, target)), KNOWN, tokens, tokens, tokens, LENGTHS[-1:], 0)
    spread = over_all_devices()
    how = {'batch_tokens': 96, 'lengths': LENGTHS[-1:], 'sharding': spread}
    half = Tokens(tokens.source[:4], tokens.target[:4])
    data = Data(TokenBatches(tokens, seed=0, **how), list(evaluation_batches(half, **how)), spread)
    figures, said = Scoring(text, data, SAY, 96).scored(GROUP, weights)
    words = sum(len(line.split()) for line in target) + len(target)
    assert words < sum(map(len, tokens.target))
    for i, (likelihood, _) in enumerate(by_hand):
      assert figures.perplexity[i] == pytest.approx(math.exp(-likelihood / sum(map(len, tokens.target))), rel=1e-5)
      assert figures.perplexity_per_word[i] == pytest.approx(math.exp(-likelihood / words), rel=1e-5)
      on_half = summed_by_hand(member(weights, i), half)[0] / sum(map(len, half.target))
      assert figures.validation_perplexity[i] == pytest.approx(math.exp(-on_half), rel=1e-5)
      assert figures.bleu[i] == sacrebleu.corpus_bleu(said[i], [target]).score
      assert figures.chrf[i] == sacrebleu.corpus_chrf(said[i], [target]).score
      exact = np.mean([ours == theirs for ours, theirs in zip(said[i], target, strict=True)])
      assert figures.exact_match[i] == exact
      assert said[i] == said_of(translate, member(weights, i), part)


def test_training_traces_once_for_each_length(tmp_path):
  draw = np.random.default_rng(0)
  sides = [[np.append(draw.integers(4, 20, draw.integers(0, 12)), END).astype(np.int32) for _ in range(90)]] * 2
  how = {'batch_tokens': 96, 'lengths': LENGTHS, 'sharding': over_all_devices()}
  batches, validation = TokenBatches(Tokens(*sides), seed=0, **how), list(evaluation_batches(Tokens(*sides), **how))
  model, trained, scored = Bigram(), [], []

  def noted(function, shapes):
    def noting(*arguments):
      shapes.extend(each.labels.shape for each in arguments if isinstance(each, Batch))
      return function(*arguments)

    return noting

  objective = noted(distilled(model, of_labels(0.1)), trained)
  score = TOKEN_ACCURACY._replace(of=lambda model: noted(TOKEN_ACCURACY.of(model), scored))
  group = Group(model, objective, (0, 1), vmapped, score=score)
  plan = Plan(0.01, noam(5, clip=1.0, weight_decay=0.0), constant(3), 1)
  with Run(tmp_path) as run:
    progress = fit(run, 'students', Cohort({'bigram': group}, plan), Data(batches, validation, how['sharding']))
  assert int(progress['bigram'].state.step[0]) == 3 * batches.steps_per_epoch > 3 * len(LENGTHS)
  assert sorted(trained) == sorted(set(trained)) == sorted(set(scored)) == sorted(scored)
  assert len(trained) == len(LENGTHS)
