"""Draws the README's picture of LMA: ``python docs/picture.py``."""

from pathlib import Path

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sklearn.datasets import load_digits

from lmajax import LMA, Stats, lma, measure, relu_init, segment_index, training

K = 8
_OUT = Path(__file__).parent / 'static' / 'lma.png'


class Net(nn.Module):
  """Two convolutions, each with LMA behind it."""

  @nn.compact
  def __call__(self, x, *, train):
    """Returns logits and what each LMA was given."""
    inputs = []
    for layer in (nn.Conv(6, (3, 3), strides=2), nn.Conv(12, (3, 3), strides=2)):
      x = layer(x)
      inputs.append(x)
      x = LMA(K)(x, train=train)
    return nn.Dense(10)(x.mean((1, 2))), tuple(inputs)


def draw(path: Path = _OUT, *, epochs: int = 60) -> None:
  """Trains a small network on digits, and draws what its second LMA sees, starts from and becomes."""
  images, labels = load_digits(return_X_y=True)
  images = (images / 16).astype(np.float32).reshape(-1, 8, 8, 1)
  fitted = training.fit(Net(), (images, labels), optax.adam(3e-3), epochs=epochs, batch_size=64)
  _, inputs = Net().apply(fitted.variables, images, train=False)
  stats = measure(inputs[-1])
  slopes, intercepts = relu_init(K)
  own = fitted.params['LMA_1']
  figure = Figure(figsize=(10, 3.2), layout='constrained')
  axes = figure.subplots(1, 3)
  axes[0].hist(np.ravel(inputs[-1]), 80, range=_range(stats), color='#9db7d5')
  axes[0].set_yticks([])
  axes[0].set_title(f"the mean ± 3 deviations of a layer's input,\nin {K} segments")
  _pieces(axes[1], slopes, intercepts, stats)
  axes[1].set_title('one affine piece a segment,\nwhich begins as ReLU about the mean')
  _pieces(axes[2], slopes + own['slope_deltas'], own['intercepts'], stats)
  axes[2].set_title("and what training makes of it:\nslopes and intercepts of the layer's own")
  for axis in axes:
    axis.title.set_size(9)
    axis.tick_params(labelsize=7)
    axis.set_xlim(*_range(stats))
    for j in range(1, K):
      axis.axvline(float(stats.mean + 6 * stats.std * (j / K - 0.5)), color='#bbbbbb', linewidth=0.7, linestyle=':')
  figure.savefig(path, dpi=110)


def _range(stats: Stats) -> tuple[float, float]:
  return float(stats.mean - 3.2 * stats.std), float(stats.mean + 3.2 * stats.std)


def _pieces(axis: Axes, slopes: Array, intercepts: Array, stats: Stats) -> None:
  x = jnp.linspace(*_range(stats), 2001)
  y, segment = lma(x, slopes, intercepts, stats), segment_index(x, stats, K)
  for k in range(K):
    axis.plot(x[segment == k], y[segment == k], color='#d95f02', linewidth=1.8)


if __name__ == '__main__':
  draw()
