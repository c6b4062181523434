"""Batches of images: by step, normalized, spread over devices, augmented, and mixed."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmajax.types import Batch
from tests.support.images import random_images
from train.data import Examples
from train.data.batches import Batches, evaluation_batches, pixels
from train.data.images.augment import crop_and_flip, mixup
from train.runtime.errors import UserError


def batches(images, *, mean=(100.0, 120.0, 140.0), std=(50.0, 60.0, 70.0), augment=False, **changes):
  options = dict(batch_size=8, seed=3, prepare=pixels(mean, std, augment=augment))
  return Batches(images, **(options | changes))


def data_sharding():
  mesh = jax.make_mesh((8,), ('data',), axis_types=(jax.sharding.AxisType.Auto,))
  return jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec('data'))


def equal(a, b) -> bool:
  return jax.tree.all(jax.tree.map(np.array_equal, a, b))


class TestBatches:
  def test_normalizes_and_keeps_labels_with_their_images(self):
    images = random_images(16)
    batch = batches(images, batch_size=16)[0]
    assert (batch.inputs.dtype, batch.labels.dtype) == (jnp.float32, jnp.int32)
    rows = np.random.default_rng((3, 0)).permutation(16)
    pixels = images.inputs[rows].astype(np.float64)
    np.testing.assert_allclose(batch.inputs, (pixels - [100, 120, 140]) / [50, 60, 70], rtol=1e-6, atol=1e-6)
    assert np.array_equal(batch.labels, images.labels[rows])

  @pytest.mark.parametrize('augment', [False, True])
  def test_a_batch_depends_on_its_step_only(self, augment):
    images = random_images(50)
    one, other = batches(images, augment=augment), batches(images, augment=augment)
    sequential = [one[step] for step in range(58)]
    assert one.steps_per_epoch == 6
    assert equal(other[57], sequential[57]) and equal(other[3], sequential[3]) and equal(one[3], sequential[3])

  def test_an_epoch_takes_no_image_twice_and_epochs_differ(self):
    images = Examples(np.arange(48, dtype=np.uint8).reshape(48, 1, 1, 1), np.arange(48, dtype=np.int32))
    data = batches(images, mean=(0.0,), std=(1.0,))
    epochs = [[int(label) for step in range(6) for label in data[6 * epoch + step].labels] for epoch in range(3)]
    assert all(sorted(epoch) == list(range(48)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2] != epochs[0]

  def test_seeds_differ(self):
    images = random_images(48)
    assert not equal(batches(images)[0].inputs, batches(images, seed=4)[0].inputs)
    alone = random_images(1)
    seeds = [batches(alone, batch_size=1, augment=True, seed=seed)[0].inputs for seed in range(4)]
    assert not all(equal(seeds[0], other) for other in seeds)

  def test_augmentation_differs_from_step_to_step(self):
    data = batches(random_images(1), batch_size=1, augment=True)
    steps = [data[step].inputs for step in range(4)]
    assert not all(equal(steps[0], other) for other in steps)

  def test_augments_before_it_normalizes(self):
    white = Examples(np.full((64, 32, 32, 3), 255, np.uint8), np.zeros(64, np.int32))
    images = np.asarray(batches(white, batch_size=64, augment=True)[0].inputs)
    np.testing.assert_allclose(np.unique(images[..., 0]), [-2.0, 3.1], rtol=1e-6)

  @pytest.mark.parametrize('augment', [False, True])
  def test_sharded_batches_equal_unsharded_ones(self, augment):
    images = random_images(48)
    sharded, alone = batches(images, augment=augment, sharding=data_sharding())[4], batches(images, augment=augment)[4]
    assert equal(sharded, alone)
    for leaf in sharded:
      assert [shard.data.shape[0] for shard in leaf.addressable_shards] == [1] * 8

  @pytest.mark.parametrize('size', [-1, 0, 17])
  def test_batch_size_out_of_range(self, size):
    with pytest.raises(UserError, match=f'batch size {size} with 16 training examples'):
      batches(random_images(16), batch_size=size)

  def test_batch_size_that_does_not_spread(self):
    with pytest.raises(UserError, match='batch size 12 does not spread'):
      batches(random_images(16), batch_size=12, sharding=data_sharding())

  @pytest.mark.parametrize('total, sharded', [(16, False), (19, False), (19, True), (3, True)])
  def test_evaluation_covers_each_image_once_in_order(self, total, sharded):
    images = Examples(np.arange(total, dtype=np.uint8).reshape(total, 1, 1, 1), np.arange(total, dtype=np.int32))
    options = dict(batch_size=8, prepare=pixels((1.0,), (2.0,)), sharding=data_sharding() if sharded else None)
    seen = list(evaluation_batches(images, **options))
    assert len(seen) == -(-total // 8)
    assert all(batch.inputs.shape == (8, 1, 1, 1) and mask.shape == (8,) for batch, mask in seen)
    real = np.concatenate([np.asarray(batch.inputs)[np.asarray(mask)] for batch, mask in seen])
    assert np.array_equal(real.ravel(), (np.arange(total) - 1) / 2)
    assert [int(x) for batch, mask in seen for x in batch.labels[mask]] == list(range(total))
    for leaf in jax.tree.leaves(seen) if sharded else ():
      assert [shard.data.shape[0] for shard in leaf.addressable_shards] == [1] * 8


class TestCropAndFlip:
  def test_every_image_is_a_crop_of_its_padded_self(self, strict_dtypes):
    images = random_images(400, size=8).inputs
    padded = np.pad(images, ((0, 0), (4, 4), (4, 4), (0, 0)))
    found = []
    for image, out in zip(padded, np.asarray(crop_and_flip(jax.random.key(0), jnp.asarray(images))), strict=True):
      crops = {(y, x): image[y : y + 8, x : x + 8] for y in range(9) for x in range(9)}
      matches = [
        (*corner, flip) for corner, crop in crops.items() for flip in (1, -1) if np.array_equal(crop[:, ::flip], out)
      ]
      assert matches
      found += matches
    rows, columns, flips = zip(*found, strict=True)
    assert set(rows) == set(columns) == set(range(9))
    assert 0.4 < np.mean(np.equal(flips, -1)) < 0.6

  def test_jit_equals_eager_and_keeps_shape_and_dtype(self):
    images = jnp.asarray(random_images(5).inputs)
    out = crop_and_flip(jax.random.key(7), images)
    assert (out.shape, out.dtype) == (images.shape, images.dtype)
    assert np.array_equal(out, jax.jit(crop_and_flip)(jax.random.key(7), images))

  def test_without_padding_only_flips(self):
    images = random_images(20).inputs
    out = np.asarray(crop_and_flip(jax.random.key(1), jnp.asarray(images), padding=0))
    assert all(np.array_equal(o, i) or np.array_equal(o, i[:, ::-1]) for o, i in zip(out, images, strict=True))


class TestMixup:
  def test_a_mixed_batch_is_the_formula_on_the_same_crops(self, strict_dtypes):
    images = Examples(random_images(8, size=8).inputs, np.arange(8, dtype=np.int32))  # of which each is its own class
    plain = batches(images, augment=True)
    mixed, partners = batches(images, augment=True, mix=partial(mixup, alpha=1.0, num_classes=8)), []
    weights = []
    for step in range(4):
      own, (inputs, labels) = plain[step], mixed[step]
      assert (inputs.dtype, labels.dtype) == (jnp.float32, jnp.float32)
      of_class = {int(label): np.asarray(image) for image, label in zip(*own, strict=True)}
      for image, chances, label in zip(inputs, np.asarray(labels), own.labels.tolist(), strict=True):
        weight, others = chances[label], np.flatnonzero(chances * (np.arange(8) != label))
        partner = int(others[0]) if len(others) else label
        np.testing.assert_allclose(chances, weight * np.eye(8)[label] + (1 - weight) * np.eye(8)[partner], atol=1e-6)
        np.testing.assert_allclose(
          image, weight * of_class[label] + (1 - weight) * of_class[partner], rtol=1e-5, atol=1e-5
        )
        weights += [] if partner == label else [weight]
        partners.append((step, partner))
    assert len(set(partners)) == len(partners) == 32  # an order, in which nobody comes twice
    assert len(set(weights)) == len(weights) > 16

  @pytest.mark.parametrize('alpha', [1.0, 0.2])
  def test_weights_are_of_the_distribution(self, alpha):
    number = 4000
    batch = Batch(jnp.arange(number, dtype=jnp.float32), jnp.arange(number) % 2)
    labels = np.asarray(mixup(jax.random.key(0), batch, alpha=alpha, num_classes=2).labels)
    own = np.take_along_axis(labels, np.arange(number)[:, None] % 2, -1)[:, 0]
    weights = own[own < 1]  # of those that met the other class
    assert abs(len(weights) / number - 0.5) < 0.03 and abs(weights.mean() - 0.5) < 0.03
    np.testing.assert_allclose(weights.var(), 1 / (4 * (2 * alpha + 1)), rtol=0.06)

  def test_a_mixed_batch_depends_on_its_step_only_wherever_it_is_made(self):
    images, mix = random_images(48, size=8), partial(mixup, alpha=1.0, num_classes=10)
    one, other = batches(images, augment=True, mix=mix), batches(images, augment=True, mix=mix)
    later = [one[step] for step in range(8)][7]
    assert equal(other[7], later) and not equal(one[1].labels, one[2].labels)
    spread = batches(images, augment=True, mix=mix, sharding=data_sharding())
    inside = jax.jit(spread.batch)(spread.epoch(1), 7)
    for found in (spread[7], inside):
      for leaf, expected in zip(found, later, strict=True):
        np.testing.assert_allclose(leaf, expected, rtol=1e-5, atol=1e-5)
        assert [shard.data.shape[0] for shard in leaf.addressable_shards] == [1] * 8
