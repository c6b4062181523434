"""Batches whose owner is stopped at one of them, and the losses of two ways to train the same students."""

import os
import signal

import numpy as np

from tests.support.processes import metrics


class Stopping:
  """Batches that send a signal when that of one step is asked for."""

  def __init__(self, batches, step):
    self._batches, self._step = batches, step

  def __getattr__(self, name):
    return getattr(self._batches, name)

  def __getitem__(self, step):
    if step == self._step:
      os.kill(os.getpid(), signal.SIGTERM)
    return self._batches[step]


def losses(folder):
  """(Phase, step) -> the losses of its seeds."""
  return {(line['phase'], line['step']): line['train_loss'] for line in metrics(folder)}


def assert_losses_are_near(folder, other, **near):
  ours, theirs = losses(folder), losses(other)
  assert ours.keys() == theirs.keys() and ours
  for key, loss in theirs.items():
    np.testing.assert_allclose(ours[key], loss, **near, err_msg=str(key))
