"""The networks of the benchmarks in PyTorch, written from the equations; imported only where PyTorch is installed."""

import copy
import importlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from lmajax import models

torch: Any = importlib.import_module('torch')  # optional, so nothing here may be typed by it
nn: Any = torch.nn
functional: Any = torch.nn.functional


class LMA(nn.Module):
  """LMA as a plain module: statistics in the forward pass, the segment by comparing, its slope by gathering."""

  def __init__(self, num_segments: int = 8, decay: float = 0.99):
    super().__init__()
    self.num_segments, self.decay = num_segments, decay
    start = (torch.arange(num_segments) >= num_segments // 2).float()
    self.slopes, self.intercepts = nn.Parameter(start), nn.Parameter(torch.zeros(num_segments))
    self.register_buffer('mean', torch.zeros(()))
    self.register_buffer('std', torch.ones(()))

  def forward(self, x: Any) -> Any:
    if self.training:
      with torch.no_grad():
        std, mean = torch.std_mean(x.float())
        self.mean.lerp_(mean, 1 - self.decay)
        self.std.lerp_(std, 1 - self.decay)
    else:
      mean, std = self.mean, self.std
    k = self.num_segments
    index = torch.zeros(x.shape, dtype=torch.int32, device=x.device)
    for j in range(1, k):
      index += x >= mean + 6 * std * (j / k - 0.5)
    return (self.slopes[index] * x + self.intercepts[index]).to(x.dtype)


_ACTIVATIONS: dict[str, Callable[[], Any]] = {
  'relu': nn.ReLU,
  'prelu': nn.PReLU,
  'gelu': lambda: nn.GELU('tanh'),
  'lma-4': lambda: LMA(4),
  'lma-8': LMA,
  'lma-16': lambda: LMA(16),
}


def has(label: str) -> bool:
  return label in _ACTIVATIONS


def activation(label: str) -> Any:
  return _ACTIVATIONS[label]()


class Residual(nn.Module):
  """A block of a wide residual network."""

  def __init__(self, inputs: int, features: int, stride: int, act: Callable[[], Any], dropout: float):
    super().__init__()
    self.inner = nn.Sequential(
      *(nn.BatchNorm2d(inputs), act(), nn.Conv2d(inputs, features, 3, padding=1), nn.Dropout(dropout)),
      *(nn.BatchNorm2d(features), act(), nn.Conv2d(features, features, 3, stride, padding=1)),
    )
    same = stride == 1 and inputs == features
    self.shortcut = nn.Identity() if same else nn.Conv2d(inputs, features, 1, stride)

  def forward(self, x: Any) -> Any:
    return self.inner(x) + self.shortcut(x)


def network(model: Any, label: str, image: tuple[int, int, int]) -> Any:
  """Builds the architecture of a network of lmajax, for images of (height, width, channels)."""
  act = _ACTIVATIONS[label]
  if isinstance(model, models.WideResNet):
    return _wide(model, act, image)
  return _cnn(model, act, image) if isinstance(model, models.CNN) else _mlp(model, act, image)


def _cnn(model: models.CNN, act: Callable[[], Any], image: tuple[int, int, int]) -> Any:
  layers, inputs, dropout, side = [], image[2], dict(model.channel_dropout), image[0]
  for i, features in enumerate(model.channels):
    layers += [nn.Conv2d(inputs, features, model.kernel, padding=model.kernel // 2), nn.BatchNorm2d(features), act()]
    if i in model.pool_after:
      layers.append(nn.MaxPool2d(2))
      side //= 2
    if i in dropout:
      layers.append(nn.Dropout2d(dropout[i]))
    inputs = features
  dense = _dense(inputs * side**2, model.units, act, model.unit_dropout)
  return nn.Sequential(*layers, nn.Flatten(), *dense, nn.Linear(model.units[-1], model.num_classes))


def _dense(inputs: int, units: Sequence[int], act: Callable[[], Any], dropout: float) -> list[Any]:
  layers = []
  for features in units:
    layers += [nn.Linear(inputs, features), nn.BatchNorm1d(features), act(), nn.Dropout(dropout)]
    inputs = features
  return layers


def _mlp(model: models.MLP, act: Callable[[], Any], image: tuple[int, int, int]) -> Any:
  dense = _dense(int(np.prod(image)), model.units, act, 0.0)
  return nn.Sequential(nn.Flatten(), *dense, nn.Linear(model.units[-1], model.num_classes))


def _wide(model: models.WideResNet, act: Callable[[], Any], image: tuple[int, int, int]) -> Any:
  layers, inputs = [nn.Conv2d(image[2], 16, 3, padding=1)], 16
  for group in range(3):
    features = 16 * 2**group * model.widen
    for block in range((model.depth - 4) // 6):
      layers.append(Residual(inputs, features, 2 if group and not block else 1, act, model.dropout))
      inputs = features
  head = [nn.BatchNorm2d(inputs), act(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, model.num_classes)]
  return nn.Sequential(*layers, *head)


def size(network: Any) -> int:
  """Returns the number of parameters of a network."""
  return sum(parameter.numel() for parameter in network.parameters())


LAYOUTS = ('contiguous', 'channels_last')


def _placed(thing: Any, layout: str) -> Any:
  return thing.to(memory_format=torch.channels_last) if layout == 'channels_last' else thing


def _images(images: np.ndarray, layout: str) -> Any:
  return _placed(torch.from_numpy(images.transpose(0, 3, 1, 2).copy()), layout)


def hard_loss(logits: Any, labels: Any, soft: None) -> Any:
  del soft
  return functional.cross_entropy(logits, labels)


def soft_loss(temperature: float, soft_weight: float) -> Callable[[Any, Any, Any], Any]:
  """Returns the paper's mix of soft targets and labels as a loss."""

  def loss(logits: Any, labels: Any, soft: Any) -> Any:
    ours, theirs = (functional.log_softmax(z / temperature, dim=1) for z in (logits, soft))
    divergence = functional.kl_div(ours, theirs, reduction='batchmean', log_target=True)
    return soft_weight * temperature**2 * divergence + (1 - soft_weight) * functional.cross_entropy(logits, labels)

  return loss


def training(
  networks: Sequence[Any],
  batch: tuple[np.ndarray, np.ndarray],
  loss: Callable[[Any, Any, Any], Any],
  *,
  teacher: Any = None,
  layout: str,
  sgd: dict[str, float],
) -> Callable[[], None]:
  """Returns a call that trains each network one step on one batch; a teacher runs once for all of them."""
  networks = [_placed(copy.deepcopy(network), layout).train() for network in networks]
  optimizers = [torch.optim.SGD(n.parameters(), momentum=0.9, nesterov=True, **sgd) for n in networks]
  teacher = None if teacher is None else _placed(copy.deepcopy(teacher), layout).eval()
  images, labels = _images(batch[0], layout), torch.from_numpy(np.array(batch[1], np.int64))

  def step() -> None:
    with torch.no_grad():
      soft = None if teacher is None else teacher(images)
    for network, optimizer in zip(networks, optimizers, strict=True):
      optimizer.zero_grad(set_to_none=True)
      loss(network(images), labels, soft).backward()
      optimizer.step()

  return step


def inference(network: Any, images: np.ndarray, *, layout: str) -> Callable[[], None]:
  """Returns a call that evaluates the network once."""
  network, batch = _placed(copy.deepcopy(network), layout).eval(), _images(images, layout)

  def call() -> None:
    with torch.inference_mode():
      network(batch)

  return call


def alone(label: str, x: np.ndarray, g: np.ndarray, dtype: str) -> tuple[Callable[[], None], Callable[[], None]]:
  """Returns two calls of an activation alone: forward, and forward with the gradients of x and of its parameters."""
  module = activation(label)
  inputs, cotangent = (torch.from_numpy(array).to(getattr(torch, dtype)) for array in (x, g))
  wanted = inputs.clone().requires_grad_()

  def forward() -> None:
    with torch.no_grad():
      module(inputs)

  def both() -> None:
    torch.autograd.grad(module(wanted), [wanted, *module.parameters()], cotangent)

  return forward, both
