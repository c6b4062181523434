"""Reads from a compiled program what it moves, keeps and sends, whatever device it is for."""

import math
import re
from collections.abc import Iterator
from typing import NamedTuple

import jax

_SHAPE = re.compile(r'\b(pred|bf16|token|opaque|[a-z]+(\d+)(?:e\w+)?)\[([\d,<=]*)\](\{[^{}]*\})?')
_LINE = re.compile(r'\s*(?:ROOT )?%?([\w.\-]+) = (.*?) ([a-z][\w\-]*)\((.*)')
_HEAD = re.compile(r'(ENTRY )?%?([\w.\-]+) .*\{$')
_FREE = {
  'parameter', 'constant', 'tuple', 'get-tuple-element', 'bitcast', 'after-all', 'opt-barrier', 'partition-id',
  'replica-id', 'add-dependency', 'domain',
}  # fmt: skip
_LAUNCHED = {'fusion', 'custom-call', 'copy', 'reduce', 'convolution', 'dot'}  # even for a single number
_SLICES = {'slice', 'dynamic-slice', 'gather'}
_NO_ESTIMATE = 2**62  # cycles: the largest number of 64 bits stands for none
_CARRIED = {'copy-start', 'slice-start', 'dynamic-slice-start'}  # their types name both ends
_HANDED_ON = {'tuple', 'bitcast'}
COLLECTIVES = (
  'all-reduce', 'all-gather', 'reduce-scatter', 'all-to-all', 'collective-permute', 'collective-broadcast',
)  # fmt: skip


class Traffic(NamedTuple):
  """What one call of a compiled program costs a device, by the text of its compiler; bytes and counts.

  Bytes and collectives are those of one chip. What a compiler estimates is no time.

  >>> Traffic(bytes=8, kernels=1, temporaries=0, peak=8, cycles=None, collectives={}, collective_bytes=0).kernels
  1
  """

  bytes: int
  kernels: int
  temporaries: int
  peak: int
  cycles: int | None
  collectives: dict[str, int]
  collective_bytes: int


class _Instruction(NamedTuple):
  name: str
  types: str
  op: str
  operands: list[str]
  line: str


def traffic(program: jax.stages.Compiled | jax.stages.Lowered) -> Traffic:
  r"""Says what a program moves through its device's memory, what it keeps there, and what it sends to others.

  .. math:: \text{bytes} = \sum_{\text{kernels}} \left(\sum \text{operands} + \sum \text{results}\right)

  Each kernel is taken to read its operands and to write its results once; of an operand that it only slices the slices
  count, of a result that it updates in place the update. What a TPU holds in its on-chip memory does not count, but the
  way there does. The bodies of loops count as often as they run where the compiler says so, which a TPU's does not, and
  else once; of a choice the branch counts that moves most.

  Args:
    program: a compiled or a lowered step, ``make_train_step(…).lower(*arguments)``. If it is lowered for ``chips``,
      their own compiler compiles it, without the device.

  Returns:
    The bytes that its kernels read and write; how many kernels it launches; the bytes of its temporaries, and of all
    that it holds at once at its peak; a TPU's estimated cycles, the sum over its kernels, and None where the compiler
    gives none or there is a kernel that it knows nothing of; each kind of collective with its number; and the bytes
    that these take or give, whichever is more.

  Raises:
    ValueError: the compiler gives no text, or no figures of memory.

  >>> import jax.numpy as jnp
  >>> x = jax.ShapeDtypeStruct((1000,), jnp.float32)
  >>> traffic(jax.jit(lambda x: jnp.sin(x) + 1).lower(x))[:2]
  (8000, 1)

  Source: not in the paper. ``cost_analysis()`` is empty on a GPU, and on a TPU it counts an operand of several fused
  sums as often as there are sums.
  """
  program = program.compile() if isinstance(program, jax.stages.Lowered) else program
  text, memory = program.as_text(), program.memory_analysis()
  if not text or memory is None:
    raise ValueError('the compiler of this program gives no text or no figures of memory, so its traffic is unknown')
  computations, entry = _parsed(text)
  moved, kernels, cycles, unknown = 0, 0, 0, False
  for times, instruction, holder in _run(computations, entry):
    if _is_kernel(instruction, holder):
      moved += times * _moved(instruction, holder, computations)
      kernels += times
      estimate = sum(map(int, re.findall(r'"estimated_cycles":"(\d+)"', instruction.line)))
      cycles += times * estimate
      unknown |= 'custom_call_target="tpu_custom_call"' in instruction.line or estimate >= _NO_ESTIMATE
  sent, collectives, seen = 0, {}, set()
  for times, instruction, holder in _run(computations, entry, inside=True):
    kind, channel = instruction.op.removesuffix('-start'), re.search(r'channel_id=\d+', instruction.line)
    again = channel is not None and channel[0] in seen  # a TPU names one in each fusion that it runs beside
    if kind in COLLECTIVES and not again:
      seen.add(channel and channel[0])
      collectives[kind] = collectives.get(kind, 0) + times
      taken = sum(_size(holder[name].types, on_chip=True) for name in instruction.operands if name in holder)
      given = _size(instruction.types, on_chip=True) - (taken if instruction.op != kind else 0)
      sent += times * max(taken, given)
  held = memory.argument_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
  temporaries = memory.temp_size_in_bytes
  return Traffic(
    moved, kernels, temporaries, held + temporaries, None if unknown else cycles or None, collectives, sent
  )


_Computation = dict[str, _Instruction]


def _parsed(text: str) -> tuple[dict[str, _Computation], str]:
  """The computations of a program by name, and the name of the one that it enters."""
  computations, entry, current = {}, '', None
  for line in text.splitlines():
    if current is None:
      if head := _HEAD.match(line):
        current = computations.setdefault(head[2], {})
        entry = head[2] if head[1] else entry
    elif line.startswith('}'):
      current = None
    elif found := _LINE.match(line):
      name, types, op, rest = found.groups()
      current[name] = _Instruction(name, types, op, re.findall(r'%([\w.\-]+)', _until_closed(rest)), line)
  return computations, entry


def _until_closed(rest: str) -> str:
  """The operands of an instruction, up to the bracket that ends them."""
  depth = 1
  for i, sign in enumerate(rest):
    depth += (sign == '(') - (sign == ')')
    if depth == 0:
      return rest[:i]
  return rest


def _run(
  computations: dict[str, _Computation], entry: str, *, inside: bool = False
) -> Iterator[tuple[int, _Instruction, _Computation]]:
  """The instructions that run, each with how often and with its computation; ``inside`` also those in fusions."""

  def walk(name: str, times: int, inside: bool) -> Iterator[tuple[int, _Instruction, _Computation]]:
    computation = computations.get(name, {})
    for instruction in computation.values():
      op, line = instruction.op, instruction.line
      if op == 'while':
        trips = re.search(r'"known_trip_count":\{"n":"(\d+)"', line)
        yield from walk(_called('body', line), times * int(trips[1] if trips else 1), inside)
      elif op == 'conditional':
        yield from walk(max(_branches(line), key=total), times, inside)
      elif op in ('call', 'async-start'):
        yield from walk(_called('to_apply' if op == 'call' else 'calls', line), times, inside)
      else:
        yield times, instruction, computation
        if inside and op == 'fusion':
          yield from walk(_called('calls', line), times, inside)

  def total(name: str) -> int:
    ran = walk(name, 1, inside=False)
    return sum(times * _moved(one, holder, computations) for times, one, holder in ran if _is_kernel(one, holder))

  return walk(entry, 1, inside)


def _called(which: str, line: str) -> str:
  found = re.search(rf'\b{which}=%?([\w.\-]+)', line)
  return found[1] if found else ''


def _branches(line: str) -> list[str]:
  if many := re.search(r'branch_computations=\{([^}]*)\}', line):
    return re.findall(r'[\w.\-]+', many[1])
  return [_called('true_computation', line), _called('false_computation', line)]


def _is_kernel(instruction: _Instruction, holder: _Computation) -> bool:
  op = instruction.op
  if (
    op in _FREE
    or op.endswith(('-done', '-update'))
    or 'custom_call_target="AllocateBuffer"' in instruction.line
    or op.removesuffix('-start') in COLLECTIVES
  ):
    return False
  types = [instruction.types, *(holder[name].types for name in instruction.operands if name in holder)]
  return op in _LAUNCHED or any(math.prod(dims) != 1 for text in types for _, dims, _ in _shapes(text))


def _moved(instruction: _Instruction, holder: _Computation, computations: dict[str, _Computation]) -> int:
  """The bytes that a kernel reads and writes."""
  op, types = instruction.op, [holder[name].types if name in holder else '' for name in instruction.operands]
  if op in _CARRIED:
    return _carried(*[found[0] for found in _SHAPE.finditer(instruction.types)][:2])
  if op in _SLICES:
    return _carried(instruction.types, types[0])
  if op == 'dynamic-update-slice':
    return _carried(instruction.types, types[1])
  body = computations.get(_called('calls', instruction.line), {}) if op == 'fusion' else {}
  read, written = list(map(_size, types)), _size(instruction.types)
  inputs = [one for one in body.values() if one.op == 'parameter']
  for one in inputs:
    position = int(one.line.partition('parameter(')[2].partition(')')[0])
    read[position] = min(read[position], _looked_at(one.name, body))
  for one in body.values():
    if _in_place(one, body):
      written -= max(_size(one.types) - _size(body[one.operands[1]].types, on_chip=True), 0)
    if 'ROOT' in one.line and one.op == 'tuple':
      written -= sum(_size(other.types) for other in inputs if other.name in one.operands)
  return sum(read) + max(written, 0)


def _carried(*ends: str) -> int:
  """The bytes between two places, at each end that is in main memory: as many as the smaller holds."""
  return min(_size(end, on_chip=True) for end in ends) * sum(_size(end) > 0 for end in ends)


def _looked_at(name: str, body: _Computation) -> int:
  """The most bytes read of a fusion's input: its slices, and nothing of one that is handed on or updated in place."""
  read = 0
  for user in (one for one in body.values() if name in one.operands):
    first = user.operands[0] == name and user.operands.count(name) == 1
    if user.op in _SLICES and first:
      read += _size(user.types, on_chip=True)
    elif user.op != 'tuple' and not (_in_place(user, body) and first):
      return _size(body[name].types, on_chip=True)
  return read


def _in_place(one: _Instruction, body: _Computation) -> bool:
  """Whether an instruction of a fusion updates an input of it that becomes a result as it is."""
  if one.op != 'dynamic-update-slice' or body[one.operands[0]].op != 'parameter' or one.operands[1] not in body:
    return False
  return all(user.op in _HANDED_ON for user in body.values() if one.name in user.operands)


def _shapes(types: str) -> Iterator[tuple[float, list[int], str]]:
  """Bytes an element, extent and layout of each array among the types of an instruction."""
  for kind, bits, dims, layout in _SHAPE.findall(types):
    width = {'pred': 1, 'bf16': 2, 'token': 0, 'opaque': 0}.get(kind, int(bits or 0) / 8)
    yield width, [int(dim) for dim in re.findall(r'\d+', dims)], layout


def _size(types: str, *, on_chip: bool = False) -> int:
  """The bytes of the arrays in main memory; a TPU's layouts name tiles, and any other memory that they are in.

  A bare ``{:S(2)}`` is a flag that copies wait for.
  """
  total = 0.0
  for width, dims, layout in _shapes(types):
    if not layout.startswith('{:S(') and (on_chip or not re.search(r'T\(.*S\([1-9]', layout)):
      total += width * math.prod(dims)
  return int(total)
