"""Every public formula of lmajax once more, slowly, in NumPy loops over float64: the judge. A file a folder of it."""

from tests.oracles.activations import *
from tests.oracles.compress import *
from tests.oracles.derivatives import *
from tests.oracles.losses import *
from tests.oracles.models import *
from tests.oracles.tree import *
