"""Weights on few levels, product quantization, thinner networks, and codes of 1 to 8 bits."""

import math
from types import SimpleNamespace

import numpy as np

from tests.oracles.tree import by_path, map_with_path

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


def least_ratio(count):
  n = 1
  while n * n < count:
    n += 1
  return 2 * n / count


def multi_hash(left, right, scales, layers):
  """A weight at a time: its place among all of them, the row and the column of it, and the sum over the products."""
  n, weights, at = left.shape[0], {}, 0
  for path in sorted(layers):
    flat = []
    for _ in range(int(np.prod(layers[path]))):
      row, column = at // n, at % n
      flat.append(scales[path] * sum(left[row, m] * right[m, column] for m in range(left.shape[1])))
      at += 1
    weights[path] = np.array(flat).reshape(layers[path])
  return weights


def murmur(number):
  """The last step of MurmurHash3 on one integer of 32 bits."""
  number ^= number >> 16
  number = number * 0x85EBCA6B % 2**32
  number ^= number >> 13
  number = number * 0xC2B2AE35 % 2**32
  return number ^ number >> 16


def hash_pools(pools, scales, layers, signed):
  """A weight at a time: of each pool the entry at its hash, with the last bit of another hash as its sign."""
  weights, at = {}, 0
  for path in sorted(layers):
    flat = []
    for _ in range(int(np.prod(layers[path]))):
      total = 0.0
      for k, pool in enumerate(pools):
        entry = pool[murmur(at ^ murmur(2 * k + 1)) % len(pool)]
        total += -entry if signed and murmur(at ^ murmur(2 * k + 2)) % 2 else entry
      flat.append(scales[path] * total)
      at += 1
    weights[path] = np.array(flat).reshape(layers[path])
  return weights


# Pruning: what a weight is worth, which weights stay, and what is left of them; trees are dicts of arrays by path.


def magnitude(params):
  return {path: np.abs(w) for path, w in params.items()}


def places_by_size(w):
  """The places of a tensor, the largest weight first; of equal ones the first."""
  flat = [abs(float(value)) for value in np.ravel(w)]
  return flat, sorted(range(len(flat)), key=lambda i: (-flat[i], i))


def layerwise(params):
  scores = {}
  for path, w in params.items():
    _, order = places_by_size(w)
    scores[path] = np.array([-(order.index(i) + 0.5) / len(order) for i in range(len(order))]).reshape(np.shape(w))
  return scores


def lamp(params):
  scores = {}
  for path, w in params.items():
    flat, order = places_by_size(w)
    found = np.zeros(len(flat))
    for rank, i in enumerate(order):
      found[i] = flat[i] ** 2 / (sum(flat[j] ** 2 for j in order[: rank + 1]) or 1)
    scores[path] = found.reshape(np.shape(w))
  return scores


def normalized(params, norm):
  scores = {}
  for path, w in params.items():
    flat = [abs(float(value)) for value in np.ravel(w)]
    total = sum(flat) if norm == 'l1' else math.sqrt(sum(value**2 for value in flat))
    scores[path] = np.abs(np.asarray(w, np.float64)) / (total or 1)
  return scores


def keep(scores, density):
  everything = [(-float(s), path, i) for path in sorted(scores) for i, s in enumerate(np.ravel(scores[path]))]
  stay = {(path, i) for _, path, i in sorted(everything)[: round(density * len(everything))]}
  return {
    path: np.array([(path, i) in stay for i in range(np.size(s))], bool).reshape(np.shape(s))
    for path, s in scores.items()
  }


def n_of_m(params, n, m):
  masks = {}
  for path, w in params.items():
    masks[path] = np.zeros(np.shape(w), bool)
    for at in np.ndindex(np.shape(w)):
      group = [(*at[:-2], i, at[-1]) for i in range(at[-2] // m * m, at[-2] // m * m + m)]
      masks[path][at] = at in sorted(group, key=lambda other: (-abs(float(w[other])), other))[:n]
  return masks


def sparse(w, mask, *, bits=None, bucket_size=256):
  """The weights of ``sparse`` without a key."""
  kept = np.array([value for value, stays in zip(np.ravel(w), np.ravel(mask), strict=True) if stays], np.float32)
  if bits == 16:
    kept = kept.astype(np.float16).astype(np.float32)
  elif bits is not None and len(kept):
    kept = uniform(kept, bits, bucket_size=bucket_size)
  values, out = iter(kept), np.zeros(np.shape(w), np.float32)
  for at in np.ndindex(out.shape):
    out[at] = next(values) if mask[at] else 0
  return out


# Golomb's codes, as Rice has them, in texts of 0 and 1.


def golomb(values, rice):
  text = ''
  for value in values:
    text += '0' * (value >> rice) + '1'
    text += format(value % 2**rice, f'0{rice}b') if rice else ''
  text += '0' * (-len(text) % 8)
  return [int(text[at : at + 8], 2) for at in range(0, len(text), 8)]


def numbers(code, rice, count):
  """Those that are whole, and at most so many."""
  text, values = ''.join(format(int(byte), '08b') for byte in code), []
  while len(values) < count and '1' in text and len(text) - text.index('1') > rice:
    high = text.index('1')
    values.append((high << rice) + int('0' + text[high + 1 : high + 1 + rice], 2))
    text = text[high + 1 + rice :]
  return values


# Streams of weights, the largest first.


def to_stream(params, *, step=0.7, density=None, norm=None):
  """The passes: the number of each, its Rice parameter, how many weights it has, and its bytes."""
  weights = []
  for path in sorted(params):
    flat = [float(value) for value in np.ravel(params[path])]
    scale = {None: 1, 'l1': sum(map(abs, flat)), 'l2': math.sqrt(sum(value**2 for value in flat))}[norm] or 1
    weights += [value / scale for value in flat]
  order = sorted((i for i in range(len(weights)) if weights[i] != 0), key=lambda i: (-abs(weights[i]), i))
  order = order if density is None else order[: round(density * len(weights))]
  left, passes, number = list(range(len(weights))), [], 0
  top = max((abs(value) for value in weights), default=0)
  while order:
    number += 1
    new = [i for i in order if abs(weights[i]) >= top * step**number]
    order = order[len(new) :]
    symbols, gap = [], 0
    for i in left:
      gap += i not in new
      if i in new:
        symbols.append(2 * gap + (weights[i] < 0))
        gap = 0
    left = [i for i in left if i not in new]
    if new:
      rice = min(range(1, 20), key=lambda rice: sum((symbol >> rice) + rice + 1 for symbol in symbols))
      passes.append((number, rice, len(new), bytes(golomb(symbols, rice))))
  return passes


def from_stream(passes, size, *, top, step):
  """The weights in a row, over their scales, of as much of the passes as there is."""
  w = [0.0] * size
  for number, rice, count, body in passes:
    left, at = [i for i in range(size) if w[i] == 0], -1
    for symbol in numbers(body, rice, count):
      at += 1 + symbol // 2
      w[left[at]] = (-1) ** symbol * top * step ** (number - 0.5)
  return np.array(w)


def truncated(w, count):
  """Only so many weights, the largest; of equal ones the first."""
  _, order = places_by_size(w)
  return np.array([value if i in order[:count] else 0 for i, value in enumerate(np.ravel(w))]).reshape(np.shape(w))


def successive(w, count, seed=0):
  """The algorithm of SuRP in its own order: one weight above the threshold at a time, which falls a little after each.

  Where none is above it, the rate is measured anew, and the threshold in units of it falls by a tenth.
  """
  rng, n = np.random.default_rng(seed), len(w)
  rest, made = np.abs(np.asarray(w, np.float64)), np.zeros(n)
  units, rate = math.log(n / math.log(n)), n / float(np.abs(w).sum())
  while np.count_nonzero(made) < count:
    above = np.flatnonzero(rest > units / rate)
    if len(above):
      i = rng.choice(above)
      made[i] += units / rate
      rest[i] -= units / rate
      rate *= n / (n - units)
    else:
      rate = n / float(np.abs(rest).sum())
      units *= 1 if (rest > units / rate).any() else 0.9
  return np.sign(w) * made


def allowed_labels(beliefs, threshold):
  return [[belief >= threshold for belief in row] for row in beliefs]


def allowed_rows(allowed):
  pairs = [(i, c, 1 / sum(row)) for i, row in enumerate(allowed) for c in range(len(row)) if row[c]]
  return tuple(list(column) for column in zip(*pairs, strict=True)) or ([], [], [])


def empirical_depth(beliefs, labels):
  least = math.inf
  for row, label in zip(beliefs, labels, strict=True):
    least = min(least, row[label])
  return least


def thresholds(beliefs, most=64):
  found = sorted({0.0, *(float(belief) for row in beliefs for belief in row)})
  if len(found) <= most:
    return found
  step = (len(found) - 1) / (most - 2)
  limit = min(max(row) for row in beliefs)
  return sorted({*(found[round(k * step)] for k in range(most - 1)), limit})


def memo(beliefs, hypotheses):
  """The deepest of a finite set, each the labels that it gives; its depth."""
  return max(empirical_depth(beliefs, labels) for labels in hypotheses)


def crembo(beliefs, fit, score, most=64):
  """The threshold: of the best score, from the greatest depth on."""
  found = []
  for t in thresholds(beliefs, most):
    hypothesis, labels = fit(allowed_labels(beliefs, t))
    found.append((t, empirical_depth(beliefs, labels), score(hypothesis)))
  limit = min(max(row) for row in beliefs)
  deepest = max(depth for t, depth, _ in found if t <= limit)
  best = max(value for t, _, value in found if t >= deepest)
  return min(t for t, _, value in found if t >= deepest and value == best)
