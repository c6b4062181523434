"""Training: objectives, the step that moves by them, seeds side by side, and what block-wise training starts from."""

from lmajax.training._blockwise import Parts, Stages, blockwise, hint
from lmajax.training._objectives import (
  Taught,
  distill,
  forward,
  logits_of,
  mixed,
  penalized,
  reparameterized,
  supervised,
  teach,
)
from lmajax.training._parallel_stages import parallel_stages
from lmajax.training._seeds import together, unrolled, vmapped
from lmajax.training._step import (
  TrainState,
  WithCode,
  as_it_is,
  compiled,
  init_state,
  make_train_step,
  sharing,
  train_step,
)
from lmajax.training._transplant import check_boundaries, in_stages, with_ends

__all__ = [
  'Parts',
  'Stages',
  'Taught',
  'TrainState',
  'WithCode',
  'as_it_is',
  'blockwise',
  'check_boundaries',
  'compiled',
  'distill',
  'forward',
  'hint',
  'in_stages',
  'init_state',
  'logits_of',
  'make_train_step',
  'mixed',
  'parallel_stages',
  'penalized',
  'reparameterized',
  'sharing',
  'supervised',
  'teach',
  'together',
  'train_step',
  'unrolled',
  'vmapped',
  'with_ends',
]
