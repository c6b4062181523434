"""The learning rates of the authors' two schedules, exactly, and the bounds of all of them."""

import numpy as np
import pytest

from tests import GOLDEN
from train.engine import schedules

TRACES = [
  ('plateau_constant', schedules.plateau(200)),
  ('plateau_noisy', schedules.plateau(200)),
  ('step_cifar100', schedules.steps(200)),
]


@pytest.mark.parametrize('name, schedule', TRACES, ids=[name for name, _ in TRACES])
def test_reproduces_the_authors_rates_and_their_end(name, schedule):
  trace = np.load(GOLDEN / f'{name}.npz')
  errors = trace['errors'].tolist()
  factors = [schedule(errors[:epoch]) for epoch in range(len(errors) + 1)]
  assert [float(trace['initial_lr']) * factor for factor in factors[:-1]] == trace['lr_used_in_epoch'].tolist()
  assert factors[-1] is None


def test_plateau_goes_on_while_the_error_falls():
  schedule = schedules.plateau(200)
  assert schedule([1 - 0.002 * epoch for epoch in range(199)]) == 1.0


def test_an_improvement_of_a_tenth_of_a_point_or_less_does_not_count():
  schedule = schedules.plateau(200)
  assert schedule([0.5 - 0.0009 * (epoch > 5) for epoch in range(12)]) == 0.5


def test_constant_changes_nothing():
  assert [schedules.constant(3)([0.5] * epoch) for epoch in range(4)] == [1.0, 1.0, 1.0, None]


def test_cosine_falls_from_one_to_zero_and_stops():
  schedule = schedules.cosine(10)
  factors = [schedule([0.5] * epoch) for epoch in range(11)]
  assert factors[0] == 1.0
  assert factors[5] == pytest.approx(0.5)
  assert factors[-1] is None
  assert factors[:-1] == sorted(factors[:-1], reverse=True)


@pytest.mark.parametrize('make', [schedules.constant, schedules.cosine, schedules.steps, schedules.plateau])
def test_every_schedule_ends_with_its_epochs(make):
  schedule = make(7)
  assert schedule([0.1 * epoch for epoch in range(6)]) is not None
  assert schedule([0.1 * epoch for epoch in range(7)]) is None


@pytest.mark.parametrize('epochs, warmup', [(1, 1), (2, 1), (16, 2), (60, 6)])
def test_warmup_cosine_rises_and_falls_as_at_the_middle_of_each_epoch(epochs, warmup):
  schedule, span = schedules.warmup_cosine(epochs), max(epochs, warmup + 1) - warmup
  for epoch in range(epochs):
    at = epoch + 0.5
    expected = at / warmup if at < warmup else 0.5 * (1 + np.cos(np.pi * (at - warmup) / span))
    assert schedule([0.5] * epoch) == pytest.approx(expected, abs=1e-6)
  assert schedule([0.5] * epochs) is None
