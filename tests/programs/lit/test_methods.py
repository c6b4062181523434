"""The parts of lit: what its options refuse, what each method trains and for how long, and what the table says."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from lmajax.training import Stages, Taught
from lmajax.types import Batch
from train.commands.tables import filled
from train.config import TEACHER
from train.engine.cohort import cohort_step, fresh
from train.engine.evaluate import member
from train.programs.lit import methods
from train.programs.lit import plot as draw_lit
from train.programs.lit import run as lit
from train.programs.lit import table as report_lit
from train.programs.lit.config import Lit
from train.programs.lit.methods import MERGING, TRANSPLANTED, UNTAUGHT, arms, named, phases, switches
from train.programs.lit.table import Arm, Row, counterpart, verdict
from train.results.rows import read_rows, write_results
from train.teaching import end_to_end

METHODS = (
  'hard', 'kd', 'hint', 'born-again', 'lit', 'lit-own-inputs', 'lit-one-boundary', 'lit-beta-0', 'lit-beta-1',
  'lit-noise', 'lit-merging', 'lit-only',
)  # fmt: skip
ALL = Lit(methods=METHODS, seeds=2, width=(2, 3, 4), teacher='resnet-14', epochs=7, finetune_epochs=2)
LIT = Arm('lit', 'relu', None)


def test_a_stage_more_is_taken():
  four = Lit(width=(2, 3, 4, 5), teacher='resnet-18', student='resnet-10')
  assert lit.experiment(four).pairs[Arm(TEACHER, 'relu', None)].stages == 4


class TestPhases:
  @pytest.mark.parametrize('method', METHODS)
  @pytest.mark.parametrize('schedule', ['cosine', 'steps'])
  def test_every_method_has_as_many_epochs(self, method, schedule):
    found = [phase for phase in phases(replace(ALL, schedule=schedule), 3) if method in phase.methods]
    assert sum(phase.epochs for phase in found) == ALL.epochs + ALL.finetune_epochs
    for phase in found:
      rates = [phase.plan.schedule([0.1] * epoch) for epoch in range(phase.epochs + 1)]
      assert all(rates[:-1]) and rates[-1] is None

  def test_only_what_is_asked_for_is_trained(self):
    assert [phase.name for phase in phases(replace(ALL, methods=('kd',)), 3)] == [TEACHER, 'whole']
    assert [phase.name for phase in phases(replace(ALL, methods=('lit',)), 3)] == [TEACHER, 'stages', 'finetune']

  def test_merging_has_the_rates_of_lit(self):
    found = {phase.name: phase for phase in phases(ALL, 3)}
    merged = [found[f'merging-{i}'] for i in (1, 2, 3)]
    rates = [phase.plan.schedule([0.1] * epoch) for phase in merged for epoch in range(phase.epochs)]
    assert rates == [found['stages'].plan.schedule([0.1] * epoch) for epoch in range(ALL.epochs)]
    assert [phase.epochs for phase in merged] == [2, 2, 3]

  def test_the_teacher_has_its_own_epochs_and_fine_tuning_its_own_rate(self):
    found = {phase.name: phase for phase in phases(replace(ALL, teacher_epochs=5), 3)}
    assert found[TEACHER].epochs == 5
    assert found['finetune'].plan.learning_rate == ALL.finetune_learning_rate
    assert {found[name].plan.learning_rate for name in found if name != 'finetune'} == {ALL.learning_rate}


EVERY = (0, 1, 2)
SWITCHES = {
  ('lit', 'stages'): Stages(0.75, EVERY, EVERY, 0.0),
  ('lit-only', 'whole'): Stages(0.75, EVERY, EVERY, 0.0),
  ('lit-own-inputs', 'stages'): Stages(0.75, (), EVERY, 0.0),
  ('lit-one-boundary', 'stages'): Stages(0.75, EVERY, (1,), 0.0),
  ('lit-beta-0', 'stages'): Stages(0.0, EVERY, EVERY, 0.0),
  ('lit-beta-1', 'stages'): Stages(1.0, EVERY, EVERY, 0.0),
  ('lit-noise', 'stages'): Stages(0.75, EVERY, EVERY, 0.1),
  (MERGING, 'merging-1'): Stages(0.75, EVERY, EVERY, 0.0),
  (MERGING, 'merging-2'): Stages(0.75, (0, 1), (0, 2), 0.0),
  (MERGING, 'merging-3'): Stages(0.75, (0,), (2,), 0.0),
}


@pytest.fixture(scope='module')
def plan():
  return lit.experiment(replace(ALL, activations=('relu', 'lma'), train_images=120, batch_size=16))


class TestGroups:
  @pytest.mark.parametrize('method, phase', SWITCHES)
  def test_each_method_changes_one_thing(self, plan, method, phase):
    found = switches(ALL, method, phase, plan.pairs[LIT.teacher])
    assert found._replace(fed=tuple(found.fed), compared=tuple(found.compared)) == SWITCHES[method, phase]

  def test_a_seed_starts_all_methods_from_the_same_stages(self, plan):
    of_relu = [each for each in plan.fits if each.teacher == LIT.teacher and each.name != 'relu-teacher']
    begun = fresh(plan.fits[0].cohort, plan.data.batches.blank)['relu-teacher-teacher'].end
    teacher = member({'params': jax.tree.map(lambda leaf: leaf + 1, begun.theta), **begun.stats}, 0)
    first = {}
    for each in of_relu:
      given = lit.starts(plan, each, {}, teacher)
      for name, progress in fresh(each.cohort, plan.data.batches.blank, given).items():
        first.setdefault(each.arms[name].method, progress.end.theta)
    assert set(first) == set(METHODS)
    for method in {*METHODS} - {'born-again', 'hard'}:
      own = {name: part for name, part in first[method].items() if name.startswith('stages_')}
      jax.tree.map(np.testing.assert_array_equal, own, {name: first['hard'][name] for name in own})
      ends = {name: part for name, part in first[method].items() if name not in own}
      expected = [teacher['params'] if method in TRANSPLANTED else member(first['hard'], i) for i in (0, 1)]
      for i in (0, 1):
        jax.tree.map(np.testing.assert_array_equal, member(ends, i), {name: expected[i][name] for name in ends})
    kernels = first['hard']['stages_0']
    assert not all(np.array_equal(leaf[0], leaf[1]) for leaf in jax.tree.leaves(kernels))

  def test_a_later_fit_goes_on_where_the_one_before_it_ended(self, plan):
    for name in ('relu-finetune', 'relu-merging-2'):
      each = next(each for each in plan.fits if each.name == name)
      ended = {arm: {'params': f'{arm.name} weights', 'batch_stats': 'statistics'} for arm in each.arms.values()}
      given = lit.starts(plan, each, ended, None)
      assert {name: (start.theta, start.stats) for name, start in given.items()} == {
        name: (f'{arm.name} weights', {'batch_stats': 'statistics'}) for name, arm in each.arms.items()
      }

  @pytest.mark.parametrize('name', ['kd', 'dist'])
  def test_a_loss_takes_the_place_of_the_mix_where_logits_alone_are_looked_at(self, plan, monkeypatch, name):
    monkeypatch.setattr(methods, 'distilled', lambda model, loss: loss)
    monkeypatch.setattr(methods, 'blockwise', lambda model, loss, *given, **how: loss)
    student, teacher = jnp.asarray(np.random.default_rng(0).normal(size=(2, 6, 3)), jnp.float32)
    given = student, Taught(teacher, ()), Batch((), jnp.arange(6) % 3)
    of_mix, of_loss = (
      float(end_to_end(each, temperature=ALL.temperature, soft_weight=ALL.soft_weight)(*given)) for each in ('kd', name)
    )
    wholes = ('kd-whole', 'born-again-whole', 'hint-stages', *(f'{each}-finetune' for each in TRANSPLANTED[:-1]))
    found = {}
    for phase in phases(ALL, 3):
      for arm in (LIT._replace(method=method) for method in phase.methods if method not in UNTAUGHT):
        loss = methods.group(replace(ALL, loss=name), arm, phase.name, plan.pairs[LIT.teacher]).objective
        found[f'{arm.method}-{phase.name}'] = None if phase.name == 'hints' else float(loss(*given))
    assert {each for each, value in found.items() if value == pytest.approx(of_loss)} == (
      {*wholes} if name != 'kd' else {*found} - {'hint-hints'}
    )
    assert {*found.values()} == {None, of_mix, of_loss} and {*wholes} < {*found}

  @pytest.mark.slow
  def test_every_method_takes_a_step_and_notes_its_errors(self, plan):
    of_relu = [each for each in plan.fits if each.teacher == LIT.teacher]
    begun = jax.eval_shape(lambda: fresh(of_relu[0].cohort, plan.data.batches.blank))['relu-teacher-teacher'].end
    teacher = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape[1:], leaf.dtype), {'params': begun.theta, **begun.stats})
    noted = {}
    for each in of_relu:
      start = jax.eval_shape(lambda each=each: fresh(each.cohort, plan.data.batches.blank))
      moved = jax.eval_shape(cohort_step(each.cohort), start, teacher, plan.data.batches[0])
      jax.tree.map(lambda a, b: (a.shape, a.dtype) == (b.shape, b.dtype) or pytest.fail('moved'), start, moved)
      noted |= {name: tuple(sorted({*progress.sums} - {'loss'})) for name, progress in moved.items()}
    every = ('error_0', 'error_1', 'error_2')
    compared = {
      **dict.fromkeys(('lit-only-whole', 'lit-stages', 'lit-beta-0-stages', 'lit-noise-stages'), every),
      **{'lit-own-inputs-stages': every, 'lit-one-boundary-stages': ('error_1',), 'lit-merging-merging-1': every},
      **{'lit-merging-merging-2': ('error_0', 'error_2'), 'lit-merging-merging-3': ('error_2',)},
    }
    assert {name.removeprefix('relu-'): errors for name, errors in noted.items() if errors} == compared

  def test_networks_are_named_by_the_options(self):
    assert {arm.method: named(ALL, arm) for arm in arms(ALL)} == {
      **dict.fromkeys(METHODS, 'resnet-8'), TEACHER: 'resnet-14', 'born-again': 'resnet-14'
    }  # fmt: skip


def row(method, accuracy, validation=None, label='relu', **changes):
  same = {'network': 'resnet-8', 'activation': label, 'segments': None, 'depth': 8}
  costs = {'parameters': 1000, 'bytes': 4100, 'macs': 2_500_000, 'milliseconds': 0.125}
  scores = {'accuracy': accuracy, 'validation_accuracy': validation or accuracy}
  return Row(**{'name': f'{label}-{method}', 'method': method, **same, **scores, **costs, **changes})


BIG = {'network': 'resnet-20', 'depth': 20, 'parameters': 9000, 'bytes': 37_000, 'macs': 6_000_000}
ROWS = [
  row(TEACHER, [0.9], **BIG),
  row('hard', [0.80, 0.82, 0.81]),
  row('kd', [0.81, 0.84, 0.84]),
  row('born-again', [0.9, 0.91, 0.92], **BIG),
  row('lit', [0.85, 0.86, 0.84]),
  row(TEACHER, [0.9], [0.815], label='lma', **BIG),
  row('hard', [0.7, 0.7, 0.7], [0.81, 0.8, 0.82], label='lma'),
]


class TestReport:
  def test_the_counterpart_has_the_same_activation(self):
    assert counterpart(ROWS[4], ROWS, 'hard') == ROWS[1]
    assert counterpart(ROWS[5], ROWS, 'hard') == ROWS[6]
    assert counterpart(ROWS[5], ROWS, 'kd') is None

  def test_a_line_says_differences_and_costs(self):
    lines = report_lit.text(ROWS).splitlines()
    cells = [cell.strip() for cell in lines[6].strip('|').split('|')]
    interval = stats.ttest_rel(ROWS[4].accuracy, ROWS[2].accuracy).confidence_interval(0.95)
    assert cells[:5] == [
      'lit', 'resnet-8', 'relu', '85.00 ± 1.00', '+2.00'
    ]  # fmt: skip
    assert cells[5] == f'{100 * interval.low:+.2f} … {100 * interval.high:+.2f}'
    assert cells[6] == '+4.00'
    assert cells[9:] == ['8', '1,000', '4,100', '2.5', '125.00']
    assert lines[2].startswith('| teacher | resnet-20 | relu | 90.00 |  |  |  |  |')
    assert [cell.strip() for cell in lines[3].split('|')[7:9]] == ['', '']  # hard, from itself

  def test_the_last_lines_judge_each_pair_on_validation(self):
    first, second = report_lit.text(ROWS).splitlines()[-3::2]
    assert 'relu teacher, resnet-20, is +9.00 points' in first and first.endswith('there is something to teach.')
    assert 'lma teacher, resnet-20, is +0.50 points' in second and 'shows nothing' in second
    assert 'something to teach' in verdict(row(TEACHER, [0.825]), row('hard', [0.81, 0.81]))
    assert 'something to teach' in verdict(row(TEACHER, [0.965]), row('hard', [0.955]))  # less by a rounding
    assert not report_lit.text([ROWS[0], ROWS[4]]).endswith('.')

  def test_results_survive_the_file_and_stand_in_a_readme(self, tmp_path):
    (tmp_path / 'lit').mkdir()
    (tmp_path / 'lit' / 'metrics.jsonl').write_text('{"seconds": 1}\n')
    (tmp_path / 'lit' / 'environment.json').write_text('[]')
    write_results(tmp_path / 'lit', ALL, ROWS, report_lit.text(ROWS))
    assert read_rows(tmp_path / 'lit', 'lit', Row) == ROWS
    text = filled('<!-- table of lit -->\n<!-- end of table -->', tmp_path)
    assert report_lit.text(ROWS) in text

  def test_pictures_are_drawn(self, tmp_path):
    draw_lit.accuracy(tmp_path / 'accuracy.png', ROWS)
    assert (tmp_path / 'accuracy.png').stat().st_size > 5000
    (tmp_path / 'metrics.jsonl').write_text('{"phase": "relu-kd-whole", "train_loss": [1.0]}\n')
    draw_lit.errors(tmp_path, {'relu-kd-whole': Arm('kd', 'relu', None)})
    assert not (tmp_path / 'errors.png').exists()
    (tmp_path / 'metrics.jsonl').write_text('{"phase": "relu-lit-stages", "train_error_0": [1.0, 2.0]}\n')
    draw_lit.errors(tmp_path, {'relu-lit-stages': LIT})
    assert (tmp_path / 'errors.png').stat().st_size > 5000
