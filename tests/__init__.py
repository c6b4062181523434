"""The tests, in rooms: ``lmajax`` and ``train`` mirror what they judge, ``programs`` has a folder for each program."""

from pathlib import Path

ROOT = Path(__file__).parents[1]
GOLDEN = ROOT / 'tests' / 'golden'
SHARED = ROOT.parent / 'shared' / 'data'
"""Real data sets, where they are at hand."""
