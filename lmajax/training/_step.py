"""One training step, whatever is trained: the objective is a value handed to it."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lmajax.training._beside import alone, without_count
from lmajax.training._forward import network_of
from lmajax.types import Array, Code, Frozen, Key, Metrics, ModelStats, Objective, Params, Reparam, Share, Step, Theta

_CODE = 0xC0DE  # keeps the codes' draws apart from the weights'


class WithCode(NamedTuple):
  """Frozen values of the weights' own objective, and the code of reparameterized weights beside them.

  >>> WithCode(frozen=None, code=())._fields
  ('frozen', 'code')
  """

  frozen: Frozen
  code: Code


class TrainState(NamedTuple):
  """Everything a step changes; of several seeds, every leaf has a leading axis of them.

  >>> TrainState._fields
  ('step', 'params', 'stats', 'opt_state', 'key')
  """

  step: Array
  params: Params
  stats: ModelStats
  opt_state: Any
  key: Key


class Start(NamedTuple):
  """What a training can start from in place of new weights; of a group, every leaf has a leading axis of seeds.

  >>> Start._fields
  ('theta', 'code', 'stats')
  """

  theta: Theta
  code: Code
  stats: ModelStats


class Progress(NamedTuple):
  """A student in training, or a group with a leading axis of seeds; its params are the reparam's theta.

  Attributes:
    state: all that a step changes.
    sums: of the metrics over the current epoch, so that a resume in its middle reports the same means.
    code: what the weights are made with beside theta.

  >>> Progress._fields
  ('state', 'sums', 'code')
  """

  state: TrainState
  sums: Metrics
  code: Code = ()

  @property
  def end(self) -> Start:
    """What another training can start from: without what was trained beside the student."""
    return Start(alone(self.state.params), self.code, without_count(self.state.stats))


def init_state(model: Any, tx: optax.GradientTransformation, key: Key, inputs: Any) -> TrainState:
  """Initializes a model, its optimizer, and the key of its dropout.

  Args:
    model: a Linen module, called as ``model(inputs, train=...)``, or a ``Network``.
    tx: moves the parameters.
    key: split in two, for the weights and the dropout.
    inputs: of any batch size.

  >>> state = init_state(MLP((2,), 3, LMA), optax.sgd(0.1), jax.random.key(0), jnp.zeros((1, 4)))
  >>> int(state.step), sorted(state.params), sorted(state.stats)
  (0, ['logits', 'stages_0'], ['batch_stats'])

  Source: not in the paper.
  """
  init_key, dropout_key = jax.random.split(key)
  params, stats = network_of(model).init(init_key, inputs)
  return TrainState(jnp.zeros((), jnp.int32), params, stats, tx.init(params), dropout_key)


def begin(
  model: Any, tx: optax.GradientTransformation, reparam: Reparam, key: Key, inputs: Any, *, start: Start | None = None
) -> Progress:
  """Initializes a student in training: its weights, or what they are made from, the optimizer, and no sums yet.

  Args:
    model: as of ``init_state``.
    tx: moves theta.
    reparam: makes the weights from theta.
    key: of new weights, the code and the dropout.
    inputs: of any batch size.
    start: what to start from in place of new weights.

  >>> progress = begin(MLP((2,), 3, LMA), optax.sgd(0.1), compress.identity(), jax.random.key(0), jnp.zeros((1, 4)))
  >>> int(progress.state.step), progress.sums, progress.code
  (0, {}, ())

  Source: not in the paper.
  """
  state = init_state(model, tx, key, inputs)
  begun = start or Start(*reparam.init(state.params, jax.random.fold_in(key, _CODE)), state.stats)
  state = state._replace(params=begun.theta, stats=begun.stats, opt_state=tx.init(begun.theta))
  return Progress(state, {}, begun.code)


def shipped(reparam: Reparam, progress: Progress) -> dict[str, Any]:
  """Returns the weights that would ship, and the statistics as the training moved them.

  What was trained beside the student does not ship.

  >>> state = TrainState(jnp.int32(0), {'w': jnp.ones(2)}, {}, (), jax.random.key(0))
  >>> shipped(compress.identity(), Progress(state, {}))
  {'params': {'w': Array([1., 1.], dtype=float32)}}

  Source: not in the paper.
  """
  theta, stats = alone(progress.state.params), without_count(progress.state.stats)
  return {'params': reparam.apply(theta, progress.code, None), **stats}


def train_step(objective: Objective, tx: optax.GradientTransformation) -> Step:
  r"""Makes the step of one student, not yet compiled.

  .. math:: \theta \leftarrow \theta + \mathrm{tx}\bigl(\nabla_\theta L(\theta)\bigr)

  Args:
    objective: L; it is given the state's key folded with the number of the step, so that no two steps draw alike.
    tx: moves the parameters.

  >>> def squared(params, stats, frozen, batch, key):
  ...   return jnp.square(params * batch.inputs - batch.labels).mean(), (stats, {})
  >>> tx = optax.sgd(0.25)
  >>> params = jnp.float32(0)
  >>> state = TrainState(jnp.int32(0), params, {}, tx.init(params), jax.random.key(0))
  >>> state, metrics = train_step(squared, tx)(state, None, Batch(jnp.ones(2), jnp.array([2, 2])))
  >>> int(state.step), float(state.params), float(metrics['loss'])
  (1, 1.0, 4.0)

  Source: not in the paper.
  """
  moving = optax.with_extra_args_support(tx)  # some look at the loss, as optax.contrib.reduce_on_plateau does

  def step(state: TrainState, frozen: Frozen, batch: Any) -> tuple[TrainState, Metrics]:
    key = jax.random.fold_in(state.key, state.step)
    value_and_grad = jax.value_and_grad(objective, has_aux=True)
    (loss, (stats, metrics)), grads = value_and_grad(state.params, state.stats, frozen, batch, key)
    updates, opt_state = moving.update(grads, state.opt_state, state.params, value=loss)
    params = optax.apply_updates(state.params, updates)
    return TrainState(state.step + 1, params, stats, opt_state, state.key), {'loss': loss, **metrics}

  return step


def as_it_is(frozen: Frozen, batch: Any) -> Frozen:
  """Shares what is frozen itself.

  >>> as_it_is('frozen', None)
  'frozen'

  Source: not in the paper.
  """
  del batch
  return frozen


def sharing(step: Callable, share: Share) -> Callable:
  """Makes the step that sees what ``share`` makes of the frozen and the batch, once a step.

  Beside a code (``WithCode``) only what is frozen with it is shared, so that distillation into quantized weights needs
  nothing else.

  Args:
    step: (states, frozen, batch) -> anything, of one student or of many.
    share: as ``teach`` makes it of a teacher.

  >>> step = sharing(lambda states, frozen, batch: frozen, lambda frozen, batch: frozen * batch)
  >>> step(None, 2, 3), step(None, WithCode(2, 'code'), 3)
  (6, WithCode(frozen=6, code='code'))

  Source: not in the paper.
  """

  def shared(states, frozen, batch):
    if isinstance(frozen, WithCode):
      return step(states, frozen._replace(frozen=share(frozen.frozen, batch)), batch)
    return step(states, share(frozen, batch), batch)

  return shared


def summed(step: Step) -> Callable[[Progress, Any, Any], Progress]:
  """Makes a step of ``Progress``, which adds the metrics up, of one of reparameterized weights.

  Args:
    step: (state, ``WithCode``, batch) -> (state, metrics).

  >>> state = TrainState(jnp.int32(0), jnp.ones(2), {}, (), jax.random.key(0))
  >>> half = summed(lambda state, given, batch: (state, {'loss': jnp.float32(0.5)}))
  >>> float(half(Progress(state, {'loss': jnp.float32(1)}), None, None).sums['loss'])
  1.5

  Source: not in the paper.
  """

  def of_progress(progress: Progress, shared: Any, batch: Any) -> Progress:
    state, metrics = step(progress.state, WithCode(shared, progress.code), batch)
    totals = {name: total + metrics[name].astype(total.dtype) for name, total in progress.sums.items()}
    return Progress(state, totals, progress.code)

  return of_progress


def compiled(step: Callable, *, placed: jax.sharding.Sharding | None = None) -> Callable:
  """Compiles a step, or several, of one student or of many.

  Args:
    step: (states, …) -> states, or (states, metrics).
    placed: where the states stay; None leaves it to the compiler.

  Returns:
    The function, to which the states are donated. Those handed in are gone afterwards.

  >>> compiled(lambda states, frozen, batch: states + batch)(jnp.ones(2), None, 1.0).tolist()
  [2.0, 2.0]

  Source: not in the paper.
  """
  return jax.jit(step, donate_argnums=0, out_shardings=placed)


def make_train_step(objective: Objective, tx: optax.GradientTransformation, *, share: Share = as_it_is) -> Step:
  """Makes the compiled step of one student.

  Distillation into weights of 4 bits, called as ``step(state, WithCode(teacher_variables, code), batch)``, where
  ``params`` and ``opt_state`` of the state are of theta:

  ``make_train_step(reparameterized(distilled(student, mixed()), uniform(4)), tx, share=teach(teacher))``

  Args:
    objective: what the student is trained by.
    tx: moves the parameters.
    share: what the objective looks at, from what is frozen and the batch; by default what is frozen itself.

  >>> def squared(params, stats, frozen, batch, key):
  ...   return jnp.square(params * batch.inputs - frozen).mean(), (stats, {})
  >>> tx = optax.sgd(0.25)
  >>> state = TrainState(jnp.int32(0), jnp.float32(0), {}, tx.init(jnp.float32(0)), jax.random.key(0))
  >>> step = make_train_step(squared, tx, share=lambda frozen, batch: frozen * batch.inputs)
  >>> float(step(state, 3.0, Batch(jnp.ones(2), jnp.zeros(2, int)))[0].params)
  1.5

  Source: not in the paper.
  """
  return compiled(sharing(train_step(objective, tx), share))
