"""Networks over sentences and characters, decoding, and what a forward pass costs."""

import math

import numpy as np

from tests.oracles.activations import relu
from tests.oracles.losses import softmax

# Sentences: over [sentences, places, channels].


def sinusoids(length, features):
  waves, half = np.zeros((length, features)), features // 2
  for t in range(length):
    for i in range(half):
      angle = t / 10_000 ** (2 * i / features)
      waves[t, i], waves[t, half + i] = math.sin(angle), math.cos(angle)
  return waves


def layer_norm(x, norm, epsilon=1e-6):
  y = np.zeros(x.shape)
  for at in np.ndindex(x.shape[:-1]):
    mean = sum(x[at]) / len(x[at])
    variance = sum((value - mean) ** 2 for value in x[at]) / len(x[at])
    y[at] = (x[at] - mean) / math.sqrt(variance + epsilon) * norm['scale'] + norm['bias']
  return y


def attention(x, memory, seen, params):
  """``seen(b, t)`` lists the places of the memory that may be looked at; where there is none, it is all of them."""
  query, key, value = (
    np.tensordot(side, params[name]['kernel'], 1) for side, name in ((x, 'query'), (memory, 'key'), (memory, 'value'))
  )
  found = np.zeros(query.shape)
  for b, t, h in np.ndindex(query.shape[:3]):
    places = seen(b, t) or range(memory.shape[1])
    weights = softmax([query[b, t, h] @ key[b, s, h] / math.sqrt(query.shape[-1]) for s in places])
    for weight, s in zip(weights, places, strict=True):
      found[b, t, h] += weight * value[b, s, h]
  return np.tensordot(found, params['output']['kernel'], 2) if 'output' in params else found.reshape(x.shape)


def transformer_stage(params, sides, tokens, act, pre_norm):
  """One layer, of the decoder where it looks across; the two sides after it."""
  (source, target), decodes = sides, 'across' in params
  x, own = (target, tokens[1]) if decodes else (source, tokens[0])

  def added(x, function, norm):
    norm = norm['LayerNorm_0']
    return x + function(layer_norm(x, norm)) if pre_norm else layer_norm(x + function(x), norm)

  def within(b, t):
    return [s for s in range(t + 1 if decodes else own.shape[1]) if own[b, s] != 0]

  def across(b, t):
    return [s for s in range(source.shape[1]) if tokens[0][b, s] != 0]

  def dense(x):
    first, second = params['dense']['Dense_0'], params['dense']['Dense_1']
    return act(x @ first['kernel'] + first['bias'], (own != 0)[..., None]) @ second['kernel'] + second['bias']

  x = added(x, lambda x: attention(x, x, within, params['within']), params['add_within'])
  if decodes:
    x = added(x, lambda x: attention(x, source, across, params['across']), params['add_across'])
  x = added(x, dense, params['add_dense'])
  x = layer_norm(x, params['norm']) if 'norm' in params else x
  return (source, x) if decodes else (x, target)


def transformer(params, source, target, acts):
  """The logits, and the two sides after the stem and each stage; of these ``act(x, where)`` is handed in."""
  pre_norm, sides = 'norm' in params, []
  for name, tokens in (('embed', source), ('target_embed' if 'target_embed' in params else 'embed', target)):
    table = np.asarray(params[name]['embedding'], np.float64)
    embedded = np.array([[math.sqrt(table.shape[1]) * table[token] for token in row] for row in tokens])
    sides.append(embedded + sinusoids(*embedded.shape[1:]))
  taps = [tuple(sides)]
  for i, act in enumerate(acts):
    taps.append(transformer_stage(params[f'stages_{i}'], taps[-1], (source, target), act, pre_norm))
  x = layer_norm(taps[-1][1], params['norm']) if pre_norm else taps[-1][1]
  if 'logits' in params:
    return x @ params['logits']['kernel'] + params['logits']['bias'], taps
  return x @ np.transpose(params['embed']['embedding']), taps


# Activations on few levels.


def halved(x):
  """Over [time, channels]: the largest of each even place and its neighbours."""
  out = np.empty(((len(x) + 1) // 2, x.shape[1]), x.dtype)
  for t, c in np.ndindex(out.shape):
    out[t, c] = max(x[max(2 * t - 1, 0) : 2 * t + 2, c])
  return out


def k_largest(x, k):
  """Over [time, channels]: the k largest of each channel, in their order; of equal ones the first."""
  out = np.empty((k, x.shape[1]), x.dtype)
  for c in range(x.shape[1]):
    best = sorted(range(len(x)), key=lambda t, c=c: (-x[t, c], t))[:k]
    out[:, c] = [x[t, c] for t in sorted(best)]
  return out


def convolution_in_time(x, kernel):
  """Over [time, channels], zeros beyond both ends."""
  out = np.zeros((len(x), kernel.shape[2]))
  for t in range(len(x)):
    for tap in range(len(kernel)):
      if 0 <= (at := t + tap - len(kernel) // 2) < len(x):
        out[t] += x[at] @ kernel[tap]
  return out


def vdcnn(tokens, params, stats, k):
  """The logits of one text in evaluation, with ReLU, from a tree of arrays."""

  def block(x, params, stats):
    for i in range(2):
      x = convolution_in_time(x, params[f'Conv_{i}']['kernel'])
      norm, seen = params[f'BatchNorm_{i}'], stats[f'BatchNorm_{i}']
      x = relu((x - seen['mean']) / np.sqrt(seen['var'] + 1e-5) * norm['scale'] + norm['bias'])
    return x

  x = convolution_in_time(params['embed']['embedding'][tokens], params['first']['kernel'])
  for i in range(4):
    section, seen = params[f'stages_{i}'], stats[f'stages_{i}']
    x = halved(x) if i else x
    for name in sorted(section, key=lambda name: int(name.rpartition('_')[2])):
      x = block(x, section[name], seen[name])
  x, head = k_largest(x, k).reshape(-1), params['last']
  for name in ('Dense_0', 'Dense_1'):
    x = relu(x @ head[name]['kernel'] + head[name]['bias'])
  return x @ head['logits']['kernel'] + head['logits']['bias']


# What a forward pass costs.


def macs(layers):
  """From each layer's kernel, of one group, and the positions it is laid at."""
  total = 0
  for kernel, positions in layers:
    for _ in np.ndindex(*positions):
      for _ in np.ndindex(*kernel):
        total += 1
  return total


# Decoding: a sentence at a time, lists of hypotheses, and a model asked for the logits after a whole prefix.


def next_tokens(prefix, tokens, marks):
  """The log-probability of each token that may come after these, by its number."""
  logits = prefix([marks.start, *tokens])
  words = [token for token in range(len(logits)) if token not in (marks.padding, marks.start)]
  top = max(float(logits[token]) for token in words)
  total = math.log(sum(math.exp(float(logits[token]) - top) for token in words)) + top
  return {token: float(logits[token]) - total for token in words}


def greedy(prefix, *, length, marks):
  tokens = []
  while len(tokens) < length and marks.end not in tokens:
    log_p = next_tokens(prefix, tokens, marks)
    tokens.append(max(log_p, key=lambda token: log_p[token]))
  return tokens + [marks.padding] * (length - len(tokens))


def beam_search(prefix, *, beams, length, length_penalty, marks):
  alive, finished = [([], 0.0)], []
  for _ in range(length):
    grown = [
      ([*tokens, token], total + log_p)
      for tokens, total in alive
      for token, log_p in next_tokens(prefix, tokens, marks).items()
      if log_p > -math.inf
    ]
    grown = sorted(grown, key=lambda hypothesis: -hypothesis[1])[: 2 * beams]
    of_length = [(tokens, total / len(tokens) ** length_penalty) for tokens, total in grown]
    finished += [hypothesis for hypothesis in of_length[:beams] if hypothesis[0][-1] == marks.end]
    finished = sorted(finished, key=lambda hypothesis: -hypothesis[1])[:beams]
    alive = [hypothesis for hypothesis in grown if hypothesis[0][-1] != marks.end][:beams]
    ahead = [score for tokens, score in of_length if tokens[-1] != marks.end][:1]
    if not alive or (len(finished) == beams and ahead[0] <= finished[0][1]):
      break
  scored = (finished + [(tokens, total / len(tokens) ** length_penalty) for tokens, total in alive])[:beams]
  scored += [([], -math.inf)] * (beams - len(scored))
  scored = sorted(scored, key=lambda hypothesis: -hypothesis[1])
  return [tokens + [marks.padding] * (length - len(tokens)) for tokens, _ in scored], [score for _, score in scored]
