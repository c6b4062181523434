"""Training: objectives, the step that moves by them, seeds side by side, and what block-wise training starts from."""

from lmajax._quiet import quiet
from lmajax.training._beside import WithBeside, alone
from lmajax.training._blockwise import Parts, Stages, blockwise, hint
from lmajax.training._calibrate import calibrated, grafted, still
from lmajax.training._checkpoint import Checkpoints, DamagedError, UnfitError, digests, lost_process
from lmajax.training._chips import chips
from lmajax.training._criteria import (
  Criterion,
  accompanied,
  beside,
  compared,
  criterion,
  of_labels,
  scheduled,
  weighted,
)
from lmajax.training._data import EndedError
from lmajax.training._fit import fit
from lmajax.training._fitted import Fitted, accuracy
from lmajax.training._forward import Network, forward, function, linen, logits_of, network_of, parted
from lmajax.training._loop import Hooks, Steps, loop
from lmajax.training._nnx import nnx
from lmajax.training._norm_statistics import lma_statistics, norm_statistics
from lmajax.training._objectives import (
  Taught,
  distilled,
  mixed,
  penalized,
  reparameterized,
  supervised,
  teach,
)
from lmajax.training._parallel_stages import parallel_stages
from lmajax.training._placing import over_all_devices, placed, replicated, settle, whole
from lmajax.training._projectors import heads, projected
from lmajax.training._recalibrate import recalibrated
from lmajax.training._seeds import together, unrolled, vmapped
from lmajax.training._step import (
  Progress,
  Start,
  TrainState,
  WithCode,
  as_it_is,
  begin,
  compiled,
  init_state,
  make_train_step,
  sharing,
  shipped,
  summed,
  train_step,
)
from lmajax.training._synthesize import Synthesis, synthesize
from lmajax.training._task import Task, Told, distill, logits
from lmajax.training._traffic import Traffic, traffic
from lmajax.training._transplant import check_boundaries, in_stages, with_ends

__all__ = [
  'Checkpoints',
  'Criterion',
  'DamagedError',
  'EndedError',
  'Fitted',
  'Hooks',
  'Network',
  'Parts',
  'Progress',
  'Stages',
  'Start',
  'Steps',
  'Synthesis',
  'Task',
  'Taught',
  'Told',
  'Traffic',
  'TrainState',
  'UnfitError',
  'WithBeside',
  'WithCode',
  'accompanied',
  'accuracy',
  'alone',
  'as_it_is',
  'begin',
  'beside',
  'blockwise',
  'calibrated',
  'check_boundaries',
  'chips',
  'compared',
  'compiled',
  'criterion',
  'digests',
  'distill',
  'distilled',
  'fit',
  'forward',
  'function',
  'grafted',
  'heads',
  'hint',
  'in_stages',
  'init_state',
  'linen',
  'lma_statistics',
  'logits',
  'logits_of',
  'loop',
  'lost_process',
  'make_train_step',
  'mixed',
  'network_of',
  'nnx',
  'norm_statistics',
  'of_labels',
  'over_all_devices',
  'parallel_stages',
  'parted',
  'penalized',
  'placed',
  'projected',
  'quiet',
  'recalibrated',
  'reparameterized',
  'replicated',
  'scheduled',
  'settle',
  'sharing',
  'shipped',
  'still',
  'summed',
  'supervised',
  'synthesize',
  'teach',
  'together',
  'traffic',
  'train_step',
  'unrolled',
  'vmapped',
  'weighted',
  'whole',
  'with_ends',
]
