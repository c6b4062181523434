"""Plots of the benchmarks, each drawn from its record alone."""

import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import NullFormatter

from train.activations import COLORS
from train.programs.bench.activation import PASSES
from train.programs.bench.rate import least
from train.programs.bench.record import Record, over_relu
from train.results.plots import save

Row = dict[str, Any]
_OTHERS = {'gelu': '#7b4fa3', 'copy': '#000000', 'measure': '#999933'}
_DASHES = {4: (0, (1, 1)), 8: '-', 16: (0, (5, 1))}


def _color(name: str) -> str:
  """Returns the colour of an activation, the same in all plots, whatever its K and its library."""
  word = name.removeprefix('PyTorch ').split(',')[0]
  return {**COLORS, **_OTHERS}.get(word.rstrip('0123456789').removesuffix('-'), '#aaaaaa')


def activation(record: Record, path: Path) -> None:
  """Draws time per element against elements, a panel for each pass and type."""
  dtypes = list(dict.fromkeys(row['dtype'] for row in record['rows']))
  figure = Figure(figsize=(10.5, 3.4 * len(dtypes) + 0.3), layout='constrained')
  axes = figure.subplots(len(dtypes), len(PASSES), squeeze=False, sharex=True)
  for i, dtype in enumerate(dtypes):
    for axis, which in zip(axes[i], PASSES, strict=True):
      _per_element(axis, [r for r in record['rows'] if (r['dtype'], r['pass']) == (dtype, which)])
      axis.set_title(f'{which}, {dtype}', fontsize=10)
    axes[i][0].set_ylabel('nanoseconds per element')
  for axis in axes[-1]:
    axis.set_xlabel('elements')
  handles, labels = axes[0][0].get_legend_handles_labels()
  figure.legend(handles, labels, loc='outside right upper', fontsize=8, handlelength=3.5)
  save(figure, path)


def _per_element(axis: Axes, rows: Sequence[Row]) -> None:
  for name in dict.fromkeys(row['name'] for row in rows):
    line = [row for row in rows if row['name'] == name]
    last = name.rpartition('-')[2]
    peer, bare = name.startswith('PyTorch'), name in ('copy', 'measure')
    axis.plot(
      [row['elements'] for row in line],
      [1e9 * row['seconds'] / row['elements'] for row in line],
      label=name, color=_color(name), linewidth=1.0 if bare else 1.4,
      linestyle=_DASHES.get(int(last), '-') if last.isdigit() and not peer else (0, (3, 1, 1, 1)) if peer else '-',
      marker='x' if peer else '^' if 'measuring' in name else None if bare else 'o', markersize=4,
    )  # fmt: skip
  axis.set_xscale('log')
  axis.set_yscale('log')
  axis.grid(alpha=0.3)


def step(record: Record, path: Path) -> None:
  """Draws images per second of every case, the libraries side by side."""

  def case(row: Row) -> str:
    students = f'\n{row["students"]} students' if row['students'] > 1 else ''
    return f'{row["network"]}\n{row["labels"]}{students}'

  groups = list(dict.fromkeys(case(row) for row in record['rows']))
  figure = Figure(figsize=(max(6, 1.15 * len(groups) + 1.5), 3.8), layout='constrained')
  axis = figure.subplots()
  _bars(axis, groups, record['rows'], case, lambda row: row['images_per_second'])
  axis.set_ylabel('images per second, all students together')
  figure.legend(*axis.get_legend_handles_labels(), fontsize=8, loc='outside upper center', ncols=4)
  save(figure, path)


def latency(record: Record, path: Path) -> None:
  """Draws milliseconds per call, a panel for each batch size."""
  sizes = list(dict.fromkeys(row['batch'] for row in record['rows']))
  groups = list(dict.fromkeys(row['network'] for row in record['rows']))
  figure = Figure(figsize=(10, 3.0 * len(sizes) + 0.6), layout='constrained')
  axes = figure.subplots(len(sizes), 1, squeeze=False)[:, 0]
  for axis, size in zip(axes, sizes, strict=True):
    rows = [row for row in record['rows'] if row['batch'] == size]
    _bars(axis, groups, rows, lambda row: row['network'], lambda row: 1e3 * row['seconds'])
    axis.set_ylabel(f'milliseconds, batch {size}')
  figure.legend(*axes[0].get_legend_handles_labels(), fontsize=8, loc='outside upper center', ncols=6)
  save(figure, path)


def files(record: Record, path: Path) -> None:
  """Draws the time to read against bytes, a panel for each network."""
  groups = list(dict.fromkeys(row['network'] for row in record['rows']))
  figure = Figure(figsize=(4.4 * len(groups) + 2.4, 3.6), layout='constrained')
  axes = figure.subplots(1, len(groups), squeeze=False, sharey=True)[0]
  for axis, group in zip(axes, groups, strict=True):
    for row in record['rows']:
      if row['network'] == group:
        axis.plot(row['bytes'], 1e3 * row['read_seconds'], 'o', label=row['file'])
    axis.set(xscale='log', yscale='log', xlabel='bytes of the file', title=group)
    axis.yaxis.set_major_formatter('{x:g}')
    axis.yaxis.set_minor_formatter(NullFormatter())
    axis.grid(alpha=0.3)
  axes[0].set_ylabel('milliseconds to read')
  figure.legend(*axes[0].get_legend_handles_labels(), fontsize=8, loc='outside right upper')
  save(figure, path)


def rate(record: Record, path: Path) -> None:
  """Draws bits a weight against error, a line for each kind of file, above the rate-distortion function."""
  figure = Figure(figsize=(7.2, 4.2), layout='constrained')
  axis = figure.subplots()
  rows = record['rows']
  errors = np.geomspace(min(row['error'] for row in rows), 0.999, 200)
  axis.plot(errors, [least(error) for error in errors], color='black', label='R(D), the least')
  for kind in dict.fromkeys(row['kind'] for row in rows):
    line = [row for row in rows if row['kind'] == kind]
    axis.plot([row['error'] for row in line], [row['bits'] for row in line], 'o-', markersize=4, label=kind)
  axis.set(xscale='log', yscale='log', xlabel='mean absolute error, of weights of mean size 1', ylabel='bits a weight')
  axis.set_ylim(bottom=0.5 * min(row['bits'] for row in rows))
  axis.grid(alpha=0.3, which='both')
  axis.legend(fontsize=8)
  save(figure, path)


def _bars(
  axis: Axes, groups: list[str], rows: Sequence[Row], group: Callable[[Row], str], height: Callable[[Row], float]
) -> None:
  """Draws a bar for each library and activation in every group, PyTorch hatched."""
  kinds = list(dict.fromkeys((row['library'], row['activation']) for row in rows))
  for i, (library, label) in enumerate(kinds):
    found = [row for row in rows if (row['library'], row['activation']) == (library, label)]
    bars = axis.bar(
      [groups.index(group(row)) + (i - (len(kinds) - 1) / 2) * 0.84 / len(kinds) for row in found],
      [height(row) for row in found],
      width=0.8 / len(kinds), color=_color(label), label=f'{library} {label}',
      hatch='////' if library == 'PyTorch' else None, edgecolor='white', linewidth=0.5,
    )  # fmt: skip
    axis.bar_label(bars, [_digits(height(row)) for row in found], fontsize=5.5, rotation=90, padding=2)
  axis.set_xticks(range(len(groups)), groups, fontsize=8)
  axis.set_yscale('log')
  axis.yaxis.set_major_formatter('{x:g}')
  axis.yaxis.set_minor_formatter(NullFormatter())
  axis.set_ylim(0.5 * min(map(height, rows)), 2 * max(map(height, rows)))
  axis.grid(axis='y', alpha=0.3)
  axis.set_axisbelow(True)


def _digits(number: float) -> str:
  """Formats a number with three significant digits, from 100 on as a whole number."""
  return f'{number:,.0f}' if number >= 100 else f'{number:.3g}'


def scaling(record: Record, path: Path) -> None:
  """Draws images per second over devices and over batch sizes, and LMA's cost over its segments."""
  figure = Figure(figsize=(11.5, 3.6), layout='constrained')
  devices, segments, batches = figure.subplots(1, 3)
  for name, rows in _families(record['devices']).items():
    _line(devices, rows, 'devices', 'images_per_second', name)
  devices.set(xlabel='virtual CPU devices in all', ylabel='images per second', ylim=(0, None))
  kinds = dict.fromkeys((row['elements'], row['pass']) for row in record['segments'])
  for elements, which in kinds:
    rows = [row for row in record['segments'] if (row['elements'], row['pass']) == (elements, which)]
    _line(segments, rows, 'segments', 'ratio', f'{which}, {elements:,}')
  segments.set(xlabel='segments of LMA', ylabel='time / time of ReLU', yscale='log')
  for label in dict.fromkeys(row['activation'] for row in record['batches']):
    _line(
      batches, [row for row in record['batches'] if row['activation'] == label], 'batch', 'images_per_second', label
    )
  batches.set(xlabel='images a step', ylabel='images per second', ylim=(0, None))
  for axis in (devices, segments, batches):
    axis.legend(fontsize=7)
    axis.grid(alpha=0.3)
  save(figure, path)


def stages(record: Record, path: Path) -> None:
  """Draws the milliseconds of all stages in one program, beside a stack of those of one program per stage."""
  rows = record['rows']
  figure = Figure(figsize=(max(5, 2 * len(rows) + 1.5), 3.4), layout='constrained')
  axis = figure.subplots()
  places = range(len(rows))
  axis.bar([x - 0.2 for x in places], [1e3 * r['seconds'] for r in rows], 0.36, color=COLORS['lma'], label='together')
  below = [0.0] * len(rows)
  for i in range(max(len(row['stage_seconds']) for row in rows)):
    heights = [1e3 * row['stage_seconds'][i] if i < len(row['stage_seconds']) else 0.0 for row in rows]
    shade = str(0.35 + 0.15 * (i % 4))
    axis.bar([x + 0.2 for x in places], heights, 0.36, below, color=shade, label=f'stage {i} by itself')
    below = [low + height for low, height in zip(below, heights, strict=True)]
  axis.set_xticks(places, [row['network'] for row in rows])
  axis.set_ylabel('milliseconds, errors and gradient')
  axis.legend(fontsize=8)
  axis.grid(axis='y', alpha=0.3)
  save(figure, path)


def translation(record: Record, path: Path) -> None:
  """Draws training tokens per second, with PyTorch's times beside JAX's, and the seconds of decoding over length."""
  figure = Figure(figsize=(10.5, 3.8), layout='constrained')
  training, decoding = figure.subplots(1, 2)
  rows = record['training']
  groups = {row['network']: row['network'] for row in rows}
  for row in rows:
    if row['library'] == 'PyTorch':
      groups[row['network']] += f'\n{row["activation"]}: PyTorch / JAX {row["ratio"]:.2f}'
  _bars(training, list(groups.values()), rows, lambda row: groups[row['network']], lambda row: row['tokens_per_second'])
  training.set_ylabel('target tokens per second')
  rows, lengths = record['decoding'], [row['length'] for row in record['decoding']]
  _line(decoding, rows, 'length', 'uncached_seconds', 'without a cache', color=COLORS['relu'], linestyle='--')
  _line(decoding, rows, 'length', 'seconds', 'with the cache', color=COLORS['relu'])
  for row in rows:
    above = {'xytext': (0, 6), 'textcoords': 'offset points', 'ha': 'center', 'fontsize': 8}
    decoding.annotate(f'{row["ratio"]:.1f} ×', (row['length'], row['uncached_seconds']), **above)
  slowest = max(row['uncached_seconds'] for row in rows)
  decoding.set(xlabel='tokens a sentence', ylabel='seconds', ylim=(0, 1.15 * slowest))
  decoding.set_xticks(lengths, [str(length) for length in lengths])
  for axis in (training, decoding):
    axis.legend(fontsize=7, loc='upper left')
  decoding.grid(alpha=0.3)
  save(figure, path)


def compiled(record: Record, path: Path) -> None:
  """Draws what each activation takes over what ReLU does: estimated cycles, or bytes where the compiler has none."""
  rows = record['rows']
  panels = list(dict.fromkeys((row['program'], row['target']) for row in rows))
  labels = list(dict.fromkeys(row['activation'] for row in rows))
  figure = Figure(figsize=(10.5, 2.6 * len(panels) + 0.4), layout='constrained')
  for axis, panel in zip(figure.subplots(len(panels), 1, squeeze=False)[:, 0], panels, strict=True):
    found = [row for row in rows if (row['program'], row['target']) == panel]
    name = 'cycles' if any(row['cycles'] for row in found) else 'bytes'
    groups = list(dict.fromkeys(map(_place, found)))
    for i, label in enumerate(labels):
      known = [(row, value) for row in found if row['activation'] == label and (value := over_relu(row, rows, name))]
      bars = axis.bar(
        [groups.index(_place(row)) + (i - (len(labels) - 1) / 2) * 0.84 / len(labels) for row, _ in known],
        [value for _, value in known], width=0.8 / len(labels), color=_color(label), label=label,
      )  # fmt: skip
      axis.bar_label(bars, [f'{value:.2f}' for _, value in known], fontsize=6.5, padding=1)
    axis.axhline(1, color='#444444', linewidth=0.8)
    axis.set_xticks(range(len(groups)), groups, fontsize=7.5)
    axis.set_ylabel(f"{'estimated cycles' if name == 'cycles' else 'bytes'} / ReLU's", fontsize=8)
    axis.set_title(', '.join(panel), fontsize=10, loc='left')
    axis.margins(y=0.12)
    axis.grid(axis='y', alpha=0.3)
    axis.set_axisbelow(True)
  handles = [Patch(color=_color(label), label=label) for label in labels]
  figure.legend(handles=handles, fontsize=8, loc='outside right upper')
  save(figure, path)


def _place(row: Row) -> str:
  what = ' '.join(filter(None, (row['network'], row['part'])))
  return f'{textwrap.fill(what, 14)}\n{row["dtype"]}'


def _families(rows: Sequence[Row]) -> dict[str, list[Row]]:
  """Splits the rows into one process with many devices, and many processes with one device each."""
  return {
    'one process': [row for row in rows if row['processes'] == 1],
    'a process each': [row for row in rows if row['processes'] == row['devices']],
  }


def _line(axis: Axes, rows: Sequence[Row], x: str, y: str, label: str, **how: Any) -> None:
  values = [row[x] for row in rows]
  axis.plot(values, [row[y] for row in rows], marker='o', markersize=4, linewidth=1.2, label=label, **how)
  axis.set_xscale('log', base=2)
  axis.xaxis.set_major_formatter('{x:.0f}')
