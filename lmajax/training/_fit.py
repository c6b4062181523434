"""Training of one network of one's own, on data of one's own, from the first step to what ships."""

import hashlib
import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lmajax._arguments import check_count, shown
from lmajax.compress import identity
from lmajax.training._checkpoint import Checkpoints, digests
from lmajax.training._criteria import accompanied
from lmajax.training._data import EndedError, Shuffled, batches_of
from lmajax.training._fitted import Fitted, Metric, classes_of, scorer
from lmajax.training._loop import Hooks, loop
from lmajax.training._objectives import reparameterized
from lmajax.training._placing import over_all_devices, replicated, settle, whole
from lmajax.training._step import Progress, WithCode, begin, compiled, sharing, shipped, summed, train_step
from lmajax.training._task import Task, task_of
from lmajax.training._watch import Signals, bar, tell
from lmajax.types import Array, Key, Reparam

_AUGMENT = 0xA06  # keeps these draws apart from the weights' and the dropout's
Augment = Callable[[Key, Any], Any]


def fit(
  task: Any,
  data: Any,
  tx: optax.GradientTransformation,
  *,
  epochs: int,
  batch_size: int = 128,
  seed: int = 0,
  reparam: Reparam | None = None,
  augment: Augment | None = None,
  validation: Any = None,
  metrics: Mapping[str, Metric] | None = None,
  callback: Callable[[Fitted, dict[str, Any]], Any] | None = None,
  folder: Path | str | None = None,
  steps_per_epoch: int | None = None,
  sharding: jax.sharding.NamedSharding | None = None,
) -> Fitted:
  """Trains a network, and goes on from its last checkpoint with the same bits.

  A bar is shown where somebody sees it; the logger ``lmajax`` has a line an epoch. SIGINT and SIGTERM wait, where there
  is a folder, until the step they came in is saved.

  Args:
    task: what ``distill`` makes, or a ``Task``; a network alone (a Linen module, or what ``linen``, ``nnx`` and
      ``function`` make) is trained on its labels.
    data: inputs, with labels that are class numbers, a probability of each class, or missing. Either examples, which
      are shuffled anew each epoch: a pair of arrays, a dictionary of ``inputs`` and ``labels``, or what has ``len`` and
      gives an example for ``[i]``. Or batches: what has ``steps_per_epoch`` and the same batch for the same ``[step]``;
      or an iterable of batches, which on resume is read from its beginning up to the step: that costs what
      reading costs, and the bits are the same where it gives the same batches again. Of several processes each gives
      its own part of a batch, and all give the same examples.
    tx: moves the parameters.
    epochs: in all, those of a checkpoint included.
    batch_size: of examples, over all devices; an epoch's incomplete last batch is dropped.
    seed: of new weights, dropout, augmentation, noise and the order of the examples.
    reparam: makes the weights from what is trained in their place, as ``compress.masked(compress.uniform(4))``.
    augment: (key, inputs) -> inputs, of each training batch, on the devices. A teacher sees what the student sees.
    validation: examples that are scored after each epoch, with the weights that would ship and the statistics as the
      training has them; ``Fitted.evaluate`` measures those again.
    metrics: (logits, labels) -> a number for each example, by name; by default ``accuracy``. The first one decides
      which checkpoint is the best; without validation the loss does.
    callback: is told what is fitted and the entry of the epoch after each; what is new in a dictionary that it returns
      is added to the entry, and its ``score`` decides which checkpoint is the best. It copies what it keeps: the next
      step takes the arrays.
    folder: where a checkpoint is saved after each epoch (``Checkpoints``: the latest two and the best), and
      ``history.jsonl``; without one nothing is saved. It is of this training alone.
    steps_per_epoch: of an iterable that does not know its length.
    sharding: of batches; by default they are split over all devices, and everything else is whole on each. The axes of
      its mesh become Auto.

  Returns:
    What is fitted.

  Raises:
    ValueError: an argument is none of these; teacher and student have other classes; the checkpoints have more epochs.
    EndedError: the data ended early; what was trained is saved.
    FloatingPointError: the loss is not finite; the checkpoint of the epoch before is kept.
    UnfitError: the checkpoints are of another training. They know seed, batch size, the first batch, the teacher, and
      types and shapes of all that is trained; that the rest of the data, and the functions and numbers in ``tx``,
      losses and ``augment`` are the same is yours to see to.
    DamagedError: none of the checkpoints can be read.
    OSError: the disk is full.

  >>> inputs, labels = np.eye(8, dtype=np.float32), np.arange(8) % 2
  >>> fitted = fit(MLP((16,), 2, LMA), (inputs, labels), optax.adam(0.03), epochs=60, batch_size=8)
  >>> fitted.history[-1]['loss'] < fitted.history[0]['loss'], fitted.evaluate((inputs, labels))
  (True, {'accuracy': 1.0})

  Source: not in the paper.
  """
  check_count('epochs', epochs, 1)
  check_count('seed', seed, 0)
  if not isinstance(tx, optax.GradientTransformation):
    raise ValueError(f'tx is {shown(tx)}: give an optimizer of optax')
  task, reparam = task_of(task), identity() if reparam is None else reparam
  sharding = _automatic(sharding)
  on_each = replicated(sharding)
  everywhere = partial(whole, sharding=on_each)
  batches = batches_of(
    data, batch_size=batch_size, seed=seed, steps_per_epoch=steps_per_epoch, said=task.said, sharding=sharding
  )
  steps, folder = batches.steps_per_epoch, None if folder is None else Path(folder)
  student = train_step(reparameterized(task.objective, reparam), tx)
  one = sharing(summed(student), task.share)

  def step(progress: Progress, frozen: Any, batch: Any) -> Progress:
    return one(progress, frozen, _augmented(augment, seed, progress.state.step, batch))

  frozen, first = jax.tree.map(everywhere, task.frozen), batches[0]
  shapes = jax.eval_shape(lambda batch: _augmented(augment, seed, jnp.int32(0), batch), first)
  progress = jax.tree.map(everywhere, _begun(student, task, tx, reparam, seed, frozen, shapes))
  if isinstance(batches, Shuffled):
    batches.classes = classes_of(task.network, shipped(reparam, progress), first.inputs)
  entries: list[dict[str, Any]] = []
  checkpoints = None
  if folder is not None:
    checkpoints = Checkpoints(folder / 'checkpoints', _made_by(task, batches, first, batch_size, seed))
    restored = checkpoints.restore(lambda: _shapes(progress))
    progress, entries = (restored[0], restored[1]['epochs']) if restored else (progress, entries)
  if len(entries) > epochs:
    raise ValueError(f'epochs is {epochs}, and {folder} has {len(entries)} already: give more, or another folder')
  move = compiled(step, placed=on_each)
  score = None if validation is None else scorer(task.network, metrics, sharding)
  ship = jax.jit(lambda progress: shipped(reparam, progress))

  def save(progress: Progress, entries: list[dict[str, Any]], score: float) -> None:
    if checkpoints is not None:
      checkpoints.save(int(progress.state.step), progress, history={'epochs': entries}, score=score)

  with Signals(folder is not None) as signals, bar(epochs * steps, int(progress.state.step)) as show:

    def more(progress: Progress, entries: list[dict[str, Any]]) -> Progress | None:
      return progress if len(entries) < epochs else None

    def between(progress: Progress, step: int, entries: list[dict[str, Any]]) -> None:
      if signals.stopping(step):
        save(progress, entries, -np.inf)
        signals.stop()

    def advance(progress: Progress, step: int, end: int) -> tuple[Progress, int]:
      del end
      try:
        batch = batches[step]
      except EndedError:
        save(progress, entries, -np.inf)
        raise
      progress = move(progress, frozen, batch)
      settle(progress)
      show(step + 1, entries[-1] if entries else {})
      return progress, step + 1

    def end(progress: Progress, step: int, entries: list[dict[str, Any]]) -> tuple[Progress, dict[str, Any]]:
      del step
      means = {name: np.asarray(total / steps).tolist() for name, total in progress.sums.items()}
      if not np.isfinite(means['loss']):
        mend = 'look for inputs and logits that are no numbers, or try a lower learning rate'
        raise FloatingPointError(f'the loss is {means["loss"]} in epoch {len(entries) + 1}: {mend}')
      progress = progress._replace(sums=jax.tree.map(jnp.zeros_like, progress.sums))
      scores = score(ship(progress), validation, batch_size) if score else {}
      entry = {'epoch': len(entries) + 1, **means, **{f'validation_{name}': mean for name, mean in scores.items()}}
      if callback is not None:
        found = Fitted(task.network, reparam, progress, (*entries, entry), batches, sharding)
        entry = {**_told(callback(found, entry)), **entry}
      best = entry.get('score', next(iter(scores.values()), -means['loss']))
      save(progress, [*entries, entry], float(best))
      tell([*entries, entry], folder)
      return progress, entry

    hooks, at = Hooks(more, between, end), (int(progress.state.step), entries)
    try:
      progress = loop(advance, progress, hooks, steps_per_epoch=steps, history=at)
    finally:
      if checkpoints is not None:
        checkpoints.close()
  return Fitted(task.network, reparam, progress, tuple(entries), batches, sharding)


def _augmented(augment: Augment | None, seed: int, step: Array, batch: Any) -> Any:
  if augment is None:
    return batch
  key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), _AUGMENT), step)
  return batch._replace(inputs=augment(key, batch.inputs))


def _begun(student: Callable, task: Task, tx: Any, reparam: Reparam, seed: int, frozen: Any, batch: Any) -> Progress:
  """Makes new weights, and traces a step: what does not fit together is said before anything is trained or written."""
  blank = jax.tree.map(lambda leaf: jnp.zeros((1, *leaf.shape[1:]), leaf.dtype), batch.inputs)
  key = jax.random.key(seed)
  new = begin(task.network, tx, reparam, key, blank)
  if task.beside is not None:
    new = accompanied(new, tx, task.beside(key, blank))
  _, metrics = jax.eval_shape(sharing(student, task.share), new.state, WithCode(frozen, new.code), batch)
  return new._replace(sums={name: jnp.zeros(leaf.shape, jnp.float32) for name, leaf in metrics.items()})


def _automatic(sharding: jax.sharding.NamedSharding | None) -> jax.sharding.NamedSharding:
  """Lets the compiler place what lies between batch and loss; on Explicit axes a user's model would have to."""
  if sharding is None:
    return over_all_devices()
  if not isinstance(sharding, jax.sharding.NamedSharding):
    raise ValueError(f'sharding is {shown(sharding)}: give a NamedSharding, which splits the first axis of a batch')
  mesh = jax.sharding.Mesh(np.asarray(sharding.mesh.devices), sharding.mesh.axis_names)
  return jax.sharding.NamedSharding(mesh, sharding.spec)


def _made_by(task: Task, batches: Any, first: Any, batch_size: int, seed: int) -> dict[str, Any]:
  """Settings that decide the numbers, as far as they can be seen."""
  of_teacher = hashlib.sha256(json.dumps(digests((task.frozen, task.said))).encode()).hexdigest()
  here = all(leaf.is_fully_addressable for leaf in jax.tree.leaves(first) if isinstance(leaf, jax.Array))
  return {
    **{'seed': seed, 'batch_size': batch_size, 'steps_per_epoch': batches.steps_per_epoch, 'teacher': of_teacher},
    'data': hashlib.sha256(json.dumps(digests(first)).encode()).hexdigest() if here else '',
  }


def _shapes(progress: Progress) -> Progress:
  return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), progress)


def _told(said: Any) -> dict[str, Any]:
  if not isinstance(said, Mapping | None):
    raise ValueError(f'callback gives {shown(said)}: let it give a dictionary, or nothing')
  return jax.tree.map(lambda leaf: np.asarray(leaf).tolist() if hasattr(leaf, 'dtype') else leaf, dict(said or {}))
