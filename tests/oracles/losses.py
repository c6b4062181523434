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
