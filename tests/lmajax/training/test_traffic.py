"""What compiled programs move, keep and send: as compilers of GPUs and TPUs print them, and as compiled here."""

import importlib.util
import re
from functools import partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, SingleDeviceSharding
from jax.sharding import PartitionSpec as P

import lmajax
from lmajax.training import Traffic, chips, traffic

COMPILERS = {'h100': 'jax_plugins.xla_cuda12', 'v5e': 'libtpu'}
PACKAGES = {'h100': 'jax[cuda12]', 'v5e': 'jax[tpu]'}
MEMORY = SimpleNamespace(
  argument_size_in_bytes=100, output_size_in_bytes=40, alias_size_in_bytes=30, temp_size_in_bytes=7
)
PREAMBLE = """HloModule jit_f, is_scheduled=true, entry_computation_layout={(f32[1000]{0})->f32[1000]{0:T(1024)}}

FileNames
1 "f.py"

FileLocations
1 {file_name_id=1 function_name_id=1 line=7 end_line=7 column=9 end_column=132}

StackFrames
1 {file_location_id=1 parent_frame_id=1}

"""
X = '  %x.1 = f32[1000]{0} parameter(0), sharding={replicated}, metadata={op_name="x"}\n'
NEGATED = '  ROOT %neg.1 = f32[1000]{0} negate(%x.1), metadata={op_name="jit(f)/neg" stack_frame_id=1}\n'
LOOP = '  ROOT %while.1 = (s32[], f32[1000]{0}) while(%tuple.1), condition=%ends, body=%body'
TRIPS = ', backend_config={"known_init_step":{"init":"0","step":"1"},"known_trip_count":{"n":"%d"}}'
CYCLES = ', backend_config={"window_config":{"output_window_bounds":["8"],"estimated_cycles":"%d","is_mask":false}}'


class Printed(jax.stages.Compiled):
  """A program of which only the text is known."""

  def __init__(self, text, memory=MEMORY):
    self.text, self.memory = text, memory

  def as_text(self):
    return self.text

  def memory_analysis(self):
    return self.memory


def told(entry, **others):
  """What is said of a program of these computations, given by name."""
  bodies = {'ENTRY %main.2': entry, **{f'%{name}': body for name, body in others.items()}}
  head = '(param_0.1: (s32[], /*index=1*/f32[1000]), param_1.2: pred[]) -> f32[1000] {'
  return traffic(Printed(PREAMBLE + '\n'.join(f'{name} {head}\n{body}\n}}\n' for name, body in bodies.items())))


def costs(entry, **others):
  found = told(entry, **others)
  return found.bytes, found.kernels


def sent(entry, **others):
  found = told(entry, **others)
  return found.collectives, found.collective_bytes


class TestKernels:
  def test_a_gpu_reads_operands_once_and_writes_results_once(self):
    entry = """
  %x.1 = f32[4,8,8,3]{3,2,1,0} parameter(0), sharding={replicated}, metadata={op_name="x" scheduling_name="x.1"}
  %w.1 = f32[25,5,5,3]{3,2,1,0} parameter(1), metadata={op_name="w"}
  %constant.7 = f32[] constant(0)
  %cudnn-conv.1 = (f32[4,8,8,25]{3,2,1,0}, u8[0]{0}) custom-call(%x.1, %w.1), metadata={op_name="(%w.1)"}
  %get-tuple-element.1 = f32[4,8,8,25]{3,2,1,0} get-tuple-element(%cudnn-conv.1), index=0
  %bitcast.1 = f32[256,25]{1,0} bitcast(%get-tuple-element.1)
  %input_reduce_fusion = (f32[25]{0}, /*index=1*/f32[25]{0}) fusion(%bitcast.1, %constant.7), calls=%fused_reduce
  %get-tuple-element.2 = f32[25]{0} get-tuple-element(%input_reduce_fusion), index=0
  ROOT %tuple.1 = (f32[256,25]{1,0}, f32[25]{0}) tuple(%bitcast.1, %get-tuple-element.2)"""
    fused = '  %param_0.1 = f32[256,25]{1,0} parameter(0)\n  %p.2 = f32[] parameter(1)\n'
    fused += '  ROOT %reduce.1 = (f32[25]{0}, f32[25]{0}) reduce(%param_0.1, %param_0.1, %p.2, %p.2), dimensions={0}'
    x, w, y, number = 4 * 768, 4 * 1875, 4 * 6400, 4
    expected = Traffic(x + w + y + y + number + 2 * 4 * 25, 2, 7, 117, None, {}, 0)
    assert told(entry, fused_reduce=fused) == expected

  @pytest.mark.parametrize('form', ['', '1', '1,1'])
  def test_a_single_number_is_a_kernel_only_where_it_is_launched(self, form):
    one = f'f32[{form}]'
    entry = f"""
  %a.1 = {one} parameter(0)
  %add.1 = {one} add(%a.1, %a.1), metadata={{op_name="jit(f)/add"}}
  %compare.1 = pred[{form}] compare(%add.1, %a.1), direction=GT
  %loop_add_fusion = {one} fusion(%add.1, %a.1), kind=kLoop, calls=%fused_add
  ROOT %copy.1 = {one} copy(%loop_add_fusion)"""
    assert costs(entry) == (12 + 8, 2)

  def test_the_sum_of_an_array_is_a_kernel(self):
    entry = (
      X + '  %zero = f32[] constant(0)\n  ROOT %reduce.1 = f32[] reduce(%x.1, %zero), dimensions={0}, to_apply=%add'
    )
    assert costs(entry, add=X + NEGATED) == (4000 + 4 + 4, 1)

  @pytest.mark.parametrize(
    'kind, size',
    {
      'pred[1000]{0}': 1000,
      'u2[1000]{0:E(2)}': 250,
      's4[1000]{0:E(4)}': 500,
      'f4e2m1fn[1000]{0:E(4)}': 500,
      's8[10,100]{1,0}': 1000,
      'f8e4m3fn[1000]{0}': 1000,
      'f8e5m2fnuz[1000]': 1000,
      'bf16[10,100]{1,0:T(8,128)(2,1)}': 2000,
      'f16[1000]{0}': 2000,
      'u32[1000]{0}': 4000,
      'c64[1000]{0}': 8000,
      'c128[1000]{0}': 16000,
      'f32[<=1000]{0}': 4000,
      'f32[0]{0}': 0,
    }.items(),
  )
  def test_an_element_has_the_bytes_of_its_type(self, kind, size):
    assert costs(f'  %x.1 = {kind} parameter(0)\n  ROOT %copy.1 = {kind} copy(%x.1)') == (2 * size, 1)

  def test_what_orders_kernels_costs_nothing(self):
    entry = X + '  %token.1 = token[] after-all()\n  ROOT %d = f32[1000]{0} add-dependency(%x.1, %token.1)'
    assert costs(entry) == (0, 0)

  @pytest.mark.parametrize('text, memory', [('', MEMORY), (None, MEMORY), (PREAMBLE, None)])
  def test_without_a_text_or_figures_it_is_refused(self, text, memory):
    with pytest.raises(ValueError, match=r'\Athe compiler of this program gives no text or no figures of memory, .+\Z'):
      traffic(Printed(text, memory))


class TestComputations:
  @pytest.mark.parametrize('trips, times', [(TRIPS % 5, 5), ('', 1), (TRIPS % 0, 0)], ids=['known', 'unknown', 'none'])
  def test_a_loop_counts_as_often_as_it_is_known_to_run(self, trips, times):
    assert costs(LOOP + trips, body=X + NEGATED, ends=X + NEGATED) == (times * 8000, times)

  def test_loops_in_loops_multiply(self):
    inner = LOOP.replace('%body', '%inner') + TRIPS % 3
    assert costs(LOOP + TRIPS % 5, body=X + NEGATED + inner, inner=X + NEGATED) == (20 * 8000, 20)

  def test_a_call_counts_what_it_calls_each_time(self):
    calls = '  %call.1 = f32[1000]{0} call(%x.1), to_apply=%command_buffer\n'
    calls += '  ROOT %call.2 = f32[1000]{0} call(%call.1), to_apply=%command_buffer'
    assert costs(X + calls, command_buffer=X + NEGATED) == (16000, 2)

  def test_what_is_started_counts_and_its_end_does_not(self):
    entry = X + '  %s = ((f32[1000]{0}), f32[1000]{0}, s32[]) async-start(%x.1), calls=%async_computation\n'
    entry += '  %u = ((f32[1000]{0}), f32[1000]{0}, s32[]) async-update(%s)\n'
    entry += '  ROOT %async-done = f32[1000]{0} async-done(%u), calls=%async_computation'
    assert costs(entry, async_computation=X + NEGATED) == (8000, 1)

  @pytest.mark.parametrize('least', [0, 1], ids=['first', 'last'])
  @pytest.mark.parametrize(
    'branches',
    ['branch_computations={%branch_0.1, %branch-1}', 'true_computation=%branch_0.1, false_computation=%branch-1'],
  )
  def test_of_a_choice_the_branch_counts_that_moves_most(self, branches, least):
    entry = (
      f'{X}  ROOT %cond.1 = f32[1000]{{0}} conditional(%bitcast.3, %x.1, %x.1), {branches}, metadata={{op_name="c"}}'
    )
    much = f'{X}  %exp.1 = f32[1000]{{0}} exponential(%x.1)\n{NEGATED}'
    free = ''.join(f'  %bitcast.{i} = f32[10,100]{{1,0}} bitcast(%x.1)\n' for i in range(9))
    bodies = [X + free + NEGATED, much]
    found = {'branch_0.1': bodies[least], 'branch-1': bodies[1 - least]}
    assert costs(entry, **found) == (16000, 2)
    assert costs(LOOP + TRIPS % 5, body=entry, **found) == (80000, 10)


class TestSlices:
  def test_a_fusion_reads_the_slices_of_what_it_only_slices(self):
    fused = """
  %param_0 = f32[1000]{0} parameter(0)
  %param_1.2 = f32[64,1000]{1,0} parameter(1)
  %param_3.3 = s32[] parameter(3)
  %param_2.4 = f32[64,1000]{1,0} parameter(2)
  %constant.8 = s32[] constant(0)
  %slice.1 = f32[2,1000]{1,0} slice(%param_1.2), slice={[3:5], [0:1000]}
  %dynamic_slice.5 = f32[1,1000]{1,0} dynamic-slice(%param_1.2, %param_3.3, %constant.8), dynamic_slice_sizes={1,1000}
  %gather.1 = f32[3,1000]{1,0} gather(%param_2.4, %param_3.3), offset_dims={0,1}, slice_sizes={3,1000}
  ROOT %add.6 = f32[1000]{0} add(%param_0, %dynamic_slice.5)"""
    table = '  %rows.1 = f32[64,1000]{1,0} parameter(1)\n  %i.1 = s32[] parameter(2)\n'
    root = (
      '  ROOT %add_fusion = f32[1000]{0} fusion(%x.1, %rows.1, %rows.1, %i.1), kind=kLoop, calls=%fused_computation'
    )
    assert costs(X + table + root, fused_computation=fused) == (4000 + 3 * 4000 + 3 * 4000 + 4 + 4000, 1)
    whole = fused + '\n  %all.1 = f32[64,1000]{1,0} negate(%param_1.2)'
    assert costs(X + table + root, fused_computation=whole) == (4000 + 256000 + 3 * 4000 + 4 + 4000, 1)

  def test_slices_never_count_more_than_the_whole(self):
    slices = ''.join(f'  %slice.{i} = f32[900]{{0}} slice(%x.1), slice={{[{i}:{900 + i}]}}\n' for i in range(3))
    root = '  ROOT %fusion.1 = f32[900]{0} fusion(%x.1), kind=kLoop, calls=%fused'
    assert costs(X + root, fused=X + slices + '  ROOT %add.1 = f32[900]{0} add(%slice.0, %slice.2)') == (4000 + 3600, 1)

  @pytest.mark.parametrize('op', ['slice(%x.1)', 'dynamic-slice(%x.1, %i.1)', 'gather(%x.1, %i.1)'])
  def test_a_slice_on_its_own_is_read_and_written(self, op):
    assert costs(f'{X}  %i.1 = s32[] parameter(1)\n  ROOT %s.1 = f32[10]{{0}} {op}') == (80, 1)

  @pytest.mark.parametrize(
    'root, result',
    [
      ('ROOT %update.2 = f32[64,1000]{1,0} dynamic-update-slice(%param_0, %sin.2, %param_1.1, %constant.2)', ''),
      (
        '%update.2 = f32[64,1000]{1,0} dynamic-update-slice(%param_0, %sin.2, %param_1.1, %constant.2)\n'
        '  ROOT %tuple.2 = (f32[64,1000]{1,0}, f32[1,1000]{1,0}) tuple(%update.2, %sin.2)',
        ', f32[1,1000]{1,0}',
      ),
    ],
    ids=['alone', 'of several'],
  )
  def test_an_update_in_place_is_all_that_a_fusion_writes(self, root, result):
    fused = f"""
  %param_0 = f32[64,1000]{{1,0}} parameter(0)
  %param_2.2 = f32[64,1000]{{1,0}} parameter(2)
  %param_1.1 = s32[] parameter(1)
  %constant.2 = s32[] constant(0)
  %dynamic_slice.2 = f32[1,1000]{{1,0}} dynamic-slice(%param_2.2, %param_1.1, %constant.2)
  %sin.2 = f32[1,1000]{{1,0}} sine(%dynamic_slice.2), metadata={{op_name="jit(g)/while/body/closed_call/sin"}}
  {root}"""
    entry = f"""
  %ys.1 = f32[64,1000]{{1,0}} parameter(0)
  %i.1 = s32[] parameter(1)
  %xs.1 = f32[64,1000]{{1,0}} parameter(2)
  ROOT %update_fusion = (f32[64,1000]{{1,0}}{result}) fusion(%ys.1, %i.1, %xs.1), kind=kLoop, calls=%fused"""
    assert costs(entry, fused=fused) == (4000 + 4 + 4000 + (4000 if result else 0), 1)

  def test_an_update_in_place_on_its_own_is_read_and_written(self):
    entry = X + '  %u.1 = f32[10]{0} parameter(1)\n  %i.1 = s32[] parameter(2)\n'
    assert costs(entry + '  ROOT %d = f32[1000]{0} dynamic-update-slice(%x.1, %u.1, %i.1)') == (80, 1)


class TestTPU:
  X = '  %x.1 = bf16[64,128]{1,0:T(8,128)(2,1)} parameter(0), metadata={op_name="x"}\n'

  @pytest.mark.parametrize(
    'given, taken, moved',
    [
      ('', '', 32768),
      ('S(1)', '', 16384),
      ('', 'S(1)', 16384),
      ('S(1)', 'S(1)', 0),
      ('S(3)', 'S(5)', 0),
      ('S(0)', '', 32768),
    ],
  )
  def test_only_main_memory_counts(self, given, taken, moved):
    layouts = [f'bf16[64,128]{{1,0:T(8,128)(2,1){memory}}}' for memory in (given, taken)]
    entry = (
      f'  %a.1 = {layouts[0]} bitcast(%b.1)\n  ROOT %fusion.1 = {layouts[1]} fusion(%a.1), kind=kLoop, calls=%fused'
    )
    assert costs(entry) == (moved, 1)

  def test_a_gpu_has_no_memory_but_the_main_one(self):
    assert costs(X.replace('{0}', '{0:S(1)}') + NEGATED) == (8000, 1)

  @pytest.mark.parametrize('sides', [('S(1)', ''), ('', 'S(1)')], ids=['there', 'back'])
  def test_the_way_on_the_chip_counts_once(self, sides):
    to, there = (f'f32[25,1000]{{1,0:T(8,128){memory}}}' for memory in sides)
    entry = f"""
  %scale.1 = {there} parameter(0)
  %copy-start.148 = ({to}, {there}, u32[]{{:S(2)}}) copy-start(%scale.1)
  ROOT %copy-done.148 = {to} copy-done(%copy-start.148)"""
    moved, kernels = costs(entry)
    assert moved == pytest.approx(100000, abs=4) and kernels == 1

  def test_a_number_moved_beside_the_kernels_counts(self):
    entry = '  %a.1 = f32[]{:T(128)} parameter(1), sharding={replicated}\n'
    entry += '  ROOT %copy.1 = f32[]{:T(128)S(6)} copy(%a.1), backend_config={"flag_configs":[]}'
    assert costs(entry) == (4, 1)

  def test_what_a_fusion_slices_on_the_chip_is_not_read(self):
    fused = '  %p.1 = f32[64,1000]{1,0:T(8,128)S(1)} parameter(0)\n'
    fused += '  ROOT %s.1 = f32[8,1000]{1,0:T(8,128)} slice(%p.1), slice={[0:8], [0:1000]}'
    entry = '  %x.1 = f32[64,1000]{1,0:T(8,128)S(1)} bitcast(%y)\n'
    entry += '  ROOT %f.1 = f32[8,1000]{1,0:T(8,128)} fusion(%x.1), kind=kLoop, calls=%fused'
    assert costs(entry, fused=fused) == (32000, 1)

  def test_estimates_of_kernels_add_up_as_often_as_they_run(self):
    body = X + '  %exp.1 = f32[1000]{0:T(1024)} exponential(%x.1)' + CYCLES % 1000 + '\n' + NEGATED
    fusion = '  %fusion.7 = f32[]{:T(128)} fusion(%x.1), kind=kLoop, calls=%body' + CYCLES % 2743 + '\n'
    assert told(X + fusion, body=body).cycles == 2743
    assert told(X + fusion + LOOP + TRIPS % 5, body=body).cycles == 2743 + 5 * 1000
    assert told(X + NEGATED).cycles is None

  def test_a_kernel_of_ones_own_leaves_the_sum_unknown(self):
    fusion = '  %fusion.7 = f32[1000]{0:T(1024)} fusion(%x.1), kind=kLoop, calls=%fused' + CYCLES % 2743 + '\n'
    call = '  ROOT %call.1 = f32[1000]{0:T(1024)} custom-call(%fusion.7), custom_call_target='
    assert told(X + fusion + call + '"ConcatBitcast"').cycles == 2743
    found = told(X + fusion + call + '"tpu_custom_call"')
    assert found.cycles is None and (found.bytes, found.kernels) == (16000, 2)

  def test_what_is_not_estimated_leaves_the_sum_unknown(self):
    fusion = '  %fusion.7 = f32[1000]{0:T(1024)} fusion(%x.1), kind=kLoop, calls=%fused'
    assert told(X + fusion + CYCLES % (2**63 - 1)).cycles is None


class TestCollectives:
  Y = '  %y.1 = bf16[10]{0} parameter(1)\n  %z.1 = f32[1000]{0:T(1024)S(1)} bitcast(%x.1)\n'

  @pytest.mark.parametrize(
    'kind, size, line',
    [
      ('all-reduce', 4000, 'f32[1000]{0} all-reduce(%x.1), channel_id=1, replica_groups={{0,1}}, to_apply=%add.clone'),
      (
        'all-reduce',
        4020,
        '(f32[1000]{0}, bf16[10]{0}) all-reduce(%x.1, %y.1), replica_groups={}, to_apply=%add.clone',
      ),
      ('all-reduce', 4000, 'f32[1000]{0} all-reduce-start(%x.1), channel_id=1, to_apply=%add.clone'),
      ('all-gather', 32000, 'f32[8000]{0} all-gather(%x.1), channel_id=1, dimensions={0}'),
      ('all-gather', 32000, '(f32[1000]{0}, f32[8000]{0}) all-gather-start(%x.1), channel_id=1, dimensions={0}'),
      (
        'all-gather',
        32160,
        '((f32[1000]{0}, bf16[10]{0}), (f32[8000]{0}, bf16[80]{0})) all-gather-start(%x.1, %y.1), dimensions={0}',
      ),
      ('reduce-scatter', 4000, 'f32[125]{0} reduce-scatter(%x.1), dimensions={0}, to_apply=%add.clone'),
      ('reduce-scatter', 4000, '((f32[1000]{0}), f32[125]{0}) reduce-scatter-start(%x.1), to_apply=%add.clone'),
      ('all-to-all', 4000, '((f32[1000]{0}), f32[1000]{0}) all-to-all-start(%x.1), dimensions={0}'),
      ('reduce-scatter', 4000, 'f32[125]{0:T(128)S(1)} reduce-scatter(%z.1), to_apply=%add.clone'),
      ('all-gather', 32000, 'f32[8000]{0:T(1024)S(1)} all-gather(%z.1), dimensions={0}'),
      ('collective-permute', 4000, '(f32[1000]{0}, f32[1000]{0}) collective-permute-start(%x.1), channel_id=24'),
      ('collective-broadcast', 4000, 'f32[1000]{0} collective-broadcast(%x.1), replica_groups={{0,1}}'),
    ],
  )
  def test_one_counts_what_it_takes_or_gives_and_is_no_kernel(self, kind, size, line):
    start, op = line.partition('(%')[0], f'{kind}-start'
    done = f'  ROOT %done = f32[1000]{{0}} {kind}-done(%sent)' if start.endswith(op) else ''
    found = told(f'{X}{self.Y}  %sent = {line}\n{done}', **{'add.clone': X + NEGATED})
    assert (found.collectives, found.collective_bytes) == ({kind: 1}, size)
    assert (found.bytes, found.kernels) == (0, 0)

  REDUCED = '  %all-reduce.1 = f32[1000]{0} all-reduce(%x.1), channel_id=3, to_apply=%add\n'
  GATHERED = '  %all-gather.1 = f32[2000]{0} all-gather(%x.1), dimensions={0}\n'
  FUSION = '  %fusion.1 = f32[125]{0} fusion(%x.1), kind=kCustom, calls=%all-reduce-scatter\n'

  def test_those_in_fusions_count_beside_their_bytes(self):
    fused = X + self.REDUCED + '  ROOT %slice.1 = f32[125]{0} slice(%all-reduce.1), slice={[0:125]}'
    found = told(X + self.FUSION, **{'all-reduce-scatter': fused})
    assert found[-2:] == ({'all-reduce': 1}, 4000) and found[:2] == (4500, 1)

  def test_those_in_loops_count_as_often_as_they_run(self):
    others = {'body': X + self.GATHERED + self.FUSION, 'all-reduce-scatter': X + self.REDUCED}
    entry = X + self.REDUCED.replace('=3', '=4') + LOOP + TRIPS % 5
    assert sent(entry, **others) == ({'all-reduce': 6, 'all-gather': 5}, 6 * 4000 + 5 * 8000)

  def test_those_that_are_started_or_called_count_once(self):
    entry = X + '  %s = ((f32[1000]{0}), f32[125]{0}) async-start(%x.1), calls=%async\n'
    entry += '  %d = f32[125]{0} async-done(%s), calls=%async\n  %call.1 = f32[1000]{0} call(%x.1), to_apply=%called'
    scattered = X + '  ROOT %r = f32[125]{0} reduce-scatter(%x.1), dimensions={0}, to_apply=%add'
    expected = {'reduce-scatter': 1, 'all-reduce': 1}, 8000
    assert sent(entry, **{'async': scattered, 'called': X + self.REDUCED}) == expected


def context(words):
  return ''.join(', u32[]{:S(2)}' for _ in range(words))


ON_CHIP = '{1,0:T(8,128)S(1)}'
ROWS = '  %rows.1 = f32[64,128]{1,0:T(8,128)} parameter(0)\n'
IN_REAL_TEXTS = {
  'a slice that is started is read as a slice': (
    f'{ROWS}  %s.1 = ((f32[64,128]{{1,0:T(8,128)}}), f32[8,128]{ON_CHIP}, s32[]{{:S(2)}}) slice-start(%rows.1)\n'
    f'  ROOT %d.1 = f32[8,128]{ON_CHIP} slice-done(%s.1)',
    {},
    {'bytes': 4096, 'kernels': 1},
  ),
  'a slice on its own goes to the chip': (
    f'{ROWS}  ROOT %s.1 = f32[8,128]{ON_CHIP} slice(%rows.1)',
    {},
    {'bytes': 4096, 'kernels': 1},
  ),
  'an update on its own comes from the chip': (
    f'{ROWS}  %u.1 = f32[8,128]{ON_CHIP} bitcast(%v.1)\n  %i.1 = s32[]{{:T(128)}} parameter(1)\n'
    '  ROOT %d.1 = f32[64,128]{1,0:T(8,128)} dynamic-update-slice(%rows.1, %u.1, %i.1, %i.1)',
    {},
    {'bytes': 4096, 'kernels': 1},
  ),
  'an update in place on the chip moves nothing': (
    f'  %t.1 = f32[64,128]{ON_CHIP} bitcast(%a)\n  %u.1 = f32[8,128]{ON_CHIP} bitcast(%b)\n'
    f'  ROOT %f.1 = f32[64,128]{ON_CHIP} fusion(%t.1, %u.1), kind=kLoop, calls=%fused',
    {
      'fused': f'  %t.1 = f32[64,128]{ON_CHIP} parameter(0)\n  %u.1 = f32[8,128]{ON_CHIP} parameter(1)\n'
      f'  %i.1 = s32[] constant(8)\n  ROOT %d.1 = f32[64,128]{ON_CHIP} dynamic-update-slice(%t.1, %u.1, %i.1, %i.1)'
    },
    {'bytes': 0, 'kernels': 1},
  ),
  'room that is made moves nothing': (
    '  ROOT %c.1 = f32[64,128]{1,0:T(8,128)} custom-call(), custom_call_target="AllocateBuffer"',
    {},
    {'bytes': 0, 'kernels': 0},
  ),
  'what is updated and then worked on is not in place': (
    X + '  %u.1 = f32[10]{0} parameter(1)\n  ROOT %f.1 = f32[1000]{0} fusion(%x.1, %u.1), kind=kLoop, calls=%fused',
    {
      'fused': X + '  %u.1 = f32[10]{0} parameter(1)\n  %i.1 = s32[] constant(3)\n'
      '  %d.1 = f32[1000]{0} dynamic-update-slice(%x.1, %u.1, %i.1)\n  ROOT %m.1 = f32[1000]{0} multiply(%d.1, %d.1)'
    },
    {'bytes': 8040, 'kernels': 1},
  ),
  'bytes and collectives are those of one branch': (
    X + '  ROOT %c.1 = f32[1000]{0} conditional(%p.1, %x.1, %x.1), branch_computations={%fuses, %moves}',
    {
      'fuses': X + TestCollectives.REDUCED + '  ROOT %f.1 = f32[1000]{0} fusion(%x.1), kind=kLoop, calls=%fused',
      'fused': X + '  %exp.1 = f32[1000]{0} exponential(%x.1)\n  %sin.1 = f32[1000]{0} sine(%exp.1)\n' + NEGATED,
      'moves': X + '  %exp.1 = f32[1000]{0} exponential(%x.1)\n' + NEGATED,
    },
    {'bytes': 16000, 'collectives': {}, 'collective_bytes': 0},
  ),
  'one sent beside several kernels is sent once': (
    X + '  %start = (f32[1000]{0}, f32[8000]{0}) fusion(%x.1), kind=kCustom, calls=%fused\n'
    '  ROOT %done = f32[8000]{0} fusion(%x.1), kind=kCustom, calls=%fused.clone',
    {
      name: X + f'  %all-gather.{i} = f32[8000]{{0}} all-gather(%x.1), channel_id=6, dimensions={{0}}'
      for i, name in enumerate(('fused', 'fused.clone'))
    },
    {'collectives': {'all-gather': 1}, 'collective_bytes': 32000},
  ),
  'flags of a copy are not moved': (
    f'{ROWS}  %s.1 = (f32[64,128]{ON_CHIP}, f32[64,128]{{1,0:T(8,128)}}{context(1)}) copy-start(%rows.1)',
    {},
    {'bytes': 32768},
  ),
  'flags of a collective are not sent': (
    f'{X}  %s.1 = (f32[1000]{{0}}, f32[1000]{{0}}{context(2)}) collective-permute-start(%x.1)',
    {},
    {'collective_bytes': 4000},
  ),
}


@pytest.mark.parametrize('claim', IN_REAL_TEXTS)
def test_what_real_texts_showed(claim):
  entry, others, expected = IN_REAL_TEXTS[claim]
  found = told(entry, **others)._asdict()
  assert {name: found[name] for name in expected} == expected


class TestCompiledHere:
  ROWS = jax.ShapeDtypeStruct((64, 1000), jnp.float32)

  def test_lowered_it_says_the_same_and_temporaries_and_peak_are_the_compilers(self):
    lowered = jax.jit(lambda x: jnp.sort(x, axis=0)[::2].sum(0)).lower(self.ROWS)
    found, memory = traffic(lowered), lowered.compile().memory_analysis()
    assert found == traffic(lowered.compile())
    assert found.temporaries == memory.temp_size_in_bytes >= 256000
    assert found.peak == found.temporaries + 256000 + 4000

  def test_one_pass_is_one_kernel_that_reads_and_writes(self):
    lowered = jax.jit(lambda x: jnp.sin(x) + 1).lower(self.ROWS)
    assert traffic(lowered) == Traffic(512000, 1, 0, 512000, None, {}, 0)

  @pytest.mark.parametrize(
    'step, passes',
    [(lambda c, x: (c + x, None), 3), (lambda c, x: (c + x, jnp.sin(x)), 5)],
    ids=['read', 'and written'],
  )
  def test_a_scan_moves_a_slice_in_every_step(self, step, passes):
    found = traffic(jax.jit(lambda xs: jax.lax.scan(step, jnp.zeros(1000), xs)).lower(self.ROWS))
    made = 256000 if passes == 5 else 0
    assert 64 * passes * 4000 <= found.bytes - made <= 1.05 * 64 * passes * 4000 < 64 * 256000 / 10
    assert 64 <= found.kernels < 64 * 5

  def test_a_mean_over_eight_devices_is_one_all_reduce(self):
    split = NamedSharding(jax.make_mesh((8,), ('data',)), P('data'))
    rows = jax.ShapeDtypeStruct((64, 1000), jnp.float32, sharding=split)
    found = traffic(jax.jit(lambda x: (2 * x).mean(0)).lower(rows))
    assert (found.collectives, found.collective_bytes) == ({'all-reduce': 1}, 4000)
    assert 36000 <= found.bytes < 256000


def installed(target):
  top = COMPILERS[target].partition('.')[0]
  return importlib.util.find_spec(top) is not None and importlib.util.find_spec(COMPILERS[target]) is not None


def describe(target):
  """Chips, where there is a compiler for them."""
  pytest.importorskip(COMPILERS[target])
  if jax.config.jax_platforms != 'cpu':
    pytest.skip('compilers for what is not here need JAX_PLATFORMS=cpu')
  return chips(target)


class TestChips:
  @pytest.mark.parametrize('target', ['h200', 'v5e-', 'h100-2x2', 'v5e-8', '', 'v5e-4x4x4x4', 'v5e-4x4\n', 'V5E'])
  def test_what_is_no_target_is_refused(self, target):
    with pytest.raises(ValueError) as refused:
      chips(target)
    known = 'h100, v4, v5e, v5p, v6e, or of several h100-8 (cards), v5e-4x4 or v4-2x2x4 (chips)'
    assert str(refused.value) == f'target is {target!r}; give {known}'

  @pytest.mark.parametrize('target', [target for target in COMPILERS if not installed(target)])
  def test_without_its_compiler_one_line_says_what_to_install(self, target):
    install = re.escape(f'): pip install "{PACKAGES[target]}", and set JAX_PLATFORMS=cpu before JAX starts')
    with pytest.raises(ValueError, match=rf'\Acannot describe {target} \([^\n]+{install}\Z'):
      chips(target)

  @pytest.mark.parametrize('target, number', [('v5e', 1), ('v5e-4x4', 16), ('h100', 1), ('h100-8', 8)])
  def test_gives_as_many_as_are_asked_for(self, target, number):
    describe(target.partition('-')[0])
    assert len(chips(target)) == number

  def test_a_layout_that_cannot_be_is_refused(self):
    describe('v5e')
    with pytest.raises(ValueError, match=r'\Acannot describe v5e-3x5 \([^\n]+\): give another layout\Z'):
      chips('v5e-3x5')


class TestFusion:
  """LMA moves what has to move, by the compilers of accelerators, where they are installed.

  These notice when a new XLA undoes the fusion of LMA's gradient: then the sums over its segments read the input again.
  """

  SHAPE, K = (64, 32, 32, 128), 8

  def moved(self, target, function, dtype, numbers=0):
    """The traffic of a function of x, what comes back, two tables and numbers, and the bytes of x."""
    place = SingleDeviceSharding(describe(target)[0])
    given = partial(jax.ShapeDtypeStruct, sharding=place)
    arrays, tables = [given(self.SHAPE, dtype)] * 2, [given((self.K,), jnp.float32)] * 2
    lowered = jax.jit(function).lower(*arrays, *tables, *[given((), jnp.float32)] * numbers)
    return traffic(lowered), given(self.SHAPE, dtype).size * jnp.dtype(dtype).itemsize

  @pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
  @pytest.mark.parametrize('target', COMPILERS)
  def test_the_way_back_reads_two_arrays_and_writes_one(self, target, dtype):
    """Three arrays have to move; a new XLA that undoes the fusion moves more."""

    def back(x, g, a, b, mean, std):
      return jax.vjp(lambda x, a, b: lmajax.lma(x, a, b, lmajax.Stats(mean, std)), x, a, b)[1](g)

    found, size = self.moved(target, back, dtype, numbers=2)
    assert 3 * size <= found.bytes <= 3.1 * size
    if target == 'h100':
      assert found.kernels <= 6 and found.temporaries <= 0.03 * size

  @pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
  def test_both_ways_with_statistics_of_the_input(self, dtype):
    """Five arrays have to move and some of the input to be measured; a new XLA that undoes the fusion moves more."""

    def both(x, g, a, b):
      y, back = jax.vjp(lambda x, a, b: lmajax.lma(x, a, b, lmajax.measure(x)), x, a, b)
      return y, back(g)

    found, size = self.moved('h100', both, dtype)
    assert 5 * size <= found.bytes <= 5.2 * size
