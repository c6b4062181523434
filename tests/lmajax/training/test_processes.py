"""A training by several processes is that of one, stops in all of them at one step, and goes on."""

import json
import signal
import socket
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from tests.support.processes import finished, start

_TRAINED = """
import json, os, signal, sys
import jax, numpy as np, optax
process, port, folder, at = int(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4])
if process >= 0:
  jax.distributed.initialize(f'localhost:{port}', 2, process)
from lmajax import LMA, models, training

inputs = np.random.default_rng(0).normal(size=(48, 4)).astype(np.float32)

class Items:
  def __len__(self):
    return 48

  def __getitem__(self, i):
    seen.append(i)
    if len(seen) == at:
      os.kill(os.getpid(), signal.SIGTERM)
    return inputs[i], int(inputs[i].argmax())

seen = []
data = inputs, inputs.argmax(1)
fitted = training.fit(models.MLP((6,), 4, LMA), Items(), optax.sgd(0.1), epochs=3, batch_size=8, validation=data,
  folder=folder or None)
print(json.dumps([len(seen), fitted.history, fitted.evaluate(data), fitted.logits(inputs[:8]).tolist()]))
if process >= 0:
  jax.distributed.shutdown()
"""


def pair(folder='', at=(-1, -1)):
  with socket.socket() as probe:
    probe.bind(('localhost', 0))
    port = probe.getsockname()[1]
  started = [start('-c', _TRAINED, i, port, folder, at[i], devices=4) for i in range(2)]
  with ThreadPoolExecutor() as pool:
    return list(pool.map(finished, started))


def told(done):
  assert done.returncode == 0, done.stderr
  return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
def test_two_processes_train_as_one_and_are_stopped_as_one(tmp_path):
  alone = told(finished(start('-c', _TRAINED, -1, 0, '', -1, devices=8)))
  stopped = pair(tmp_path / 'run', at=(-1, 40))
  assert [done.returncode for done in stopped] == [128 + signal.SIGTERM] * 2, stopped[0].stderr
  apart = [told(done) for done in pair(tmp_path / 'run')]
  whole = [told(done) for done in pair()]
  for (_, history, scores, logits), (_, *expected) in zip(apart, whole, strict=True):
    assert [history, scores, logits] == expected  # the same bits
  for seen, history, scores, logits in whole:
    assert seen < 0.7 * alone[0]  # each process reads the examples of its own devices
    for ours, theirs in zip(history, alone[1], strict=True):
      np.testing.assert_allclose(ours['loss'], theirs['loss'], rtol=1e-4)
      assert abs(ours['validation_accuracy'] - theirs['validation_accuracy']) < 1.5 / 48  # one example, by rounding
    assert scores.keys() == alone[2].keys()
    np.testing.assert_allclose(logits, alone[3], atol=1e-4)
