"""The segments of LMA, their statistics, the activations it is compared with, and activations on few levels."""

import math

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
