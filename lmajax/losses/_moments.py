"""How far what a network meets lies from what it was trained on, by means and deviations; and a prior of images."""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from lmajax._arguments import check_floats, is_between
from lmajax.types import Array


class Moments(NamedTuple):
  """A mean and a standard deviation of each channel; of LMA one of each for a whole layer.

  >>> Moments(mean=jnp.zeros(3), std=jnp.ones(3))._fields
  ('mean', 'std')
  """

  mean: Array
  std: Array


class Site(NamedTuple):
  """What a normalization has stored of its input, and what it was given now.

  >>> Site(stored=Moments(jnp.zeros(3), jnp.ones(3)), measured=Moments(jnp.zeros(3), jnp.ones(3)))._fields
  ('stored', 'measured')
  """

  stored: Moments
  measured: Moments


Sites = dict[str, Site]
"""By the path of their module."""

Measure = Callable[[Moments, Moments], Array]
"""(stored, measured) -> how far they lie apart, a number a channel."""


def gaussian_divergence(stored: Moments, measured: Moments) -> Array:
  r"""Measures how far one normal distribution lies from another, channel by channel.

  .. math:: \mathrm{KL}\bigl(N(\hat\mu, \hat\sigma^2) \,\|\, N(\tilde\mu, \tilde\sigma^2)\bigr) =
    \log\frac{\tilde\sigma}{\hat\sigma} -
    \frac12 \Bigl(1 - \frac{\hat\sigma^2 + (\hat\mu - \tilde\mu)^2}{\tilde\sigma^2}\Bigr)

  Args:
    stored: of the training data, with hats: the reference.
    measured: of the batch, with tildes.

  Returns:
    Nats, at least 0, in the shape of the means.

  >>> same, wider = Moments(jnp.zeros(1), jnp.ones(1)), Moments(jnp.zeros(1), jnp.full(1, 2.0))
  >>> [round(float(gaussian_divergence(same, each)[0]), 4) for each in (same, wider)]
  [0.0, 0.3181]

  Source: Haroush et al. 2020 (The Knowledge Within), the loss of batch-norm statistics.
  """
  _check(stored, measured)
  # By logarithms: near equality the terms of the formula cancel each other, and far from it a square is lost beside 1.
  log_ratio = 2 * (jnp.log(stored.std) - jnp.log(measured.std))
  off = jnp.square((stored.mean - measured.mean) / measured.std)
  return (jnp.expm1(log_ratio) - log_ratio + off) / 2


def squared_difference(stored: Moments, measured: Moments) -> Array:
  r"""Measures how far two means and two deviations lie apart, channel by channel.

  .. math:: (\tilde\mu - \hat\mu)^2 + (\tilde\sigma - \hat\sigma)^2

  Args:
    stored: of the training data.
    measured: of the batch.

  >>> squared_difference(Moments(jnp.zeros(1), jnp.ones(1)), Moments(jnp.full(1, 2.0), jnp.full(1, 4.0))).tolist()
  [13.0]

  Source: Cai et al. 2020 (ZeroQ). Yin et al. 2020 (DeepInversion) has norms of the means and
  of the variances in place of squares.
  """
  _check(stored, measured)
  return jnp.square(measured.mean - stored.mean) + jnp.square(measured.std - stored.std)


def _check(stored: Moments, measured: Moments) -> None:
  check_floats('stored.mean', stored.mean)
  for name, moments in (('stored', stored), ('measured', measured)):
    check_floats(f'{name}.mean', moments.mean, stored.mean.shape)
    check_floats(f'{name}.std', moments.std, stored.mean.shape)


def divergence(sites: Sites, *, measure: Measure = gaussian_divergence) -> Array:
  """Measures how far inputs lie from the training data, as a trained network sees both.

  It is a loss to make inputs by, and a measure of likeness: of data that are like those of the training it is small.

  Args:
    sites: as ``norm_statistics`` and ``lma_statistics`` give them.
    measure: ``gaussian_divergence``, or ``squared_difference``.

  Returns:
    The mean over the channels of a site, then over the sites. The paper does not tell the weights; this is a choice.

  Raises:
    ValueError: there is no site.

  >>> stored, wider = Moments(jnp.zeros(1), jnp.ones(1)), Moments(jnp.zeros(1), jnp.full(1, 2.0))
  >>> sites = {'one': Site(stored, stored), 'other': Site(stored, wider)}
  >>> round(float(divergence(sites)), 4)
  0.1591

  Source: Haroush et al. 2020 (The Knowledge Within).
  """
  if not sites:
    raise ValueError('sites is empty: give what norm_statistics or lma_statistics returns')
  return jnp.stack([measure(*site).mean() for site in sites.values()]).mean()


def slack(sites: Sites, *, share: float = 0.9) -> dict[str, Moments]:
  """Returns how far off Gaussian inputs lie at most of the channels, which made inputs may then lie off, too.

  Args:
    sites: of a batch of Gaussian inputs.
    share: of a site's channels whose distance is at most the slack, 0 … 1.

  Returns:
    A slack of the means and one of the deviations for each site.

  Raises:
    ValueError: the share is out of range.

  >>> stored = Moments(jnp.zeros(3), jnp.ones(3))
  >>> slack({'one': Site(stored, Moments(jnp.arange(3.0), jnp.ones(3)))}, share=0.5)['one'].mean.tolist()
  1.0

  Source: Zhang et al. 2021 (DSG).
  """
  if not is_between(share, 0.0, 1.0):
    raise ValueError(f'share is {share}; give 0 to 1')

  def of(one: Array, other: Array) -> Array:
    # Counted, not jnp.quantile, which does not know Explicit mesh axes.
    ordered = jnp.sort(jnp.abs(one - other).ravel())
    return ordered[max(int(np.ceil(share * ordered.size)) - 1, 0)]

  return {path: Moments(*map(of, site.measured, site.stored)) for path, site in sites.items()}


def slackened(sites: Sites, slack: dict[str, Moments]) -> Sites:
  r"""Moves what was measured toward what is stored, by the slack at most, so that what lies within it costs nothing.

  .. math:: \tilde\mu' = \hat\mu + \mathrm{sign}(\tilde\mu - \hat\mu) \max(|\tilde\mu - \hat\mu| - \delta, 0)

  and so for the deviations. Made inputs then differ more among each other.

  Args:
    sites: as ``norm_statistics`` gives them.
    slack: δ, as ``slack`` gives it.

  >>> stored = Moments(jnp.zeros(2), jnp.ones(2))
  >>> sites = {'one': Site(stored, Moments(jnp.array([0.5, -3.0]), jnp.ones(2)))}
  >>> slackened(sites, {'one': Moments(jnp.array(1.0), jnp.array(0.0))})['one'].measured.mean.tolist()
  [0.0, -2.0]

  Source: Zhang et al. 2021 (DSG), where the measure is ``squared_difference``.
  """
  if missing := sites.keys() - slack.keys():
    raise ValueError(f'slack has nothing for {sorted(missing)[0]}: give that of the same network')

  def moved(measured: Array, stored: Array, most: Array) -> Array:
    off = measured - stored
    return stored + (off - jnp.clip(off, -most, most))

  return {
    path: site._replace(measured=Moments(*map(moved, site.measured, site.stored, slack[path])))
    for path, site in sites.items()
  }


def roughness(images: Array) -> Array:
  r"""Measures how much neighbours differ: the mean square of their differences, down and across.

  .. math:: \overline{(x_{i+1,j} - x_{i,j})^2} + \overline{(x_{i,j+1} - x_{i,j})^2}

  Args:
    images: [n, height, width, channels].

  Returns:
    A number for each image.

  Raises:
    ValueError: they are no such array.

  >>> roughness(jnp.arange(4.0).reshape(1, 2, 2, 1)).tolist()  # 2² + 1²
  [5.0]

  Source: the prior of Yin et al. 2020 (DeepInversion), with means for sums; Mahendran & Vedaldi 2015.
  """
  check_floats('images', images)
  if images.ndim != 4:
    raise ValueError(f'images is {list(images.shape)}: give [n, height, width, channels]')

  def along(axis: int) -> Array:
    off = jnp.square(jnp.diff(images, axis=axis))
    return off.sum((1, 2, 3)) / max(math.prod(off.shape[1:]), 1)  # a single row has no neighbours

  return along(1) + along(2)
