"""The losses."""

import math

import numpy as np

from tests.oracles.derivatives import slope_of

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


def gaussian_divergence(stored, measured):
  """As the paper writes it."""
  found = np.zeros(stored[0].shape)
  for at in np.ndindex(found.shape):
    mean, std, other_mean, other = (float(leaf[at]) for leaf in (*stored, *measured))
    found[at] = math.log(other / std) - 0.5 * (1 - (std**2 + (mean - other_mean) ** 2) / other**2)
  return found


def squared_difference(stored, measured):
  found = np.zeros(stored[0].shape)
  for at in np.ndindex(found.shape):
    mean, std, other_mean, other = (float(leaf[at]) for leaf in (*stored, *measured))
    found[at] = (mean - other_mean) ** 2 + (std - other) ** 2
  return found


def divergence(sites, *, measure=gaussian_divergence):
  return np.mean([np.mean(measure(*site)) for site in sites.values()])


def slack(sites, *, share=0.9):
  """The least distance that is at least those of a share of the channels."""

  def of(measured, stored):
    distances = sorted(abs(float(a) - float(b)) for a, b in zip(measured, stored, strict=True))
    return np.float32(next(d for i, d in enumerate(distances) if (i + 1) / len(distances) >= share - 1e-9))

  return {
    path: type(site.stored)(*(of(a, b) for a, b in zip(site.measured, site.stored, strict=True)))
    for path, site in sites.items()
  }


def slackened(sites, slack):
  def moved(measured, stored, most):
    off = [float(a) - float(b) for a, b in zip(measured, stored, strict=True)]
    left = [math.copysign(max(abs(d) - float(most), 0), d) for d in off]
    return np.asarray([float(b) + d for b, d in zip(stored, left, strict=True)])

  return {
    path: site._replace(measured=type(site.stored)(*map(moved, site.measured, site.stored, slack[path])))
    for path, site in sites.items()
  }


def roughness(images):
  found = np.zeros(len(images))
  for i, image in enumerate(images):
    height, width, channels = image.shape
    down = [
      (float(image[y + 1, x, c]) - float(image[y, x, c])) ** 2
      for y in range(height - 1) for x in range(width) for c in range(channels)
    ]  # fmt: skip
    across = [
      (float(image[y, x + 1, c]) - float(image[y, x, c])) ** 2
      for y in range(height) for x in range(width - 1) for c in range(channels)
    ]  # fmt: skip
    found[i] = np.mean(down) + np.mean(across)
  return found


# What a student is compared with its teacher by.


def _of_two(one, other, examples, where):
  """A number for each example that counts, by a function of both sides of it."""
  loss = np.zeros(len(one))
  for i in range(len(one)):
    loss[i] = 0.0 if where is not None and not where[i] else examples(i)
  return loss


def _kl(p, q):
  return sum(a * (math.log(a) - math.log(b)) for a, b in zip(p, q, strict=True) if a > 0)


def _softened(logits, temperature):
  return softmax([float(z) / temperature for z in logits])


def _rows_of(function, *arrays, where=None):
  """Of logits with any axes before the classes; the function is of one row of each."""
  loss = np.zeros(arrays[0].shape[:-1])
  for at in np.ndindex(loss.shape):
    if where is None or where[at]:
      loss[at] = function(*(array[at] for array in arrays))
  return loss


def jensen_shannon(student_logits, teacher_logits, *, share=0.5, temperature=1.0, where=None):
  def one(s, t):
    q, p = _softened(s, temperature), _softened(t, temperature)
    if share in (0, 1):
      return temperature**2 * (_kl(p, q) if share == 0 else _kl(q, p))
    m = [share * a + (1 - share) * b for a, b in zip(p, q, strict=True)]
    return temperature**2 * (share * _kl(p, m) + (1 - share) * _kl(q, m))

  return _rows_of(one, student_logits, teacher_logits, where=where)


def decoupled(student_logits, teacher_logits, labels, *, temperature=4.0, others_weight=8.0, where=None):
  def one(s, t, y):
    q, p = _softened(s, temperature), _softened(t, temperature)
    of_label = _kl([p[y], 1 - p[y]], [q[y], 1 - q[y]])
    others = [[c / (1 - chances[y]) for i, c in enumerate(chances) if i != y] for chances in (p, q)]
    return temperature**2 * (of_label + others_weight * _kl(*others))

  return _rows_of(one, student_logits, teacher_logits, labels, where=where)


def standardized(logits, *, where=None):
  found = np.zeros(logits.shape)
  for at in np.ndindex(logits.shape[:-1]):
    if where is None or where[at]:
      row = [float(z) for z in logits[at]]
      mean = sum(row) / len(row)
      std = math.sqrt(sum((z - mean) ** 2 for z in row) / len(row))
      found[at] = [(z - mean) / (std + 1e-7) for z in row]
  return found


def _correlation(a, b, *, centred=True, epsilon=1e-8):
  a, b = [float(x) for x in a], [float(x) for x in b]
  if centred:
    a, b = [x - sum(a) / len(a) for x in a], [x - sum(b) / len(b) for x in b]
  product = sum(x * y for x, y in zip(a, b, strict=True)) + epsilon
  return product / math.sqrt((sum(x * x for x in a) + epsilon) * (sum(y * y for y in b) + epsilon))


def _both_ways(student, teacher, temperature, where, weights, centred):
  kept = [i for i in range(len(student)) if where is None or where[i]]
  q, p = ({i: _softened(logits[i], temperature) for i in kept} for logits in (student, teacher))
  classes = range(student.shape[1])
  columns = [_correlation([q[i][c] for i in kept], [p[i][c] for i in kept], centred=centred) for c in classes]
  loss = np.zeros(len(student))
  for i in kept:
    row = 1 - _correlation(q[i], p[i], centred=centred)
    loss[i] = temperature**2 * (weights[0] * row + weights[1] * (1 - sum(columns) / len(columns)))
  return loss


def dist(student_logits, teacher_logits, *, temperature=4.0, within_weight=1.0, across_weight=1.0, where=None):
  return _both_ways(student_logits, teacher_logits, temperature, where, (within_weight, across_weight), True)


def value_agreement(student_logits, teacher_logits, *, temperature=4.0, where=None):
  return _both_ways(student_logits, teacher_logits, temperature, where, (1, 1), False)


def rank_agreement(student_logits, teacher_logits, *, temperature=1.0, where=None):
  def ranks(row):
    return [sum(1 / (1 + math.exp((float(b) - float(a)) / temperature)) for b in row) for a in row]

  return _rows_of(lambda s, t: 1 - _correlation(ranks(s), ranks(t)), student_logits, teacher_logits, where=where)


def averaged(teacher_logits, *, weights=None, temperature=1.0):
  weights = weights or [1 / len(teacher_logits)] * len(teacher_logits)
  found = np.zeros(teacher_logits[0].shape)
  for at in np.ndindex(found.shape[:-1]):
    each = [_softened(logits[at], temperature) for logits in teacher_logits]
    for c in range(found.shape[-1]):
      found[*at, c] = temperature * math.log(sum(w * p[c] for w, p in zip(weights, each, strict=True)))
  return found


def to_smaller(student, teacher):
  """Both with the places of the smaller, by means over blocks."""
  least = [min(pair) for pair in zip(student.shape[1:-1], teacher.shape[1:-1], strict=True)]

  def pooled(maps):
    sizes = [size // low for size, low in zip(maps.shape[1:-1], least, strict=True)]
    found = np.zeros((len(maps), *least, maps.shape[-1]))
    for at in np.ndindex(found.shape):
      block = tuple(slice(p * size, (p + 1) * size) for p, size in zip(at[1:-1], sizes, strict=True))
      found[at] = np.mean(maps[at[0]][(*block, at[-1])])
    return found

  return pooled(student), pooled(teacher)


def _unit(numbers):
  length = math.sqrt(sum(float(x) ** 2 for x in numbers))
  return [float(x) / length if length else 0.0 for x in numbers]


def attention_transfer(student_features, teacher_features, *, where=None):
  squares = [(np.asarray(f, np.float64) ** 2).sum(-1, keepdims=True) for f in (student_features, teacher_features)]
  student, teacher = to_smaller(*squares)

  def one(i):
    s, t = _unit(np.ravel(student[i])), _unit(np.ravel(teacher[i]))
    return sum((a - b) ** 2 for a, b in zip(s, t, strict=True)) / len(s)

  return _of_two(student, teacher, one, where)


def neuron_selectivity(student_features, teacher_features, *, where=None):
  student, teacher = to_smaller(np.asarray(student_features, np.float64), np.asarray(teacher_features, np.float64))

  def one(i):
    s, t = ([_unit(np.ravel(f[i, ..., c])) for c in range(f.shape[-1])] for f in (student, teacher))

    def kernel(xs, ys):
      return np.mean([sum(a * b for a, b in zip(x, y, strict=True)) ** 2 for x in xs for y in ys])

    return kernel(s, s) + kernel(t, t) - 2 * kernel(s, t)

  return _of_two(student, teacher, one, where)


def _kept(features, where):
  flat = [[float(x) for x in np.ravel(f)] for f in features]
  return [i for i in range(len(flat)) if where is None or where[i]], flat


def _dot(a, b):
  return sum(x * y for x, y in zip(a, b, strict=True))


def similarity_preserving(student_features, teacher_features, *, where=None):
  kept, student = _kept(student_features, where)
  _, teacher = _kept(teacher_features, where)

  def one(i):
    s, t = (_unit([_dot(f[i], f[j]) for j in kept]) for f in (student, teacher))
    return sum((a - b) ** 2 for a, b in zip(s, t, strict=True)) / len(kept)

  return _of_two(student, teacher, one, where)


def _huber(x):
  return 0.5 * x * x if abs(x) <= 1 else abs(x) - 0.5


def relational_distance(student_features, teacher_features, *, where=None):
  kept, student = _kept(student_features, where)
  _, teacher = _kept(teacher_features, where)

  def distances(f):
    found = {(i, j): math.dist(f[i], f[j]) for i in kept for j in kept}
    apart = [d for d in found.values() if d > 0]
    mean = sum(apart) / len(apart) if apart else 1.0
    return {pair: d / mean for pair, d in found.items()}

  s, t = distances(student), distances(teacher)
  return _of_two(student, teacher, lambda i: sum(_huber(s[i, j] - t[i, j]) for j in kept) / len(kept), where)


def relational_angle(student_features, teacher_features, *, where=None):
  kept, student = _kept(student_features, where)
  _, teacher = _kept(teacher_features, where)

  def cosine(f, i, j, k):
    towards = [_unit([a - b for a, b in zip(f[other], f[i], strict=True)]) for other in (j, k)]
    return _dot(*towards)

  def one(i):
    each = [_huber(cosine(student, i, j, k) - cosine(teacher, i, j, k)) for j in kept for k in kept]
    return sum(each) / len(kept) ** 2

  return _of_two(student, teacher, one, where)


def probabilistic_transfer(student_features, teacher_features, *, where=None):
  kept, student = _kept(student_features, where)
  _, teacher = _kept(teacher_features, where)

  def chances(f, i):
    near = [(1 + _dot(_unit(f[i]), _unit(f[j]))) / 2 for j in kept]
    return [x / sum(near) for x in near]

  def one(i):
    pairs = zip(chances(teacher, i), chances(student, i), strict=True)
    return sum(p * math.log((p + 1e-7) / (q + 1e-7)) for p, q in pairs) / len(kept)

  return _of_two(student, teacher, one, where)
