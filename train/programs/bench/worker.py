"""A process that takes one training step for every line it reads; ``scaling`` starts it and times its answers."""

import dataclasses
import sys

import jax
import numpy as np
import tyro
from jax.sharding import NamedSharding, PartitionSpec

from lmajax.training import make_train_step, over_all_devices, supervised
from lmajax.training import whole as placed_whole
from lmajax.types import Batch
from train.engine.optimizers import adjustable, sgd
from train.programs.bench import networks
from train.programs.bench.config import NetworkName
from train.runtime import distributed, timing

DONE = 'done'


@dataclasses.dataclass(frozen=True)
class Worker:
  """Take training steps on all devices of all processes together."""

  network: NetworkName
  """Trained with LMA-8 on hard labels."""
  batch_size: int
  """Images a step, over all processes."""
  coordinator_address: str | None = None
  """HOST:PORT of the first process; none where there is only one."""
  num_processes: int = 1
  """How many take part."""
  process_id: int | None = None
  """Which of them this is."""


def stepping(options: Worker) -> timing.Contestant:
  """Returns a call that takes one step, its batch spread over all devices."""
  spread = over_all_devices()
  model, tx = networks.network(options.network, 'lma-8'), adjustable(sgd(0.0))
  whole = networks.batch(options.batch_size)
  batch = Batch(*(placed_whole(np.asarray(leaf), spread) for leaf in whole))
  replicated = NamedSharding(spread.mesh, PartitionSpec())
  state = jax.jit(lambda state: state, out_shardings=replicated)(networks.state(model, tx, whole.inputs))
  step = make_train_step(supervised(model), tx)

  def call() -> None:
    nonlocal state
    state, _ = jax.block_until_ready(step(state, None, batch))

  return call


def main(arguments: list[str]) -> None:
  """Takes one step for each line of standard input, and answers when it is done."""
  options = tyro.cli(Worker, args=arguments)
  distributed.join(options.coordinator_address, options.num_processes, options.process_id)
  call = stepping(options)
  for _ in sys.stdin:
    call()
    print(DONE, flush=True)


if __name__ == '__main__':
  main(sys.argv[1:])
