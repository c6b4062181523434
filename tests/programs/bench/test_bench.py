"""The harness times what it says, and every benchmark runs to its files; no test looks at a time."""

import dataclasses
import json
import random
import re
from importlib import util

import chex
import jax
import numpy as np
import pytest

from tests import ROOT
from train.__main__ import main
from train.commands.tables import filled
from train.programs.bench import activation, files, networks, record, run, stages
from train.programs.bench.config import Activation, Latency, Scaling, Stages, Step, check
from train.runtime import timing
from train.runtime.errors import UserError

TORCH = util.find_spec('torch') is not None


class Clock:
  """A clock that only contestants move."""

  def __init__(self):
    self.now = 0.0
    self.order = []

  def __call__(self):
    return self.now

  def contestant(self, name, *seconds):
    """Takes the given times one after another, the last of them from then on."""
    left = list(seconds)

    def call():
      self.order.append(name)
      self.now += left.pop(0) if len(left) > 1 else left[0]

    return call


def timed(contestants, clock, **options):
  return timing.interleaved(contestants, clock=clock, rest=lambda: None, **options)


def test_warm_up_is_not_counted():
  clock = Clock()
  samples = timed({'a': clock.contestant('a', 90, 70, 1, 2, 3)}, clock, rounds=3, at_least=0)
  assert samples == {'a': [1, 2, 3]}


def test_every_round_has_each_once_in_an_order_of_its_own():
  clock, names = Clock(), list('abcdef')
  contestants = {name: clock.contestant(name, i + 1) for i, name in enumerate(names)}
  samples = timed(contestants, clock, rounds=4, at_least=0, seed=5)
  assert samples == {name: [i + 1] * 4 for i, name in enumerate(names)}
  turns = clock.order[2 * len(names) :]
  rounds = [turns[i : i + 6] for i in range(0, 24, 6)]
  assert all(sorted(one) == names for one in rounds)
  assert len({tuple(one) for one in rounds}) == 4
  shuffle, expected = random.Random(5).shuffle, list(names)
  shuffle(expected)
  assert rounds[0] == expected


def test_short_calls_are_repeated_until_a_turn_is_long_enough():
  clock = Clock()
  contestants = {'short': clock.contestant('short', 0.25), 'long': clock.contestant('long', 8)}
  assert timed(contestants, clock, rounds=2, at_least=1) == {'short': [0.25, 0.25], 'long': [8, 8]}
  assert clock.order.count('short') == 2 + 2 * 4
  assert clock.order.count('long') == 2 + 2


def test_there_is_a_rest_before_every_turn():
  clock, rests = Clock(), []
  contestants = {name: clock.contestant(name, 1) for name in 'ab'}
  timing.interleaved(contestants, rounds=3, clock=clock, rest=lambda: rests.append(clock.now))
  assert len(rests) == 6


def test_ratios_are_taken_round_by_round():
  ratio = timing.ratio([2, 30, 8, 4, 10], [1, 10, 2, 4, 2])  # 2 3 4 1 5: a slow round slows both
  assert ratio.median == 3
  assert (ratio.low, ratio.high) == pytest.approx((1.4, 4.6))  # numpy's linear percentiles of 1 2 3 4 5
  assert timing.median([3, 1, 9]) == 3


def test_the_best_way_is_the_fastest():
  clock = Clock()
  ways = {'slow': clock.contestant('slow', 3), 'fast': clock.contestant('fast', 2)}
  assert timing.best(ways, clock=clock) == ('fast', ways['fast'])


def ran(tmp_path, capsys, name, *options):
  """The record of a benchmark that the command line ran; its table is what was printed."""
  out = tmp_path / 'out'
  assert main(['bench', name, '--out', str(out), '--rounds', '2', *options]) == 0
  assert sorted(path.name for path in out.iterdir()) == [f'{name}.json', f'{name}.png']
  assert (out / f'{name}.png').stat().st_size > 5000
  figures = record.read(out / f'{name}.json')
  assert figures['environment']['jax'] == jax.__version__
  assert figures['environment']['date']
  text = f'<!-- table of out/{name} -->\n<!-- end of table -->'
  table = filled(text, tmp_path).splitlines()[2:-2]
  assert table[-1].endswith(f'{figures["environment"]["date"]}.')
  printed = capsys.readouterr().out
  assert '\n'.join(table) in printed  # made again from the JSON alone
  return figures, table


def sensible(row):
  assert row['seconds'] > 0
  assert 0 < row['ratio_low'] <= row['ratio'] <= row['ratio_high']


LIBRARIES = ('JAX', 'PyTorch') if TORCH else ('JAX',)


def test_activation(tmp_path, capsys):
  options = ['--sizes', '640', '1280', '--dtypes', 'float32', '--activations', 'relu', 'lma-8', '--batch-size', '2']
  figures, table = ran(tmp_path, capsys, 'activation', *options, '--network', 'mlp')
  rows = figures['rows']
  for row in rows:
    sensible(row)
  names = ['relu', 'lma-8', 'lma-8, measuring', 'measure', 'copy']
  peers = ['PyTorch relu', 'PyTorch lma-8, measuring'] if TORCH else []
  forward = [row for row in rows if row['pass'] == 'forward' and row['elements'] == 1280]
  assert [row['name'] for row in forward] == names + peers
  assert forward[0]['ratio'] == forward[0]['ratio_low'] == 1
  assert forward[0]['bytes_accessed'] == 2 * 4 * 1280
  assert forward[names.index('copy')]['bandwidth_share'] == 1
  assert set(figures['memory']) == {'relu', 'lma-8'}
  assert 0 < figures['memory']['relu'] < figures['memory']['lma-8']
  assert len(table) == 2 + len(names + peers) + 2


@pytest.mark.slow
def test_step(tmp_path, capsys):
  options = ['--networks', 'student-3', '--activations', 'relu', '--cohorts', '2', '--batch-size', '2']
  figures, table = ran(tmp_path, capsys, 'step', *options)
  found = [(row['labels'], row['students'], row['library']) for row in figures['rows']]
  assert found == [
    (labels, n, library) for labels, n in (('hard', 1), ('distilled', 1), ('distilled', 2)) for library in LIBRARIES
  ]
  for row in figures['rows']:
    sensible(row)
    assert row['images_per_second'] == pytest.approx(2 * row['students'] / row['seconds'])
    assert (row['layout'] is None) == (row['library'] == 'JAX')
  assert len(table) == 2 + 3 + 2


@pytest.mark.slow
def test_scaling(tmp_path, capsys):
  options = ['--devices', '1', '2', '--processes', '2', '--segments', '2', '4', '--sizes', '640']
  figures, table = ran(
    tmp_path, capsys, 'scaling', *options, '--batch-sizes', '2', '--batch-size', '4', '--network', 'mlp'
  )
  assert [(row['processes'], row['devices']) for row in figures['devices']] == [(1, 1), (1, 2), (2, 2)]
  assert [(row['pass'], row['segments']) for row in figures['segments']] == [
    (which, k) for which in activation.PASSES for k in (2, 4)
  ]
  assert [row['activation'] for row in figures['batches']] == ['relu', 'lma-8']
  for row in (*figures['devices'], *figures['segments'], *figures['batches']):
    sensible(row)
  assert sum(line.startswith('| ---') for line in table) == 3


def test_latency(tmp_path, capsys):
  options = ['--networks', 'mlp', '--activations', 'relu', 'lma-8', 'swish', '--batch-sizes', '1', '3']
  figures, table = ran(tmp_path, capsys, 'latency', *options)
  ours = [(row['batch'], row['activation']) for row in figures['rows'] if row['library'] == 'JAX']
  assert ours == [(size, label) for size in (1, 3) for label in ('relu', 'lma-8', 'swish')]
  assert {row['library'] for row in figures['rows']} == set(LIBRARIES)
  for row in figures['rows']:
    sensible(row)
  assert len(table) == 2 + 3 + 2


def test_files(tmp_path, capsys):
  figures, table = ran(tmp_path, capsys, 'files', '--networks', 'mlp')
  rows = {row['file']: row for row in figures['rows']}
  for row in rows.values():
    sensible({**row, 'seconds': row['read_seconds']})
    assert row['write_seconds'] > 0
  whole, half = rows['float32']['bytes'], rows['uniform, 4 bits']['bytes']
  assert rows['float32, safetensors alone']['bytes'] < whole > 6 * half
  assert rows['sparse, 10 %, 4 bits']['bytes'] < rows['sparse, 10 %']['bytes'] < half
  assert len(table) == 2 + 8 + 2


def test_rate(tmp_path, capsys):
  options = ['--weights', '20000', '--densities', '0.1', '1', '--steps', '0.7']
  assert main(['bench', 'rate', *options, '--out', str(tmp_path)]) == 0
  table = capsys.readouterr().out.splitlines()
  rows = record.read(tmp_path / 'rate.json')['rows']
  assert [row['kind'] for row in rows] == 2 * ['stream, d = 0.7', 'sparse, 4 bits'] + 7 * ['uniform']
  for row in rows:
    assert row['least'] == pytest.approx(max(0, -np.log2(row['error'])))
    assert row['bits'] >= row['least']
  stream, cut, whole, *_ = rows
  w = np.abs(np.random.default_rng(0).laplace(size=20_000).astype(np.float32))
  assert cut['error'] == pytest.approx(np.sort(w)[:18_000].sum() / 20_000, abs=0.04)
  assert stream['bits'] < cut['bits'] < whole['bits'] and stream['error'] > whole['error']
  assert (tmp_path / 'rate.png').stat().st_size > 5000
  assert sum(line.startswith('| ') for line in table) == 2 + len(rows)


def test_what_is_written_is_read():
  params = {'kernel': np.random.default_rng(0).standard_normal((40, 40), np.float32), 'bias': np.ones(40, np.float32)}
  for name, kind in files.kinds(params, {}).items():
    found = kind.read(kind.write())
    kernel = found['params/kernel'] if name == files.BASE else found['kernel']
    assert kernel.shape == (40, 40) and kernel.dtype == np.float32
    assert np.count_nonzero(kernel) == (160 if '10 %' in name and 'hash' not in name else 1600), name


def test_stages(tmp_path, capsys):
  figures, table = ran(tmp_path, capsys, 'stages', '--networks', 'wrn-10-1', '--batch-size', '1')
  (row,) = figures['rows']
  sensible(row)
  assert len(row['stage_seconds']) == 3
  assert row['sum_seconds'] > max(row['stage_seconds']) > 0
  assert len(table) == 2 + 1 + 2


def test_the_stages_that_are_timed_together_are_those_timed_one_by_one():
  timed = {name: call() for name, call in stages.contestants('wrn-10-1', 1).items()}
  (loss, _), grads = timed.pop('together')
  np.testing.assert_allclose(loss, sum(value for (value, _), _ in timed.values()), rtol=1e-5)
  summed = jax.tree.map(lambda *leaves: sum(leaves), *(gradient for _, gradient in timed.values()))
  chex.assert_trees_all_close(grads, summed, rtol=1e-4, atol=1e-6)


def test_the_gradients_that_are_timed_are_those_of_the_activation():
  x, g = activation.arrays(640, 'float32')
  dtype = np.float64
  program = activation.alone(networks.labelled('prelu')(), x, g, 'forward and backward')
  y, (params, dx) = program.call()
  assert np.asarray(y) == pytest.approx(np.where(x >= 0, x, np.asarray(x, dtype)), rel=1e-6)  # its drawn slope is 1
  assert np.asarray(dx) == pytest.approx(np.asarray(g), rel=1e-6)
  assert float(params['slope']) == pytest.approx(float(np.sum(np.where(x < 0, g * x, 0), dtype=dtype)), rel=1e-4)


WRONG = [
  (Activation(sizes=(100,)), '--sizes is 100'),
  (Activation(activations=('lma-8',)), '--activations is without relu'),
  (Step(rounds=0), '--rounds is 0'),
  (Step(networks=()), '--networks is empty'),
  (Scaling(segments=(1, 2)), '--segments is 1'),
  (Scaling(devices=(3,)), '--batch-size is 64'),
  (Latency(batch_sizes=(2, 2)), '--batch-sizes is 2 2'),
  (Stages(batch_size=0), '--batch-size is 0'),
]


@pytest.mark.parametrize('config, expected', WRONG, ids=[expected for _, expected in WRONG])
def test_a_wrong_option_is_named_before_anything_is_made(tmp_path, config, expected):
  out = tmp_path / 'out'
  with pytest.raises(UserError, match=expected):
    run.run(dataclasses.replace(config, out=out))
  assert not out.exists()


@pytest.mark.parametrize('config', [Activation(), Step(), Scaling(), Latency(), Stages()])
def test_the_defaults_may_be_run(config):
  check(config)


def test_a_file_that_is_no_benchmark_is_named(tmp_path):
  (tmp_path / 'step.json').write_text(json.dumps({'recipe': 'distill'}))
  with pytest.raises(UserError, match=r'step\.json does not hold'):
    record.read(tmp_path / 'step.json')


def test_committed_benchmarks_are_those_of_the_pages():
  shown = ''.join((ROOT / 'docs' / 'results' / f'{page}.md').read_text('utf-8') for page in ('speed', 'accelerators'))
  for path in (ROOT / 'results' / 'bench').glob('*.json'):
    assert re.search(rf'<!-- table of \.\./\.\./results/bench/{path.stem}(, rows .*)? -->', shown)
