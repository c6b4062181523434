"""Every public formula of lmajax once more, slowly, in NumPy loops over float64: the judge."""

import math
from types import SimpleNamespace

import numpy as np

LARGEST = float(np.finfo(np.float32).max)


# The statistics of a layer's input.


def measure(x, *, where=None):
  x = np.asarray(x, np.float64)
  where = np.broadcast_to(True if where is None else where, x.shape)
  kept = [float(value) for value, counts in zip(x.flat, where.flat, strict=True) if counts and math.isfinite(value)]
  total = squares = 0.0
  for value in kept:
    total += value
  if not kept or abs(total) > LARGEST:
    return 0.0, math.inf
  mean = total / len(kept)
  for value in kept:
    squares += (value - mean) ** 2
  return mean, math.inf if squares > LARGEST else math.sqrt(squares / max(len(kept) - 1, 1))


def batch_norm_stats(variance, scale, bias, *, count, epsilon=1e-5):
  channels, mean, biased = len(bias), 0.0, 0.0
  for beta in bias:
    mean += float(beta) / channels
  for v, gamma, beta in zip(variance, scale, bias, strict=True):
    biased += (float(gamma) ** 2 * float(v) / (float(v) + epsilon) + (float(beta) - mean) ** 2) / channels
  return mean, math.sqrt(biased * count / max(count - 1, 1))


def init_stats():
  return 0.0, 0.0, 0.0


def update_stats(running, batch, *, decay):
  if not all(math.isfinite(value) for value in batch):
    return tuple(float(old) for old in running)
  return tuple(decay * float(old) + (1 - decay) * float(new) for old, new in zip(running, (*batch, 1.0), strict=True))


def debias(running):
  mean, std, weight = (float(leaf) for leaf in running)
  return (0.0, math.inf) if weight == 0 else (mean / weight, std / weight)


# LMA.


def relu_init(num_segments):
  return np.array([0.0 if j < num_segments // 2 else 1.0 for j in range(num_segments)]), np.zeros(num_segments)


def cuts(stats, num_segments):
  mean, std = (float(stat) for stat in stats)
  width = 6 * std / num_segments if math.isfinite(std) else 0.0
  bottom = mean - num_segments * width / 2
  return [bottom + j * width for j in range(1, num_segments)]


def segment_index(x, stats, num_segments):
  x = np.asarray(x, np.float64)
  index = np.zeros(x.shape, np.int64)
  for at in np.ndindex(x.shape):
    for cut in cuts(stats, num_segments):
      if x[at] >= cut:
        index[at] += 1
  return index


def lma(x, slopes, intercepts, stats):
  x = np.asarray(x, np.float64)
  index, y = segment_index(x, stats, len(slopes)), np.zeros(x.shape)
  for at in np.ndindex(x.shape):
    y[at] = float(slopes[index[at]]) * x[at] + float(intercepts[index[at]])
  return y


def segment_sums(at, x, g, cuts):
  at, x, g = (np.asarray(a, np.float64) for a in (at, x, g))
  slopes, intercepts = np.zeros((2, len(cuts) + 1))
  for i in np.ndindex(at.shape):
    segment = sum(1 for cut in cuts if at[i] >= cut)
    slopes[segment] += g[i] * x[i]
    intercepts[segment] += g[i]
  return slopes, intercepts


def fold_batch_norm(slopes, intercepts, stats, norm, *, epsilon=1e-5):
  def apply(x):
    steep = np.float64(norm['scale']) / np.sqrt(np.float64(norm['variance']) + epsilon)
    return lma((np.float64(x) - norm['mean']) * steep + norm['bias'], slopes, intercepts, stats)

  return apply


def joined_intercepts(slopes, stats):
  """Walks from the mean outward: each piece takes up where its neighbour stopped."""
  slopes, (mean, std) = np.asarray(slopes, np.float64), (float(stat) for stat in stats)
  edges, home = cuts((mean, std), len(slopes)), len(slopes) // 2
  intercepts = np.zeros(len(slopes))
  intercepts[home] = -slopes[home] * mean
  for j in range(home + 1, len(slopes)):
    height = slopes[j - 1] * edges[j - 1] + intercepts[j - 1]
    intercepts[j] = height - slopes[j] * edges[j - 1]
  for j in range(home - 1, -1, -1):
    height = slopes[j + 1] * edges[j] + intercepts[j + 1]
    intercepts[j] = height - slopes[j] * edges[j]
  return intercepts


# The activations that LMA is compared with.


def relu(x):
  x = np.asarray(x, np.float64)
  y = np.zeros(x.shape)
  for at in np.ndindex(x.shape):
    y[at] = x[at] if x[at] > 0 else 0.0
  return y


def prelu(x, slope):
  x = np.asarray(x, np.float64)
  y = np.zeros(x.shape)
  for at in np.ndindex(x.shape):
    y[at] = x[at] if x[at] > 0 else float(slope) * x[at]
  return y


def swish(x, slope):
  x = np.asarray(x, np.float64)
  y = np.zeros(x.shape)
  for at in np.ndindex(x.shape):
    y[at] = x[at] / (1 + math.exp(-float(slope[at[-1]]) * x[at]))
  return y


def aplu(x, slopes, cuts):
  x = np.asarray(x, np.float64)
  y = np.zeros(x.shape)
  for at in np.ndindex(x.shape):
    y[at] = max(x[at], 0.0)
    for slope, cut in zip(slopes[:, at[-1]], cuts[:, at[-1]], strict=True):
      y[at] += float(slope) * max(float(cut) - x[at], 0.0)
  return y


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


def fake_quantize(x, low, high, bits):
  x, low, high = np.asarray(x, np.float64), float(low), float(high)
  if not math.isfinite(high - low):
    return x
  levels = [low + j * max(high - low, 0) / (2**bits - 1) for j in range(2**bits)]
  y = np.zeros(x.shape)
  for at in np.ndindex(x.shape):
    inside = min(max(x[at], low), levels[-1])
    y[at] = min(levels, key=lambda level: abs(level - inside))
  return y


def straight_through(x, low, high, bits, at):
  """What ``fake_quantize`` is differentiated as: clipped and rounded as it was at one place (x, low, high)."""
  place, bottom, top = (np.asarray(a, np.float64) for a in at)
  step = max(float(top - bottom), 0.0) / (2**bits - 1)
  rounded, y = fake_quantize(place, bottom, top, bits), np.zeros(place.shape)
  for i in np.ndindex(place.shape):
    if place[i] < bottom:
      y[i] = low
    elif place[i] > top:
      y[i] = high
    else:
      share = (rounded[i] - place[i]) / step if step else 0.0
      y[i] = x[i] + share * (high - low) / (2**bits - 1)
  return y


def average(numbers, decay):
  """Of the numbers that came one after the other: a zero-started moving average, without its start; one is itself."""
  mean = weight = 0.0
  for number in numbers:
    weight = decay * weight + (1 - decay)
    mean += (1 - decay) / weight * (float(number) - mean)
  return mean


# The losses.


def softmax(logits):
  top = max(float(z) for z in logits)
  powers = [math.exp(float(z) - top) for z in logits]
  return [power / sum(powers) for power in powers]


def soft_targets(student_logits, teacher_logits, *, temperature=1.0, where=None):
  loss = np.zeros(student_logits.shape[:-1])
  for at in np.ndindex(loss.shape):
    if where is not None and not where[at]:
      continue
    student = softmax([float(z) / temperature for z in student_logits[at]])
    teacher = softmax([float(z) / temperature for z in teacher_logits[at]])
    for p, q in zip(teacher, student, strict=True):
      loss[at] += p * math.log(p / q) if p > 0 else 0.0
  return temperature**2 * loss


def distillation(student_logits, teacher_logits, labels, *, temperature=2.0, soft_weight=0.7, where=None):
  loss = soft_weight * soft_targets(student_logits, teacher_logits, temperature=temperature, where=where)
  for at in np.ndindex(loss.shape):
    if where is None or where[at]:
      loss[at] -= (1 - soft_weight) * math.log(softmax(student_logits[at])[int(labels[at])])
  return loss


def top_k(logits, k):
  """Of one example: the log-probabilities and the numbers of the likeliest classes."""
  best = sorted(range(len(logits)), key=lambda c: (-float(logits[c]), c))[:k]
  probabilities = softmax(logits)
  return [math.log(probabilities[c]) for c in best], best


def from_top_k(top, num_classes):
  """Of one example, the bounds for rounding left out."""
  known = dict(zip(map(int, top[1]), map(float, top[0]), strict=True))
  left = 1.0
  for log_p in known.values():
    left -= math.exp(log_p)
  return [known[c] if c in known else math.log(left / (num_classes - len(known))) for c in range(num_classes)]


def representation_error(student_tap, teacher_tap, *, distance=lambda s, t: (s - t) ** 2):
  errors = []
  for student, teacher in zip(student_tap, teacher_tap, strict=True):
    pairs = list(zip(np.ravel(student).tolist(), np.ravel(teacher).tolist(), strict=True))
    errors.append(sum(distance(s, t) for s, t in pairs) / len(pairs))
  return np.array(errors)


def gradient_penalty(critic, real, fake, shares):
  """With the shares given; the slope by differences of what the critic says of one example."""
  penalties = []
  for x, other, share in zip(real, fake, shares, strict=True):
    slope = slope_of(lambda point: critic(point[None]).sum(), float(share) * x + (1 - float(share)) * other)
    penalties.append((math.sqrt(sum(float(entry) ** 2 for entry in slope.flat)) - 1) ** 2)
  return np.array(penalties)


# The reparameterizations.


def buckets(w, bucket_size):
  """The rows of a tensor; the last one has its entries over and over again, which the authors do with its last."""
  channels = np.moveaxis(w, -1, 0) if bucket_size == 'channel' else w
  flat = np.asarray(channels, np.float32).ravel()
  size = len(flat) // np.shape(w)[-1] if bucket_size == 'channel' else min(bucket_size or len(flat), len(flat))
  rows = [flat[start : start + size] for start in range(0, len(flat), size)]
  return [[row[i % len(row)] for i in range(size)] for row in rows]


def joined_buckets(rows, shape, bucket_size):
  flat = np.array([value for row in rows for value in row][: math.prod(shape)], np.float32)
  if bucket_size == 'channel':
    return np.moveaxis(flat.reshape(shape[-1:] + shape[:-1]), 0, -1)
  return flat.reshape(shape)


def on_levels(row, low, span, bits):
  top = 2**bits - 1
  codes = [min(max(np.round((value - low) / span * top), 0), top) for value in row]
  return [code / np.float32(top) * span + low for code in codes]


def min_max(rows, bits):
  lows, spans = [], []
  for row in rows:
    span = np.float32(max(row)) - np.float32(min(row))
    lows.append(np.float32(min(row)))
    spans.append(np.float32(1) if span < 1e-10 else span)
  return np.array(lows), np.array(spans)


def least_error(rows, bits):
  lows, spans = [], []
  for row in rows:
    (low,), (span,) = min_max([row], bits)
    mean, tried = np.mean(row), []
    for i in range(16):
      share = 1 - 0.75 * i / 15
      each = mean - share * (mean - low), share * span
      errors = [(value - quantized) ** 2 for value, quantized in zip(row, on_levels(row, *each, bits), strict=True)]
      tried.append((sum(errors), i, *each))
    lows.append(min(tried)[2])
    spans.append(min(tried)[3])
  return np.array(lows, np.float32), np.array(spans, np.float32)


def uniform(w, bits, *, bucket_size=256, ranges=min_max, truncated=False):
  """The weights of ``uniform`` without a key."""
  rows = buckets(np.clip(w, -1, 1) if truncated else w, bucket_size)
  quantized = [on_levels(row, low, span, bits) for row, low, span in zip(rows, *ranges(rows, bits), strict=True)]
  return joined_buckets(quantized, np.shape(w), bucket_size)


def points(w, levels, *, bucket_size=256):
  """The weights of ``points`` of one tensor and its levels."""
  rows = buckets(w, bucket_size)
  for row, low, span in zip(rows, *min_max(rows, 0), strict=True):
    for j, value in enumerate(row):
      distances = [abs((value - low) / span - level) for level in levels]
      row[j] = levels[distances.index(min(distances))] * span + low
  return joined_buckets(rows, np.shape(w), bucket_size)


def share_points(norms, bits):
  half = max(2, 2**bits // 2)
  to_share = len(norms) * 2**bits - len(norms) * half
  shares = {}
  for path in norms:
    part = norms[path] / sum(norms.values()) if sum(norms.values()) else 1 / len(norms)
    shares[path] = half + int(to_share * part)
  while sum(shares.values()) < len(norms) * 2**bits:
    shares[sorted(norms, key=lambda path: (norms[path], path))[-1]] += 1
  return {path: min(share, 256) for path, share in shares.items()}


def kernels(path, leaf):
  return path.split('/')[-1] in ('kernel', 'embedding')


# Product quantization: the filters of a tensor cut into blocks, of which a filter's last one may be shorter.


def filter_blocks(w, block_size):
  w = np.asarray(w, np.float64)
  filters = [w[..., i].ravel() for i in range(w.shape[-1])]
  return [row[at : at + block_size] for row in filters for at in range(0, len(row), block_size)]


def block_error(block, centroid):
  return sum((float(a) - float(b)) ** 2 for a, b in zip(block, centroid, strict=False))  # the block may be shorter


def reassigned(blocks, codebook, assignments):
  new = []
  for block, own in zip(blocks, assignments, strict=True):
    distances = [block_error(block, centroid) for centroid in codebook]
    new.append(int(own) if distances[own] == min(distances) else distances.index(min(distances)))
  return new


def kmeans(blocks, codebook, assignments, iterations):
  codebook, assignments = np.array(codebook, np.float64), [int(a) for a in assignments]
  for _ in range(iterations):
    assignments = reassigned(blocks, codebook, assignments)
    for empty in [j for j in range(len(codebook)) if j not in assignments]:
      errors = [block_error(block, codebook[a]) for block, a in zip(blocks, assignments, strict=True)]
      if max(errors) > 0:
        worst = blocks[errors.index(max(errors))]
        codebook[empty] = [*worst, *np.zeros(codebook.shape[1] - len(worst))]
        closer = [block_error(block, codebook[empty]) < error for block, error in zip(blocks, errors, strict=True)]
        assignments = [empty if moves else own for moves, own in zip(closer, assignments, strict=True)]
    for j, e in np.ndindex(codebook.shape):
      entries = [block[e] for block, a in zip(blocks, assignments, strict=True) if a == j and e < len(block)]
      codebook[j, e] = sum(entries) / len(entries) if entries else codebook[j, e]
  return codebook, reassigned(blocks, codebook, assignments)


def product_codebook(codebook, assignments, shape):
  w = np.zeros(shape)
  per_filter = len(assignments) // shape[-1]
  for at in np.ndindex(shape):
    entry = int(np.ravel_multi_index(at[:-1], shape[:-1])) if at[:-1] else 0
    row = assignments[at[-1] * per_filter + entry // len(codebook[0])]
    w[at] = codebook[row][entry % len(codebook[0])]
  return w


def product(w, codebook, assignments, *, iterations=15):
  codebook, assignments = kmeans(filter_blocks(w, len(codebook[0])), codebook, assignments, iterations)
  return product_codebook(codebook, assignments, np.shape(w))


# The trees: a nest of dictionaries, lists and tuples.


def leaves(tree):
  if isinstance(tree, dict):
    return [leaf for child in tree.values() for leaf in leaves(child)]
  if isinstance(tree, list | tuple):
    return [leaf for child in tree for leaf in leaves(child)]
  return [tree]


def size(tree):
  count = 0
  for leaf in leaves(tree):
    count += len(np.asarray(leaf).ravel())
  return count


def nbytes(tree):
  count = 0
  for leaf in leaves(tree):
    count += len(np.asarray(leaf).tobytes())
  return count


def map_with_path(function, tree, *rest, path=()):
  if isinstance(tree, dict):
    return {name: map_with_path(function, tree[name], *(r[name] for r in rest), path=(*path, name)) for name in tree}
  return None if tree is None else function('/'.join(path), tree, *rest)


def by_path(tree):
  found = {}
  map_with_path(found.__setitem__, tree)
  return found


def partition(tree, where):
  chosen = map_with_path(lambda path, leaf: leaf if where(path, leaf) else None, tree)
  return chosen, map_with_path(lambda path, leaf: None if where(path, leaf) else leaf, tree)


def combine(selected, rest):
  if isinstance(selected, dict):
    return {name: combine(selected[name], rest[name]) for name in selected}
  return rest if selected is None else selected


# Slimming: how many filters a layer needs, which of them stay, and what is left of the network.


def filters_of(kernel):
  """A list for each filter, of its weights."""
  kernel = np.asarray(kernel, np.float64)
  return [[float(kernel[at][o]) for at in np.ndindex(kernel.shape[:-1])] for o in range(kernel.shape[-1])]


def full_widths(variables, graph):
  found = by_path(variables)
  return tuple(len(filters_of(found[channels.kernels[0]])) for channels in graph)


def spectra(variables, graph):
  """By the filters' covariances; of each entry the shares, and whether it is whole."""
  found, pairs = by_path(variables), []
  for channels in graph:
    together = 0.0
    for path in channels.kernels:
      filters = filters_of(found[path])
      means = [sum(weights) / len(weights) for weights in filters]
      covariance = np.zeros((len(filters), len(filters)))
      for i, j in np.ndindex(covariance.shape):
        for a, b in zip(filters[i], filters[j], strict=True):
          covariance[i, j] += (a - means[i]) * (b - means[j])
      variance = sum(covariance[i, i] for i in range(len(filters)))
      together = together + covariance / (variance if variance > 0 else 1.0)
    values = sorted((float(value) for value in np.linalg.eigvalsh(together)), reverse=True)
    total = sum(values)
    shape = np.shape(found[channels.kernels[0]])
    whole = channels.first and (len(shape) > 2 or shape[0] <= shape[1])
    pairs.append((np.array([value / total if total > 0 else 0.0 for value in values]), whole))
  return tuple(pairs)


def widths_at(spectra, share, *, minimum=1, multiple=1):
  """From pairs of shares and whole."""
  widths = []
  for shares, whole in spectra:
    held, count = 0.0, 0
    while held < share - 1e-9 and count < len(shares):
      held += float(shares[count])
      count += 1
    count = max(count if held >= share - 1e-9 else 0, minimum)
    while count % multiple:
      count += 1
    widths.append(len(shares) if whole else min(count, len(shares)))
  return tuple(widths)


def solve(rule, rate, cost, *, full, shares):
  """Tries all shares at which a width can change, the greatest first; None where none reaches the rate."""
  for share in sorted(shares, reverse=True):
    if (full - cost(rule(share))) / full >= rate - 1e-9:
      return rule(share)
  return None


def l1_norm(filters):
  return np.array([sum(abs(weight) for weight in weights) for weights in filters_of(filters.kernel)])


def l2_norm(filters):
  return np.array([math.sqrt(sum(weight**2 for weight in weights)) for weights in filters_of(filters.kernel)])


def median_distance(filters):
  columns = filters_of(filters.kernel)
  return np.array([sum(math.sqrt(block_error(one, other)) for other in columns) for one in columns])


def norm_scale(filters):
  return np.array([float(scale) if scale > 0 else -float(scale) for scale in filters.scale])


def slice_params(params, stats, graph, widths, criterion):
  """Entry after entry, so that a later kernel is scored without what was taken out before it."""
  found = by_path({'params': params, **stats})
  for number, (channels, width) in enumerate(zip(graph, widths, strict=True)):
    count = np.shape(found[channels.kernels[0]])[-1]
    scores = [0.0] * count
    for i, path in enumerate(channels.kernels):
      matrix = np.array(filters_of(found[path])).T
      scale = found[channels.scales[i]] if channels.scales else None
      for o, score in enumerate(criterion(SimpleNamespace(kernel=matrix, scale=scale, number=number))):
        scores[o] += float(score) / len(channels.kernels)
    gone = sorted(range(count), key=lambda o: (scores[o], -o))[: count - width]
    for path in (*channels.kernels, *channels.along):
      found[path] = np.delete(np.asarray(found[path]), gone, axis=-1)
    for path in channels.consumers:
      rows = [row for row in range(np.shape(found[path])[-2]) if row % count in gone]
      found[path] = np.delete(np.asarray(found[path]), rows, axis=-2)
  sliced = map_with_path(lambda path, _: found[path], {'params': params, **stats})
  return sliced.pop('params'), sliced


# Codes of 1 to 8 bits, end to end.


def pack_bits(codes, bits):
  digits = ''.join(format(int(code), f'0{bits}b') for code in codes)
  digits += '0' * (-len(digits) % 8)
  return [int(digits[at : at + 8], 2) for at in range(0, len(digits), 8)]


def unpack_bits(packed, bits, count):
  digits = ''.join(format(int(byte), '08b') for byte in packed)
  return [int(digits[bits * i : bits * (i + 1)], 2) for i in range(count)]


# Not a formula of lmajax, but what its gradients are judged by.


def slope_of(f, at, step=1e-5):
  """The gradient of a scalar function of one array, by central differences."""
  at = np.asarray(at, np.float64)
  gradient = np.zeros(at.shape)
  for i in np.ndindex(at.shape):
    up, down = at.copy(), at.copy()
    up[i] += step
    down[i] -= step
    gradient[i] = (f(up) - f(down)) / (2 * step)
  return gradient


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
