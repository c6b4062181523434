"""Trains students with quantized weights under one teacher, packs them into files and scores the files read back."""

from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lmajax import compress, tree
from lmajax.training import Start, teach
from lmajax.types import Batch, Reparam
from train import build
from train.build import described
from train.config import TEACHER
from train.data import Dataset
from train.deploy import given
from train.deploy.given import Given
from train.deploy.score import Scoring, Trained
from train.engine import schedules
from train.engine.cohort import Cohort, Group, Plan
from train.engine.evaluate import member
from train.engine.fit import fit
from train.engine.logits_cache import Lesson, remembered
from train.engine.optimizers import sgd
from train.engine.walk import Data
from train.programs.quantize import plot as draw_quantize
from train.programs.quantize import students as quantizers
from train.programs.quantize.config import Quantize, check
from train.programs.quantize.methods import FLOAT, METHODS
from train.programs.quantize.students import Arm
from train.programs.quantize.table import Row, text
from train.results.rows import read_rows, write_results
from train.runtime.distributed import first
from train.runtime.files import noted
from train.runtime.run import Run
from train.teaching import KD, check_cached_logits, teaching

_SHARING = 5  # training batches whose gradients share the points out
LEFT = 'results.json, results.md, accuracy.png, models'


class Experiment(NamedTuple):
  """Data, teacher and the model of every kind of student, built from a configuration."""

  config: Quantize
  dataset: Dataset
  data: Data
  plain: Data  # the same without mixup: what statistics are measured again on
  teacher_data: Data
  test: list
  teacher: Cohort
  models: dict[Arm, Any]
  given: list[Given]  # the teacher, where it is not trained

  def of(self, *methods: str) -> list[Arm]:
    """Lists the kinds of students of some methods."""
    return [arm for arm in self.models if arm.method in methods]


def experiment(config: Quantize) -> Experiment:
  """Checks the options, reads the data and builds every model, before anything is trained or written."""
  check(config)
  config, dataset = build.read(config)
  check_cached_logits(config, classes=dataset.num_classes)
  plain, test = build.data(config, dataset)
  teacher_data = build.teacher_data(config, dataset, plain)
  data = build.students_data(config, dataset, plain, alpha=config.mixup)
  config, teacher, found = given.of_images(config, dataset, data.batches.blank)
  arms = tuple(quantizers.arms(config))
  networks = {arm.student: build.student(config, arm.student, dataset, data.batches.blank) for arm in arms}
  students = {arm: networks[arm.student] for arm in arms}
  return Experiment(config, dataset, data, plain, teacher_data, test, teacher, students, found)


def run(plan: Experiment, to: Run) -> list[Row]:
  """Trains the teacher and all students, packs them, and scores the files read back; reads the test set once."""
  own, *others = cohort_epochs(plan)
  to.bar.total = own * plan.teacher_data.batches.steps_per_epoch + sum(others) * plan.data.batches.steps_per_epoch
  teacher = Trained(plan.teacher.groups[TEACHER], teacher_end(plan, to))
  lesson = under(plan, to, member(teacher.variables(), 0))
  trained = from_scratch(plan, to, lesson)
  trained |= afterwards(plan, trained)
  trained |= with_points(plan, to, lesson, trained)
  trained |= with_codebooks(plan, to, lesson, trained)
  scoring = Scoring(plan.plain, plan.test, to.folder)
  rows = [teacher_row(plan, scoring, teacher)]
  rows += [student_row(plan, scoring, arm, trained[arm]) for arm in plan.models]
  if first():
    write_results(to.folder, plan.config, rows, text(rows))
    draw_quantize.accuracy(to.folder / 'accuracy.png', rows)
  return rows


def teacher_end(plan: Experiment, to: Run) -> Start:
  """Returns the teacher after its training, done here or read from the given file."""
  if plan.given:
    return given.end(plan.given)
  return fit(to, TEACHER, plan.teacher, plan.teacher_data)[TEACHER].end


def under(plan: Experiment, to: Run, teacher: Any) -> Lesson:
  """Returns what all students are trained by: the teacher, or its cached logits for the longest fit."""
  _, *epochs = cohort_epochs(plan)
  live = Lesson(plan.data, teach(plan.teacher.groups[TEACHER].model), teacher)
  return remembered(to, live, plan.dataset, plan.config.cached_logits, max(epochs), mixup=plan.config.mixup)


def teacher_row(plan: Experiment, scoring: Scoring, trained: Trained) -> Row:
  """Returns the teacher's row, in float32."""
  scored = scoring.scored(TEACHER, trained, given.description(plan), entropy=plan.config.entropy)
  size = tree.size(jax.eval_shape(trained.params))
  width, milliseconds = build.width(trained.group.model), scoring.milliseconds('teacher', trained)
  return Row(TEACHER, 'relu', width, None, FLOAT, None, None, *scored, None, size, milliseconds, None, None)


def student_row(plan: Experiment, scoring: Scoring, arm: Arm, trained: Trained) -> Row:
  """Returns the row of a kind of student."""
  student = arm.student
  about = described(plan.config, student, plan.dataset)
  scored = scoring.scored(arm.name, trained, about, entropy=plan.config.entropy)
  shadow = scoring.with_params(trained, trained.shadow()) if METHODS[arm.method].shadowed else None
  size = tree.size(jax.eval_shape(trained.params)) // len(trained.group.seeds)
  of_kd = (arm.temperature, arm.soft_weight) if student.loss == KD else (None, None)
  milliseconds = scoring.milliseconds(f'{student.label}-w{student.width}-a{student.activation_bits}', trained)
  return Row(
    arm.name, student.activation, student.width, student.segments, arm.method, arm.size, student.activation_bits,
    *scored, shadow, size, milliseconds, *of_kd, student.loss,
  )  # fmt: skip


def again(plan: Experiment, folder: Path) -> list[Row]:
  """Returns the rows of a finished run, with the accuracies of its files as they are now."""
  rows = read_rows(folder, 'quantize', Row)
  known = {TEACHER: (plan.teacher.groups[TEACHER], given.description(plan))}
  for arm in plan.models:
    known[arm.name] = group(plan, arm, compress.identity()), described(plan.config, arm.student, plan.dataset)
  return Scoring(plan.plain, plan.test, folder).rows_again(rows, known)


def from_scratch(plan: Experiment, to: Run, lesson: Lesson) -> dict[Arm, Trained]:
  """Trains the students that start from new weights: float32 ones, and those quantized at every step."""
  arms = {
    arm: group(plan, arm, quantizers.reparam(plan.config, arm))
    for arm in plan.of(*(name for name, method in METHODS.items() if method.origin is None))
  }
  return _fitted(plan, to, 'students', arms, build.plan(plan.config, plan.config.epochs), lesson, {})


def afterwards(plan: Experiment, trained: dict[Arm, Trained]) -> dict[Arm, Trained]:
  """Quantizes float32 students after their training."""
  arms = {arm: group(plan, arm, quantizers.reparam(plan.config, arm)) for arm in plan.of('post-training')}
  return {arm: _begun(each, trained[arm.origin]) for arm, each in arms.items()}


def with_points(plan: Experiment, to: Run, lesson: Lesson, trained: dict[Arm, Trained]) -> dict[Arm, Trained]:
  """Trains the levels of students of fixed weights; kernels get numbers of levels by their gradient norms."""
  arms = {}
  for arm in plan.of('points'):
    shares = _shares(plan, to, arm, lesson, trained[arm.origin])
    arms[arm] = group(plan, arm, quantizers.reparam(plan.config, arm, shares=shares))
  starts = {arm: _begun(each, trained[arm.origin]).end for arm, each in arms.items()}
  tuning = _tuning(plan, plan.config.points_learning_rate, weight_decay=0.0)
  return _fitted(plan, to, 'points', arms, tuning, lesson, starts)


def with_codebooks(plan: Experiment, to: Run, lesson: Lesson, trained: dict[Arm, Trained]) -> dict[Arm, Trained]:
  """Codes one layer after another by a codebook; after each, trains all codebooks and the remaining weights."""
  arms = {arm: group(plan, arm, compress.identity()) for arm in plan.of('product', 'product-noise')}
  now = {arm: _begun(each, trained[arm.origin]) for arm, each in arms.items()}
  tuning = _tuning(plan, plan.config.finetune_learning_rate, plan.config.weight_decay)
  for number in range(codebook_phases(plan)):
    arms, starts = {}, {}
    for arm, before in now.items():
      names = layers(plan, arm)[: number + 1]
      arms[arm] = group(plan, arm, quantizers.reparam(plan.config, arm, layers=names))
      starts[arm] = _coded(plan, arm, names[-1], before)
    now = _fitted(plan, to, f'product-{number + 1}', arms, tuning, lesson, starts)
  return now


def group(plan: Experiment, arm: Arm, reparam: Reparam) -> Group:
  model = plan.models[arm]
  how = {'temperature': arm.temperature, 'soft_weight': arm.soft_weight}
  found = teaching(arm.student.loss, model, plan.teacher.groups[TEACHER].model, plan.data.batches.blank, **how)
  return Group(model, found.objective, plan.config.all_seeds, build.over(model), reparam, beside=found.beside)


def layers(plan: Experiment, arm: Arm) -> tuple[str, ...]:
  """Lists the kernels of a student, from the input to the output."""
  blank = plan.data.batches.blank
  variables = jax.eval_shape(lambda: plan.models[arm].init(jax.random.key(0), blank, train=False))
  return quantizers.layers(variables['params'])


def codebook_phases(plan: Experiment) -> int:
  """Counts the codebook phases, one per kernel; all students of a run have as many kernels."""
  return max((len(layers(plan, arm)) for arm in plan.of('product', 'product-noise')), default=0)


def cohort_epochs(plan: Experiment) -> list[int]:
  """Lists the epochs of every fit."""
  config = plan.config
  tuned = codebook_phases(plan) + bool(plan.of('points'))
  own = 0 if plan.given else config.teacher_epochs or config.epochs
  return [own, config.epochs, *[config.finetune_epochs] * tuned]


def _shares(plan: Experiment, to: Run, arm: Arm, lesson: Lesson, origin: Trained) -> dict[str, int]:
  """Counts each kernel's points; noted in the run's folder, so that a resume on another machine has as many."""
  objective = group(plan, arm, compress.identity()).objective

  def gradient(end: Start, frozen: Any, batch: Batch) -> Any:
    grad = jax.grad(lambda params: objective(params, end.stats, frozen, batch, jax.random.key(0))[0])
    return tree.partition(grad(end.theta), compress.kernels)[0]

  def shared_out() -> dict[str, int]:
    over = jax.jit(lambda end, batch: origin.group.over(gradient)(end, lesson.share(lesson.teacher, batch), batch))
    batches = [lesson.data.batches[i] for i in range(_SHARING)]
    end = origin.end._replace(theta=origin.params())
    summed = jax.tree.map(lambda *each: sum(each), *(over(end, batch) for batch in batches))
    return compress.share_points(quantizers.norms(summed), arm.size or 1)

  return noted(to.folder / 'shares.json', arm.name, shared_out)


def _tuning(plan: Experiment, learning_rate: float, weight_decay: float) -> Plan:
  epochs = plan.config.finetune_epochs
  return Plan(learning_rate, sgd(weight_decay), schedules.cosine(epochs), plan.config.save_every)


def _fitted(
  plan: Experiment, to: Run, phase: str, arms: dict[Arm, Group], how: Plan, lesson: Lesson, starts: dict[Arm, Start]
) -> dict[Arm, Trained]:
  if not arms:
    return {}
  # Layer after layer is a fit of its own: under one name each would cut the lines of the one before back.
  names = {arm: f'{arm.name}-{phase}' if arm.method.startswith('product') else arm.name for arm in arms}
  cohort = Cohort({names[arm]: each for arm, each in arms.items()}, how, lesson.share)
  progress = fit(to, phase, cohort, lesson.data, lesson.teacher, {names[arm]: start for arm, start in starts.items()})
  return {arm: Trained(each, progress[names[arm]].end) for arm, each in arms.items()}


def _keys(each: Group) -> Any:
  return jnp.stack([jax.random.key(seed) for seed in each.seeds])


def _begun(each: Group, origin: Trained) -> Trained:
  """Starts each seed from the float32 weights of the same seed's student."""
  pairs = each.over(lambda pair: each.reparam.init(*pair))
  theta, code = jax.jit(pairs)((origin.params(), _keys(each)))
  return Trained(each, Start(theta, code, origin.end.stats))


def _coded(plan: Experiment, arm: Arm, layer: str, before: Trained) -> Start:
  """Codes one more layer by a codebook; layers coded before stay as trained."""
  inner = quantizers.coded(plan.config, arm, layer, compress.identity())
  one = before.group.over(lambda parts: compress.extended(parts[0], parts[1], inner, parts[2]))
  theta, code = jax.jit(one)((before.end.theta, before.end.code, _keys(before.group)))
  return Start(theta, code, before.end.stats)
