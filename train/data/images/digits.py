"""The 1,797 handwritten digits of 8x8 pixels that come with scikit-learn: real data without a download."""

from pathlib import Path

import numpy as np

from train.data.images.images import Examples, stratified_order

TEST = 500


def load(name: str, folder: Path) -> tuple[Examples, Examples]:
  """Returns training (with validation) and test images; without an official test part, a fixed one is taken."""
  del name, folder
  from sklearn.datasets import load_digits  # half a second of imports, which no other program needs

  pixels, labels = load_digits(return_X_y=True)
  whole = Examples(pixels.astype(np.uint8).reshape(-1, 8, 8, 1), labels.astype(np.int32))
  order = stratified_order(whole.labels)
  return whole.take(order[TEST:]), whole.take(order[:TEST])
