"""What is no argument is refused by a ValueError that says what and where: as a user meets it, without type checks."""

import json
import re
import subprocess
import sys

import pytest

from tests import ROOT

# Expression -> what its line says. X is [2, 3]; INTS too; each runs in a process that checks no annotations.
REFUSED = {
  # losses
  'soft_targets(None, X)': 'student_logits is NoneType; give an array of floats',
  'soft_targets(X, [1.0, 2.0])': 'teacher_logits is list; give an array of floats',
  'soft_targets(INTS, INTS)': r'student_logits is int32\[2, 3\]',
  'soft_targets(SCALAR, SCALAR)': r'student_logits is float32\[\]; .* 1 axis or more',
  'soft_targets(X, X[:1])': r'student_logits is float32\[2, 3\] and teacher_logits .*; give two of one shape',
  'soft_targets(X, BIG)': 'teacher_logits is >f4',
  'soft_targets(X, X, where=X)': r'where is float32\[2, 3\] and .* one bool per example',
  'soft_targets(X, X, where=jnp.ones(3, bool))': r'where is bool\[3\]',
  'soft_targets(X, X, temperature="2")': "temperature is '2'",
  'soft_targets(X, X, temperature=X)': r'temperature is float32\[2, 3\],',
  'soft_targets(X, X, temperature=True)': 'temperature is True',
  'distillation(X, X, None)': 'labels is NoneType; give an array of class numbers',
  'distillation(X, X, [0, 1])': 'labels is list',
  'distillation(X, X, jnp.ones(2, bool))': r'labels is bool\[2\]',
  'distillation(X, X, jnp.zeros(3, int))': r'labels is int32\[3\] and student_logits .*; give one class number',
  'distillation(X, X, jnp.zeros((2, 4)))': r'labels is float32\[2, 4\]',
  'distillation(X, X, LABELS, soft_weight=None)': 'soft_weight is None',
  'representation_error(SCALAR, SCALAR)': 'student_tap is .* 1 axis or more',
  'representation_error(X, X[:1])': r'and teacher_tap float32\[1, 3\]',
  'representation_error(X[:, :0], X[:, :0])': 'nothing to compare',
  'representation_error(INTS, X)': r'student_tap is int32\[2, 3\]',
  'gradient_penalty(jnp.sum, X, X[:1], KEY)': 'real is .* and fake',
  'gradient_penalty(jnp.sum, X, None, KEY)': 'fake is NoneType',
  'gradient_penalty(jnp.sum, SCALAR, SCALAR, KEY)': 'real is .* 1 axis or more',
  'top_k(SCALAR, 1)': r'logits is float32\[\]',
  'top_k(X, 1.5)': 'the 1.5 likeliest of 3',
  'top_k(X, True)': 'the True likeliest of 3',
  'from_top_k(TopK(X, X), 5)': r'classes is float32\[2, 3\]; give an array of class numbers',
  'from_top_k(TopK(X, INTS[:1]), 5)': 'log_probabilities is .* and classes',
  'from_top_k(TopK(X, INTS), 5.0)': '3 known classes of 5.0',
  'from_top_k(TopK(X[:, :0], INTS[:, :0]), 5)': '0 known classes of 5',
  # training
  'training.nnx(3)': 'module is a int: give an instance of an NNX module',
  'training.linen(MLP)': 'module is a .*: give an instance of a Linen module',
  'training.function(MLP((2,), 3, LMA), {})': 'apply is a MLP: give a function',
  'training.fit(print, X, optax.sgd(0.1), epochs=1)': r'model is a builtin.*, or a network made by function',
  'training.fit(MLP((2,), 3, LMA), X, print, epochs=1)': 'tx is builtin.*: give an optimizer of optax',
  'training.fit(MLP((2,), 3, LMA), 3, optax.sgd(0.1), epochs=1)': 'data is int: give a pair of arrays',
  'training.fit(MLP((2,), 3, LMA), X, optax.sgd(0.1), epochs=2.5)': 'epochs is 2.5',
  'training.fit(MLP((2,), 3, LMA), X, optax.sgd(0.1), epochs=1, seed=None)': 'seed is None',
  'training.fit(MLP((2,), 3, LMA), X, optax.sgd(0.1), epochs=1, sharding=0)': 'sharding is int: give a NamedSharding',
  'training.logits([1.0])': 'logits is list; give an array of floats',
  'training.distill(MLP((2,), 3, LMA), MLP((2,), 3, LMA))': 'key is None: give one, .* make the network with variables',
  'training.grafted(({}, {}), {})': 'variables is tuple: give a dictionary of',
  'training.distill(MLP((2,), 3, LMA), X)': 'model is a ArrayImpl: give a Linen module',
  'training.Checkpoints("a", keep=0)': 'keep is 0',
  # activations
  'MLP((2,), 3, LMA()).init(KEY, X, train=False)': r'act is an instance, .*: give LMA or partial\(LMA, \.\.\.\)',
  'MLP((2,), 3, jax.nn.relu).init(KEY, X, train=False)': r'act is relu, .*makes no activation \(.*\): .*Elementwise',
  'MLP((2,), 3, functools.partial(LMA, ks=4)).init(KEY, X, train=False)': r"act is partial, .*unexpected .*'ks'",
  'linen.Quantized(LMA()).init(KEY, X, train=False)': 'act is an instance',
  'prelu(X, jnp.ones(3))': r'slope is float32\[3\]; give an array of floats of the shape \(\)',
  'prelu(INTS, SCALAR)': r'x is int32\[2, 3\]',
  'swish(X, jnp.ones(2))': r'slope is float32\[2\]; .* of the shape \(3,\)',
  'swish(SCALAR, SCALAR)': 'x is .* 1 axis or more',
  'aplu(X, jnp.ones((4, 2)), jnp.ones((4, 2)))': r'slopes is float32\[4, 2\]; .* of the shape \(4, 3\)',
  'aplu(X, jnp.ones((4, 3)), jnp.ones((2, 3)))': r'slopes is float32\[4, 3\] and cuts float32\[2, 3\]',
  'aplu(X, None, None)': 'slopes is NoneType',
  'aplu_init(KEY, 2.5, 3)': 'num_segments is 2.5',
  'aplu_init(KEY, 8, 0)': 'channels is 0; give a whole number of at least 1',
  'fake_quantize(X, SCALAR, SCALAR, 9)': 'bits is 9; give 1 to 8',
  'fake_quantize(X, SCALAR, SCALAR, True)': 'bits is True',
  'fake_quantize(X, 0.0, SCALAR, 4)': 'low is float; give',
  'fake_quantize(INTS, SCALAR, SCALAR, 4)': r'x is int32\[2, 3\]',
  'lma(X, jnp.ones(4), jnp.ones(4), (SCALAR, SCALAR))': 'stats is tuple; give Stats',
  'lma(X, jnp.ones(4), jnp.ones(4), None)': 'stats is NoneType; give Stats',
  'lma(X, jnp.ones(4), jnp.ones(3), STATS)': 'two vectors of one length',
  'measure([1.0, 2.0])': 'x is list; give an array of floats',
  'measure(INTS)': r'x is int32\[2, 3\]; give an array of floats',
  'lma(X, *relu_init(4), Stats(0.0, 1.0))': r'stats.mean is float; give an array of floats of the shape \(\)',
  'lma_plain(X, *relu_init(4), STATS._replace(mean=X))': r'stats.mean is float32\[2, 3\]',
  'lma(INTS, *relu_init(4), STATS)': r'x is int32\[2, 3\]',
  'lma(X, [0.0, 1.0], jnp.ones(2), STATS)': 'slopes is list',
  'segment_index(X, Stats(0.0, 1.0), 4)': 'stats.mean is float',
  'joined_intercepts(jnp.ones(4), Stats(0.0, 1.0))': 'stats.mean is float',
  'update_stats(init_stats(), Stats(0.0, 1.0), decay=0.9)': 'stats.mean is float',
  'update_stats(RunningStats(0.0, 0.0, 0.0), STATS, decay=0.9)': 'stats.mean is float',
  'measure(X, where=X)': r'where is float32\[2, 3\]; give an array of bools',
  'debias((SCALAR, SCALAR, SCALAR))': 'stats is tuple',
  'debias(init_stats()._replace(mean=None))': 'stats.mean is NoneType',
  'update_stats(init_stats(), STATS, decay="9")': "decay is '9'",
  'update_stats(init_stats(), STATS, decay=1)': 'decay is 1,',
  'relu_init("8")': "num_segments is '8'",
  'relu_init(8.0)': 'num_segments is 8.0',
  'segment_index(X, STATS, None)': 'num_segments is None',
  'batch_norm_stats(X[0], X[0], SCALAR, count=4)': r'bias is float32\[\]; .* of the shape \(3,\)',
  'batch_norm_stats(X[0], X[0], X[0], count=0)': 'count is 0',
  'fold_batch_norm(*relu_init(4), STATS, {})': 'norm has no bias, mean, scale, variance',
  'fold_batch_norm(*relu_init(4), STATS, dict(scale=X[0], bias=X[0], mean=X[0], variance=SCALAR))': 'variance is',
  # weights from less
  'uniform(4).init({"a": {"kernel": INTS}}, KEY)': r'a/kernel is int32\[2, 3\]; give an array of floats',
  'uniform(4).init({"kernel": [1.0, 2.0]}, KEY)': r'kernel/0 is float',
  'uniform(4).init({"kernel": BIG}, KEY)': 'kernel is',
  'points(2).init({"kernel": "abc"}, KEY)': 'kernel is str',
  'points(2).init({"kernel": jnp.array([1.0, jnp.nan])}, KEY)': 'kernel holds NaN or infinity',
  'points(2, start="even")': "start is 'even'",
  'points(2, shares={"kernel": 2.5}).init({"kernel": X}, KEY)': r"shares\['kernel'\] is 2.5",
  'share_points({"kernel": "1"}, 2)': r"norms\['kernel'\] is '1'",
  'uniform(4, bucket_size=2.0)': 'bucket_size is 2.0',
  'uniform(4, bucket_size=True)': 'bucket_size is True',
  'uniform(4, bucket_size="row")': "bucket_size is 'row'",
  'product(4, 2).init({"kernel": X.astype(jnp.complex64)}, KEY)': 'kernel is complex64',
  'product(4, 2, iterations=-1)': 'iterations is -1',
  'product(4, 0)': 'block_size is 0',
  'multi_hash(True)': 'ratio is True',
  'multi_hash(".1")': "ratio is '.1'",
  'multi_hash(.5).init({"kernel": INTS}, KEY)': r'kernel is int32\[2, 3\]; give an array of floats',
  'hash_pools(.5, 1.5)': 'hashes is 1.5',
  'product_codebook(4, 2).init({"kernel": 3}, KEY)': 'kernel is int',
  'product_codebook(257, 2)': 'num_centroids is 257; give 2 to 256',
  'noise(uniform(4), "1")': "rate is '1'",
  'noise(uniform(4), 0.5).init({"kernel": INTS}, KEY)': r'kernel is int32\[2, 3\]',
  # thin networks and decoding
  'widths_at([], "1")': "the share is '1'",
  'widths_at([], 0.5, minimum=0)': 'minimum is 0',
  'solve(None, True, None, full=1)': 'the rate is True',
  'full_widths({"params": {"kernel": SCALAR}}, (Channels(("params/kernel",)),))': r'params/kernel is float32\[\]',
  'slice_params({"kernel": X}, {}, (Channels(("params/kernel",)),), (1.5,), l1_norm)': 'width of params/kernel is 1.5',
  'beam_search(None, X, beams=1.5, length=3)': 'beams is 1.5',
  'greedy(None, X, length="3")': "length is '3'",
}
# Empty ones that mean something: no example, no entry.
TAKEN = {
  'soft_targets(X[:0], X[:0]).shape': '(0,)',
  'distillation(X[:0], X[:0], LABELS[:0]).shape': '(0,)',
  'representation_error(X[:0], X[:0]).shape': '(0,)',
  'gradient_penalty(jnp.sum, X[:0], X[:0], KEY).shape': '(0,)',
  'top_k(X[:0], 2).classes.shape': '(0, 2)',
  'lma(X[:0], *relu_init(4), STATS).shape': '(0, 3)',
  'float(measure(X[:0]).std)': 'inf',
  'uniform(4).init({"kernel": X[:0]}, KEY)[0]["kernel"].shape': '(0, 3)',
  'representation_error(np.ones((2, 3), np.float32), X).tolist()': '[0.0, 0.0]',
}

_TRYING = """
import functools, json, sys
import jax, jax.numpy as jnp, numpy as np
import optax
from lmajax import *
from lmajax import training
from lmajax.activations import *
from lmajax.compress import *
from lmajax.losses import *
from lmajax.models import *
from lmajax.types import *

KEY, X, INTS, SCALAR = jax.random.key(0), jnp.ones((2, 3)), jnp.ones((2, 3), jnp.int32), jnp.float32(0)
SEVERAL = type('Several', (), {'steps_per_epoch': 2, '__getitem__': lambda batches, step: None})()
LABELS, STATS, BIG = jnp.zeros(2, jnp.int32), Stats(SCALAR, SCALAR), np.ones((2, 3), '>f4')
said = {}
for text in json.load(sys.stdin):
  try:
    said[text] = [None, str(eval(text))]
  except Exception as error:
    said[text] = [type(error).__name__, str(error)]
json.dump(said, sys.stdout)
"""


@pytest.fixture(scope='module')
def said():
  """Expression -> the type of its error, None without one, and its text."""
  texts = json.dumps([*REFUSED, *TAKEN])
  done = subprocess.run([sys.executable, '-c', _TRYING], input=texts, capture_output=True, text=True, cwd=ROOT)
  assert done.returncode == 0, done.stderr
  return json.loads(done.stdout)


@pytest.mark.parametrize('text', REFUSED)
def test_is_refused_in_a_line(said, text):
  kind, line = said[text]
  assert (kind, '\n' in line) == ('ValueError', False), (kind, line)
  assert re.search(REFUSED[text], line), line


@pytest.mark.parametrize('text', TAKEN)
def test_is_taken(said, text):
  assert said[text] == [None, TAKEN[text]]
