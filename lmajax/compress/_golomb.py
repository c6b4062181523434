"""Golomb's codes with a power of two as their parameter, as Rice has them, of numbers and of places in a row."""

import numpy as np

MOST = 30
"""The greatest Rice parameter; with it and the bound on the bytes no number leaves 63 bits."""
LONGEST = 2**29
"""Bytes of the longest code that is read."""


def best_rice(values: np.ndarray, least: int = 0) -> int:
  """Finds the Rice parameter of the shortest code, by the lengths of all; of two equally short ones the smaller.

  >>> best_rice(np.array([9, 3, 12, 7]))
  2

  Source: the exact best in place of Golomb's rule by the mean (Golomb 1966, "Run-length encodings").
  """
  lengths = [int((values >> rice).sum()) + (rice + 1) * values.size for rice in range(least, MOST + 1)]
  return least + int(np.argmin(lengths))


def golomb(values: np.ndarray, rice: int) -> np.ndarray:
  r"""Lays the codes of whole numbers end to end, and fills the last byte up with zeros.

  .. math:: v \mapsto 0^{\lfloor v / 2^k \rfloor}\,1\,(v \bmod 2^k \text{ in } k \text{ bits})

  Args:
    values: v, none negative, [n].
    rice: k, 0 … 30; where it is far below ``best_rice`` the code is as long as the numbers are large.

  Returns:
    Bytes, uint8.

  >>> np.unpackbits(golomb(np.array([5, 2]), 1)).tolist()
  [0, 0, 1, 1, 0, 1, 0, 0]

  Source: Golomb 1966; Rice 1979. Zeros that end with a one, so that the zeros of the last byte are no code.
  """
  ends = np.cumsum((values >> rice) + 1 + rice)
  bits = np.zeros(int(ends[-1]) if ends.size else 0, np.uint8)
  bits[ends - rice - 1] = 1
  for place in range(rice):
    bits[ends - 1 - place] = (values >> place) & 1
  return np.packbits(bits)


def numbers(code: np.ndarray, rice: int, count: int, *, cut: bool = False) -> np.ndarray:
  """Reads the numbers of ``golomb`` again; what is allocated is bounded by the bytes, whatever the count.

  Args:
    code: bytes, uint8.
    rice: the parameter that they were laid out with.
    count: how many numbers they hold, or held before they were cut off.
    cut: the end may be missing; what is whole is read, and a number that is cut through is dropped.

  Returns:
    Numbers, int64, so many, or with ``cut`` at most so many.

  Raises:
    ValueError: the parameter is out of range, or the bytes are not those of so many numbers.

  >>> code = golomb(np.array([5, 2, 40]), 1)
  >>> numbers(code, 1, 3).tolist(), numbers(code[:2], 1, 3, cut=True).tolist()
  ([5, 2, 40], [5, 2])

  Source: as ``golomb``.
  """
  if not 0 <= rice <= MOST or code.size > LONGEST or count < 0:
    raise ValueError(f'{code.size} bytes for {count} numbers of the Rice parameter {rice}')
  bits = np.unpackbits(code)
  whole = bits.size
  # The next one from each place on, and one place more, where a code that ends with the bytes would go on.
  stop_after = np.append(np.minimum.accumulate(np.where(bits, np.arange(whole), whole)[::-1])[::-1], whole)
  follow, stops, at = memoryview(stop_after.data), [], 0
  while len(stops) < count and (end := follow[at] + 1 + rice) <= whole:
    stops.append(end - 1 - rice)
    at = end
  if not cut and (len(stops) < count or -(-at // 8) != code.size or bits[at:].any()):
    raise ValueError(f'{code.size} bytes are no {count} numbers of the Rice parameter {rice}')
  ends = np.array(stops, np.int64)
  starts = np.append(0, ends + 1 + rice)[: ends.size]
  values = ends - starts
  for place in range(rice):
    values = values << 1 | bits[ends + 1 + place]
  return values


def gaps(places: np.ndarray) -> np.ndarray:
  """Counts what lies between each place and the one before; the first counts from the start of the row.

  >>> gaps(np.array([2, 3, 7])).tolist()
  [2, 0, 3]
  """
  return np.diff(places, prepend=-1) - 1


def places(between: np.ndarray, size: int) -> np.ndarray:
  """Takes the places of ``gaps`` out again, in a row of so many.

  Raises:
    ValueError: the last place lies beyond the row.

  >>> places(np.array([2, 0, 3]), 8).tolist()
  [2, 3, 7]
  """
  # In floats first: a sum of large gaps may leave 63 bits, and a float is exact wherever it decides.
  if between.sum(dtype=np.float64) + between.size > size:
    raise ValueError(f'places beyond a row of {size}')
  return np.cumsum(between + 1) - 1
