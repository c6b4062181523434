"""The translation Transformer in PyTorch, written from the equations; imported only where PyTorch is installed."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from lmajax.models import Transformer
from train.data.corpora.vocabulary import PADDING
from train.programs.bench.pytorch import activation, functional, nn, torch

_EPSILON = 1e-6  # Flax's, of the norms


class Recipe(NamedTuple):
  """Options of training: Adam, after a warm-up with a learning rate of the inverse square root of the step."""

  learning_rate: float
  warmup: int
  clip: float
  label_smoothing: float


class Attention(nn.Module):
  """Multi-head scaled dot-product attention, without biases."""

  def __init__(self, features: int, heads: int):
    super().__init__()
    self.heads = heads
    self.query, self.key, self.value, self.output = (nn.Linear(features, features, bias=False) for _ in range(4))

  def forward(self, x: Any, memory: Any, mask: Any) -> Any:
    def split(y: Any) -> Any:
      return y.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    values = split(self.key(memory)), split(self.value(memory))
    found = functional.scaled_dot_product_attention(split(self.query(x)), *values, attn_mask=mask)
    return self.output(found.transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
  """Two dense layers with the activation between them."""

  def __init__(self, features: int, units: int, label: str):
    super().__init__()
    self.first, self.act, self.second = nn.Linear(features, units), activation(label), nn.Linear(units, features)

  def forward(self, x: Any) -> Any:
    return self.second(self.act(self.first(x)))


class Residual(nn.Module):
  """Pre-norm residual connection, ``x + dropout(f(norm(x)))``."""

  def __init__(self, features: int, dropout: float):
    super().__init__()
    self.norm, self.drop = nn.LayerNorm(features, _EPSILON), nn.Dropout(dropout)

  def forward(self, x: Any, function: Callable[[Any], Any]) -> Any:
    return x + self.drop(function(self.norm(x)))


class Encoder(nn.Module):
  """Encoder layer: self-attention in the source, and a feed-forward."""

  def __init__(self, model: Transformer, label: str, *, last: bool):
    super().__init__()
    self.within, self.dense = Attention(model.features, model.heads), FeedForward(model.features, model.units, label)
    self.add_within, self.add_dense = (Residual(model.features, model.dropout) for _ in range(2))
    self.norm = nn.LayerNorm(model.features, _EPSILON) if last else nn.Identity()

  def forward(self, x: Any, mask: Any) -> Any:
    x = self.add_within(x, lambda y: self.within(y, y, mask))
    return self.norm(self.add_dense(x, self.dense))


class Decoder(nn.Module):
  """Decoder layer: attention to the target so far and to the source, and a feed-forward."""

  def __init__(self, model: Transformer, label: str):
    super().__init__()
    self.within, self.across = (Attention(model.features, model.heads) for _ in range(2))
    self.dense = FeedForward(model.features, model.units, label)
    self.add_within, self.add_across, self.add_dense = (Residual(model.features, model.dropout) for _ in range(3))

  def forward(self, x: Any, memory: Any, seen: Any, mask: Any) -> Any:
    x = self.add_within(x, lambda y: self.within(y, y, seen))
    x = self.add_across(x, lambda y: self.across(y, memory, mask))
    return self.add_dense(x, self.dense)


class Network(nn.Module):
  """Pre-norm encoder and decoder layers, with one embedding table for source, target and logits."""

  def __init__(self, model: Transformer, label: str):
    super().__init__()
    encoders, decoders = model.layers
    self.encoders, self.features = encoders, model.features
    self.embed = nn.Embedding(model.vocabulary[0], model.features)
    nn.init.normal_(self.embed.weight, std=model.features**-0.5)
    layers = [Encoder(model, label, last=i == encoders - 1) for i in range(encoders)]
    self.stages = nn.ModuleList([*layers, *(Decoder(model, label) for _ in range(decoders))])
    self.norm, self.drop = nn.LayerNorm(model.features, _EPSILON), nn.Dropout(model.dropout)

  def embedded(self, tokens: Any) -> Any:
    x = self.embed(tokens) * math.sqrt(self.features)
    return self.drop(x + sinusoids(tokens.shape[1], self.features))

  def forward(self, source: Any, target: Any) -> Any:
    mask = (source != PADDING)[:, None, None]
    seen = (target != PADDING)[:, None, None] & torch.ones(target.shape[1], target.shape[1], dtype=torch.bool).tril()
    memory, x = self.embedded(source), self.embedded(target)
    for layer in self.stages[: self.encoders]:
      memory = layer(memory, mask)
    for layer in self.stages[self.encoders :]:
      x = layer(x, memory, seen, mask)
    return functional.linear(self.norm(x), self.embed.weight)


def sinusoids(length: int, features: int) -> Any:
  """Returns Vaswani's position encodings, [length, features]: sines, then cosines."""
  places, waves = torch.arange(length)[:, None], torch.arange(0, features, 2) / features
  angles = places / 10_000**waves
  return torch.cat([angles.sin(), angles.cos()], dim=1)


def network(model: Transformer, label: str) -> Any:
  """Builds the architecture of a Transformer of lmajax, which has to be pre-norm, tied and projected."""
  assert model.pre_norm and model.tied and model.projected, 'PyTorch has the layout of the translations alone'
  return Network(model, label)


def training(
  network: Any, inputs: tuple[np.ndarray, np.ndarray], labels: np.ndarray, recipe: Recipe
) -> Callable[[], Any]:
  """Returns a call that trains one step on one batch and returns the loss.

  With LMA the batch must have no padding, since LMA measures all tokens.
  """
  parameters = list(network.train().parameters())
  adam = torch.optim.Adam(parameters, recipe.learning_rate, betas=(0.9, 0.98), eps=1e-9, fused=True)
  factor = torch.optim.lr_scheduler.LambdaLR(
    adam, lambda count: min((count + 1) / recipe.warmup, math.sqrt(recipe.warmup / (count + 1)))
  )
  source, target, right = (torch.from_numpy(np.array(tokens, np.int64)) for tokens in (*inputs, labels))
  how = {'ignore_index': PADDING, 'label_smoothing': recipe.label_smoothing}

  def step() -> Any:
    adam.zero_grad(set_to_none=True)
    loss = functional.cross_entropy(network(source, target).flatten(0, 1), right.flatten(), **how)
    loss.backward()
    nn.utils.clip_grad_norm_(parameters, recipe.clip)
    adam.step()
    factor.step()
    return loss.detach()

  return step
