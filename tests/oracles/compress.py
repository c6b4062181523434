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
